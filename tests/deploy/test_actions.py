"""The steps of the deploying actions, run in their order as a runner runs them.

The smoke test, Helm, Docker and the clouds' programs are stand-ins that do as they are told and
write down how they were called; the rest is real: bash, the steps' own lines, the scripts, and a
platform that speaks Render's API.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.platforms import TOKEN, FakeRender
from tests.support.servers import REPOSITORY

COMMIT = "a" * 40
KUBERNETES = {
    "image": "ghcr.io/acme/weir", "digest": "sha256:" + "1" * 64, "url": "https://weir.example",
    "api-key": "weir_key", "namespace": "weir", "values": "replicas: 3\n", "server": "https://k",
    "certificate-authority": "PEM", "audience": "weir", "kubeconfig": "",
}  # fmt: skip


class Runner:
    """Runs the steps of a composite action; programs that it is given come first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.log = folder / "calls"
        self.log.touch()
        self.ran: list[str] = []
        self.output = ""

    def program(self, name: str, script: str) -> None:
        """A program that writes down how it was called, then does this."""
        path = self.programs / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.log}\n{script}\n')
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def run(self, action: str, inputs: dict[str, str]) -> bool:
        """Whether all steps succeeded."""
        text = (REPOSITORY / ".github" / "actions" / action / "action.yml").read_text()
        failed, outputs = False, dict[str, str]()
        context = {f"inputs.{name}": value for name, value in inputs.items()}
        context["runner.temp"] = str(self.folder)
        for step in yaml.safe_load(text)["runs"]["steps"]:
            if "run" not in step or not self._due(step.get("if", "success()"), failed, outputs):
                continue
            self.ran.append(step["name"])
            failed = not self._run(step, context | outputs, outputs) or failed
        return not failed

    def _due(self, condition: str, failed: bool, outputs: dict[str, str]) -> bool:
        if condition == "success()":
            return not failed
        found = re.fullmatch(r"\$\{\{ !success\(\) && (steps\.\S+) != '' \}\}", condition)
        assert found, condition
        return failed and outputs.get(found[1], "") != ""

    def _run(self, step: dict, context: dict[str, str], outputs: dict[str, str]) -> bool:  # type: ignore[type-arg]
        written = self.folder / "output"
        written.write_text("")
        given = {
            name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: context.get(found[1], ""), str(value))
            for name, value in step["env"].items()
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=REPOSITORY,
            env={
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "RUNNER_TEMP": str(self.folder),
                "GITHUB_OUTPUT": str(written),
                "GITHUB_SHA": COMMIT,
                **given,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.output += done.stdout + done.stderr
        for line in written.read_text().splitlines():
            name, _, value = line.partition("=")
            outputs[f"steps.{step['id']}.outputs.{name}"] = value
        return done.returncode == 0


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


# -- Render, and in the same way Heroku and Railway --


@pytest.fixture
def render() -> Iterator[FakeRender]:
    with FakeRender() as fake:
        fake.add_serving("0" * 40)
        yield fake


def deploy_to_render(runner: Runner, render: FakeRender, *smoke: int) -> bool:
    """`smoke` are the exit codes of the smoke test, one after the other."""
    codes = runner.folder / "codes"
    codes.write_text("".join(f"{code}\n" for code in smoke))
    wait = "import scripts.platform_deploy as p; p.POLL_INTERVAL = 0.01; p.main()"
    runner.program(
        "python3",
        f"""case $1 in
  scripts/smoke.py) code=$(head -n 1 {codes}); sed -i 1d {codes}; exit "$code" ;;
  scripts/platform_deploy.py) shift; exec {sys.executable} -c '{wait}' --api {render.url} "$@" ;;
esac""",
    )
    inputs = {"platform": "render", "service": "srv-weir", "token": TOKEN, "url": "https://w",
              "api-key": "weir_key"}  # fmt: skip
    return runner.run("deploy-platform", inputs)


def test_a_version_that_passes_stays(runner: Runner, render: FakeRender) -> None:
    assert deploy_to_render(runner, render, 0)
    assert render.serving
    assert render.serving.commit == COMMIT
    assert runner.ran == ["Find the current deployment", "Deploy", "Smoke test"]
    assert "python3 scripts/smoke.py https://w --wait 300" in runner.calls


def test_a_version_that_fails_is_rolled_back_and_the_job_fails(
    runner: Runner, render: FakeRender
) -> None:
    assert not deploy_to_render(runner, render, 1, 0)
    assert render.serving
    assert render.serving.commit == "0" * 40
    assert "rolled back to deployment d0" in runner.output


def test_a_version_that_is_not_built_leaves_the_one_before_alone(
    runner: Runner, render: FakeRender
) -> None:
    render.states = ["build_in_progress", "build_failed"]
    assert not deploy_to_render(runner, render, 0)
    assert len(render.deployments) == 2, "nothing was deployed a second time"
    assert "d0 is still live" in runner.output


def test_a_first_version_that_fails_has_nothing_to_roll_back_to(
    runner: Runner, render: FakeRender
) -> None:
    render.serving = None
    assert not deploy_to_render(runner, render, 1)
    assert runner.ran[-1] == "Smoke test"


# -- Kubernetes --


def upgrade(runner: Runner, *, release: str = "weir", code: int = 0, smoke: str = "true") -> bool:
    if shutil.which("jq") is None:
        pytest.skip("There is no jq, which GitHub's runners have")
    history = '[{"revision": 6, "status": "superseded"}, {"revision": 7, "status": "deployed"}, '
    history += '{"revision": 8, "status": "failed"}]'
    runner.program(
        "helm",
        f"""case $1 in
  list) echo {release} ;;
  history) echo '{history}' ;;
  upgrade) cp "$KUBECONFIG" {runner.folder}/used; exit {code} ;;
esac""",
    )
    runner.program(
        "python3",
        f"""case $1 in
  scripts/smoke.py) {smoke} ;;
  *) exec {sys.executable} "$@" ;;
esac""",
    )
    return runner.run("deploy-kubernetes", KUBERNETES)


def test_the_release_is_upgraded_to_the_very_image_that_was_built(runner: Runner) -> None:
    assert upgrade(runner), runner.output
    (call,) = [call for call in runner.calls if call.startswith("helm upgrade")]
    assert "--rollback-on-failure" in call
    assert (
        f"image.repository={KUBERNETES['image']},image.digest={KUBERNETES['digest']},"
        f"image.tag=sha-{COMMIT}"
    ) in call
    assert f"--values {runner.folder}/values.yaml" in call
    assert (runner.folder / "values.yaml").read_text().strip() == "replicas: 3"
    assert '"server": "https://k"' in (runner.folder / "used").read_text()
    assert (runner.folder / "kubeconfig").stat().st_mode & 0o77 == 0
    assert not any(call.startswith("helm rollback") for call in runner.calls)


def test_an_upgrade_that_fails_the_smoke_test_is_rolled_back_to_the_deployed_revision(
    runner: Runner,
) -> None:
    failing_once = f"test -e {runner.folder}/asked || {{ touch {runner.folder}/asked; exit 1; }}"
    assert not upgrade(runner, smoke=failing_once)
    assert "helm rollback weir 7 --wait --timeout 10m" in runner.calls
    assert "rolled back to revision 7" in runner.output


def test_a_first_installation_that_fails_has_no_revision_to_roll_back_to(runner: Runner) -> None:
    assert not upgrade(runner, release="", smoke="exit 1")
    assert not any("rollback weir" in call or "history" in call for call in runner.calls)


def test_a_cluster_that_cannot_be_asked_is_not_taken_for_an_empty_one(runner: Runner) -> None:
    assert not upgrade(runner, release="weir; exit 1")
    assert not any(call.startswith("helm upgrade") for call in runner.calls)


def test_a_kubeconfig_is_used_where_there_is_no_oidc(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KUBERNETES, "kubeconfig", "kind: Config")
    assert upgrade(runner), runner.output
    assert (runner.folder / "used").read_text() == "kind: Config\n"


# -- the clouds --

CLOUD = {
    "image": "ghcr.io/acme/weir", "digest": "sha256:" + "1" * 64, "url": "https://weir.example",
    "api-key": "weir_key", "repository": "registry.example/weir", "service": "", "role": "r",
    "region": "eu", "project": "p", "provider": "v", "behind-load-balancer": "", "group": "weir",
    "client": "c", "tenant": "t", "subscription": "s",
}  # fmt: skip
COPIED = f"{CLOUD['repository']}@{CLOUD['digest']}"
# The program of each cloud, how its registry is logged in to, and what it answers.
CLOUDS = {
    "deploy-ecs": (
        "aws",
        "aws ecr get-login-password",
        """case "$*" in
  *list-service-deployments*) [[ ! -e $RUNNER_TEMP/updated ]] || echo arn:1 ;;
  *describe-service-deployments*) rm $RUNNER_TEMP/updated; echo SUCCESSFUL CLEAN_UP ;;
  *describe-task-definition*) echo '{"containerDefinitions": [{"name": "weir"}]}' ;;
  *update-service*) : >$RUNNER_TEMP/updated ;;
  *describe-services*-worker*) echo None ;;
  *describe-services*) echo weir:7 ;;
  *register*) cat >$RUNNER_TEMP/deployed; echo weir:8 ;;
esac""",
    ),
    "deploy-cloud-run": (
        "gcloud",
        "gcloud auth configure-docker registry.example",
        """case "$*" in
  *csv*) echo weir-1,100,,https://weir.example; echo weir-2,,canary,https://canary.example ;;
  *describe*) echo https://weir.example ;;
  *'run deploy'*) echo "$*" >$RUNNER_TEMP/deployed ;;
esac""",
    ),
    "deploy-container-apps": (
        "az",
        "az acr login --name registry",
        """case "$*" in
  *'job start'*) echo weir-migrate-1 ;;
  *'execution show'*) echo Succeeded ;;
  *latestReady*) echo weir--1 ;;
  *weight*to_string*) echo weir--1=100 ;;
  *fqdn*) echo weir.kind-hill.example ;;
  *'containerapp update'*) echo "$*" >$RUNNER_TEMP/deployed ;;
esac""",
    ),
}


@pytest.fixture(params=sorted(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def deploy_to(
    runner: Runner, cloud: str, smoke: str = "true", refuses: str = " ", **given: str
) -> bool:
    """`refuses`: the command that the cloud's program fails at."""
    program, _, script = CLOUDS[cloud]
    runner.program(program, f"""[[ " $*" != *" {refuses} "* ]] || exit 1\n{script}""")
    runner.program("sleep", "true")
    runner.program(
        "docker",
        f"""case "$*" in
  *imagetools\\ inspect*) [[ -e {runner.folder}/there ]] ;;
  *imagetools\\ create*) : >{runner.folder}/there ;;
esac""",
    )
    runner.program(
        "python3",
        f"""case $1 in
  *scripts/smoke.py) {smoke} ;;
  *) exec {sys.executable} "$@" ;;
esac""",
    )
    return runner.run(cloud, CLOUD | given)


def test_a_cloud_gets_the_very_image_that_was_built(runner: Runner, cloud: str) -> None:
    assert deploy_to(runner, cloud), runner.output
    assert COPIED in (runner.folder / "deployed").read_text()
    assert any(call.startswith(CLOUDS[cloud][1]) for call in runner.calls)
    (copy,) = [call for call in runner.calls if "imagetools create" in call]
    assert copy.endswith(
        f"{CLOUD['repository']}:sha-{'a' * 12}-{'1' * 12} {CLOUD['image']}@{CLOUD['digest']}"
    )
    smoked = [call for call in runner.calls if "scripts/smoke.py https://weir" in call]
    assert smoked
    assert runner.ran[-1] == "Deploy"


def test_an_image_that_is_there_is_not_copied_again(runner: Runner, cloud: str) -> None:
    (runner.folder / "there").touch()
    assert deploy_to(runner, cloud), runner.output
    assert not any("imagetools create" in call for call in runner.calls)


def test_a_cloud_goes_back_where_the_smoke_test_fails(runner: Runner, cloud: str) -> None:
    failing_once = f"test -e {runner.folder}/asked || {{ touch {runner.folder}/asked; exit 1; }}"
    assert not deploy_to(runner, cloud, failing_once)
    assert runner.ran[-1] == "Smoke test after a failure"
    back = {
        "deploy-ecs": "--task-definition weir:7",
        "deploy-cloud-run": "--to-revisions=weir-1=100",
        "deploy-container-apps": "--revision-weight weir--1=100 weir--v",
    }
    after = [call for call in runner.calls if "smoke.py" in call or back[cloud] in call]
    assert back[cloud] in after[-2], after
    assert "What serves now passes" in runner.output


def test_a_cloud_that_refuses_the_deployment_keeps_the_version_before(
    runner: Runner, cloud: str
) -> None:
    commands = {
        "deploy-ecs": "update-service",
        "deploy-cloud-run": "run deploy",
        "deploy-container-apps": "containerapp update",
    }
    assert not deploy_to(runner, cloud, refuses=commands[cloud])
    assert not any(re.search("=10( |$)", call) for call in runner.calls), "no traffic"
    assert runner.ran[-2:] == ["Deploy", "Smoke test after a failure"]
    assert "What serves now passes" in runner.output


def test_nothing_is_deployed_where_the_image_cannot_be_copied(runner: Runner, cloud: str) -> None:
    assert not deploy_to(runner, cloud, repository="")
    assert runner.ran[-1] == "Copy the image"
    assert not (runner.folder / "deployed").exists()


def test_cloud_run_is_deployed_after_its_migration_only(runner: Runner) -> None:
    assert not deploy_to(runner, "deploy-cloud-run", refuses="weir-migrate")
    assert runner.ran[-1] == "Migrate"
    (migration,) = [call for call in runner.calls if "weir-migrate" in call]
    assert COPIED in migration
    assert {"--execute-now", "--wait"} <= set(migration.split())
    assert not (runner.folder / "deployed").exists()


def test_cloud_run_behind_a_load_balancer_is_tested_through_it(runner: Runner) -> None:
    assert deploy_to(runner, "deploy-cloud-run", **{"behind-load-balancer": "true"})
    smoked = {call.split()[2] for call in runner.calls if "scripts/smoke.py" in call}
    assert smoked == {CLOUD["url"]}
