"""A workflow's login to Kubernetes with a token of GitHub, from a server that gives such tokens."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.servers import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "kubernetes_login.py"
EXPIRES = 1_795_910_400  # 2026-11-29T00:00:00Z
CLUSTER = {
    "SERVER": "https://cluster.example:6443",
    "CERTIFICATE_AUTHORITY": "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
    "AUDIENCE": "weir & co",
    "NAMESPACE": "weir",
}


def part(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


class Issuer(BaseHTTPRequestHandler):
    """Answers as GitHub's runner service does."""

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        allowed = self.headers["Authorization"] == "Bearer the-request-token"
        token = ".".join([part({}), part({"aud": query["audience"][0], "exp": EXPIRES}), "s"])
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"count": 1, "value": token}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def github() -> Iterator[dict[str, str]]:
    """What a job with `id-token: write` has in its environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{server.server_port}/?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-request-token",
    }
    server.shutdown()
    server.server_close()


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, env=path | environment, capture_output=True, text=True)


def test_the_kubeconfig_names_the_command_that_gets_a_token(github: dict[str, str]) -> None:
    made = run([sys.executable, str(SCRIPT), "kubeconfig"], CLUSTER)
    assert made.returncode == 0, made.stderr
    config = json.loads(made.stdout)
    cluster = config["clusters"][0]["cluster"]
    assert cluster["server"] == CLUSTER["SERVER"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    assert authority == CLUSTER["CERTIFICATE_AUTHORITY"] + "\n"
    assert config["contexts"][0]["context"]["namespace"] == "weir"
    command = config["users"][0]["user"]["exec"]

    given = run([command["command"], *command["args"]], github)

    assert given.returncode == 0, given.stderr
    credential = json.loads(given.stdout)
    assert credential["apiVersion"] == command["apiVersion"]
    assert credential["kind"] == "ExecCredential"
    assert credential["status"]["expirationTimestamp"] == "2026-11-29T00:00:00Z"
    claims = credential["status"]["token"].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"] == "weir & co"


@pytest.mark.parametrize("missing", CLUSTER)
def test_what_is_not_set_is_named(missing: str) -> None:
    given = {name: value for name, value in CLUSTER.items() if name != missing}
    refused = run([sys.executable, str(SCRIPT), "kubeconfig"], given)
    assert refused.returncode != 0
    assert refused.stderr == f"{missing} is not set.\n"


def test_a_job_without_the_permission_is_told_so(github: dict[str, str]) -> None:
    refused = run([sys.executable, str(SCRIPT), "token", "weir"], {})
    assert refused.stderr == (
        "ACTIONS_ID_TOKEN_REQUEST_URL is not set: does the job have `id-token: write`?\n"
    )
    wrong = github | {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another"}
    refused = run([sys.executable, str(SCRIPT), "token", "weir"], wrong)
    assert refused.returncode != 0
    assert "401" in refused.stderr
    assert "Traceback" not in refused.stderr
