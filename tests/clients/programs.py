"""Finds the checks of a client's program, runs it once and keeps what came of each."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.clients.environments import CLIENTS, find_node, node_modules, python_environment

TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check; `error` is the traceback of one that failed."""

    ok: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a program told of its checks, and all else that it printed."""

    told: dict[str, Outcome]
    output: str

    def expect(self, check: str) -> None:
        """Raises AssertionError unless the check was made and went well."""
        outcome = self.told.get(check)
        assert outcome, f"The program ended before this check:\n{self.output}"
        assert outcome.ok, outcome.error


def python_checks(client: str) -> list[str]:
    """The names of the public functions of the client's drive.py, in order."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    parsed = ast.parse((CLIENTS / client / "drive.py").read_text())
    names = [node.name for node in parsed.body if isinstance(node, functions)]
    return [name for name in names if not name.startswith("_")]


def node_checks(client: str) -> list[str]:
    """The names of the functions that the client's checks.mjs exports, in order."""
    source = (CLIENTS / client / "checks.mjs").read_text()
    return re.findall(r"^export async function (\w+)", source, re.MULTILINE)


def run_python(client: str, facts: Mapping[str, str]) -> Outcomes:
    """Run the client's drive.py in its environment; `facts` are what it finds in `environ`."""
    python = python_environment(client)
    # Found by the programs: what they share.
    facts = {**facts, "PYTHONPATH": str(CLIENTS / "inside")}
    return _run([str(python), str(CLIENTS / client / "drive.py")], facts)


def run_node(client: str, facts: Mapping[str, str]) -> Outcomes:
    """Run the client's checks.mjs with its packages; `facts` are what it finds in `process.env`."""
    node = find_node(client)
    packages = node_modules(client, node)
    with tempfile.TemporaryDirectory(prefix="weir-client-") as folder:
        # A module finds packages in the folders above it, and only there.
        for source in (CLIENTS / client, CLIENTS / "inside"):
            for module in source.glob("*.mjs"):
                (Path(folder) / module.name).write_text(module.read_text())
        (Path(folder) / "node_modules").symlink_to(packages)
        return _run([*node.node, str(Path(folder) / "drive.mjs")], facts)


def _run(command: list[str], facts: Mapping[str, str]) -> Outcomes:
    with tempfile.TemporaryDirectory(prefix="weir-client-") as home:
        # Nothing of the machine's: no proxy, no key, no setting of a client.
        environ = {"PATH": os.environ["PATH"], "HOME": home, **facts}
        done = subprocess.run(
            command, cwd=home, env=environ, capture_output=True, text=True, timeout=TIMEOUT
        )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check":')]
    told = {line["check"]: Outcome(line["ok"], line["error"]) for line in lines}
    return Outcomes(told, f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
