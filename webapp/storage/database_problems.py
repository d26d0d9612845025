"""Why a database that answers refuses to write, in words that lead to the fix."""

from __future__ import annotations

from typing import NamedTuple


class DatabaseProblem(NamedTuple):
    """What is wrong, and what to do about it."""

    found: str
    advice: str


_SQLITE_FULL = DatabaseProblem(
    "the disk of the database is full",
    "Free space on the disk of its file (docs/operating.md, WeirDiskFilling).",
)
# By the beginning of SQLite's name of an error, or PostgreSQL's code.
_KNOWN = {
    "SQLITE_FULL": _SQLITE_FULL,
    "SQLITE_IOERR_SHMSIZE": _SQLITE_FULL,
    "SQLITE_READONLY": DatabaseProblem(
        "the database file is read-only",
        "Make the file and its folder writable for Weir's user, and see how the disk is mounted.",
    ),
    "53100": DatabaseProblem(
        "the disk of PostgreSQL is full", "Free space on it, or make it larger."
    ),
}


def problem_of(error: BaseException | None) -> DatabaseProblem | None:
    """What made SQLAlchemy raise this error; None if it is none of the known problems."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None) or ""
    return next((problem for name, problem in _KNOWN.items() if code.startswith(name)), None)
