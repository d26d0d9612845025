"""Deploying to Render, Heroku and Railway, and back, against servers that speak their APIs."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator

import pytest

from scripts import platform_deploy
from tests.support.platforms import TOKEN, FakeHeroku, FakePlatform, FakeRailway, FakeRender
from tests.support.servers import REPOSITORY

COMMIT = "a" * 40
FAKES: dict[str, type[FakePlatform]] = {
    "render": FakeRender,
    "heroku": FakeHeroku,
    "railway": FakeRailway,
}
# What a deployment goes through on its way, and how it can fail.
STEPS = {
    "render": ["created", "build_in_progress", "pre_deploy_in_progress", "update_in_progress"],
    "heroku": ["build pending", "release pending", "dyno old", "dyno starting"],
    "railway": ["INITIALIZING", "QUEUED", "BUILDING", "DEPLOYING"],
}
FAILURES = [
    ("render", "build_failed"), ("render", "pre_deploy_failed"), ("render", "update_failed"),
    ("render", "canceled"), ("heroku", "build failed"), ("heroku", "release failed"),
    ("heroku", "dyno crashed"), ("railway", "FAILED"), ("railway", "CRASHED"),
]  # fmt: skip

Run = Callable[..., int | str | None]


@pytest.fixture(params=FAKES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def platform(name: str) -> Iterator[FakePlatform]:
    with FAKES[name]() as fake:
        fake.add_serving("0" * 40)
        yield fake


@pytest.fixture
def run(name: str, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command; returns its exit code, or the line that it ends with."""
    monkeypatch.setattr(platform_deploy, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(platform_deploy, "archive", lambda _: b"the files")
    monkeypatch.setenv("DEPLOY_TOKEN", TOKEN)

    def run_it(*arguments: str) -> int | str | None:
        api = ["--api", platform.url]
        monkeypatch.setattr(sys, "argv", ["x", *api, name, platform.service, *arguments])
        try:
            platform_deploy.main()
        except SystemExit as end:
            return end.code
        return 0

    return run_it


def test_a_deployment_is_waited_for_until_it_is_live(
    name: str, platform: FakePlatform, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.states = [*STEPS[name], platform.SERVING]
    assert run("deploy", COMMIT) == 0
    assert platform.serving
    assert platform.serving.commit == COMMIT
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3, "a line for each step"


def test_the_earlier_deployment_is_rolled_back_to(
    platform: FakePlatform, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("current") == 0
    before = capsys.readouterr().out.strip()
    assert before == "d0"
    assert run("deploy", COMMIT) == 0

    assert run("roll-back", before) == 0

    assert platform.serving
    assert platform.serving.commit == "0" * 40
    assert len(platform.deployments) == 3


@pytest.mark.parametrize(("name", "state"), FAILURES)
def test_a_deployment_that_fails_says_so_and_leaves_the_one_before(
    name: str, state: str, platform: FakePlatform, run: Run
) -> None:
    platform.states = [STEPS[name][0], state]
    problem = run("deploy", COMMIT)
    assert isinstance(problem, str)
    assert "has failed" in problem
    made = len(platform.deployments)

    assert run("roll-back", "d0") == 0, "there is nothing to roll back"

    assert len(platform.deployments) == made


def test_before_the_first_deployment_nothing_is_live(
    platform: FakePlatform, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.serving = None
    platform.deployments.clear()
    assert run("current") == 0
    assert capsys.readouterr().out == "\n"


def test_an_api_that_is_away_for_a_while_does_not_end_a_deployment(
    name: str, platform: FakePlatform, run: Run
) -> None:
    platform.states = [*STEPS[name], platform.SERVING]
    platform.refuse_after, platform.refuse_next = 4, [500, 503, 429]
    assert run("deploy", COMMIT) == 0
    assert platform.refuse_next == []


def test_what_is_live_is_asked_again_when_the_api_is_away_for_a_moment(
    platform: FakePlatform, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.refuse_next = [503, 429]
    assert run("current") == 0
    assert capsys.readouterr().out.strip() == "d0"


@pytest.mark.parametrize("refused", [[503], [503] * 4])
def test_an_api_that_is_away_for_a_moment_does_not_prevent_a_roll_back(
    refused: list[int], platform: FakePlatform, run: Run
) -> None:
    assert run("deploy", COMMIT) == 0
    platform.refuse_after, platform.refuse_next = platform.answered, refused
    assert run("roll-back", "d0") == 0
    assert platform.refuse_next == []
    assert platform.serving
    assert platform.serving.commit == "0" * 40


@pytest.mark.parametrize(("name", "answers"), [("render", 1), ("railway", 0)])
def test_a_read_that_fails_while_a_deployment_begins_is_repeated(
    answers: int, platform: FakePlatform, run: Run
) -> None:
    if isinstance(platform, FakeRender):
        platform.queues = True
    platform.refuse_after, platform.refuse_next = answers, [503]
    assert run("deploy", COMMIT) == 0
    assert len(platform.deployments) == 2


@pytest.mark.parametrize("answers", [0, 4])
def test_an_api_that_stays_away_ends_it(
    name: str, answers: int, platform: FakePlatform, run: Run
) -> None:
    platform.states = [*STEPS[name], platform.SERVING]
    platform.refuse_after, platform.refuse_next = answers, [503] * 100
    problem = run("deploy", COMMIT)
    assert isinstance(problem, str)
    assert "503" in problem


def test_a_deployment_that_takes_too_long_is_no_success(
    name: str, platform: FakePlatform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_deploy, "WAIT_TIMEOUT", 0.1)
    platform.states = [STEPS[name][0]]
    problem = run("deploy", COMMIT)
    assert isinstance(problem, str)
    assert "is not live after" in problem


def test_a_wrong_token_is_refused_and_never_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "another-secret")
    problem = run("current")
    assert isinstance(problem, str)
    assert "401" in problem
    assert "another-secret" not in problem + "".join(capsys.readouterr())


def test_only_a_whole_commit_is_deployed(run: Run) -> None:
    assert run("deploy", "main") == 2
    assert run("deploy", "--help-me") == 2


@pytest.mark.parametrize("name", ["render"])
def test_a_deployment_that_render_queues_is_waited_for(platform: FakeRender, run: Run) -> None:
    platform.queues = True
    assert run("deploy", COMMIT) == 0
    assert platform.serving
    assert platform.serving.commit == COMMIT


@pytest.mark.parametrize("name", ["railway"])
def test_what_railway_s_api_says_of_an_error_is_passed_on(run: Run) -> None:
    assert run("deploy", "f" * 40) == "deploy: Commit not found"


@pytest.mark.parametrize("name", ["heroku"])
def test_heroku_gets_the_files_of_the_commit(
    platform: FakePlatform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    monkeypatch.chdir(REPOSITORY)
    platform_deploy.upload(f"{platform.url}/upload?signature=1", platform_deploy.archive(head))
    with tarfile.open(fileobj=io.BytesIO(platform.uploaded)) as archive:
        assert {"Procfile", "runtime.txt", "requirements.txt"} <= set(archive.getnames())


def test_without_a_token_it_says_which_variable_to_set(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DEPLOY_TOKEN")
    assert run("current") == 2
    assert "DEPLOY_TOKEN is not set" in capsys.readouterr().err
