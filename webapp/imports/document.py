"""A YAML file with the line of each of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yaml import YAMLError

Path = tuple[str | int, ...]


class DocumentError(Exception):
    """The file is no YAML mapping; the message says where."""


class Document:
    """The content of a YAML file, and the lines that it was read from."""

    def __init__(self, text: str) -> None:
        import yaml  # only where it is needed: a worker needs none of it

        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.data: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise DocumentError(_where(error)) from None
        if not isinstance(self.data, dict):
            raise DocumentError("it is no mapping of keys to values")
        self._lines = dict(_lines(node, (), set()))

    def line(self, path: Path) -> int:
        """The line of a key, or of the nearest one above it: keys that YAML merges have none."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def section(self, name: str) -> dict[str, Any]:
        """A mapping at the top of the file; empty where there is none."""
        found = self.data.get(name)
        return found if isinstance(found, dict) else {}


def written(path: Path) -> str:
    """The path as people write it: `model_list[0].litellm_params.model`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).lstrip(".")


def _lines(node: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, int]]:
    """The line of each path. What an alias repeats is walked once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.id == "mapping":
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key.start_mark.line + 1
            yield from _lines(value, below, seen)
    elif node.id == "sequence":
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index), seen)


def _where(error: YAMLError) -> str:
    """Where the YAML is wrong. The text there is not quoted: it may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)
