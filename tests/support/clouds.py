"""The secret managers of Google and Azure, for their own SDKs (AWS is moto).

Their APIs are spoken by `Clouds`, under their real names: it is the
proxy of HTTPS_PROXY, and its certificate is by an authority that REQUESTS_CA_BUNDLE names. It is
also what tells a program on Cloud Run or Container Apps who it is.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.background_server import BackgroundServer
from tests.support.certificates import PEM, new_key, signed, with_key
from tests.support.servers import free_port

HOSTS = ["*.vault.azure.net", "*.vault.azure.cn", "secretmanager.googleapis.com",
         "secretmanager.europe-west4.rep.googleapis.com"]  # fmt: skip
TOKEN, IDENTITY_HEADER = "the-token-of-this-identity", "the-identity-header"
GOOGLE_ERRORS = {403: "PERMISSION_DENIED", 404: "NOT_FOUND", 503: "UNAVAILABLE",
                 400: "FAILED_PRECONDITION"}  # fmt: skip


@dataclass(slots=True)
class Kept:
    """What `Clouds` keeps, by `host/secret`, and what is wrong: a status, or nothing answers."""

    values: dict[str, str] = field(default_factory=dict)
    status: int = 0
    seconds: float = 0.0
    asked: list[str] = field(default_factory=list)


class Clouds(BackgroundServer):
    """Google Cloud Secret Manager and Azure Key Vault, each with the identity of its platform."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.kept = Kept()
        self._authority = folder / "authority.pem"
        server = _Server(("127.0.0.1", self.port), _Handler)
        server.kept = self.kept
        server.tls = _tls(folder, self._authority)
        self._server = server

    @property
    def environment(self) -> dict[str, str]:
        address = f"127.0.0.1:{self.port}"
        return {
            "HTTPS_PROXY": f"http://{address}",
            "NO_PROXY": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(self._authority),
            "GCE_METADATA_HOST": address,
            "GCE_METADATA_IP": address,
            "IDENTITY_ENDPOINT": f"http://{address}/msi/token",
            "IDENTITY_HEADER": IDENTITY_HEADER,
        }

    def keep_google(self, project: str, name: str, value: str, region: str = "") -> None:
        place = f"locations/{region}/" if region else ""
        host = f"secretmanager.{region}.rep" if region else "secretmanager"
        self.kept.values[f"{host}.googleapis.com/projects/{project}/{place}secrets/{name}"] = value

    def keep_azure(self, host: str, name: str, value: str) -> None:
        self.kept.values[f"{host}/secrets/{name}"] = value


class _Server(ThreadingHTTPServer):
    kept: Kept
    tls: ssl.SSLContext
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no failure of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    host = ""

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self.host:
            self._identity(path)
            return
        kept = self.server.kept
        kept.asked.append(f"{self.host}{path}")
        time.sleep(kept.seconds)
        answer = self._google if self.host.endswith("googleapis.com") else self._azure
        answer(path, kept)

    def _identity(self, path: str) -> None:
        """What tells a program who it is: Google's metadata server, Azure's identity endpoint."""
        expires = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        if path == "/msi/token":
            assert self.headers["X-IDENTITY-HEADER"] == IDENTITY_HEADER
            wanted = parse_qs(urlsplit(self.path).query)["resource"][0]
            expires |= {"resource": wanted, "expires_on": str(int(time.time()) + 3600)}
        elif path.endswith("/service-accounts/default/"):
            expires = {"email": "weir@example.iam.gserviceaccount.com", "scopes": []}
        elif path.endswith("/universe-domain") or path.endswith("/universe_domain"):
            self._send(404, "")
            return
        self._send(200, expires, {"Metadata-Flavor": "Google"})

    def _google(self, path: str, kept: Kept) -> None:
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        name = path.removeprefix("/v1/").removesuffix(":access")
        secret, _, version = name.partition("/versions/")
        value = kept.values.get(f"{self.host}/{secret}")
        status = kept.status or (404 if value is None else 200)
        if status != 200 or value is None:
            error = {"code": status, "message": "no", "status": GOOGLE_ERRORS.get(status, "")}
            self._send(status, {"error": error})
            return
        data = base64.b64encode(value.encode()).decode()
        version = "7" if version == "latest" else version
        self._send(200, {"name": f"{secret}/versions/{version}", "payload": {"data": data}})

    def _azure(self, path: str, kept: Kept) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            domain = self.host.partition(".")[2]
            challenge = (
                f'Bearer authorization="https://login.microsoftonline.com/a-tenant", '
                f'resource="https://{domain}"'
            )
            self._send(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge})
            return
        name = "/".join(path.split("/")[:3])
        value = kept.values.get(f"{self.host}{name}")
        status = kept.status or (404 if value is None else 200)
        if status != 200:
            self._send(status, {"error": {"code": "Refused", "message": "no"}})
        else:
            self._send(200, {"value": value, "id": f"https://{self.host}{name}/7"})

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the tests look at what was asked."""


def _tls(folder: Path, authority: Path) -> ssl.SSLContext:
    """A certificate for HOSTS; `authority` gets that of who has signed it."""
    root_key, key = new_key(), new_key()
    root = signed("The tests", root_key, "The tests", root_key, ca=True, days=2)
    leaf = signed("The clouds", key, "The tests", root_key, names=HOSTS, days=2)
    authority.write_bytes(root.public_bytes(PEM))
    chain = folder / "server.pem"
    chain.write_bytes(with_key(leaf, key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context
