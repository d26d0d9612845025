"""deploy/azure: the Bicep files, what sets Azure up and the canary, without an account."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.waiting import await_text
from tests.support.servers import REPOSITORY
from webapp import database_url, setting_parsers, settings

FOLDER = REPOSITORY / "deploy/azure"
STAND_IN = Path(__file__).parent / "az_stand_in.sh"
# By scripts/azure_properties.py.
PROPERTIES = json.loads((REPOSITORY / "tests/schemas/azure-properties.json").read_text())
KNOWN = {declared.metadata["variable"]: declared.metadata for declared in settings.table()}
# Azure's SDK reads this one.
OF_AZURE = {"AZURE_CLIENT_ID"}
# A worker's pool (webapp/storage/database.py), at its largest.
CONNECTIONS_OF_A_WORKER = 10
# Of PostgreSQL Flexible Server for users, by size.
MAX_CONNECTIONS = {"Standard_B1ms": 35, "Standard_B2s": 414}
FILES = ("infrastructure.bicep", "app.bicep", "github.bicep")
# What every resource may have in Bicep (depends_on: in pycep), beside what is sent.
OF_BICEP = {"name", "location", "parent", "scope", "dependsOn", "depends_on", "zones", "tags"}
INGRESS_TIMEOUT = 240  # seconds


# -- reading --


def text(name: str) -> str:
    return (FOLDER / name).read_text()


@cache
def parsed(name: str) -> dict[str, Any]:
    pycep = pytest.importorskip("pycep", reason="there is no pycep (pip install pycep-parser)")
    found: dict[str, Any] = pycep.BicepParser().parse(text=text(name))
    return found


def resources(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, type and body of the resources that a file creates."""
    for symbol, found in parsed(name)["resources"].items():
        if not found["existing"]:
            config = found["config"]
            # That of a conditional resource lies one deeper.
            yield symbol, found["type"], config.get("config", config)


def body(name: str, symbol: str) -> dict[str, Any]:
    (found,) = (config for name_, _, config in resources(name) if name_ == symbol)
    return found


def container() -> dict[str, Any]:
    (found,) = body("app.bicep", "app")["properties"]["template"]["containers"]
    return dict(found)


def environment() -> dict[str, str]:
    """The variables of app.bicep and their values as they stand there."""
    pairs = re.findall(r"name: '([A-Z_]+)'\s+value: (.+)", text("app.bicep"))
    return {name: value.strip("'") for name, value in pairs}


# -- the Bicep files --


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_bicep(name: str) -> None:
    assert parsed(name)["resources"]


def unknown(value: Any, known: Any, path: str, variables: set[str]) -> Iterator[str]:
    """Properties that Azure's SDK does not have, and values that it does not know."""
    if isinstance(value, list):
        for inner in value:
            yield from unknown(inner, known, path, variables)
    elif isinstance(known, list):
        if isinstance(value, str) and value not in variables and value not in known:
            yield f"{path}: {value}"
    # An expression is one of these.
    elif isinstance(value, dict) and not {"operator", "function"} & set(value):
        for name, inner in value.items():
            if "*" not in known and name not in known:
                yield f"{path}.{name}"
            elif "*" not in known:
                yield from unknown(inner, known[name], f"{path}.{name}", variables)


@pytest.mark.parametrize("name", FILES)
def test_azure_knows_every_property_and_value(name: str) -> None:
    variables = set(parsed(name)["parameters"]) | set(parsed(name)["variables"])
    for symbol, kind, config in resources(name):
        sent = {key: value for key, value in config.items() if key not in OF_BICEP}
        assert list(unknown(sent, PROPERTIES[kind], symbol, variables)) == []


def test_what_azure_does_not_know_is_found() -> None:
    known = PROPERTIES["Microsoft.App/containerApps"]
    template = {"scale": {"minReplica": 1}, "containers": [{"probes": [{"type": "Alive"}]}]}
    assert list(unknown({"properties": {"template": template}}, known, "app", set())) == [
        "app.properties.template.scale.minReplica",
        "app.properties.template.containers.probes.type: Alive",
    ]


def test_every_api_version_is_a_stable_one_and_the_same_everywhere() -> None:
    versions: dict[str, set[str]] = {}
    for name in FILES:
        named = re.findall(r"'(Microsoft\.[\w.]+/\w+)[\w/]*@([\w-]+)'", text(name))
        for namespace, version in named:
            versions.setdefault(namespace, set()).add(version)
    for namespace, found in versions.items():
        assert len(found) == 1, namespace
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", *found), namespace
    vaults = re.search(r"--api-version (\S+)", text("setup.sh"))
    assert vaults
    assert versions["Microsoft.KeyVault/vaults"] == {vaults[1]}


def test_every_secret_parameter_is_marked_and_has_no_default() -> None:
    for name, declared in parsed("infrastructure.bicep")["parameters"].items():
        if re.search("Password|Key|Keys", name):
            assert {"type": "secure"} in declared["decorators"], name
            assert declared["default"] == "", name


def test_every_variable_is_a_setting_and_every_secret_a_reference() -> None:
    given = environment()
    assert set(given) <= set(KNOWN) | OF_AZURE
    assert {"SECRET_KEY", "ADMIN_PASSWORD", "DATABASE_URL", "REDIS_URL"} <= set(given)
    stored = re.findall(r"name: '(weir-[a-z-]+)'", text("infrastructure.bicep"))
    for name, value in given.items():
        if name in KNOWN and KNOWN[name]["secret"]:
            assert value.removeprefix("${secrets}/") in stored, name
    assert "var secrets = 'azure-kv://${vaultName}'" in text("app.bicep")


def test_the_migration_has_the_settings_and_the_image_of_the_app() -> None:
    (migration,) = body("app.bicep", "migrate")["properties"]["template"]["containers"]
    release = (REPOSITORY / "Procfile").read_text().partition("release: ")[2].splitlines()[0]
    assert [*migration["command"], *migration["args"]] == shlex.split(release)
    for field in ("image", "env"):
        assert migration[field] == container()[field]


def test_ports_probes_and_times_agree() -> None:
    properties = body("app.bicep", "app")["properties"]
    port = int(KNOWN["PORT"]["default"])
    assert properties["configuration"]["ingress"]["targetPort"] == port
    assert properties["configuration"]["ingress"]["allowInsecure"] is False
    probes = {probe["type"]: probe for probe in container()["probes"]}
    assert {kind: probe["httpGet"]["path"] for kind, probe in probes.items()} == {
        "Startup": "/readiness",
        "Readiness": "/readiness",
        "Liveness": "/liveness",
    }
    for probe in probes.values():
        assert probe["httpGet"]["port"] == port
        # Container Apps allows at most ten failures.
        assert probe["failureThreshold"] <= 10
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    grace = int(environment()["SHUTDOWN_GRACE"])
    assert INGRESS_TIMEOUT <= grace < properties["template"]["terminationGracePeriodSeconds"]
    assert environment()["TRUSTED_PROXIES"] == "1"


def test_the_database_has_a_connection_for_every_worker() -> None:
    parameters = parsed("infrastructure.bicep")["parameters"]
    replicas = parsed("app.bicep")["parameters"]["maxReplicas"]["default"]
    cpus = float(container()["resources"]["cpu"]["function"]["parameters"]["arg_1"])
    workers = max(1, int(cpus))
    # While a new version takes over, both run.
    needed = 2 * replicas * workers * CONNECTIONS_OF_A_WORKER
    assert needed <= MAX_CONNECTIONS[parameters["databaseSku"]["default"]["name"]]


def test_redis_is_one_that_weir_speaks_to() -> None:
    cache = body("infrastructure.bicep", "cache")["properties"]
    # Without a cluster it is plain Redis; with Azure's default, REDIS_URL would name a cluster.
    assert cache["clusteringPolicy"] == "NoCluster"
    assert cache["clientProtocol"] == "Encrypted"
    url = re.search(r"value: '(rediss://.*)'", text("infrastructure.bicep"))
    assert url
    assert url[1].endswith(f":{cache['port']}/0")
    # Access keys of Azure have characters that end the password in a URL.
    assert "uriComponent(" in url[1]


def test_the_database_url_is_one_that_weir_reads() -> None:
    url = re.search(r"value: '(postgresql://.*)'", text("infrastructure.bicep"))
    assert url
    plain = re.sub(r"\$\{[\w.]+\}", "x", url[1])
    assert "sslmode=verify-full" in database_url.parse(plain)


def role(definition: dict[str, Any]) -> str:
    return str(definition["function"]["parameters"]["resource_name_1"])


def test_one_environment_of_one_repository_may_deploy_and_no_more() -> None:
    issuer = "'https://token.actions.githubusercontent.com'"
    assert f"var issuer = {issuer}" in text("github.bicep")
    subjects = re.findall(r"subject: '(.+)'", text("github.bicep"))
    assert subjects == [
        "repo:${owner}/${repository}:environment:${environment}",
        "repo:${owner}@${ownerId}/${repository}@${repositoryId}:environment:${environment}",
    ]
    given = {
        (config["scope"], role(config["properties"]["roleDefinitionId"]))
        for _, kind, config in resources("github.bicep")
        if "roleAssignments" in kind
    }
    assert given == {
        ("registry", "acrPush"),
        ("app", "appsContributor"),
        ("containerEnvironment", "appsContributor"),
        ("migrate", "jobsContributor"),
        ("identity", "identityOperator"),
    }


# -- the scripts --


class Azure:
    """A folder in which the stand-in for az keeps what it is told."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        programs = folder / "programs"
        self.state.mkdir()
        programs.mkdir()
        (programs / "az").symlink_to(STAND_IN)
        smoke = programs / "smoke"
        smoke.write_text(
            f'#!/bin/sh\necho "smoke $2" >>{self.state}/changes\n'
            '[ -z "$SLOW" ] || exec sleep "$SLOW"\n'
            f'! grep -qx "$2" {self.state}/failing\n'
        )
        smoke.chmod(0o755)
        self.answers(failing="", migration="Succeeded", latest="weir--1", traffic="weir--1=100")
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "PYTHON": str(smoke),
            "WEIR_API_KEY": "a-key",
            "BAKE_SECONDS": "0",
            "OPENAI_API_KEY": "sk-of-the-provider",
        }

    def answers(self, **answers: str) -> None:
        for name, answer in answers.items():
            (self.state / name).write_text(answer)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FOLDER / script, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def changes(self) -> list[str]:
        file = self.state / "changes"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return Azure(tmp_path)


def test_the_first_set_up_makes_the_secrets_and_a_second_leaves_them(azure: Azure) -> None:
    first = azure.run("setup.sh", "weir", "westeurope", "redisSku=Balanced_B1")
    assert first.returncode == 0, first.stderr
    file = azure.state / "parameters"
    given = json.loads(file.read_text())["parameters"]
    parameters = {name: parameter["value"] for name, parameter in given.items()}
    assert set(parameters) <= set(re.findall(r"^param (\w+)", text("infrastructure.bicep"), re.M))
    (key,) = setting_parsers.api_keys(parameters["apiKeys"])
    assert first.stdout.strip() == f"WEIR_API_KEY={key.secret}"
    changes = azure.changes()
    for value in parameters.values():
        assert not any(value in change for change in changes), "a secret is an argument"
    assert "redisSku=Balanced_B1" in changes[-1]
    # The copy has the mode of what was given.
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0

    file.unlink()
    second = azure.run("setup.sh", "weir", "westeurope")
    assert second.returncode == 0, second.stderr
    assert not second.stdout
    assert not file.exists()
    assert "--parameters" not in azure.changes()[-1]


def test_secrets_that_cannot_be_looked_at_are_not_replaced(azure: Azure) -> None:
    azure.run("setup.sh", "weir", "westeurope")
    azure.changes()
    azure.answers(unavailable="")
    again = azure.run("setup.sh", "weir", "westeurope")
    assert again.returncode == 1
    assert "ServiceUnavailable" in again.stderr
    assert not [change for change in azure.changes() if "deployment" in change]


def deploy(azure: Azure) -> tuple[int, list[str]]:
    """The exit code, and in a few words what was done."""
    done = azure.run("canary.sh", "weir", "image:2")
    short = []
    for change in azure.changes():
        change = re.sub(r"weir--v[\d-]+", "NEW", change)
        weights = re.search(r"--revision-weight (.*)", change)
        verb = re.search(r"containerapp ([a-z ]+) --", change)
        short.append(weights[1] if weights else verb[1] if verb else change)
    return done.returncode, short


CANARY = "https://weir---canary.kind-hill.westeurope.azurecontainerapps.io"
ADDRESS = "https://weir.kind-hill.westeurope.azurecontainerapps.io"


def test_a_good_revision_takes_over_in_steps(azure: Azure) -> None:
    code, changes = deploy(azure)
    assert code == 0
    assert changes == [
        "job update",
        "job start",
        "weir--1=100",
        "update",
        "revision label add",
        f"smoke {CANARY}",
        "weir--1=90 NEW=10",
        f"smoke {CANARY}",
        f"smoke {ADDRESS}",
        "weir--1=0 NEW=100",
        f"smoke {ADDRESS}",
        "revision label remove",
        "revision deactivate",
    ]


@pytest.mark.parametrize("address", [CANARY, ADDRESS])
def test_a_bad_revision_gives_the_traffic_back(azure: Azure, address: str) -> None:
    azure.answers(failing=f"{address}\n")
    code, changes = deploy(azure)
    assert code == 1
    assert changes[-4:] == [
        f"smoke {address}",
        "weir--1=100 NEW=0",
        "revision label remove",
        "revision deactivate",
    ]


@pytest.mark.parametrize(
    ("reached", "variables"),
    [("--revision-weight weir--1=90", {"BAKE_SECONDS": "60"}), (f"smoke {CANARY}", {"SLOW": "60"})],
)
def test_a_canary_that_is_told_to_end_gives_the_traffic_back_at_once(
    azure: Azure, reached: str, variables: dict[str, str]
) -> None:
    command = [str(FOLDER / "canary.sh"), "weir", "image:2"]
    told = azure.environment | variables
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, text=True) as canary:
        await_text(azure.state / "changes", reached)
        canary.terminate()
        # Until what it has started has ended too, its output is open.
        canary.communicate(timeout=20)
    assert canary.returncode == 143
    changes = azure.changes()
    assert reached in changes[-4]
    assert "--revision-weight weir--1=100" in changes[-3]


def test_a_migration_that_fails_ends_the_deployment(azure: Azure) -> None:
    azure.answers(migration="Failed")
    assert deploy(azure) == (1, ["job update", "job start"])


def test_a_deployment_does_not_begin_within_another(azure: Azure) -> None:
    azure.answers(traffic="weir--1=90\nweir--2=10")
    code, changes = deploy(azure)
    assert code == 1
    assert changes == ["job update", "job start"]
