"""Deploys a commit to Render, Heroku or Railway by its API, or rolls back to an earlier deployment.

    export DEPLOY_TOKEN=…
    python scripts/platform_deploy.py render srv-… current
    python scripts/platform_deploy.py render srv-… deploy COMMIT
    python scripts/platform_deploy.py render srv-… roll-back DEPLOYMENT

The second argument is Render's service id, Heroku's app, or Railway's service id (the token is then
a project token, which belongs to one environment). `current` prints the live deployment, if there
is one. The others wait until theirs is live. The exit code is 0 if it is, 1 if not.
It needs Python 3.11 or newer, git for Heroku, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, TypeVar

TOKEN_VARIABLE = "DEPLOY_TOKEN"  # noqa: S105
REQUEST_TIMEOUT = 60.0  # seconds
WAIT_TIMEOUT = 30 * 60.0  # seconds; builds included
POLL_INTERVAL = 5.0  # seconds
# An API that is away for less than this many looks in a row does not end a deployment.
FAILED_LOOKS_MAX = 12

Answer = TypeVar("Answer")


class Failed(Exception):
    """What the platform answered, or did, in a line."""


class Unreachable(Failed):
    """The platform's API does not answer, or only with errors of its own."""


class Progress(Enum):
    RUNNING = "running"
    LIVE = "live"
    FAILED = "failed"


class Platform(Protocol):
    def current(self) -> str | None:
        """The live deployment."""

    def deploy(self, commit: str) -> str:
        """Begin; returns what progress() takes."""

    def roll_back(self, deployment: str) -> str:
        """Begin to roll back to what current() returned; returns what progress() takes."""

    def progress(self, deployment: str) -> tuple[Progress, str]:
        """How far it is, also in the platform's word."""


class Api:
    """JSON over HTTP, with the platform's headers."""

    def __init__(self, base: str, headers: dict[str, str]) -> None:
        self.base = base
        self.headers = headers | {"Accept": headers.get("Accept", "application/json")}

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        request = urllib.request.Request(self.base + path, method=method)  # noqa: S310
        for name, value in (self.headers | headers).items():
            request.add_header(name, value)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            kind = Unreachable if error.code >= 500 or error.code == 429 else Failed
            raise kind(f"{method} {path}: {error.code} {said}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{method} {path}: {error}") from None
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise Unreachable(f"{method} {path}: no JSON") from None


class Render:
    API = "https://api.render.com/v1"
    RUNNING = frozenset(
        {"created", "queued", "build_in_progress", "update_in_progress", "pre_deploy_in_progress"}
    )

    def __init__(self, service: str, token: str, base: str = API) -> None:
        self.deploys = f"/services/{quoted(service)}/deploys"
        self.rollback = f"/services/{quoted(service)}/rollback"
        self.api = Api(base, {"Authorization": f"Bearer {token}"})

    def current(self) -> str | None:
        live = self.api("GET", f"{self.deploys}?status=live&limit=1")
        return str(live[0]["deploy"]["id"]) if live else None

    def deploy(self, commit: str) -> str:
        deploy = self.api("POST", self.deploys, {"commitId": commit})
        if deploy is None:  # It is in the queue, behind another one.
            newest = until_reached(lambda: self.api("GET", f"{self.deploys}?limit=1"))
            deploy = newest[0]["deploy"]
        return str(deploy["id"])

    def roll_back(self, deployment: str) -> str:
        return str(self.api("POST", self.rollback, {"deployId": deployment})["id"])

    def progress(self, deployment: str) -> tuple[Progress, str]:
        status = self.api("GET", f"{self.deploys}/{quoted(deployment)}")["status"]
        if status == "live":
            return Progress.LIVE, status
        return (Progress.RUNNING if status in self.RUNNING else Progress.FAILED), status


class Heroku:
    API = "https://api.heroku.com"

    def __init__(self, app: str, token: str, base: str = API) -> None:
        self.app = f"/apps/{quoted(app)}"
        accept = "application/vnd.heroku+json; version=3"
        self.api = Api(base, {"Authorization": f"Bearer {token}", "Accept": accept})

    def current(self) -> str | None:
        newest_first = "version ..; order=desc,max=50"
        releases = self.api("GET", f"{self.app}/releases", Range=newest_first)
        return next((str(release["id"]) for release in releases if release["current"]), None)

    def deploy(self, commit: str) -> str:
        source = self.api("POST", "/sources", {})["source_blob"]
        upload(source["put_url"], archive(commit))
        blob = {"url": source["get_url"], "version": commit}
        build = self.api("POST", f"{self.app}/builds", {"source_blob": blob})
        return f"builds/{build['id']}"

    def roll_back(self, deployment: str) -> str:
        release = self.api("POST", f"{self.app}/releases", {"release": deployment})
        return f"releases/{release['id']}"

    def progress(self, deployment: str) -> tuple[Progress, str]:
        kind, _, identity = deployment.partition("/")
        found = self.api("GET", f"{self.app}/{kind}/{quoted(identity)}")
        if found["status"] == "pending":
            return Progress.RUNNING, f"{kind[:-1]} pending"
        if found["status"] != "succeeded":
            return Progress.FAILED, f"{kind[:-1]} {found['status']}"
        if kind == "builds":
            release = found["release"]
            if release is None:
                return Progress.RUNNING, "built"
            return self.progress(f"releases/{release['id']}")
        return self._dynos(identity)

    def _dynos(self, release: str) -> tuple[Progress, str]:
        """A release has succeeded before its dynos run: until then the former ones may answer."""
        dynos = [dyno for dyno in self.api("GET", f"{self.app}/dynos") if dyno["type"] == "web"]
        of_release = [dyno["state"] for dyno in dynos if dyno["release"]["id"] == release]
        if "crashed" in of_release:
            return Progress.FAILED, "dyno crashed"
        if len(of_release) < len(dynos) or set(of_release) - {"up", "idle"}:
            return Progress.RUNNING, "dynos starting"
        return Progress.LIVE, "dynos up"


class Railway:
    API = "https://backboard.railway.com/graphql/v2"
    LIVE = frozenset({"SUCCESS", "SLEEPING"})
    FAILED = frozenset({"FAILED", "CRASHED", "REMOVED", "REMOVING", "SKIPPED"})

    def __init__(self, service: str, token: str, base: str = API) -> None:
        self.service = service
        self.api = Api(base, {"Project-Access-Token": token})

    def current(self) -> str | None:
        filters = {
            **self._environment("projectId environmentId"),
            "serviceId": self.service,
            "status": {"in": sorted(self.LIVE)},
        }
        found = self._ask(
            "query($input: DeploymentListInput!) "
            "{ deployments(first: 1, input: $input) { edges { node { id } } } }",
            input=filters,
        )["deployments"]["edges"]
        return str(found[0]["node"]["id"]) if found else None

    def deploy(self, commit: str) -> str:
        begun = self._ask(
            "mutation($service: String!, $environment: String!, $commit: String!) "
            "{ serviceInstanceDeployV2(serviceId: $service, environmentId: $environment, "
            "commitSha: $commit) }",
            service=self.service,
            environment=until_reached(lambda: self._environment("environmentId"))["environmentId"],
            commit=commit,
        )
        return str(begun["serviceInstanceDeployV2"])

    def roll_back(self, deployment: str) -> str:
        # deploymentRollback does not say which deployment it begins, so nobody could wait for it.
        begun = self._ask(
            "mutation($id: String!) "
            "{ deploymentRedeploy(id: $id, usePreviousImageTag: true) { id } }",
            id=deployment,
        )
        return str(begun["deploymentRedeploy"]["id"])

    def progress(self, deployment: str) -> tuple[Progress, str]:
        found = self._ask("query($id: String!) { deployment(id: $id) { status } }", id=deployment)
        status = found["deployment"]["status"]
        if status in self.LIVE:
            return Progress.LIVE, status
        return (Progress.FAILED if status in self.FAILED else Progress.RUNNING), status

    def _environment(self, fields: str) -> dict[str, str]:
        """Of the token: a project token is for one environment of one project."""
        token: dict[str, str] = self._ask(f"query {{ projectToken {{ {fields} }} }}")[
            "projectToken"
        ]
        return token

    def _ask(self, query: str, **variables: object) -> Any:
        answer = self.api("POST", "", {"query": query, "variables": variables})
        if answer.get("errors"):
            raise Failed("; ".join(str(error.get("message")) for error in answer["errors"]))
        return answer["data"]


PLATFORMS: dict[str, Any] = {"render": Render, "heroku": Heroku, "railway": Railway}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("platform", choices=sorted(PLATFORMS))
    parser.add_argument("service", help="Render's or Railway's service id, Heroku's app")
    parser.add_argument("--api", help="another address of the platform's API")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("current", help="print the live deployment")
    actions.add_parser("deploy").add_argument("commit", type=full_commit)
    actions.add_parser("roll-back").add_argument("deployment")
    asked = parser.parse_args()
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        parser.error(f"{TOKEN_VARIABLE} is not set")
    address = {"base": asked.api.rstrip("/")} if asked.api else {}
    platform: Platform = PLATFORMS[asked.platform](asked.service, token, **address)
    try:
        if asked.action == "current":
            print(until_reached(platform.current) or "")
        elif asked.action == "deploy":
            wait(platform, platform.deploy(asked.commit))
        else:
            roll_back(platform, asked.deployment)
    except Failed as problem:
        sys.exit(f"{asked.action}: {problem}")


def roll_back(platform: Platform, deployment: str) -> None:
    try:
        live = platform.current()
    except Failed as problem:
        # Not knowing it, a roll-back too many does less harm than none.
        print(f"The live deployment is unknown ({problem}).", flush=True)
        live = None
    if live == deployment:
        print(f"{deployment} is still live: nothing to roll back.")
    else:
        # Done twice, it has the same result.
        wait(platform, until_reached(lambda: platform.roll_back(deployment)))


def until_reached(ask: Callable[[], Answer]) -> Answer:
    """Ask, and again while the API is away. Only for what may be done twice."""
    for _ in range(FAILED_LOOKS_MAX - 1):
        with contextlib.suppress(Unreachable):
            return ask()
        time.sleep(POLL_INTERVAL)
    return ask()


def wait(platform: Platform, deployment: str) -> None:
    """Return when the deployment is live; print a line for each step."""
    until = time.monotonic() + WAIT_TIMEOUT
    last, failed_looks = "", 0
    while time.monotonic() < until:
        try:
            progress, word = platform.progress(deployment)
            failed_looks = 0
        except Unreachable as problem:
            failed_looks += 1
            if failed_looks == FAILED_LOOKS_MAX:
                raise
            progress, word = Progress.RUNNING, f"unknown ({problem})"
        if word != last:
            print(f"{deployment}: {word}", flush=True)
            last = word
        if progress is Progress.LIVE:
            return
        if progress is Progress.FAILED:
            raise Failed(f"{deployment} has failed ({word}); its log is on the platform.")
        time.sleep(POLL_INTERVAL)
    raise Failed(f"{deployment} is not live after {WAIT_TIMEOUT:.0f} s ({last}).")


def full_commit(text: str) -> str:
    if len(text) != 40 or set(text) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("a commit has 40 hexadecimal digits here")
    return text


def quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def archive(commit: str) -> bytes:
    """The commit's files, as a gzipped tar."""
    done = subprocess.run(  # noqa: S603
        ["git", "archive", "--format=tar.gz", commit],  # noqa: S607
        capture_output=True,
    )
    if done.returncode:
        raise Failed(f"git archive: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def upload(url: str, body: bytes) -> None:
    """PUT to a signed address. urllib would add a Content-Type, which voids the signature."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=REQUEST_TIMEOUT)
    try:
        connection.request("PUT", f"{parts.path}?{parts.query}", body)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"upload of the source: {error}") from None
    finally:
        connection.close()
    if status >= 300:
        raise Failed(f"upload of the source: {status}")


if __name__ == "__main__":
    main()
