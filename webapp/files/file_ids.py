"""Ids of files: random, after the time at which the file was created."""

from __future__ import annotations

import re
import secrets
import string

from webapp.errors import NotFound

# Anything else is not looked up: a database may refuse it.
ID = re.compile("[A-Za-z0-9_-]{1,40}")
ID_LETTERS = string.ascii_letters + string.digits
ID_LENGTH = 24
# The first letters of an id are its time, in microseconds: pages go on from a file that is deleted.
TIME_LETTERS = 9
ID_WITH_TIME = re.compile(
    f"file-([A-Za-z0-9]{{{TIME_LETTERS}}})[A-Za-z0-9]{{{ID_LENGTH - TIME_LETTERS}}}"
)


def check_id(file_id: str) -> None:
    """Raises NotFound for what cannot be one."""
    if not ID.fullmatch(file_id):
        raise not_found(file_id)


def not_found(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}")


def new_id(now: float) -> str:
    number, letters = round(now * 1e6), ""
    for _ in range(TIME_LETTERS):
        number, digit = divmod(number, len(ID_LETTERS))
        letters = ID_LETTERS[digit] + letters
    random = (secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH - TIME_LETTERS))
    return f"file-{letters}{''.join(random)}"


def time_of(file_id: str) -> float:
    """When a file was created that is not there any more. Raises NotFound."""
    found = ID_WITH_TIME.fullmatch(file_id)
    if not found:
        raise not_found(file_id)
    number = 0
    for letter in found[1]:
        number = number * len(ID_LETTERS) + ID_LETTERS.index(letter)
    return number / 1e6
