"""deploy/gcp: what sets Google Cloud up, Cloud Build's file and the canary, without an account."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.waiting import await_text
from tests.support.servers import REPOSITORY, Server, Valkey
from webapp import database_url, setting_parsers, settings
from webapp.storage.redis_client import RedisClient
from webapp.storage.redis_problems import UNREACHABLE

BINARIES = Path(sys.executable).parent
FOLDER = REPOSITORY / "deploy/gcp"
STAND_IN = Path(__file__).parent / "gcloud_stand_in.sh"
PROJECT = "my-project"
KNOWN = {declared.metadata["variable"]: declared.metadata for declared in settings.table()}
# A worker's pool (webapp/storage/database.py), at its largest.
CONNECTIONS_OF_A_WORKER = 10
# Google ends an instance so many seconds after it told it so.
SECONDS_BEFORE_THE_KILL = 10


# -- reading --


@cache
def build() -> dict[str, Any]:
    """cloudbuild.yaml with its substitutions made, as Cloud Build does."""
    text = (FOLDER / "cloudbuild.yaml").read_text()
    values = yaml.safe_load(text)["substitutions"] | {"PROJECT_ID": PROJECT, "BUILD_ID": "42"}

    def substituted(text: str) -> str:
        made = re.sub(r"\$\{?(_?[A-Z][A-Z_]*)\}?", lambda found: str(values[found[1]]), text)
        return made if made == text else substituted(made)

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walk(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return substituted(value) if isinstance(value, str) else value

    made: dict[str, Any] = walk(yaml.safe_load(text))
    return made


def step(name: str) -> dict[str, Any]:
    return next(step for step in build()["steps"] if step["id"] == name)


def flags(name: str) -> dict[str, str]:
    """The flags of a step."""
    given = [argument for argument in step(name)["args"] if argument.startswith("--")]
    return {flag: value for flag, _, value in (argument.partition("=") for argument in given)}


def environment(name: str = "deploy") -> dict[str, str]:
    marker, _, pairs = flags(name)["--set-env-vars"].removeprefix("^").partition("^")
    return dict(pair.split("=", 1) for pair in pairs.split(marker))


def probe(name: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in flags("deploy")[name].split(","))


# -- cloudbuild.yaml --


def test_cloud_builds_file_has_its_format() -> None:
    checked = subprocess.run(
        [
            BINARIES / "check-jsonschema",
            "--builtin-schema",
            "vendor.cloudbuild",
            FOLDER / "cloudbuild.yaml",
        ],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_image_of_the_build_is_pinned() -> None:
    for made in build()["steps"]:
        _, _, tag = made["name"].partition(":")
        assert re.match(r"\d+\.\d+\.\d+", tag), made["name"]


def test_every_variable_is_a_setting_and_every_secret_a_reference() -> None:
    given = environment()
    assert set(given) <= set(KNOWN)
    assert {"SECRET_KEY", "ADMIN_PASSWORD", "DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY"} <= set(
        given
    )
    for name, value in given.items():
        if KNOWN[name]["secret"]:
            assert re.fullmatch(rf"gcp-sm://{PROJECT}/weir-[a-z-]+", value), name


def test_the_migration_runs_before_the_deployment_with_the_same_settings() -> None:
    names = [made["id"] for made in build()["steps"]]
    assert names == ["build", "push", "migrate", "deploy"]
    assert environment("migrate") == environment("deploy")
    assert flags("migrate")["--image"] == flags("deploy")["--image"]
    migration = [flags("migrate")["--command"], *flags("migrate")["--args"].split(",")]
    release = (REPOSITORY / "Procfile").read_text().partition("release: ")[2].splitlines()[0]
    assert migration == shlex.split(release)


def test_the_image_has_what_reads_googles_secrets() -> None:
    arguments = step("build")["args"]
    assert "--build-arg=EXTRAS=gcp" in arguments
    assert "--file=deploy/Dockerfile" in arguments


def test_ports_probes_and_times_agree() -> None:
    given = flags("deploy")
    assert given["--port"] == KNOWN["PORT"]["default"]
    for name, path in (("--startup-probe", "/readiness"), ("--liveness-probe", "/liveness")):
        asked = probe(name)
        assert asked["httpGet.path"] == path
        assert asked["httpGet.port"] == given["--port"]
        # Cloud Run refuses a probe that may take as long as its period.
        assert int(asked["timeoutSeconds"]) < int(asked["periodSeconds"])
    # What a plain call may take, Cloud Run must allow.
    assert int(given["--timeout"]) > 120
    assert environment()["TRUSTED_PROXIES"] == "1"


def test_weir_has_ended_before_google_kills_it() -> None:
    assert int(environment()["SHUTDOWN_GRACE"]) < SECONDS_BEFORE_THE_KILL


def test_what_goes_on_between_requests_has_a_cpu() -> None:
    assert {"--no-cpu-throttling", "--cpu-boost"} <= set(flags("deploy"))


def test_the_database_has_a_connection_for_every_worker(dry_run: list[list[str]]) -> None:
    given = flags("deploy")
    workers = int(given["--max-instances"]) * int(given["--cpu"])
    created = next(command for command in dry_run if command[2:5] == ["sql", "instances", "create"])
    limit = next(word for word in created if word.startswith("--database-flags=max_connections="))
    assert int(limit.rpartition("=")[2]) > workers * CONNECTIONS_OF_A_WORKER


# -- the scripts --


class Cloud:
    """A folder in which the stand-in for gcloud keeps what is created."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.programs = folder / "programs"
        self.programs.mkdir()
        (self.programs / "gcloud").symlink_to(STAND_IN)
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "OPENAI_API_KEY": "sk-of-the-provider",
            "GITHUB_REPOSITORY_ID": "5678",
            "GITHUB_ENVIRONMENT": "staging",
        }

    def run(
        self, script: str, *arguments: str, told: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FOLDER / script, *arguments],
            input=told,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def set_up(self, *arguments: str, told: str = "") -> subprocess.CompletedProcess[str]:
        done = self.run("setup.sh", "--project", PROJECT, *arguments, told=told)
        assert done.returncode == 0, done.stderr
        return done

    def changes(self) -> list[str]:
        """What was changed since the last look."""
        file = self.state / "changes"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def secret(self, name: str) -> str:
        return (self.state / f"value-{name}").read_text()


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The commands that a first set-up would run, without `gcloud`."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    printed = cloud.set_up("--dry-run").stdout
    assert not cloud.changes(), "a dry run changes nothing"
    return [shlex.split(line)[1:] for line in printed.splitlines()]


def test_a_second_set_up_changes_nothing(cloud: Cloud, dry_run: list[list[str]]) -> None:
    cloud.set_up()
    assert len(cloud.changes()) == len(dry_run), "the dry run says what the run does"

    again = cloud.set_up()
    assert not cloud.changes()
    assert not cloud.set_up("--dry-run").stdout
    assert "+" not in again.stderr


def test_the_secrets_that_are_stored_are_what_weir_reads(cloud: Cloud) -> None:
    output = cloud.set_up()
    url = database_url.parse(cloud.secret("weir-database-url"))
    assert f"/cloudsql/{PROJECT}:europe-west1:weir" in url.replace("%2F", "/").replace("%3A", ":")
    password = re.search(r'"(\w+)"', (cloud.state / "password").read_text())
    assert password
    assert password[1] in url
    assert cloud.secret("weir-redis-url").startswith("rediss://10.8.0.2:6379/0?ssl_ca_certs=")
    mounted = flags("deploy")["--set-secrets"].partition("=")[0]
    assert mounted in cloud.secret("weir-redis-url")
    (key,) = setting_parsers.api_keys(cloud.secret("weir-api-keys"))
    assert cloud.secret("weir-smoke-key") == key.secret
    assert cloud.secret("weir-openai-api-key") == "sk-of-the-provider"
    assert len(cloud.secret("weir-secret-key")) >= 32
    for file in cloud.state.glob("value-*"):
        value = file.read_text()
        assert value not in output.stdout + output.stderr, "a value is printed"
        assert not any(value in change for change in cloud.changes()), "a value is an argument"


def test_weir_trusts_the_authority_of_redis_that_is_stored_and_no_other(
    cloud: Cloud, tmp_path: Path
) -> None:
    cloud.set_up()
    url = cloud.secret("weir-redis-url")
    mounted = flags("deploy")["--set-secrets"].partition("=")[0]
    authority, other = certificate(tmp_path, "authority"), certificate(tmp_path, "other")
    with Valkey() as valkey, BehindTLS(valkey.port, authority) as front:
        here = url.replace("10.8.0.2:6379", f"127.0.0.1:{front.port}")
        assert RedisClient(here.replace(mounted, str(authority))).problem() is None
        assert RedisClient(here.replace(mounted, str(other))).problem() is UNREACHABLE


def certificate(folder: Path, name: str) -> Path:
    """A certificate that names no address, with its key, which vouches for itself."""
    file = folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", file, "-out", "-"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    file.write_text(file.read_text() + made.stdout)
    return file


class BehindTLS(Server):
    """A port with TLS in front of another one."""

    def __init__(self, target: int, certificate: Path) -> None:
        super().__init__()
        self._arguments = [str(target), str(certificate)]

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tests.deploy.tls_front", str(self.port), *self._arguments]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY}

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


def test_a_set_up_that_was_cut_off_before_it_stored_the_password_sets_another(
    cloud: Cloud,
) -> None:
    cloud.set_up()
    cloud.changes()
    (cloud.state / "value-weir-database-url").unlink()

    cloud.set_up()

    changes = cloud.changes()
    assert len(changes) == 2
    assert "sql users set-password weir" in changes[0]
    assert cloud.secret("weir-database-url").partition(":")[0] == "postgresql"


def test_removing_leaves_nothing_and_may_be_repeated(cloud: Cloud) -> None:
    cloud.set_up()
    created = [change for change in cloud.changes() if " create " in change]
    refused = cloud.run("setup.sh", "--project", PROJECT, "--remove", told="another\n")
    assert refused.returncode == 1
    assert not cloud.changes()

    cloud.set_up("--remove", told=f"{PROJECT}\n")

    removed = [change for change in cloud.changes() if re.search(" delete | rm ", change)]
    within = [change for change in created if re.search("sql (databases|users)", change)]
    assert len(removed) == len(created) - len(within)
    cloud.set_up("--remove", told=f"{PROJECT}\n")
    assert not cloud.changes()


def test_one_environment_of_one_repository_may_deploy_and_no_more(cloud: Cloud) -> None:
    cloud.set_up()
    changes = cloud.changes()
    (trust,) = [change for change in changes if "create-oidc" in change]
    condition = "assertion.repository_id == '5678' && assertion.environment == 'staging'"
    assert f"--attribute-condition={condition}" in trust
    given = {
        (member, role)
        for change in changes
        for member, role in re.findall(r"--member=(\S+) --role=(\S+)", change)
        if "github" in member
    }
    pool = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/weir-github"
    deployer = f"serviceAccount:weir-github@{PROJECT}.iam.gserviceaccount.com"
    assert given == {
        (f"principal:{pool}/subject/5678:staging", "roles/iam.workloadIdentityUser"),
        (deployer, "roles/run.developer"),
        (deployer, "roles/iam.serviceAccountUser"),
        (deployer, "roles/artifactregistry.writer"),
    }


def test_without_a_repository_nobody_on_github_may_deploy(cloud: Cloud) -> None:
    del cloud.environment["GITHUB_REPOSITORY_ID"]
    cloud.set_up()
    assert not [change for change in cloud.changes() if "github" in change]


def test_a_pool_that_was_removed_is_taken_up_again(cloud: Cloud) -> None:
    cloud.set_up()
    cloud.set_up("--remove", told=f"{PROJECT}\n")
    cloud.changes()
    cloud.set_up()
    (pool,) = [change for change in cloud.changes() if "iam workload-identity-pools" in change]
    assert "undelete weir-github" in pool


@pytest.mark.parametrize(
    "look",
    [
        "versions describe latest",
        "sql users list",
        "sql instances",
        "secrets describe",
        "get-iam-policy",
    ],
)
def test_what_cannot_be_looked_at_is_neither_replaced_nor_taken_for_removed(
    cloud: Cloud, look: str
) -> None:
    cloud.set_up()
    if look == "sql users list":
        (cloud.state / "value-weir-database-url").unlink()
    cloud.changes()
    (cloud.state / "unavailable").write_text(look)

    again = cloud.run("setup.sh", "--project", PROJECT)

    assert again.returncode == 1
    assert "UNAVAILABLE" in again.stderr
    assert not cloud.changes()
    if look in ("sql instances", "secrets describe", "get-iam-policy"):
        removal = cloud.run("setup.sh", "--project", PROJECT, "--remove", told=f"{PROJECT}\n")
        assert removal.returncode == 1
        assert "Removed." not in removal.stderr


def test_a_password_that_cannot_be_set_leaves_no_file_behind(cloud: Cloud, tmp_path: Path) -> None:
    (cloud.state / "unavailable").write_text("sql users create")
    files = tmp_path / "files"
    files.mkdir()
    done = cloud.run("setup.sh", "--project", PROJECT, TMPDIR=str(files))
    assert done.returncode == 1
    assert not list(files.iterdir())


def of_the_page() -> Iterator[list[str]]:
    """The gcloud commands of the page, those within others too."""
    page = (REPOSITORY / "docs/deploying/cloud-run.md").read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").replace("YOUR-PROJECT", PROJECT)
        for command in re.findall(r"gcloud ((?:'[^']*'|[^)\n'])*)", lines):
            # The first opens a browser, the second needs nobody's account.
            if not command.startswith(("auth login", "config set")):
                yield shlex.split(command.replace('"', ""))


def of_the_action() -> Iterator[list[str]]:
    """The gcloud commands of the pipeline's action."""
    action = yaml.safe_load(
        (REPOSITORY / ".github/actions/deploy-cloud-run/action.yml").read_text()
    )
    for made in action["runs"]["steps"]:
        for command in re.findall(
            r"^gcloud (run .*)$", made.get("run", "").replace("\\\n", " "), re.MULTILINE
        ):
            yield shlex.split(command)


def test_gcloud_knows_every_flag(dry_run: list[list[str]], cloud: Cloud, tmp_path: Path) -> None:
    program = shutil.which("gcloud")
    if not program:
        pytest.skip("there is no gcloud")
    root = Path(program).resolve().parent.parent
    python = root / "platform/bundledpythonunix/bin/python3"
    if not python.exists():
        pytest.skip("this gcloud has no Python of its own")
    cloud.set_up()
    cloud.changes()
    removal = cloud.set_up("--remove", "--dry-run").stdout.splitlines()
    service = ["--project=p", "run", "deploy", "weir", "--no-traffic", "--tag=canary"]
    traffic = ["--project=p", "run", "services", "update-traffic", "weir", "--region=r"]
    commands = [
        *dry_run,
        *(shlex.split(line)[1:] for line in removal),
        ["--project=p", *step("migrate")["args"]],
        [*service, "--region=r", *step("deploy")["args"][1:]],
        [*traffic, "--to-revisions=weir-1=10"],
        [*traffic, "--remove-tags=canary"],
        *(["--project=p", *command] for command in of_the_action()),
        ["--project=p", "builds", "submit", f"--config={FOLDER}/cloudbuild.yaml", "--region=r"],
        *(["--project=p", *command] for command in of_the_page()),
        ["run", "deploy", "weir", "--no-such-flag"],
    ]
    assert len(commands) > 90
    flags_file = tmp_path / "flags.yaml"
    flags_file.write_text('--password: "x"\n')
    given = [
        [re.sub("^(--flags-file=).*", rf"\1{flags_file}", word) for word in command]
        for command in commands
    ]
    told = subprocess.run(
        [python, Path(__file__).parent / "gcloud_flags.py", json.dumps(given), root],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CLOUDSDK_CONFIG": str(tmp_path),
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    said = told.stderr.split("\0")[1:]
    assert "unrecognized arguments: --no-such-flag" in said.pop()
    for command, answer in zip(commands[:-1], said, strict=True):
        # It gets as far as asking who you are, or in which project.
        assert re.search("active account|resource is not properly specified", answer), (
            f"gcloud {shlex.join(command)}: {answer}"
        )


# -- the canary --


@pytest.fixture
def deployed(cloud: Cloud) -> Cloud:
    """A service that runs, and a smoke test that passes but at the address in `failing`."""
    (cloud.state / "traffic").write_text("weir-1,100,,https://weir.example\n")
    smoke = cloud.programs / "smoke"
    smoke.write_text(
        f'#!/bin/sh\n[ "$1" != -c ] || exit 0\necho "smoke $2" >>{cloud.state}/changes\n'
        '[ -z "$SLOW" ] || exec sleep "$SLOW"\n'
        f'! grep -qx "$2" {cloud.state}/failing\n'
    )
    smoke.chmod(0o755)
    (cloud.state / "failing").touch()
    cloud.environment |= {"PYTHON": str(smoke), "WEIR_API_KEY": "a-key", "BAKE_SECONDS": "0"}
    return cloud


def deploy(cloud: Cloud, **variables: str) -> tuple[int, list[str]]:
    done = cloud.run("canary.sh", "--image=new", REGION="r", **variables)
    return done.returncode, cloud.changes()


def test_a_good_revision_takes_over_in_steps(deployed: Cloud) -> None:
    code, changes = deploy(deployed)
    assert code == 0
    assert "--no-traffic --tag=canary --image=new" in changes[0]
    assert changes[1:-1] == [
        "smoke https://canary.example",
        "weir-2=10",
        "smoke https://canary.example",
        "smoke https://weir.example",
        "weir-2=100",
        "smoke https://weir.example",
    ]
    assert "--remove-tags=canary" in changes[-1]


@pytest.mark.parametrize("address", ["https://canary.example", "https://weir.example"])
def test_a_bad_revision_gives_the_traffic_back(deployed: Cloud, address: str) -> None:
    (deployed.state / "failing").write_text(f"{address}\n")
    code, changes = deploy(deployed)
    assert code == 1
    assert changes[-2:] == [f"smoke {address}", "weir-1=100"]
    assert "weir-2=100" not in changes


@pytest.mark.parametrize(
    ("reached", "variables"),
    [("weir-2=10", {"BAKE_SECONDS": "60"}), ("smoke https://canary.example", {"SLOW": "60"})],
)
def test_a_canary_that_is_told_to_end_gives_the_traffic_back_at_once(
    deployed: Cloud, reached: str, variables: dict[str, str]
) -> None:
    told = deployed.environment | variables | {"REGION": "r"}
    command = [str(FOLDER / "canary.sh"), "--image=new"]
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, text=True) as canary:
        await_text(deployed.state / "changes", reached)
        canary.terminate()
        # Until what it has started has ended too, its output is open.
        canary.communicate(timeout=20)
    assert canary.returncode == 143
    assert deployed.changes()[-2:] == [reached, "weir-1=100"]


def test_behind_a_load_balancer_the_new_revision_is_tested_by_its_share(deployed: Cloud) -> None:
    code, changes = deploy(deployed, ADDRESS="https://weir.of.mine")
    assert code == 0
    tested = "smoke https://weir.of.mine"
    assert changes[1:-1] == ["weir-2=10", tested, "weir-2=100", tested]


def test_a_deployment_does_not_begin_within_another(deployed: Cloud) -> None:
    (deployed.state / "traffic").write_text("weir-1,90,,https://a\nweir-2,10,,https://b\n")
    code, changes = deploy(deployed)
    assert code == 1
    assert not changes


def test_the_first_deployment_has_nothing_to_return_to(deployed: Cloud) -> None:
    (deployed.state / "traffic").unlink()
    code, changes = deploy(deployed)
    assert code == 0
    assert "--no-traffic" not in changes[0], "Cloud Run refuses it for a new service"
    assert changes[1:] == ["smoke https://weir.example"]


def test_a_service_that_cannot_be_looked_at_is_no_first_deployment(deployed: Cloud) -> None:
    (deployed.state / "unavailable").write_text("services describe")
    code, changes = deploy(deployed)
    assert code == 1
    assert not changes
