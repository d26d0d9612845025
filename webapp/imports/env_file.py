"""A file of settings: what `. FILE` in a shell and Compose's `env_file` read alike.

Values are templates: `${NAME}` is the value of another variable, `$$` a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from string import Template

PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
REFERENCE = re.compile(r"(?<!\$)(?:\$\$)*\$\{(\w+)\}")


def literal(text: str) -> str:
    """The template of a text."""
    return text.replace("$", "$$")


def reference(name: str) -> str:
    """The template of another variable's value."""
    return f"${{{name}}}"


@dataclass
class EnvFile:
    """Settings in order, each with the comment above it."""

    templates: dict[str, str] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, template: str, comment: str = "") -> None:
        self.templates[name] = template
        if comment:
            self.comments[name] = comment

    @property
    def references(self) -> set[str]:
        """The variables that values refer to and the file itself does not set before."""
        return {
            found
            for name, template in self.templates.items()
            for found in REFERENCE.findall(template)
            if found == name or found not in self.templates
        }

    def values(self, value_of: Callable[[str], str]) -> dict[str, str]:
        """The settings; `value_of` gives the value of a variable that the file does not set."""
        values: dict[str, str] = {}
        outside = {name: value_of(name) for name in self.references}
        for name, template in self.templates.items():
            values[name] = Template(template).substitute({**outside, **values})
        return values

    def text(self) -> str:
        lines = []
        for name, template in self.templates.items():
            if name in self.comments:
                lines += ["", *(f"# {line}" for line in self.comments[name].split("\n"))]
            lines.append(f"{name}={_quoted(template)}")
        return "\n".join(lines).strip("\n") + "\n"


def _quoted(template: str) -> str:
    if not REFERENCE.search(template):
        text = template.replace("$$", "$")
        if PLAIN.fullmatch(text):
            return text
        if "'" not in text:
            return f"'{text}'"
    escaped = re.sub(r'(["\\`])', r"\\\1", template).replace("$$", "\\$")
    return f'"{escaped}"'
