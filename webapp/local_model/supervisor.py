"""Starts llama.cpp's server, and again after a pause where it ends: a process of its own.

Its stdin has the server's API key, and ends with Weir.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence

from webapp.local_model import LABEL
from webapp.observability import logs

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further start
STABLE_AFTER = 60.0  # seconds after which an end is the first one again
LOOK_INTERVAL = 0.25  # seconds
STDIN = 0

log = logging.getLogger("webapp.local_model")


def supervise(command: Sequence[str], api_key: bytes, pauses: Sequence[float] = PAUSES) -> None:
    """Keep the server running until stdin ends, or it has ended too often."""
    ends = 0
    while True:
        began = time.monotonic()
        server = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 it is this program
        assert server.stdin
        try:
            server.stdin.write(api_key)
            server.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended
        while server.poll() is None:
            if _has_ended(LOOK_INTERVAL):
                server.kill()
                server.wait()
                return
        ends = 1 if time.monotonic() - began > STABLE_AFTER else ends + 1
        how = _described(server.returncode)
        if ends > len(pauses):
            log.error("The local model has ended %d times (%s): Weir answers offline", ends, how)
            return
        pause = pauses[ends - 1]
        log.warning("The local model has ended (%s); it is started again in %g s", how, pause)
        if _has_ended(pause):
            return


def _has_ended(within: float) -> bool:
    """Whether stdin ends within these seconds."""
    readable, _, _ = select.select([STDIN], [], [], within)
    return bool(readable) and not os.read(STDIN, 1)


def _described(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def main() -> None:
    logs.configure("info")
    api_key = os.read(STDIN, 1024)
    log.info("Starting %s", LABEL)
    supervise([sys.executable, "-m", "webapp.local_model.server", sys.argv[1]], api_key)


if __name__ == "__main__":
    main()
