"""What an import tells of: what differs in Weir, and what has no counterpart in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from webapp.imports.document import Document, Path, written

DIFFERS = "Taken over, with a difference"
MISSING = "No counterpart in Weir"
TODO = "To do by hand"


@dataclass
class Report:
    """Notes by kind and message, each with the keys that it is about. No note quotes a value that
    may be secret."""

    document: Document
    notes: dict[tuple[str, str], list[Path]] = field(default_factory=dict)

    def differs(self, path: Path, message: str) -> None:
        self._add(DIFFERS, path, message)

    def missing(self, path: Path, message: str) -> None:
        self._add(MISSING, path, message)

    def todo(self, path: Path, message: str) -> None:
        self._add(TODO, path, message)

    def _add(self, kind: str, path: Path, message: str) -> None:
        paths = self.notes.setdefault((kind, message), [])
        if path and path not in paths:
            paths.append(path)

    def about(self, kind: str) -> dict[str, list[Path]]:
        """The notes of a kind: the keys by message."""
        return {
            message: paths for (of_kind, message), paths in self.notes.items() if of_kind == kind
        }

    def text(self) -> str:
        """The report for people: by kind, each note with its keys and their lines."""
        lines = []
        for kind in (TODO, DIFFERS, MISSING):
            notes = self.about(kind)
            if notes:
                lines += ["", f"{kind}:"]
            for message, paths in sorted(notes.items(), key=lambda note: self._first_line(note[1])):
                lines += [f"  - {self._keys(paths)}{message}"]
        return "\n".join(lines).strip("\n")

    def _first_line(self, paths: list[Path]) -> int:
        return min(map(self.document.line, paths), default=0)

    def _keys(self, paths: list[Path]) -> str:
        if not paths:
            return ""
        shown = f"{written(paths[0])} (line {self.document.line(paths[0])}"
        others = [str(self.document.line(path)) for path in paths[1:]]
        if others:
            shown += f", and {len(others)} more: line {', '.join(others[:10])}"
        return f"{shown}): "
