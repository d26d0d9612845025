"""Blocks of a page that are marked to be run, and what they are said to print.

`<!-- run -->` before a fenced block says that its commands are run, in the order of the page;
`<!-- output -->` before the next one that it has what they print, `…` standing for anything.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.servers import REPOSITORY, Weir

FENCED = r"\n```\w*\n(.*?)^```$"
MARKED = re.compile(
    rf"^<!-- run -->{FENCED}(?:\n\n<!-- output -->{FENCED})?", re.MULTILINE | re.DOTALL
)
ANYTHING = "…"
# A secret that a command prints, for the commands after it.
VARIABLE = re.compile(r"^(\w+)=\$\((flask .*)\)\n")
TIMEOUT = 60.0


class Block(NamedTuple):
    commands: str
    output: str | None


def marked_blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for found in MARKED.finditer(page.read_text()):
        yield Block(found[1].strip(), None if found[2] is None else found[2].strip())


def run(block: Block, weir: Weir, variables: Mapping[str, str]) -> str:
    """What the commands of a block print, by a Weir at another port. Fails where one does.

    `NAME=value make run` starts the same Weir again with that setting.
    """
    if block.commands.endswith("make run"):
        return _start_again(weir, shlex.split(block.commands)[:-2])
    if block.commands.startswith("flask "):
        return "".join(_flask(weir, line) for line in block.commands.splitlines())
    commands = block.commands.replace("localhost:8000", f"127.0.0.1:{weir.port}")
    if kept := VARIABLE.match(commands):
        variables = {**variables, kept[1]: _flask(weir, kept[2]).strip()}
        commands = commands[kept.end() :]
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=REPOSITORY,
        env=weir.env | {"PATH": f"{Path(sys.executable).parent}:{weir.env['PATH']}", **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{block.commands}\n{done.stdout}{done.stderr}"
    return done.stdout


def _flask(weir: Weir, line: str) -> str:
    """A flask command in this process, which saves the start of Python; `> file` is left out."""
    words = shlex.split(line, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    done = weir.run_flask(*words[1:], WEIR_PASSWORD="a password of twelve")
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def _start_again(weir: Weir, settings: list[str]) -> str:
    weir.kill()
    weir.env |= dict(setting.split("=", 1) for setting in settings)
    weir.start()
    return ""


def agrees(printed: str, said: str) -> bool:
    """Whether a page says what was printed."""
    parts = (re.escape(part) for part in said.split(ANYTHING))
    return bool(re.fullmatch(".*".join(parts), printed.strip(), re.DOTALL))
