"""The image that `make image` has built, run as a cautious platform runs it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY, Weir

KEY = "a-key-for-the-image-test"
# What platforms and their registries can be expected to take; 151 MB when this was written.
COMPRESSED_AT_MOST = 200_000_000
# Podman's own limits (ulimit) are higher than some machines allow.
RUN = [
    "--network=host", "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=all",
    "--security-opt=no-new-privileges", "--no-healthcheck",
    "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096",
]  # fmt: skip
# What .dockerignore lets through, as the image sees it.
LIST_FILES = """
import hashlib, json, pathlib
files = [path for path in pathlib.Path().rglob("*") if path.is_file() and path.suffix != ".pyc"]
print(json.dumps({str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}))
"""


def podman(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=120)


class Container(Weir):
    """Weir in the image: without root, without capabilities, on a root that is read-only."""

    options: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"weir-test-{self.port}"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the server."""
        return podman("exec", self.name, *command)

    def kill(self) -> None:
        podman("rm", "--force", "--time", "0", "--volumes", self.name)
        super().kill()

    def _command(self) -> list[str]:
        environment = {
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            "SECRET_KEY": "a-secret-for-the-image-test",
            "ADMIN_PASSWORD": "a-password-for-the-image",
            "API_KEYS": f"Image:premium:{KEY}",
        }
        settings = [f"--env={name}={value}" for name, value in environment.items()]
        options = [f"--name={self.name}", *RUN, *settings, *self.options]
        return ["podman", "run", "--rm", *options, "weir"]


def files_of_the_repository() -> dict[str, str]:
    patterns = (REPOSITORY / ".dockerignore").read_text().splitlines()
    named = [REPOSITORY / pattern[1:] for pattern in patterns if pattern.startswith("!")]
    files = [file for path in named for file in (path, *path.rglob("*")) if file.is_file()]
    return {
        str(file.relative_to(REPOSITORY)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.suffix != ".pyc"
    }


def files_of_the_image() -> dict[str, str]:
    listed = podman("run", "--rm", *RUN, "weir", "python", "-c", LIST_FILES)
    assert listed.returncode == 0, listed.stderr
    files: dict[str, str] = json.loads(listed.stdout)
    return files


def why_it_cannot_be_tested() -> str | None:
    if shutil.which("podman") is None:
        return "there is no podman"
    if podman("image", "exists", "weir").returncode:
        return "podman has no image weir (make image)"
    if files_of_the_image() != files_of_the_repository():
        return "the image weir is of other code (make image)"
    return None


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    reason = why_it_cannot_be_tested()
    # On a machine that checks submissions it must be there: .ci/run builds it.
    if reason and "CI" not in os.environ:
        pytest.skip(reason)
    assert reason is None, reason
    weir = Container({})
    try:
        yield weir.start()
    finally:
        weir.close()


def test_it_answers(container: Container) -> None:
    chat = container.post("/chat", key=KEY, json={"message": "Hello"})
    assert chat.status_code == 200, chat.text
    assert chat.json()["response"]
    features = {"features": [10, 12, 11, 13, 12, 14, 13, 15]}
    prediction = container.post("/predict", key=KEY, json=features)
    assert prediction.status_code == 200, prediction.text
    assert container.get("/stats", key=KEY).json()["total_requests"] >= 1
    assert container.get("/").status_code == 200


def test_it_streams(container: Container) -> None:
    with container.stream("/chat", {"message": "Hello", "stream": True}, key=KEY) as events:
        received = list(events)
    assert len(received) > 1
    assert received[-1] == "[DONE]"


def test_its_commands_run_beside_it(container: Container) -> None:
    doctor = container.run("flask", "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "ok       database" in doctor.stdout
    created = container.run("flask", "keys", "create", "First", "--tier", "premium")
    key = created.stdout.strip()
    assert container.post("/chat", key=key, json={"message": "Hello"}).ok


def test_its_health_check_sees_it(container: Container) -> None:
    [image] = json.loads(podman("image", "inspect", "weir").stdout)
    kind, *command = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert container.run(*command).returncode == 0


def test_it_may_do_next_to_nothing(container: Container) -> None:
    assert container.run("id", "-u").stdout == container.run("id", "-g").stdout == "10001\n"
    status = container.run("cat", "/proc/1/status").stdout
    assert "CapBnd:\t0000000000000000\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    for folder in ("/", "/app", "/opt/venv", "/var/tmp"):
        refused = container.run("touch", f"{folder}/x")
        assert "Read-only file system" in refused.stderr, folder
    assert container.run("touch", "/data/x", "/tmp/x").returncode == 0


@pytest.mark.parametrize("program", ["pip", "gcc", "cc", "make"])
def test_it_holds_nothing_to_install_with(container: Container, program: str) -> None:
    found = container.run("sh", "-c", f"ls /opt/venv/bin/{program} || command -v {program}")
    # The base of Python has a pip of its own, outside of Weir's environment.
    assert found.stdout in {"", "/usr/local/bin/pip\n"}


def test_any_user_of_group_0_may_run_it(container: Container) -> None:
    """As OpenShift does. The volume takes owner and mode from the image, as there."""
    weir = Container({})
    weir.options = ["--user=1234567:0", "--env=HOME="]
    try:
        weir.start()
        assert weir.post("/chat", key=KEY, json={"message": "Hello"}).status_code == 200
        assert weir.run("id", "-u").stdout == "1234567\n"
    finally:
        weir.close()


def test_where_it_may_not_write_it_says_so_in_one_line(container: Container) -> None:
    environment = ["--env=SECRET_KEY=a-secret-for-the-image-test", "--env=DATA_DIR=/opt"]
    password = "--env=ADMIN_PASSWORD=a-password-for-the-image"
    ended = podman("run", "--rm", "--user=1234567:0", *RUN, *environment, password, "weir")
    assert ended.returncode != 0
    assert "DATA_DIR must be a folder" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_its_bytecode_is_made(container: Container) -> None:
    """What is imported at the start is not compiled there: the root is read-only."""
    look = "import sys, wsgi; print([m.__name__ for m in sys.modules.values() if getattr(m, '__cached__', None) and not __import__('os').path.exists(m.__cached__)])"  # noqa: E501
    looked = container.run("python", "-c", look)
    assert looked.stdout == "[]\n", looked.stdout + looked.stderr


def test_it_is_small(container: Container, tmp_path: Path) -> None:
    archive = tmp_path / "weir.tar"
    saved = podman("save", "--quiet", "--format=oci-archive", f"--output={archive}", "weir")
    assert saved.returncode == 0, saved.stderr
    assert archive.stat().st_size < COMPRESSED_AT_MOST
    archive.unlink()


def test_sigterm_ends_it_with_zero_and_every_line_was_json(container: Container) -> None:
    """The last one: it ends the container."""
    assert container.terminate() == 0
    lines = [line for line in container.raw_logs().splitlines() if line.strip()]
    assert lines
    for line in lines:
        json.loads(line)
