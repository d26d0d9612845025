"""The small local model, without a model: a server stands in for llama.cpp's.

What is tested is when it is started, how it ends, and what answers while it does not.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import REPOSITORY, Provider, Valkey, Weir, wait_until
from webapp.settings import load

STAND_IN = {"LOCAL_MODEL": "on", "PYTHONPATH": str(Path(__file__).parent / "stand_in")}
KEY = "prod_key_456"
MODEL = "smollm2-135m-instruct"
LABEL = "SmolLM2 135M Instruct, a small local model for trying things out"
TEXT = "A weir is low. It raises the water of a river. Mills were built at weirs for that reason."


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(**STAND_IN, TIERS="free=5/minute;premium=999/minute")


def processes_of(weir: Weir) -> list[int]:
    """The supervisor and the server, by their command lines and Weir's folder."""
    marks = (b"webapp.local_model.supervisor", b"webapp.local_model.server")
    home = f"HOME={weir.folder}\0".encode()
    found = []
    for mark in marks:
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if mark in command.read_bytes() and home in (
                    command.with_name("environ").read_bytes()
                ):
                    found.append(int(command.parent.name))
            except OSError:
                continue
    return found


def ask(weir: Weir, message: str = "hi", **fields: Any) -> dict[str, Any]:
    answer = weir.post("/chat", key=KEY, json={"message": message} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(weir: Weir, text: str) -> list[dict[str, Any]]:
    """The lines of the log that say this."""
    return [line for line in weir.logs() if text in line.get("message", "")]


def test_the_first_request_waits_until_it_is_loaded_and_it_ends_with_weir(
    start_weir: MakeWeir,
) -> None:
    weir = start_weir(**STAND_IN, STAND_IN_LOADING=2)
    first = ask(weir)
    assert (first["response"], first["provider"]) == ("You said: hi", "local")
    assert (first["model"], first["cost_usd"]) == (MODEL, 0.0)
    assert len(processes_of(weir)) == 2
    assert weir.terminate() == 0
    wait_until(lambda: not processes_of(weir), what="the end of the local model")


def test_every_endpoint_of_chat_uses_it(weir: Weir) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "gpt-4o-mini", "messages": messages, "max_tokens": 9}
    chat = weir.post("/v1/chat/completions", key=KEY, json=body).json()
    assert chat["choices"][0]["message"]["content"] == "You said: hi"
    assert chat["model"] == MODEL
    message = weir.post("/v1/messages", key=KEY, json=body).json()
    assert message["content"][0]["text"] == "You said: hi"
    response = weir.post("/v1/responses", key=KEY, json={"model": "x", "input": "hi"}).json()
    assert response["output"][-1]["content"][0]["text"] == "You said: hi"
    assert weir.post("/generate", key=KEY, json={"prompt": "hi"}).json()["content"] == (
        "You said: hi"
    )
    with weir.stream("/chat", {"message": "stream", "stream": True}, KEY) as events:
        assert '"You "' in next(events)


def test_it_is_named_as_what_it_is(weir: Weir) -> None:
    [listed] = weir.get("/v1/models", key=KEY).json()["data"]
    assert (listed["id"], listed["owned_by"]) == (MODEL, f"weir: {LABEL}")
    health = weir.get("/health/detailed").json()
    assert health["local_model"] == LABEL
    assert health["status"] == "healthy"
    assert LABEL in weir.get("/", headers={"Accept": "text/html"}).text


def test_summaries_stay_extractive_unless_its_model_is_named(weir: Weir) -> None:
    summary = weir.post("/summarize", key=KEY, json={"text": TEXT}).json()
    assert summary["provider"] == "offline"
    assert summary["summary"] in TEXT
    named = weir.post("/summarize", key=KEY, json={"text": TEXT, "model": MODEL}).json()
    assert named["provider"] == "local"


def test_embeddings_are_refused_in_words_and_are_no_call(weir: Weir) -> None:
    body = {"model": "x", "input": "hi"}
    answer = weir.post("/v1/embeddings", key=KEY, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "small local model has no embeddings" in error["message"]
    assert (error["param"], error["code"]) == ("model", "unsupported_parameter")
    assert weir.log_of(answer)["provider"] == "local"
    explained = weir.post("/v1/explain?endpoint=/v1/embeddings", key=KEY, json=body)
    assert (explained.status_code, explained.json()["error"]) == (400, error)
    with sqlite3.connect(weir.data_dir / "weir.db") as database:
        calls = database.execute("SELECT error FROM ledger WHERE endpoint = '/v1/embeddings'")
        assert calls.fetchall() == []


def test_no_other_user_of_the_machine_is_answered(weir: Weir) -> None:
    [_, server] = processes_of(weir)
    arguments = Path(f"/proc/{server}/cmdline").read_bytes().split(b"\0")
    url = f"http://127.0.0.1:{int(arguments[-2])}/v1/models"
    assert requests.get(url, timeout=5).status_code == 401


def test_it_is_started_again_and_meanwhile_weir_answers_offline(weir: Weir) -> None:
    [supervisor, server] = processes_of(weir)
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(server, signal.SIGKILL)
    assert ask(weir, "meanwhile")["provider"] == "offline"
    os.kill(supervisor, signal.SIGCONT)
    [line] = wait_until(lambda: said(weir, "has ended (signal 9)"), what="a line of the log")
    assert line["level"] == "warning"

    # What was said offline was not kept.
    def answered() -> bool:
        return bool(ask(weir, "meanwhile")["provider"] == "local")

    wait_until(answered, 20, "an answer of the local model")


def test_it_gives_up_after_some_ends() -> None:
    script = (
        "import sys; from webapp.local_model import supervisor;"
        "supervisor.logs.configure('info');"
        "supervisor.supervise([sys.executable, '-c', 'raise SystemExit(7)'], b'', (0.01, 0.02))"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.stdout
    lines = done.stdout.read().splitlines()
    assert done.wait(10) == 0
    assert ["started again in" in line for line in lines] == [True, True, False]
    assert "has ended 3 times (exit code 7): Weir answers offline" in lines[2]
    done.stdout.close()
    assert done.stdin
    done.stdin.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"LOCAL_MODEL": "off"},
        {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"},
        {"PROVIDER_LOCAL_BASE_URL": "http://127.0.0.1:9/v1"},
        {"ANTHROPIC_API_KEY": "sk-ant-test"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "APP_ENV": "development"},
        {"K_SERVICE": "weir", "APP_ENV": "development", "ALLOW_EPHEMERAL_SQLITE": "true"},
        {"APP_ENV": "production", "SECRET_KEY": "s" * 32, "ADMIN_PASSWORD": "p" * 12},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_where_it_is_not_wanted(settings: dict[str, str], tmp_path: Path) -> None:
    assert load({"DATA_DIR": str(tmp_path)}).wants_local_model
    assert not load({"DATA_DIR": str(tmp_path)} | settings).wants_local_model


def test_where_it_cannot_be_installed_make_run_goes_on(tmp_path: Path) -> None:
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "scripts.install_local_model"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)} | nowhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    first, last = done.stdout.splitlines()
    assert first.startswith("Installing a small local model")
    assert last == "The small local model cannot be installed here: Weir answers offline."


def test_without_its_wheels_weir_says_so_and_answers_offline(start_weir: MakeWeir) -> None:
    weir = start_weir(LOCAL_MODEL="on")
    assert ask(weir)["provider"] == "offline"
    assert weir.get("/health").json()["status"] == "degraded"
    [line] = said(weir, "not installed")
    assert line["level"] == "warning"
    assert processes_of(weir) == []


def test_its_answers_do_not_survive_the_configuration_of_a_provider(
    new_weir: MakeWeir, fresh_valkey: Valkey, provider: Provider
) -> None:
    local = new_weir(**STAND_IN, REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=1).start()
    assert ask(local)["provider"] == "local"
    assert ask(local)["cached"] is True
    assert local.process
    local.process.kill()  # it alone: what else ends, does so by itself
    wait_until(lambda: not processes_of(local), what="the end of the local model")
    local.stop()
    later = new_weir(
        **STAND_IN, REDIS_URL=fresh_valkey.url, OPENAI_BASE_URL=provider.base_url
    ).start()
    answer = ask(later)
    assert (answer["provider"], answer["cached"]) == ("openai", False)
    assert processes_of(later) == []
    assert [model["id"] for model in later.get("/v1/models", key=KEY).json()["data"]] != [MODEL]
