"""Render, Heroku and Railway as far as deployments go: servers that answer as their APIs do.

The paths, fields and states are those of Render's and Railway's own clients and of Heroku's
published schema. A deployment advances by one state with each look at it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from tests.support.background_server import BackgroundServer

TOKEN = "the-token-of-the-platform-test"


@dataclass
class Deployment:
    identity: str
    commit: str
    states: Iterator[str]
    state: str = ""

    def advance(self) -> str:
        self.state = next(self.states, self.state)
        return self.state


@dataclass
class Refusal(Exception):
    status: int
    body: Any = field(default_factory=dict)


class FakePlatform(BackgroundServer):
    """Serves while its context lasts. `states` are those of the next deployment."""

    SERVING: ClassVar[str]
    TOKEN_HEADER: ClassVar[tuple[str, str]] = ("Authorization", f"Bearer {TOKEN}")
    service: ClassVar[str]

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.deployments: list[Deployment] = []
        self.serving: Deployment | None = None
        self.states: list[str] = [self.SERVING]
        self.refuse_next: list[int] = []  # statuses
        self.refuse_after = 0  # answers
        self.answered = 0
        self.uploaded = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, commit: str) -> Deployment:
        made = Deployment(f"d{len(self.deployments)}", commit, iter(self.states))
        self.deployments.append(made)
        return made

    def add_serving(self, commit: str) -> Deployment:
        made = self.add(commit)
        made.state = self.SERVING
        self.serving = made
        return made

    def find(self, identity: str) -> Deployment:
        for deployment in self.deployments:
            if deployment.identity == identity:
                return deployment
        raise Refusal(404, {"message": f"no deployment {identity}"})

    def look(self, identity: str) -> Deployment:
        found = self.find(identity)
        if found.advance() == self.SERVING:
            self.serving = found
        return found

    def answer(self, method: str, path: str, body: Any, headers: Any) -> Any:
        """The JSON of an answer; None for one without a body."""
        raise NotImplementedError


class FakeRender(FakePlatform):
    SERVING = "live"
    service = "srv-weir"
    queues = False  # it answers 202 without a body to a deployment that waits for another

    def answer(self, method: str, path: str, body: Any, headers: Any) -> Any:
        deploys = "/services/srv-weir/deploys"
        if (method, path) == ("GET", f"{deploys}?status=live&limit=1"):
            return [self._item(self.serving)] if self.serving else []
        if (method, path) == ("GET", f"{deploys}?limit=1"):
            return [self._item(self.deployments[-1])]
        if (method, path) == ("POST", deploys):
            made = self.add(body["commitId"])
            return None if self.queues else self._deploy(made)
        if (method, path) == ("POST", "/services/srv-weir/rollback"):
            return self._deploy(self.add(self.find(body["deployId"]).commit))
        if method == "GET" and path.startswith(f"{deploys}/"):
            return self._deploy(self.look(path.rpartition("/")[2]))
        raise Refusal(404)

    def _deploy(self, deployment: Deployment) -> Any:
        return {
            "id": deployment.identity,
            "status": deployment.state or "created",
            "commit": {"id": deployment.commit},
        }

    def _item(self, deployment: Deployment) -> Any:
        return {"cursor": "c", "deploy": self._deploy(deployment)}


class FakeHeroku(FakePlatform):
    """Its states are of a build, then of the build's release, then of the web dyno."""

    SERVING = "dyno up"
    service = "weir"

    def __init__(self) -> None:
        super().__init__()
        self.without_build: set[str] = set()

    def answer(self, method: str, path: str, body: Any, headers: Any) -> Any:
        if path.startswith("/upload?"):
            # A signature covers the headers: one that was not signed voids it.
            if "Content-Type" in headers or "Authorization" in headers:
                raise Refusal(403)
            self.uploaded = body
            return None
        if (method, path) == ("POST", "/sources"):
            address = f"{self.url}/upload?signature=1"
            return {"source_blob": {"put_url": address, "get_url": f"{self.url}/source"}}
        if (method, path) == ("GET", "/apps/weir/releases"):
            assert headers["Range"] == "version ..; order=desc,max=50"
            newest_first = reversed(self.deployments)
            return [{"id": one.identity, "current": one is self.serving} for one in newest_first]
        if (method, path) == ("POST", "/apps/weir/builds"):
            assert body["source_blob"]["url"] == f"{self.url}/source"
            return {"id": self.add(body["source_blob"]["version"]).identity, "status": "pending"}
        if (method, path) == ("POST", "/apps/weir/releases"):
            made = self.add(self.find(body["release"]).commit)
            self.without_build.add(made.identity)
            return {"id": made.identity}
        if (method, path) == ("GET", "/apps/weir/dynos"):
            return self._dynos()
        kind, _, identity = path.removeprefix("/apps/weir/").partition("/")
        if method == "GET" and kind in {"builds", "releases"}:
            return self._part(kind, self.find(identity))
        raise Refusal(404)

    def _part(self, kind: str, deployment: Deployment) -> Any:
        if kind == "builds" or deployment.identity in self.without_build:
            deployment.advance()
        part, _, status = deployment.state.partition(" ")
        passed = ["build", "release", "dyno"].index(part) > ["builds", "releases"].index(kind)
        answer: dict[str, Any] = {"status": "succeeded" if passed else status}
        if kind == "builds":
            answer["release"] = {"id": deployment.identity} if passed else None
        return answer

    def _dynos(self) -> Any:
        newest, state = self.deployments[-1], self.deployments[-1].state
        if newest.state == "dyno old":  # The former release's dyno has not been replaced yet.
            assert self.serving
            return [{"type": "web", "state": "up", "release": {"id": self.serving.identity}}]
        if state == self.SERVING:
            self.serving = newest
        word = state.removeprefix("dyno ")
        return [
            {"type": "web", "state": word, "release": {"id": newest.identity}},
            {"type": "run", "state": "up", "release": {"id": "another"}},
        ]


class FakeRailway(FakePlatform):
    SERVING = "SUCCESS"
    TOKEN_HEADER = ("Project-Access-Token", TOKEN)
    service = "service-id"

    def answer(self, method: str, path: str, body: Any, headers: Any) -> Any:
        query, given = body["query"], body["variables"]
        if "projectToken" in query:
            return {"data": {"projectToken": {"projectId": "p", "environmentId": "e"}}}
        if "deployments(" in query:
            wanted = given["input"]
            assert (wanted["projectId"], wanted["environmentId"]) == ("p", "e")
            assert wanted["serviceId"] == self.service
            edges = [{"node": {"id": self.serving.identity}}] if self.serving else []
            return {"data": {"deployments": {"edges": edges}}}
        if "serviceInstanceDeployV2" in query:
            assert (given["service"], given["environment"]) == (self.service, "e")
            if given["commit"] == "f" * 40:
                return {"errors": [{"message": "Commit not found"}], "data": None}
            return {"data": {"serviceInstanceDeployV2": self.add(given["commit"]).identity}}
        if "deploymentRedeploy" in query:
            made = self.add(self.find(given["id"]).commit)
            return {"data": {"deploymentRedeploy": {"id": made.identity}}}
        return {"data": {"deployment": {"status": self.look(given["id"]).state}}}


def _handler(platform: FakePlatform) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            raw = self.rfile.read(length)
            try:
                status, body = 200, self._answer(raw)
            except Refusal as refusal:
                status, body = refusal.status, refusal.body
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(202 if body is None else status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, raw: bytes) -> Any:
            platform.answered += 1
            if platform.refuse_next and platform.answered > platform.refuse_after:
                raise Refusal(platform.refuse_next.pop(0), {"message": "not now"})
            if self.path.startswith("/upload?"):
                return platform.answer(self.command, self.path, raw, self.headers)
            name, value = platform.TOKEN_HEADER
            if self.headers.get(name) != value:
                raise Refusal(401, {"message": "unauthorized"})
            body = json.loads(raw) if raw else None
            path = self.path.removesuffix("/") if self.path == "/" else self.path
            return platform.answer(self.command, path, body, self.headers)

        do_GET = do_POST = do_PUT = _serve

    return Handler
