"""Names of models: how long they may be, patterns for them, and their quoting in settings."""

from __future__ import annotations

import re
from urllib.parse import unquote

MAX_LENGTH = 256
# Visible ASCII, whatever the first: providers decide what their models are called.
NAME = rf"[!-~]{{1,{MAX_LENGTH}}}"

# What separates names in settings. Inside double quotes, each stands for itself; "" is a quote.
SEPARATORS = ';>=*,|"'
QUOTED = re.compile(r'"((?:[^"]|"")*)"')
# While a setting is taken apart, a quoted separator is a character that no name has.
HIDDEN = {ord(character): 0xE000 + ord(character) for character in SEPARATORS}
SHOWN = {hidden: character for character, hidden in HIDDEN.items()}
# A name in a setting whose quoted separators are hidden.
UNQUOTED_NAME = rf"[!-)+-:<?-~\ue000-\ue07f]{{1,{MAX_LENGTH}}}"
UNQUOTED_PATTERN = rf"[!-:<?-~\ue000-\ue07f]{{1,{MAX_LENGTH}}}"


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, or fits it; `*` stands for any part of a name.

    A name with `..` fits none: a server that takes names for paths would use another model.
    """
    if name == pattern or "*" not in pattern:
        return name == pattern
    first, *middle, last = pattern.split("*")
    at, end = len(first), len(name) - len(last)
    if at > end or ".." in unquote(name):
        return False
    if not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def hide_quoted(text: str) -> str:
    """The text without quotes, its quoted separators hidden. Raises ValueError."""
    hidden = QUOTED.sub(lambda found: found[1].replace('""', '"').translate(HIDDEN), text)
    if '"' in hidden:
        raise ValueError("must have a closing quote for each opening one")
    return hidden


def reveal(text: str) -> str:
    """The text with the separators that hide_quoted() hid."""
    return text.translate(SHOWN)


def quoted(name: str) -> str:
    """The name as a setting's list of patterns needs it."""
    if not set(name) & set(SEPARATORS) - {"*"}:
        return name
    return '"{}"'.format(name.replace('"', '""'))
