"""Reads the fields of a request that is translated, and names the one that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.errors import UnsupportedParameter


def only(
    value: Mapping[str, Any], known: set[str], path: str, neutral: Mapping[str, Any] | None = None
) -> None:
    for key, entry in value.items():
        is_neutral = entry is None or (key in (neutral or {}) and (neutral or {})[key] == entry)
        if key not in known and not is_neutral:
            raise UnsupportedParameter(f"{path}.{key}" if path else str(key))


def given(value: Mapping[str, Any], key: str) -> bool:
    return value.get(key) is not None


def an_object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong(path, "an object")
    return value


def a_list(value: Any, path: str, *, empty: bool = True) -> list[Any]:
    if not isinstance(value, list) or not (value or empty):
        raise wrong(path, "a list" if empty else "a list that is not empty")
    return value


def a_text(value: Any, path: str, *, empty: bool = True) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise wrong(path, "a string" if empty else "a string that is not empty")
    return value


def a_number(value: Any, path: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise wrong(path, "a number")
    return value


def an_integer(value: Any, path: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise wrong(path, "a whole number")
    return value


def a_flag(value: Any, path: str, default: bool) -> bool:
    if value is not None and not isinstance(value, bool):
        raise wrong(path, "true or false")
    return default if value is None else value


def wrong(path: str, expected: str) -> UnsupportedParameter:
    error = UnsupportedParameter(path, f"{path} must be {expected}.")
    error.details = {path: [f"Must be {expected}."]}
    return error
