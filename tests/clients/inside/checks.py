"""What the programs share inside the clients' environments: what they know, and how they tell."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
EXHAUSTED_KEY = os.environ["EXHAUSTED_KEY"]  # two requests a minute
SLOW_KEY = os.environ["SLOW_KEY"]  # one request a second
PROVIDER_URL = os.environ["PROVIDER_URL"]  # without Weir between
CONTROL_URL = os.environ["CONTROL_URL"]
MODEL = os.environ["MODEL"]

# A client is imported between here and run(), and all of it stays.
gc.disable()


def run(namespace: Mapping[str, Any]) -> None:
    """Make each check, a public function of the program, in order, and print what came of it."""
    gc.freeze()
    gc.enable()
    for name, check in [*namespace.items()]:
        its_own = inspect.isfunction(check) and check.__module__ == "__main__"
        if its_own and not name.startswith("_"):
            print(json.dumps({"check": name, **_outcome(check)}), flush=True)


def _outcome(check: Callable[[], Any]) -> dict[str, Any]:
    fault()
    try:
        # What a client prints must not be taken for an outcome.
        with redirect_stdout(sys.stderr):
            if inspect.iscoroutinefunction(check):
                asyncio.run(check())
            else:
                check()
    except Exception:
        return {"ok": False, "error": traceback.format_exc()}
    return {"ok": True, "error": None}


def fault(**settings: Any) -> None:
    """Let the following calls of the provider fail so; without any, let them pass."""
    _control("fault", settings)


def calls() -> list[dict[str, Any]]:
    """What the provider was asked, oldest first."""
    return list(_control("calls"))


def asked(text: str) -> list[dict[str, Any]]:
    """The provider's calls in whose body the text stands."""
    return [call for call in calls() if text in json.dumps(call["body"])]


@contextmanager
def failing(*kinds: type[Exception]) -> Iterator[Any]:
    """What stands in it must raise one of these; its value then has the `error`."""
    caught = SimpleNamespace(error=None)
    try:
        yield caught
    except kinds as error:
        caught.error = error
        return
    raise AssertionError(f"no {' or '.join(kind.__name__ for kind in kinds)} was raised")


def wait_until(condition: Callable[[], Any], timeout: float = 5.0) -> None:
    """Ask again until the condition holds. Raises TimeoutError."""
    give_up_at = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError("this did not happen in time")
        time.sleep(0.02)


def _control(endpoint: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = Request(f"{CONTROL_URL}/{endpoint}", content, {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as response:
        return json.load(response)
