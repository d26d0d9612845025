"""Requests as fast as they are answered, by wrk."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from benchmarks.servers import ASKED_FROM, KEY

CONNECTIONS = 32
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
# %s is the body; `n` makes it unique where it stands in it.
POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "{key}"
local n = {first}
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, {body})
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests a second, latency in milliseconds, answers that were not 2xx."""

    rate: float
    p50: float
    p99: float
    failed: int


def get(url: str, seconds: int) -> Load:
    return _wrk(url, seconds, None)


def post(url: str, seconds: int, *, unique: bool, first: int = 0) -> Load:
    """POST /chat messages, all the same or each another."""
    body = """'{"message": "What is weir ' .. n .. '?"}'""" if unique else '\'{"message": "Hi"}\''
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST.format(key=KEY, first=first, body=body))
        script.flush()
        return _wrk(f"{url}/chat", seconds, script.name)


def _wrk(url: str, seconds: int, script: str | None) -> Load:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("make bench needs wrk (Debian's package of that name).")
    command = ["taskset", "-c", ASKED_FROM, wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    script_option = ["-s", script] if script else []
    result = subprocess.run(
        [*command, "--latency", *script_option, url], capture_output=True, text=True, check=True
    )
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", result.stdout)
    return Load(
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", result.stdout)),
        p50=_latency("50%", result.stdout),
        p99=_latency("99%", result.stdout),
        failed=int(failed.group(1)) if failed else 0,
    )


def _latency(share: str, output: str) -> float:
    number, unit = re.findall(rf"{share}\s+([\d.]+)(us|ms|s)", output)[0]
    return float(number) * MILLISECONDS[unit]


def _found(pattern: str, output: str) -> str:
    return str(re.findall(pattern, output)[0])
