"""What nobody caught: wherever it was raised, it is one line of JSON on stdout, without secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests

from tests.support.faulty import FaultyWeir
from tests.support.servers import REPOSITORY, DidNotStart, wait_until
from webapp.observability.logs import RedactingHandler, WeirFormatter
from webapp.observability.masking import mask

KEY = "test_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "LOG_REDACT": r"card \d+",
    "FAULT_SAYS": f"with {KEY}, of Card 4711\nin two lines",
}
SAID = "with test***6789, of [redacted]\nin two lines"


@pytest.fixture(scope="module")
def weir() -> Iterator[FaultyWeir]:
    with FaultyWeir(SETTINGS) as server:
        yield server
        print(server.raw_logs())


def told_of(weir: FaultyWeir, endpoint: str) -> dict[str, Any]:
    """The line that a fault behind this endpoint leads to, the only one that is no request's."""
    before = len(weir.logs())
    # Some answers are cut off.
    with suppress(requests.RequestException):
        weir.get(f"/fail/{endpoint}", headers={"X-Request-ID": f"at-{endpoint}"})

    def others() -> list[dict[str, Any]]:
        return [line for line in weir.logs()[before:] if "status_code" not in line]

    [line] = wait_until(others)
    return line


@pytest.mark.parametrize(
    ("endpoint", "message", "request_id"),
    [
        ("view", "A request failed", "at-view"),
        ("stream", "A stream failed", "at-stream"),
        ("iterator", "Error handling request", None),
        ("greenlet", "A greenlet failed", None),
        ("thread", "A thread failed", None),
        ("pool", "A greenlet failed", None),
        ("native-thread", "Exception ignored in thread started by function", None),
        ("finalizer", "Exception ignored in function", "at-finalizer"),
        ("tick", "A periodic task failed", None),
    ],
)
def test_a_traceback_is_one_line(
    weir: FaultyWeir, endpoint: str, message: str, request_id: str | None
) -> None:
    line = told_of(weir, endpoint)
    assert (line["level"], line["message"]) == ("error", message)
    assert line["exc_info"].startswith("Traceback (most recent call last):\n")
    assert line["exc_info"].endswith(f"RuntimeError: {SAID}")
    assert line.get("request_id") == request_id


def test_the_line_of_the_failed_request_has_the_id_of_its_traceback(weir: FaultyWeir) -> None:
    told_of(weir, "view")

    def statuses() -> list[int | None]:
        lines = [line for line in weir.logs() if line.get("request_id") == "at-view"]
        return [line.get("status_code") for line in lines]

    wait_until(lambda: statuses()[-2:] == [None, 500])


def test_a_warning_is_one_line(weir: FaultyWeir) -> None:
    line = told_of(weir, "warning")
    assert line["level"] == "warning"
    assert f"UserWarning: {SAID}" in line["message"]
    assert line["request_id"] == "at-warning"


def test_a_line_that_cannot_be_written_is_told_of(weir: FaultyWeir) -> None:
    line = told_of(weir, "line")
    assert (line["level"], line["logger"]) == ("error", "webapp.faulty")
    assert line["message"] == "This log record could not be formatted: '%d'"
    assert "TypeError: %d format" in line["exc_info"]


def test_what_ends_on_purpose_is_no_fault(weir: FaultyWeir) -> None:
    before = len(weir.logs())
    for _ in range(2):
        assert weir.get("/fail/none").text == "done"
    wait_until(lambda: [line.get("endpoint") for line in weir.logs()].count("/fail/none") == 2)
    assert [line for line in weir.logs()[before:] if "status_code" not in line] == []


def test_a_worker_that_does_not_boot_says_why_in_one_line() -> None:
    weir = FaultyWeir(SETTINGS | {"FAULTY_START": 1})
    try:
        with pytest.raises(DidNotStart) as ended:
            weir.start()
        assert ended.value.exit_code == 3
        [line] = [line for line in weir.logs() if "exc_info" in line]
        assert line["message"] == "Exception in worker process"
        assert line["exc_info"].endswith(f"RuntimeError: {SAID}")
        assert_all_is_json(weir)
    finally:
        weir.close()


def test_a_key_that_somebody_sends_as_request_id_is_masked(weir: FaultyWeir) -> None:
    weir.get("/nowhere", headers={"X-Request-ID": KEY})
    wait_until(lambda: "test***6789" in [line.get("request_id") for line in weir.logs()])
    assert_all_is_json(weir)


def test_nothing_else_is_printed(weir: FaultyWeir) -> None:
    for endpoint in ("view", "greenlet", "thread", "finalizer"):
        told_of(weir, endpoint)
    assert_all_is_json(weir)


def test_what_ends_a_process_is_one_line() -> None:
    program = (
        "from webapp.observability import logs, uncaught\n"
        f"logs.configure('info', [{KEY!r}])\n"
        "uncaught.log_the_uncaught()\n"
        f"raise RuntimeError({KEY!r})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    [line] = map(json.loads, ended.stdout.splitlines())
    assert line["message"] == "The process failed"
    assert line["exc_info"].endswith("RuntimeError: test***6789")


@pytest.mark.parametrize("secret", ['a pass"word\\', "pässword", "7", "info", ":"])
def test_a_mask_never_breaks_a_line(secret: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines = RedactingHandler([secret])
    lines.setFormatter(WeirFormatter())
    told = logging.LogRecord("webapp", logging.INFO, "", 0, "It is %s.", (secret,), None)
    told.number = 17  # type: ignore[attr-defined]
    lines.handle(told)
    [written] = capfd.readouterr().out.splitlines()
    line = json.loads(written)
    assert line["message"] == f"It is {mask(secret)}."
    assert line["number"] == 17


def assert_all_is_json(weir: FaultyWeir) -> None:
    lines = (weir.folder / "stdout.log").read_text().splitlines()
    assert len(weir.logs()) == len(lines), "a line is not JSON"
    # There is the banner alone, for people.
    assert "Traceback" not in (weir.folder / "stderr.log").read_text()
    assert KEY not in weir.raw_logs()
