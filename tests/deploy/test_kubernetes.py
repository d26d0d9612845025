"""The Helm chart and the plain manifests: valid, safe, in agreement with Weir and each other."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from sqlalchemy import String, Table, create_engine, insert

from scripts import manifests
from scripts.manifests import CHART, PLAIN
from tests.support.checkers import run
from tests.support.servers import REPOSITORY
from tests.test_manifests import (
    KNOWN,
    image_environment,
    image_health_command,
    instruction,
    render_web,
    text,
)
from webapp import settings
from webapp.batches import tables
from webapp.settings import PROVIDER_VARIABLE, TIER_VARIABLE
from webapp.storage.database import metadata
from webapp.version import VERSION
from webapp.worker_count import WORKER_MEMORY

Document = dict[str, Any]
# Arguments of `helm template` → the documents.
Template = Callable[..., list[Document]]

EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PAGE = text("docs/deploying/kubernetes.md")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
LEAST = {
    "secret.name": "weir",
    "secret.settings.DATABASE_URL": "DATABASE_URL",
    "secret.settings.REDIS_URL": "REDIS_URL",
}
ALONE = {"autoscaling.enabled": "false", "replicas": "1"}
ON_A_VOLUME = ALONE | {"persistence.enabled": "true"}
# What the Kubernetes API itself does not have.
CUSTOM = {"HTTPRoute", "ServiceMonitor", "PrometheusRule", "ExternalSecret", "ScaledObject"}
SECRETS = {name for name, metadata in KNOWN.items() if metadata["secret"]}
REFERENCE = re.compile(r"(aws-sm|gcp-sm|azure-kv|file)://")
NOT_GRAVE = {
    "KSV-0109": "takes the dashboard's tokens, those of models, for a secret in a ConfigMap"
}
UNITS = {"Mi": 2**20, "Gi": 2**30}

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


# -- rendering --


@pytest.fixture(scope="module")
def helm(kubernetes_programs: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *arguments: run(kubernetes_programs / "helm", *arguments)


@pytest.fixture(scope="module")
def template(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Template:
    """`template(file)` or `template(values)` renders the chart; each one once."""
    kept: dict[tuple[str, ...], list[Document]] = {}

    def render(given: Path | dict[str, str]) -> list[Document]:
        options = tuple(options_of(given))
        if options not in kept:
            done = helm("template", "weir", CHART, *options)
            assert done.returncode == 0, done.stderr
            kept[options] = documents(done.stdout)
        return kept[options]

    return render


def options_of(given: Path | dict[str, str]) -> Iterator[str]:
    if isinstance(given, Path):
        yield f"--values={given}"
        return
    for value, text_of_it in given.items():
        yield f"--set={value}={text_of_it}"


def documents(rendered: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(rendered) if document]


@pytest.fixture(scope="module")
def kustomize(kubernetes_programs: Path) -> Callable[[Path], list[Document]]:
    def build(folder: Path) -> list[Document]:
        done = run(kubernetes_programs / "kubectl", "kustomize", folder)
        assert done.returncode == 0, done.stderr
        return documents(done.stdout)

    return build


@pytest.fixture(scope="module")
def plain(
    kustomize: Callable[[Path], list[Document]], tmp_path_factory: pytest.TempPathFactory
) -> list[Document]:
    """What `kubectl apply -k deploy/kubernetes` applies, with every component."""
    folder = tmp_path_factory.mktemp("plain") / "kubernetes"
    subprocess.run(["cp", "-r", PLAIN, folder], check=True)
    kustomization = folder / "kustomization.yaml"
    with_all, offered = re.subn(r"^  # - (\w+)$", r"  - \1", kustomization.read_text(), flags=re.M)
    assert offered == 3
    kustomization.write_text(with_all)
    return kustomize(folder)


def of_a_worker(document: Document) -> bool:
    return bool(document["metadata"]["name"].endswith("-worker"))


def only(kind: str, among: list[Document], worker: bool = False) -> Document:
    """The one of this kind, of the pods that serve or of the workers."""
    (document,) = (
        document
        for document in among
        if document["kind"] == kind and of_a_worker(document) is worker
    )
    return document


def pod(among: list[Document], worker: bool = False) -> Document:
    spec: Document = only("Deployment", among, worker)["spec"]["template"]["spec"]
    return spec


def container(among: list[Document], worker: bool = False) -> Document:
    (weir,) = pod(among, worker)["containers"]
    return dict(weir)


def environment(among: list[Document], worker: bool = False) -> dict[str, Any]:
    """The variables of Weir's container: a value, or the key of a Secret as a pair."""
    variables = {}
    for variable in container(among, worker)["env"]:
        key = variable.get("valueFrom", {}).get("secretKeyRef")
        variables[variable["name"]] = (key["name"], key["key"]) if key else variable["value"]
    return variables


# -- what is generated --


def test_the_chart_holds_what_make_manifests_writes() -> None:
    for path, expected in manifests.of_the_chart():
        assert path.read_text() == expected, f"{path.name} is not up to date: make manifests"


def test_the_plain_manifests_are_those_of_the_chart(kubernetes_programs: Path) -> None:
    for path, expected in manifests.plain_manifests(kubernetes_programs / "helm"):
        assert path.read_text() == expected, f"{path.name} is not up to date: make manifests"


def test_the_chart_has_no_links() -> None:
    """Flux, Rancher and helm-git leave them out, or refuse the chart."""
    assert [path for path in CHART.rglob("*") if path.is_symlink()] == []


# -- formats --


@every_example
def test_helm_has_nothing_to_say_about_the_chart(example: Path, helm: Any) -> None:
    done = helm("lint", "--strict", CHART, "--values", example)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@every_example
def test_every_example_has_the_format_of_kubernetes(example: Path, template: Template) -> None:
    validate(template(example))


def test_the_plain_manifests_have_the_format_of_kubernetes(plain: list[Document]) -> None:
    validate(plain)


def validate(found: list[Document]) -> None:
    assert found
    for document in found:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, "1.37", strict=True)


def test_trivy_finds_nothing_grave(
    template: Template, plain: list[Document], tmp_path: Path
) -> None:
    rendered = {path.stem: template(path) for path in EXAMPLES} | {"plain": plain}
    for name, found in rendered.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(found))
    done = run(
        "trivy", "config", "--quiet", "--skip-check-update", "--skip-version-check",
        "--severity=HIGH,CRITICAL", "--format=json", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = {
        one["Target"].removesuffix(".yaml"): one for one in json.loads(done.stdout)["Results"]
    }
    assert set(results) == set(rendered)
    for name, result in results.items():
        assert result["MisconfSummary"]["Successes"] > 10, "trivy has looked at nothing"
        grave = {found["ID"] for found in result.get("Misconfigurations", [])}
        assert grave <= set(NOT_GRAVE), name


def test_the_package_holds_the_chart_without_its_examples(helm: Any, tmp_path: Path) -> None:
    done = helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    package = tmp_path / f"weir-{VERSION}.tgz"
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True)
    names = {name.removeprefix("weir/") for name in listed.stdout.splitlines()}
    assert {"values.schema.json", "files/rules.yml", "files/dashboard.json"} <= names
    assert not [name for name in names if name.startswith("ci/")]


# -- values --


def explained(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in schema.get("properties", {}).items():
        yield f"{path}/{name}", value
        yield from explained(value, f"{path}/{name}")


def test_every_value_is_explained_and_every_object_is_strict_or_free() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    values = dict(explained(SCHEMA))
    assert len(values) > 100
    for path, schema in values.items():
        assert schema.get("description"), path
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path


def test_every_default_is_in_the_schema_and_the_other_way_round() -> None:
    optional = {
        "global", "secret/name", "externalSecret/store/name", "resources/claims",
        "worker/resources/claims",
    }  # fmt: skip

    def names(values: Any, schema: dict[str, Any], path: str = "") -> None:
        if path == "settings/" or "properties" not in schema:
            return
        known = {name for name in schema["properties"] if f"{path}{name}" not in optional}
        assert set(values) == known, path
        for name in values:
            names(values[name], schema["properties"][name], f"{path}{name}/")

    names(VALUES, SCHEMA)


def test_settings_of_the_schema_are_those_of_weir() -> None:
    names = set(SCHEMA["properties"]["settings"]["properties"])
    assert names == {name for name in KNOWN if "<" not in name} - manifests.OF_THE_CHART


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "at '/secret': missing property 'name'"),
        ({"secret.name": "weir"}, "at '/secret/settings': missing property 'DATABASE_URL'"),
        (
            {"secret.name": "weir", "autoscaling.enabled": "false", "replicas": "2"},
            "at '/secret/settings': missing property 'REDIS_URL'",
        ),
        ({"secret.name": "weir"} | ALONE, "missing property 'DATABASE_URL'"),
        (LEAST | {"persistence.enabled": "true"}, "at '/persistence/enabled': value must be false"),
        (
            LEAST | {"settings.DATABASE_URL": "sqlite:////data/weir.db"},
            "at '/settings/DATABASE_URL': 'sqlite:////data/weir.db' does not match",
        ),
        (
            LEAST | {"settings.DATABASE_URL": "postgresql://weir:secret@db/weir"},
            "at '/settings/DATABASE_URL'",
        ),
        (
            LEAST | {"settings.BROKER_URL": "amqp://weir:secret@rabbitmq:5672/weir"},
            "at '/settings/BROKER_URL'",
        ),
        (LEAST | {"settings.SECRET_KEY": "in-the-clear-for-all"}, "at '/settings/SECRET_KEY'"),
        (LEAST | {"settings.PROVIDER_X_API_KEY": "sk-123"}, "at '/settings/PROVIDER_X_API_KEY'"),
        (LEAST | {"settings.TIER_FREE": "file:///x"}, "at '/settings/TIER_FREE': 'not' failed"),
        (LEAST | {"settings.DEFAULT_MODEL": "aws-sm://x"}, "at '/settings/DEFAULT_MODEL'"),
        (LEAST | {"settings.REDIS_ULR": "x"}, "additional properties 'REDIS_ULR' not allowed"),
        (LEAST | {"settings.PORT": "80"}, "additional properties 'PORT' not allowed"),
        (LEAST | {"settings.APP_ENV": "development"}, "at '/settings/APP_ENV'"),
        (LEAST | {"settings.SHUTDOWN_GRACE": "null"}, "missing property 'SHUTDOWN_GRACE'"),
        (LEAST | {"nodeselector.x": "y"}, "additional properties 'nodeselector' not allowed"),
        (LEAST | {"image.tag": "latest"}, "at '/image/tag'"),
        (LEAST | {"image.tag": "20261128"}, "at '/image/tag': got number, want string"),
        (LEAST | {"externalSecret.enabled": "true"}, "at '/externalSecret/store': missing"),
        (LEAST | {"route.enabled": "true"}, "at '/route/hostnames': minItems: got 0, want 1"),
        (
            {"secret.name": "weir", "worker.enabled": "true"} | ON_A_VOLUME,
            "at '/persistence/enabled': value must be false",
        ),
        (
            {name: value for name, value in LEAST.items() if "REDIS" not in name}
            | ALONE
            | {"worker.enabled": "true"},
            "at '/secret/settings': missing property 'REDIS_URL'",
        ),
        (
            {
                "secret.name": "weir",
                "secret.settings.REDIS_URL": "REDIS_URL",
                "settings.DATABASE_URL": "aws-sm://weir/production#DATABASE_URL",
                "worker.enabled": "true",
                "worker.keda.enabled": "true",
                "worker.keda.trigger": "postgresql",
            },
            "at '/settings/DATABASE_URL': 'aws-sm://weir/production#DATABASE_URL' does not match",
        ),
        (LEAST | {"worker.keda.trigger": "redis"}, "at '/worker/keda/trigger'"),
        (
            LEAST | {"metrics.serviceMonitor.enabled": "true"},
            "at '/secret/settings': missing property 'METRICS_TOKEN'",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_the_schema_refuses(values: dict[str, str], message: str, helm: Any) -> None:
    done = helm("template", "weir", CHART, *options_of(values))
    assert done.returncode != 0
    assert message in done.stderr


# -- Weir's settings --


@every_example
def test_every_variable_is_a_setting_and_no_secret_is_in_the_clear(
    example: Path, template: Template
) -> None:
    found = template(example)
    assert not [document for document in found if document["kind"] == "Secret"]
    variables = environment(found)
    for name, value in variables.items():
        assert name in KNOWN or re.match("OTEL_", name) or named_freely(name), name
        if name in SECRETS or name.endswith("_API_KEY"):
            no_password = isinstance(value, str) and not re.search(r"//[^/]*:[^/]*@", value)
            assert isinstance(value, tuple) or REFERENCE.match(value) or no_password, name
    assert variables["APP_ENV"] == "production"
    assert int(variables["TRUSTED_PROXIES"]) >= 1
    assert {"SECRET_KEY", "ADMIN_PASSWORD"} <= set(variables)


def named_freely(name: str) -> bool:
    return bool(PROVIDER_VARIABLE.fullmatch(name) or TIER_VARIABLE.fullmatch(name))


def test_a_pod_does_not_start_without_its_stores(template: Template) -> None:
    """Each comes from a key of the Secret that has to be there."""
    variables = environment(template(LEAST))
    for name in ("SECRET_KEY", "ADMIN_PASSWORD", "DATABASE_URL", "REDIS_URL"):
        assert variables[name] == ("weir", name)
    assert not [v for v in container(template(LEAST))["env"] if "optional" in json.dumps(v)]


@pytest.mark.parametrize("name", ["existing-secret", "sqlite", "everything"])
def test_weir_accepts_what_a_pod_is_given(name: str, template: Template, tmp_path: Path) -> None:
    in_the_secret = {
        "SECRET_KEY": "a-secret-for-the-kubernetes-test",
        "ADMIN_PASSWORD": "a-password-for-kubernetes",
        "DATABASE_URL": "postgresql://weir:password@postgres/weir",
        "REDIS_URL": "redis://:password@valkey:6379/0",
        "OPENAI_API_KEY": "sk-of-the-kubernetes-test",
        "METRICS_TOKEN": "a-token-for-the-kubernetes-test",
    }
    variables = environment(template(CHART / "ci" / f"{name}-values.yaml"))
    given = {
        variable: in_the_secret[variable] if isinstance(value, tuple) else value
        for variable, value in variables.items()
        if variable != "MODEL_PATH"  # its volume is not here
    }
    loaded = settings.load(given | {"DATA_DIR": str(tmp_path)})
    assert loaded.production
    assert loaded.trusted_proxies >= 1
    assert loaded.database_url.startswith("sqlite" if name == "sqlite" else "postgresql")


def test_values_reach_weir_as_they_are_written(template: Template) -> None:
    example = CHART / "ci" / "everything-values.yaml"
    written = yaml.safe_load(example.read_text())["settings"]
    variables = environment(template(example))
    assert variables["MAX_BODY_BYTES"] == "33554432"
    assert variables["LOG_PROMPTS"] == "false"
    # $$ is $, and $(NAME) is another variable.
    expanded = re.sub(
        r"\$\$|\$\(\w+\)", lambda found: "$" * (found[0] == "$$"), variables["LOG_REDACT"]
    )
    assert expanded == written["LOG_REDACT"]


def test_nothing_is_made_up_and_each_change_of_a_setting_makes_new_pods(template: Template) -> None:
    for path in CHART.rglob("templates/**/*"):
        if path.is_file():
            assert not re.search(r"rand[A-Z]\w+|gen[A-Z]\w+|uuidv4|lookup|now\b", path.read_text())
    before = only("Deployment", template(LEAST))["spec"]["template"]
    changed = template(LEAST | {"settings.DEFAULT_MODEL": "gpt-4o"})
    assert only("Deployment", changed)["spec"]["template"] != before
    other = template(LEAST | {"service.annotations.x": "y"})
    assert only("Deployment", other)["spec"]["template"] == before


def test_other_references_of_the_external_secret_make_new_pods(
    template: Template, helm: Any
) -> None:
    example = CHART / "ci" / "external-secrets-values.yaml"
    secret = only("ExternalSecret", template(example))
    assert secret["spec"]["target"]["name"] == environment(template(example))["SECRET_KEY"][0]
    assert {"secretKey": "OPENAI_API_KEY", "remoteRef": {"key": "weir/openai"}} in secret["spec"][
        "data"
    ]
    option = "--set=externalSecret.data.OPENAI_API_KEY.key=weir/another"
    done = helm("template", "weir", CHART, "--values", example, option)
    after, before = (
        only("Deployment", found)["spec"]["template"]["metadata"]["annotations"]
        for found in (documents(done.stdout), template(example))
    )
    assert after != before


# -- agreement with the image and the application --


def test_version_image_and_chart_agree(template: Template) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    assert container(template(LEAST))["image"].endswith(f":{VERSION}")
    overlay = yaml.safe_load((PLAIN / "kustomization.yaml").read_text())
    assert overlay["images"] == [{"name": VALUES["image"]["repository"], "newTag": VERSION}]


@every_example
def test_every_image_is_pinned(example: Path, template: Template) -> None:
    found = template(example)
    images = re.findall(r'"image": "([^"]+)"', json.dumps(found))
    # Of the pods that serve, of the smoke test, and of the workers.
    assert len(images) == 2 + any(map(of_a_worker, found))
    for image in images:
        assert re.search(r":\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", image), image


@every_example
def test_pods_run_as_the_image_s_user_with_nothing_that_they_do_not_need(
    example: Path, template: Template
) -> None:
    found = template(example)
    user = int(instruction("USER").partition(":")[0])
    for spec in (pod(found), only("Pod", found)["spec"]):
        assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert {context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {user}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(one["resources"]) == {"requests", "limits"}
    writable = {
        mount["mountPath"]
        for mount in container(found)["volumeMounts"]
        if not mount.get("readOnly")
    }
    assert writable == {"/tmp", image_environment()["DATA_DIR"]}


def test_probes_ask_what_they_mean(template: Template) -> None:
    weir = container(template(LEAST))
    assert [port["containerPort"] for port in weir["ports"]] == [int(KNOWN["PORT"]["default"])]
    asked = {
        name: weir[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    assert asked["readiness"] == render_web()["healthCheckPath"]
    for name in ("startup", "liveness"):
        assert f"{asked[name]}'" in image_health_command()[-1]
    # Gunicorn replaces a worker that hangs; the pod is for what is left.
    timeout = re.search(r"^timeout = (\d+)$", text("gunicorn.conf.py"), re.MULTILINE)
    assert timeout is not None
    liveness = weir["livenessProbe"]
    between = liveness["periodSeconds"] * (liveness["failureThreshold"] - 1)
    assert between + liveness["timeoutSeconds"] > int(timeout[1])


@every_example
def test_no_pod_is_killed_before_the_grace_period_is_over(
    example: Path, template: Template
) -> None:
    found = template(example)
    pause = container(found)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = float(environment(found)["SHUTDOWN_GRACE"])
    assert pause >= 5
    assert pause + grace + 5 <= pod(found)["terminationGracePeriodSeconds"] <= pause + grace + 6


def test_the_default_grace_period_is_weir_s_own() -> None:
    assert float(KNOWN["SHUTDOWN_GRACE"]["default"]) == VALUES["settings"]["SHUTDOWN_GRACE"]


def test_limits_give_each_worker_its_memory_and_requests_let_autoscaling_count(
    template: Template,
) -> None:
    resources = container(template(LEAST))["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    memory = resources["limits"]["memory"]
    assert int(memory[:-2]) * UNITS[memory[-2:]] >= int(resources["limits"]["cpu"]) * WORKER_MEMORY


# -- resources --


def test_three_pods_or_more_are_kept_apart_and_scaled(template: Template) -> None:
    found = template(LEAST)
    scaler = only("HorizontalPodAutoscaler", found)["spec"]
    assert "replicas" not in only("Deployment", found)["spec"], "an upgrade would undo the scaling"
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 10)
    targets = {
        metric["resource"]["name"]: metric["resource"]["target"]["averageUtilization"]
        for metric in scaler["metrics"]
    }
    assert targets == {"cpu": 70, "memory": 80}
    assert only("PodDisruptionBudget", found)["spec"]["maxUnavailable"] == 1
    assert {one["topologyKey"] for one in pod(found)["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    by_cpu = template(LEAST | {"autoscaling.targetMemoryUtilizationPercentage": "0"})
    assert len(only("HorizontalPodAutoscaler", by_cpu)["spec"]["metrics"]) == 1
    fixed = template(LEAST | {"autoscaling.enabled": "false", "replicas": "4"})
    assert only("Deployment", fixed)["spec"]["replicas"] == 4


def test_selectors_meet_weir_s_pods_and_not_the_smoke_test(template: Template) -> None:
    found = template(LEAST)
    labels = only("Deployment", found)["spec"]["template"]["metadata"]["labels"]
    smoke = only("Pod", found)["metadata"]["labels"]
    selectors = [
        only("Deployment", found)["spec"]["selector"]["matchLabels"],
        only("Service", found)["spec"]["selector"],
        only("PodDisruptionBudget", found)["spec"]["selector"]["matchLabels"],
        only("NetworkPolicy", found)["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= smoke.items()
    peers = only("NetworkPolicy", found)["spec"]["ingress"][0]["from"]
    (helm_test,) = (peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer)
    assert helm_test.items() <= smoke.items()


def test_the_network_policy_opens_what_weir_needs(template: Template) -> None:
    rules = only("NetworkPolicy", template(LEAST))["spec"]
    assert rules["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"] for rule in rules["ingress"]] == [[{"port": "http"}]]
    opened = {port["port"] for rule in rules["egress"] for port in rule["ports"]}
    assert opened == {53, 5353, 443, 5432, 6379}


def test_a_load_balancer_reaches_weir_through_the_network_policy(template: Template) -> None:
    found = template(LEAST | {"service.type": "LoadBalancer"})
    (rule,) = only("NetworkPolicy", found)["spec"]["ingress"]
    assert {"ipBlock": {"cidr": "0.0.0.0/0"}} in rule["from"]


# -- workers --

WITH_WORKER = LEAST | {"worker.enabled": "true"}
SCALED = WITH_WORKER | {"worker.keda.enabled": "true"}


def test_there_is_no_worker_unless_one_is_asked_for(template: Template) -> None:
    assert not [document for document in template(LEAST) if of_a_worker(document)]
    of_workers = {one["kind"] for one in template(WITH_WORKER) if of_a_worker(one)}
    assert of_workers == {"Deployment", "NetworkPolicy", "PodDisruptionBudget"}


@pytest.mark.parametrize("name", ["worker", "everything"])
def test_a_worker_s_pod_is_that_of_the_pods_that_serve_with_another_command(
    name: str, template: Template
) -> None:
    """The same image, settings, secrets, user, volumes and nodes."""
    found = template(CHART / "ci" / f"{name}-values.yaml")
    serving, working = pod(found), pod(found, worker=True)
    of_its_own = {"containers", "terminationGracePeriodSeconds", "topologySpreadConstraints"}
    for field in (serving.keys() | working.keys()) - of_its_own:
        assert working[field] == serving[field], field
    serves, works = container(found), container(found, worker=True)
    assert works["command"] == shlex.split(text("Procfile").partition("worker: ")[2].split("\n")[0])
    # It has no port that a probe could ask or that a proxy would have to learn of.
    of_a_server = {"ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"}
    assert serves.keys() - works.keys() == of_a_server
    assert works.keys() - serves.keys() == {"command"}
    for field in works.keys() - {"command", "resources"}:
        assert works[field] == serves[field], field
    memory = works["resources"]["limits"]["memory"]
    assert int(memory[:-2]) * UNITS[memory[-2:]] >= WORKER_MEMORY


@pytest.mark.parametrize("name", ["worker", "everything"])
def test_no_worker_is_killed_before_the_grace_period_is_over(name: str, template: Template) -> None:
    found = template(CHART / "ci" / f"{name}-values.yaml")
    grace = float(environment(found, worker=True)["SHUTDOWN_GRACE"])
    assert grace + 5 <= pod(found, worker=True)["terminationGracePeriodSeconds"] <= grace + 6


def test_nobody_reaches_a_worker_and_it_reaches_what_weir_needs(template: Template) -> None:
    found = template(WITH_WORKER)
    labels = only("Deployment", found, worker=True)["spec"]["template"]["metadata"]["labels"]
    serving = only("Deployment", found)["spec"]["template"]["metadata"]["labels"]
    policy = only("NetworkPolicy", found, worker=True)["spec"]
    selectors = [
        only("Deployment", found, worker=True)["spec"]["selector"]["matchLabels"],
        only("PodDisruptionBudget", found, worker=True)["spec"]["selector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= serving.items()
    assert not only("Service", found)["spec"]["selector"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    assert policy["egress"] == only("NetworkPolicy", found)["spec"]["egress"]


def test_as_many_workers_as_are_asked_for_or_as_keda_finds_lines_for(template: Template) -> None:
    fixed = template(WITH_WORKER | {"worker.replicas": "3"})
    assert only("Deployment", fixed, worker=True)["spec"]["replicas"] == 3
    found = template(SCALED | {"worker.keda.linesPerWorker": "100"})
    deployment = only("Deployment", found, worker=True)
    assert "replicas" not in deployment["spec"], "an upgrade would undo the scaling"
    scaler = only("ScaledObject", found, worker=True)["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (1, 5)
    assert scaler["cooldownPeriod"] > 120, "LLM_DEADLINE: no line runs longer"
    (trigger,) = scaler["triggers"]
    assert trigger == {
        "type": "prometheus",
        "metadata": {
            "serverAddress": "http://prometheus-operated.monitoring:9090",
            "query": "max(weir_batch_waiting_lines)",
            "threshold": "100",
            "ignoreNullValues": "false",
        },
    }
    idle = template(SCALED | {"worker.keda.minReplicas": "0"})
    assert only("ScaledObject", idle, worker=True)["spec"]["minReplicaCount"] == 0


def test_keda_counts_the_lines_in_the_database_that_wait_or_run(
    template: Template, tmp_path: Path
) -> None:
    found = template(CHART / "ci" / "everything-values.yaml")
    (trigger,) = only("ScaledObject", found, worker=True)["spec"]["triggers"]
    assert trigger["metadata"]["connectionFromEnv"] in environment(found, worker=True)
    engine = create_engine(f"sqlite:///{tmp_path / 'weir.db'}")
    metadata.create_all(engine, tables=[tables.batches, tables.batch_lines])
    states = [*tables.LineState, tables.LineState.WAITING]
    batches = [
        ("going", tables.BatchState.IN_PROGRESS, tables.Mode.DIRECT),
        ("over", tables.BatchState.CANCELLED, tables.Mode.DIRECT),
        ("elsewhere", tables.BatchState.IN_PROGRESS, tables.Mode.NATIVE),
    ]
    with engine.begin() as connection:
        for batch, state, mode in batches:
            row = {"id": batch, "state": state, "mode": mode}
            connection.execute(insert(tables.batches).values(filled(tables.batches) | row))
            for number, line_state in enumerate(states):
                line = {"batch_id": batch, "number": number, "custom_id": str(number)}
                values = filled(tables.batch_lines) | line | {"state": line_state}
                connection.execute(insert(tables.batch_lines).values(values))
        waiting = connection.exec_driver_sql(trigger["metadata"]["query"]).scalar()
    assert waiting == 3, "two wait and one runs"


def filled(table: Table) -> dict[str, Any]:
    """Something for each column that must not be empty."""
    return {
        column.name: "" if isinstance(column.type, String) else 0
        for column in table.columns
        if not column.nullable
    }


def test_one_pod_with_sqlite_keeps_its_data_on_a_volume(template: Template) -> None:
    found = template(CHART / "ci" / "sqlite-values.yaml")
    deployment = only("Deployment", found)["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    claim = only("PersistentVolumeClaim", found)["metadata"]
    assert claim["annotations"] == {"helm.sh/resource-policy": "keep"}
    (data,) = (volume for volume in pod(found)["volumes"] if volume["name"] == "data")
    assert data["persistentVolumeClaim"] == {"claimName": claim["name"]}
    assert not {"DATABASE_URL", "REDIS_URL"} & set(environment(found))


def test_models_are_mounted_and_named(template: Template) -> None:
    found = template(CHART / "ci" / "everything-values.yaml")
    assert environment(found)["MODEL_PATH"] == "/models"
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container(found)[
        "volumeMounts"
    ]


def test_a_stream_may_last_as_long_as_its_model_writes(
    template: Template, plain: list[Document]
) -> None:
    for found in (template(CHART / "ci" / "existing-secret-values.yaml"), plain):
        route = only("HTTPRoute", found)["spec"]
        service = only("Service", found)
        (rule,) = route["rules"]
        assert rule["timeouts"] == {"request": "0s"}
        (port,) = service["spec"]["ports"]
        name = service["metadata"]["name"]
        assert rule["backendRefs"] == [{"name": name, "port": port["port"]}]
        assert route["hostnames"] == ["weir.example.com"]


@pytest.mark.parametrize("by", ["helm", "kustomize"])
def test_prometheus_and_grafana_get_what_is_shipped(
    by: str, template: Template, plain: list[Document]
) -> None:
    found = template(CHART / "ci" / "everything-values.yaml") if by == "helm" else plain
    shipped = REPOSITORY / "deploy" / "observability"
    rules = yaml.safe_load((shipped / "rules.yml").read_text())
    assert only("PrometheusRule", found)["spec"] == rules
    dashboard = only("ConfigMap", found)
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    expected = json.loads((shipped / "grafana/dashboards/weir.json").read_text())
    assert json.loads(dashboard["data"]["weir.json"]) == expected
    # `kubectl apply` without --server-side keeps a copy in an annotation of at most 256 KiB.
    assert len(json.dumps(dashboard)) < 256 * 1024
    monitor = only("ServiceMonitor", found)["spec"]
    labels = only("Service", found)["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in only("Service", found)["spec"]["ports"]}
    # The rules and the dashboard depend on the name of the job.
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "weir"}]
    token = endpoint["authorization"]["credentials"]
    assert environment(found)["METRICS_TOKEN"] == (token["name"], token["key"])


def test_helm_test_runs_the_smoke_test_of_the_image(template: Template) -> None:
    (smoke,) = only("Pod", template(LEAST))["spec"]["containers"]
    assert smoke["image"] == container(template(LEAST))["image"]
    python, script, *options = smoke["command"]
    assert (python, options) == ("python", ["http://weir:80", "--wait=60", "--allow-http"])
    assert f"!{script}" in text(".dockerignore").splitlines()
    assert "env" not in smoke
    (keyed,) = only("Pod", template(CHART / "ci" / "everything-values.yaml"))["spec"]["containers"]
    assert keyed["command"][2:] == ["https://weir.example.com", "--wait=60"]
    assert keyed["env"][0]["name"] == "WEIR_API_KEY"


def test_names_stay_short_and_tell_releases_apart(helm: Any) -> None:
    release = "a-release-with-a-name-of-the-greatest-length-there-is"
    done = helm("template", release, CHART, *options_of(LEAST))
    found = documents(done.stdout)
    names = [document["metadata"]["name"] for document in found]
    assert max(map(len, names)) <= 63
    assert all(name.startswith(release[:50]) for name in names)


# -- plain manifests --


def test_the_overlay_changes_image_namespace_and_hostname(plain: list[Document]) -> None:
    assert {document["metadata"]["namespace"] for document in plain} == {"weir"}
    assert environment(plain)["OPENAI_API_KEY"] == ("weir", "OPENAI_API_KEY")
    assert not re.search(r"helm\.sh|managed-by", json.dumps(plain))


def test_the_plain_worker_gets_the_settings_of_the_plain_pods(plain: list[Document]) -> None:
    # METRICS_TOKEN is for /metrics, which a worker has not.
    given = environment(plain)
    del given["METRICS_TOKEN"]
    assert environment(plain, worker=True) == given
    assert container(plain, worker=True)["image"] == container(plain)["image"]
    assert "replicas" not in only("Deployment", plain, worker=True)["spec"]
    assert only("ScaledObject", plain, worker=True)["spec"]["maxReplicaCount"] == 5


def test_the_plain_pod_is_the_chart_s(
    template: Template, kustomize: Callable[[Path], list[Document]]
) -> None:
    base = only("Deployment", kustomize(PLAIN / "base"))
    assert base["spec"] == only("Deployment", template(LEAST))["spec"]


# -- the page --


def page_blocks(language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_the_values_on_the_page_are_values_of_the_chart(helm: Any, tmp_path: Path) -> None:
    blocks = [block for block in page_blocks("yaml") if not block.startswith("apiVersion")]
    assert len(blocks) == 5
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        done = helm("template", "weir", CHART, *options_of(LEAST), "--values", file)
        assert done.returncode == 0, block + done.stderr


def test_the_page_shows_what_helm_says(helm: Any) -> None:
    (shown,) = page_blocks("console")
    command, _, answer = shown.partition("\n")
    options = shlex.split(command)[6:]
    done = helm("template", "weir", CHART, *options)
    assert done.stderr.strip() == answer.strip()


def test_the_page_counts_connections_as_weir_opens_them() -> None:
    database = text("webapp/storage/database.py")
    pool = re.search(r"pool_size=(\d+),\n +max_overflow=(\d+)", database)
    assert pool is not None
    assert f"pods × workers × {int(pool[1]) + int(pool[2])}" in PAGE
