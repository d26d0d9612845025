"""Does with the command-line tool `llm` what its users do, and tells what came of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from checks import API_KEY, BASE_URL, MODEL, asked, fault, run
from llm.cli import cli

COMMAND = [str(Path(sys.executable).parent / "llm")]
FORK = multiprocessing.get_context("fork")
# JSON is YAML.
MODELS = [
    {
        "model_id": "weir",
        "model_name": MODEL,
        "api_base": BASE_URL,
        "api_key_name": "weir",
        "supports_tools": True,
        "supports_schema": True,
    }
]
# The home of this run, which ends with it.
FOLDER = Path.home() / "llm"
FOLDER.mkdir()
os.environ["LLM_USER_PATH"] = str(FOLDER)
(FOLDER / "extra-openai-models.yaml").write_text(json.dumps(MODELS))
(FOLDER / "keys.json").write_text(json.dumps({"weir": API_KEY}))


def _llm(*words: str) -> str:
    """What the command prints. Raises AssertionError with its complaint where it fails."""
    done = _run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command, in a fork of this process: nearly all of a start of it is what it imports."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        process = FORK.Process(target=_command, args=(words, out, err))
        process.start()
        process.join(30)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(words)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, process.exitcode, out.read(), err.read())


def _command(words: tuple[str, ...], out: IO[str], err: IO[str]) -> None:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = [*COMMAND, *words]
    cli()


def a_plain_prompt_is_answered_and_its_usage_logged() -> None:
    assert "a plain question" in _llm("-m", "weir", "--no-stream", "a plain question")
    (call,) = asked("a plain question")
    assert not call["body"].get("stream")
    (logged,) = json.loads(_llm("logs", "list", "--json", "-n", "1"))
    assert logged["input_tokens"] > 0, logged
    assert logged["output_tokens"] > 0, logged


def a_streamed_prompt_is_answered_as_it_comes() -> None:
    fault(gap=0.1, pieces=10)
    # As it is installed, in a process of its own.
    command = [*COMMAND, "-m", "weir", "one two three four five six"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=-1) as process:
        arrivals = [*_arrivals(process)]
    assert process.returncode == 0
    assert "one two three four" in "".join(text for _, text in arrivals)
    assert arrivals[-1][0] - arrivals[0][0] > 0.5, arrivals


def _arrivals(process: subprocess.Popen[bytes]) -> Iterator[tuple[float, str]]:
    assert process.stdout
    while content := os.read(process.stdout.fileno(), 65536):
        yield time.monotonic(), content.decode()


def a_system_prompt_and_options_reach_the_model() -> None:
    options = ("-o", "temperature", "0.3", "-o", "max_tokens", "20")
    _llm("-m", "weir", "-s", "Answer like a pirate.", *options, "who are you?")
    (call,) = asked("who are you?")
    assert call["body"]["messages"] == [
        {"role": "system", "content": "Answer like a pirate."},
        {"role": "user", "content": "who are you?"},
    ]
    assert (call["body"]["temperature"], call["body"]["max_tokens"]) == (0.3, 20)


def a_conversation_goes_on() -> None:
    first = _llm("-m", "weir", "my name is Ann").strip()
    _llm("-c", "what is my name?")
    (call,) = asked("what is my name?")
    said = [(one["role"], one["content"]) for one in call["body"]["messages"]]
    expected = [("user", "my name is Ann"), ("assistant", first), ("user", "what is my name?")]
    assert said == expected, said


def a_schema_is_fulfilled() -> None:
    answer = _llm("-m", "weir", "--schema", "name, day int", "a party")
    assert json.loads(answer).keys() == {"name", "day"}


def a_function_is_called_and_its_result_taken_back() -> None:
    function = (
        'def weather(place: str) -> str:\n    "The weather."\n    return "sunny on " + "Mars"'
    )
    answer = _llm("-m", "weir", "--no-stream", "--functions", function, "weather on Mars")
    assert answer.strip()
    *_, last = asked("weather on Mars")
    assert last["body"]["messages"][-1]["role"] == "tool"
    assert last["body"]["messages"][-1]["content"] == "sunny on Mars"


def an_error_is_shown() -> None:
    done = _run("-m", "weir", "--key", "sk-not-a-key-of-yours", "let me in")
    assert done.returncode
    assert "401" in done.stderr, done.stderr
    fault(status=400)
    done = _run("-m", "weir", "refused over there")
    assert done.returncode
    assert "told to answer 400" in done.stderr, done.stderr


if __name__ == "__main__":
    run(globals())
