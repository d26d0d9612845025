"""What deploys to AWS: checked by its own checkers, and in agreement with Weir and with itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.checkers import run
from tests.support.moto import Moto
from tests.support.servers import REPOSITORY
from tests.support.terraform import AWS, NoTerraform, Terraform
from webapp import settings

KNOWN = {declared.metadata["variable"]: declared.metadata for declared in settings.table()}
SECRETS = {name for name, metadata in KNOWN.items() if metadata["secret"]}
TERRAFORM = sorted(AWS.rglob("*.tf"))
# What only version 6 of the provider knows; the rest of the canary is checked with version 5.
ONLY_IN_6 = ("deployment_configuration", "advanced_configuration")


def text(name: str) -> str:
    return (AWS / name).read_text()


def number(pattern: str, name: str) -> int:
    found = re.search(pattern, text(name), re.MULTILINE)
    assert found, f"{name} has no {pattern}"
    return int(found[1])


class Tag(yaml.SafeLoader):
    """CloudFormation's short forms, as lists of their name and value."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return [suffix, loader.construct_scalar(node)]
    assert isinstance(node, yaml.SequenceNode)
    return [suffix, *loader.construct_sequence(node)]


Tag.add_multi_constructor("!", _tagged)


@pytest.fixture(scope="module")
def template() -> Any:
    return yaml.load(text("lambda/template.yaml"), Tag)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("terraform") / "aws"


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with Moto() as server:
        yield server


def terraform(copy: Path, name: str) -> Terraform:
    try:
        return Terraform(copy, name)
    except NoTerraform as reason:
        pytest.skip(str(reason))


# -- by their checkers --


def test_the_configuration_is_formatted(copy: Path) -> None:
    done = terraform(copy, ".")("fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, done.stdout


def test_terraform_plans_everything(copy: Path, moto: Moto) -> None:
    weir = terraform(copy, "ecs")
    weir.init()
    weir.use_emulator(moto)
    zone = moto.client("route53").create_hosted_zone(Name="example.com", CallerReference="weir")
    done = weir(
        "plan",
        "-input=false",
        "-no-color",
        "-out=plan",
        "-var=domain=weir.example.com",
        f"-var=zone_id={zone['HostedZone']['Id'].removeprefix('/hostedzone/')}",
        "-var=image_tag=1",
        "-var=workers={min=0,max=3,lines=500,cpu=256,memory=512}",
        '-var=secret_settings=["OPENAI_API_KEY", "API_KEYS"]',
        '-var=github={owner="acme",owner_id=12,name="weir",repository_id=1234567890,'
        'environment="staging",provider_arn="arn:aws:iam::1:oidc-provider/there"}',
    )
    assert done.returncode == 0, done.stderr
    made = set(re.findall(r"^  # (\S+) will be created", done.stdout, re.MULTILINE))
    declared = {
        f"{kind}.{name}"
        for file in sorted((AWS / "ecs").glob("*.tf"))
        for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', file.read_text(), re.MULTILINE)
    }
    assert len(declared) > 40
    for subject in ("repo:acme/weir", "repo:acme@12/weir@1234567890"):
        assert f'"{subject}:environment:staging"' in done.stdout
    without_index = {re.sub(r"\[.*?\]$", "", address) for address in made}
    assert declared - without_index == {
        "aws_sns_topic_subscription.alarms", "aws_iam_openid_connect_provider.github",
    }, "only these are optional"  # fmt: skip
    assert "module.autoscaling[0].aws_appautoscaling_policy.cpu" in made
    look_at_workers(planned(weir))


def planned(weir: Terraform) -> dict[str, dict[str, Any]]:
    """What would be created, by its address."""
    shown = json.loads(weir("show", "-json", "plan").stdout)
    return {one["address"]: one["change"]["after"] for one in shown["resource_changes"]}


def look_at_workers(made: dict[str, dict[str, Any]]) -> None:
    """The planned ones: the task's own settings and roles, and a step for each so many lines."""
    worker = made["aws_ecs_task_definition.worker[0]"]
    # Which are known before anything is made.
    for field in ("network_mode", "runtime_platform", "requires_compatibilities"):
        assert worker[field] == made["aws_ecs_task_definition.weir"][field]
    policy = made["aws_appautoscaling_policy.lines[0]"]["step_scaling_policy_configuration"][0]
    steps = [
        (step["metric_interval_lower_bound"], step["metric_interval_upper_bound"],
         step["scaling_adjustment"])
        for step in policy["step_adjustment"]
    ]  # fmt: skip
    assert sorted(steps) == [("0", "500", 1), ("1000", "", 3), ("500", "1000", 2)]
    waiting, none = made["aws_cloudwatch_metric_alarm.lines[0]"], made[
        "aws_cloudwatch_metric_alarm.no_lines[0]"
    ]  # fmt: skip
    (metric,) = made["aws_cloudwatch_log_metric_filter.waiting_lines[0]"]["metric_transformation"]
    for alarm in (waiting, none):
        assert (alarm["namespace"], alarm["metric_name"]) == (metric["namespace"], metric["name"])
        # Without figures nothing is scaled.
        assert alarm["treat_missing_data"] == "notBreaching"
    # LLM_DEADLINE, and time for the line to be settled.
    assert none["evaluation_periods"] * 60 > 120
    assert made["aws_appautoscaling_target.workers[0]"]["min_capacity"] == 0


def test_a_worker_is_a_task_like_the_others_with_another_command() -> None:
    worker = text("ecs/worker.tf")
    command = (REPOSITORY / "Procfile").read_text().partition("worker: ")[2].splitlines()[0]
    named = re.search(r"merge\(local\.container, {\n +command += \[(.*?)\]\n", worker)
    assert named
    assert re.findall(r'"(.+?)"', named[1]) == command.split()
    for shared in ("execution_role_arn", "task_role_arn", "cpu_architecture", "security_groups"):
        of_both = [
            re.search(rf"^ +{shared} += (.+)$", file, re.MULTILINE)
            for file in (worker, text("ecs/service.tf"))
        ]
        assert of_both[0]
        assert of_both[1]
        assert of_both[0][1] == of_both[1][1]
    assert "load_balancer" not in worker
    assert "healthCheck" not in worker


def wanted_by_the_canary() -> list[str]:
    declared = re.findall(r'^variable "(\w+)" {\n(.*?)\n}', text("canary/main.tf"), re.M | re.S)
    return [name for name, block in declared if "default" not in block]


def test_a_second_region_and_a_canary_are_valid(copy: Path) -> None:
    """The canary with version 5 of the provider, but for what only version 6 knows."""
    both = terraform(copy, "both")
    both.folder.mkdir()
    given = "\n".join(f"  {name} = module.second.canary.{name}" for name in wanted_by_the_canary())
    (both.folder / "main.tf").write_text(
        f"""
module "canary" {{
  source = "../canary"
{given}
}}
module "second" {{
  source = "../second-region"
  region = "us-east-1"
  domain = "weir.example.com"
  zone_id = "Z1"
  rolling_service = false
}}
"""
    )
    file = copy / "canary/main.tf"
    configuration = file.read_text().replace(">= 6.24.0", ">= 5.100.0")
    for block in ONLY_IN_6:
        configuration, taken_out = re.subn(
            rf"^( +){block} {{\n.*?^\1}}\n", "", configuration, flags=re.MULTILINE | re.DOTALL
        )
        assert taken_out == 1
    file.write_text(configuration)
    both.init()
    done = both("validate", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


def variables_of(name: str) -> dict[str, dict[str, str]]:
    """The type and the default of each variable of a file, without spaces."""
    return {
        variable: {
            part: "".join(found[1].split())
            for part in ("type", "default")
            if (found := re.search(rf"^  {part} += (.*?\n(?: .*\n)*?(?=  \w|$|\n))", block, re.M))
        }
        for variable, block in re.findall(
            r'^variable "(\w+)" {\n(.*?)^}', text(name), re.MULTILINE | re.DOTALL
        )
    }


def test_a_second_region_takes_all_that_the_first_one_does() -> None:
    first, second = variables_of("ecs/variables.tf"), variables_of("second-region/main.tf")
    of_its_own, of_the_first = {"validation_record", "cidr"}, {"github"}
    assert first.keys() - second.keys() == of_its_own | of_the_first
    assert second.keys() - first.keys() == {"region"}
    for variable in first.keys() & second.keys():
        assert second[variable].get("type") == first[variable]["type"], variable
        if variable not in {"zone_id", "secret_settings"}:  # API_KEYS are all that both share
            assert second[variable].get("default") == first[variable].get("default"), variable
    for variable in first.keys() & second.keys():
        assert re.search(rf"^  {variable} += var\.{variable}$", text("second-region/main.tf"), re.M)


def test_the_canary_is_given_all_it_wants() -> None:
    output = re.search(
        r'output "canary" {.*?value = {\n(.*?)\n  }\n}', text("ecs/outputs.tf"), re.S
    )
    assert output
    given = set(re.findall(r"^    (\w+) +=", output[1], re.MULTILINE))
    assert given == set(wanted_by_the_canary())


def test_the_template_is_good_cloudformation() -> None:
    done = run("cfn-lint", AWS / "lambda/template.yaml")
    assert done.returncode == 0, done.stdout


def test_hadolint_has_nothing_to_say() -> None:
    done = run("hadolint", "--no-color", AWS / "lambda/Dockerfile")
    assert done.returncode == 0, done.stdout


def test_trivy_finds_nothing_grave() -> None:
    done = run(
        "trivy", "config", "--quiet", "--skip-check-update", "--skip-version-check",
        "--severity=HIGH,CRITICAL", "--format=json", AWS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["Results"]
    looked_at = {result["Target"] for result in results}
    assert {"lambda/Dockerfile", "lambda/template.yaml", "ecs/network.tf"} <= looked_at
    found = [
        (result["Target"], found["ID"], found["Title"])
        for result in results
        for found in result.get("Misconfigurations", [])
    ]
    assert not found


def test_what_trivy_may_not_say_has_its_reason_beside_it() -> None:
    excepted = set()
    for file in TERRAFORM:
        lines = file.read_text().splitlines()
        for position, line in enumerate(lines):
            if "trivy:ignore" in line:
                excepted.add(line.removeprefix("#trivy:ignore:"))
                assert lines[position - 1].startswith("# "), f"{file.name}:{position + 1}: why?"
                assert lines[position + 1].startswith("resource "), "for one resource"
    # Clients on the internet; alarms in a topic without encryption; providers anywhere.
    assert excepted == {"AWS-0053", "AWS-0095", "AWS-0104"}


# -- with Weir, and with each other --


def blocks() -> Iterator[tuple[str, dict[str, str]]]:
    """What each part puts into Weir's environment."""
    settings_of_task = re.search(
        r"settings = merge\(\n    {\n(.*?)\n    },", text("ecs/service.tf"), re.S
    )
    references = re.search(r"secret_references = merge\((.*?)\n  \)", text("ecs/secrets.tf"), re.S)
    assert settings_of_task
    assert references
    yield "ecs", dict(re.findall(r"^      (\w+) += (.+)$", settings_of_task[1], re.MULTILINE))
    named = dict(re.findall(r'^      ([A-Z_]+) += "(.+)"$', references[1], re.MULTILINE))
    generated = re.search(r"generated = toset\(\[(.*?)\]\)", text("ecs/secrets.tf"))
    assert generated
    names = re.findall(r'"(\w+)"', generated[1])
    yield "ecs, secrets", named | dict.fromkeys(names, "aws-sm://")


def function_environment(template: Any) -> dict[str, Any]:
    variables: dict[str, Any] = template["Resources"]["Weir"]["Properties"]["Environment"][
        "Variables"
    ]
    return variables


def test_every_variable_is_a_setting(template: Any) -> None:
    for part, environment in [*blocks(), ("lambda", function_environment(template))]:
        assert environment, part
        assert set(environment) <= set(KNOWN), f"{part} names what Weir does not know"


def test_secrets_are_references_and_nothing_else_is(template: Any) -> None:
    for part, environment in [*blocks(), ("lambda", function_environment(template))]:
        for name, value in environment.items():
            held = value[1] if isinstance(value, list) else value
            assert held.startswith("aws-sm://") == (name in SECRETS), f"{part}: {name}"


def test_terraform_writes_no_secret_into_its_state() -> None:
    """Write-only values are not kept; any other way to give a value would be."""
    for file in TERRAFORM:
        for name in ("secret_string", "secret_binary", "password", "auth_token", "passwords"):
            given = re.search(rf"^\s+{name}\s+=", file.read_text(), re.MULTILINE)
            assert not given, f"{file.name} sets {name}"


def test_what_is_given_as_a_plain_setting_is_no_secret() -> None:
    refused = re.search(r'!can\(regex\("(.+)", name\)\)', text("ecs/variables.tf"))
    assert refused
    secrets = {name.replace("<NAME>", "X") for name in SECRETS} | {"PROVIDER_X_API_KEY"}
    # No secrets in the sense of credentials: patterns, and an address that may hold one.
    patterns = {name for name in secrets if not re.search(refused[1], name)}
    assert patterns <= {"ALERT_WEBHOOK_URL"}
    assert not [name for name in set(KNOWN) - SECRETS if re.search(refused[1], name)]


def test_times_fit_into_each_other(template: Any) -> None:
    grace = number(r"shutdown_grace = (\d+)", "ecs/service.tf")
    stop = number(r"stop_timeout +=\s(\d+)", "ecs/service.tf")
    assert grace >= int(KNOWN["SHUTDOWN_GRACE"]["default"])
    assert grace < stop <= 120, "SIGKILL comes after the grace period; Fargate allows 120 s"

    longer = number(r"idle_timeout += var\.llm_deadline \+ (\d+)", "ecs/balancer.tf")
    gunicorn = (REPOSITORY / "gunicorn.conf.py").read_text()
    kept = re.search(r"^keepalive = .*plain_deadline\) \+ (\d+)", gunicorn, re.MULTILINE)
    assert kept
    assert 0 < longer < int(kept[1]), "the deadline, then the balancer, then Weir"
    assert "deregistration_delay = var.llm_deadline" in text("ecs/balancer.tf")

    function = template["Resources"]["Weir"]["Properties"]
    assert function["Timeout"] <= 900
    assert float(function["Environment"]["Variables"]["SHUTDOWN_GRACE"]) < 2, "Lambda's grace"


def test_ports_paths_and_users_agree(template: Any) -> None:
    port = number(r"^  port = (\d+)", "ecs/balancer.tf")
    assert str(port) == KNOWN["PORT"]["default"]
    dockerfile = text("lambda/Dockerfile")
    assert f"AWS_LWA_PORT={port}" in dockerfile
    assert function_environment(template)["PORT"] == str(port)
    assert "AWS_LWA_READINESS_CHECK_PATH=/readiness" in dockerfile
    assert re.search(r'path += "/readiness"', text("ecs/balancer.tf"))
    image = (REPOSITORY / "deploy/Dockerfile").read_text()
    user = re.search(r"^USER (.+)$", image, re.MULTILINE)
    assert user
    assert f"USER {user[1]}" in dockerfile
    assert f'"{user[1]}"' in text("ecs/service.tf")
    assert "aws" in {file.stem.removeprefix("requirements-") for file in REPOSITORY.glob("*.in")}


def test_a_stream_is_no_buffered_answer_on_lambda(template: Any) -> None:
    url = template["Resources"]["Weir"]["Properties"]["FunctionUrlConfig"]
    assert url["InvokeMode"] == "RESPONSE_STREAM"
    assert "AWS_LWA_INVOKE_MODE=response_stream" in text("lambda/Dockerfile")


def test_versions_are_pinned() -> None:
    for file in TERRAFORM:
        for version in re.findall(r'^ +version = "(.+)"', file.read_text(), re.MULTILINE):
            assert re.fullmatch(r">= \d+\.\d+\.\d+, < 7\.0\.0", version)
        for source in re.findall(r'^ +source +?= "(.+)"', file.read_text(), re.MULTILINE):
            assert source == "hashicorp/aws" or source.startswith("."), "no module of a registry"
        assert "LATEST" not in file.read_text()
    assert re.search(r"aws-lambda-adapter:\d+\.\d+\.\d+ ", text("lambda/Dockerfile"))


def test_the_example_of_a_backend_locks_and_encrypts() -> None:
    example = text("ecs/backend.tf.example")
    assert re.search(r"use_lockfile += true", example)
    assert re.search(r"encrypt += true", example)


@pytest.mark.parametrize("page", ["ecs", "lambda"])
def test_a_page_names_only_variables_that_there_are(page: str, template: Any) -> None:
    told = (REPOSITORY / f"docs/deploying/{page}.md").read_text()
    if page == "ecs":
        files = ("ecs/variables.tf", "canary/main.tf", "second-region/main.tf")
        declared = {
            name
            for file in files
            for name in re.findall(r'^variable "(\w+)"', text(file), re.MULTILINE)
        }
        used = set(re.findall(r"-var[ =]'?(\w+)=", told))
    else:
        declared = set(template["Parameters"])
        overrides = re.findall(r"--parameter-overrides (.*?)\n *```", told, re.DOTALL)
        used = set(re.findall(r"\b([A-Z]\w+)=", "\n".join(overrides)))
    assert used
    assert used <= declared
