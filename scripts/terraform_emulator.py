"""Applies deploy/aws/ecs against an emulator of AWS, looks at what it made, and removes it again.

    python -m scripts.terraform_emulator

It takes five minutes, most of which the provider waits. Left out is what moto cannot do: Valkey (a
secret of one's own stands in) and autoscaling; nor does it run tasks, so nothing waits for them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.moto import Moto
from tests.support.terraform import Terraform
from webapp import settings

DOMAIN = "weir.example.com"
WITHOUT = """
resource "aws_ecs_service" "weir" {
  wait_for_steady_state = false
}

module "autoscaling" {
  count = 0
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Moto() as moto:
        moto.start()
        zone = moto.client("route53").create_hosted_zone(Name="example.com", CallerReference="1")
        redis = moto.client("secretsmanager").create_secret(
            Name="own-redis", SecretString=json.dumps({"REDIS_URL": "rediss://redis.invalid:6379"})
        )
        weir = Terraform(Path(folder) / "aws", "ecs")
        weir.use_emulator(moto)
        (weir.folder / "emulator_override.tf").write_text(WITHOUT)
        variables = [
            f"-var=domain={DOMAIN}",
            f"-var=zone_id={zone['HostedZone']['Id'].removeprefix('/hostedzone/')}",
            "-var=image_tag=1",
            f"-var=redis_secret_arn={redis['ARN']}",
            "-var=deletion_protection=false",
        ]
        weir.init()
        run(weir, "apply", *variables)
        look(weir, moto)
        run(weir, "destroy", *variables)
        vpcs = moto.client("ec2").describe_vpcs()["Vpcs"]
        assert [vpc["IsDefault"] for vpc in vpcs] == [True]
        assert not moto.client("elbv2").describe_load_balancers()["LoadBalancers"]
        assert not moto.client("rds").describe_db_instances()["DBInstances"]
        print("destroy left no VPC, load balancer or database")


def run(weir: Terraform, command: str, *variables: str) -> None:
    done = weir(command, "-auto-approve", "-input=false", "-no-color", *variables, timeout=1200)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    print(next(line for line in done.stdout.splitlines() if line.endswith("destroyed.")))


def look(weir: Terraform, moto: Moto) -> None:
    ecs = moto.client("ecs")
    [service] = ecs.describe_services(cluster="weir", services=["weir"])["services"]
    assert service["status"] == "ACTIVE"
    assert service["deploymentController"]["type"] == "ECS"
    found = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])
    task = found["taskDefinition"]
    [container] = task["containerDefinitions"]
    print("service and task definition:", service["taskDefinition"].rsplit("/", 1)[-1])

    environment = {entry["name"]: entry["value"] for entry in container["environment"]}
    assert set(environment) <= {declared.metadata["variable"] for declared in settings.table()}
    values = {name: secret_value(moto, value) for name, value in environment.items()}
    loaded = settings.load(values)
    assert loaded.production
    assert loaded.database_url.startswith("postgresql")
    print("environment: Weir starts with it:", ", ".join(sorted(environment)))

    state = (weir.folder / "terraform.tfstate").read_text()
    generated = json.loads(secret_text(moto, environment["SECRET_KEY"]))
    for name, value in generated.items():
        assert len(value) == 40
        assert value not in state, f"the state has {name}"
    assert values["DATABASE_PASSWORD"] not in state
    print("state: none of", ", ".join(sorted(generated)))

    iam = moto.client("iam")
    role = task["taskRoleArn"].rsplit("/", 1)[-1]
    policy = iam.get_role_policy(RoleName=role, PolicyName="secrets")["PolicyDocument"]
    [statement] = policy["Statement"]
    named = {value.split("#")[0].removeprefix("aws-sm://") for value in references(environment)}
    assert statement["Action"] == "secretsmanager:GetSecretValue"
    assert named <= set(statement["Resource"])
    assert len(statement["Resource"]) == 4
    print("role: may read these secrets and do nothing else")

    elb = moto.client("elbv2")
    [balancer] = elb.describe_load_balancers()["LoadBalancers"]
    listeners = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    assert {listener["Protocol"] for listener in listeners} == {"HTTP", "HTTPS"}
    [group] = elb.describe_target_groups()["TargetGroups"]
    assert group["HealthCheckPath"] == "/readiness"
    assert group["Port"] == container["portMappings"][0]["containerPort"]
    print("load balancer: redirects HTTP, forwards HTTPS to port", group["Port"])

    [zone] = moto.client("route53").list_hosted_zones()["HostedZones"]
    records = moto.client("route53").list_resource_record_sets(HostedZoneId=zone["Id"])
    [record] = [one for one in records["ResourceRecordSets"] if one["Name"] == f"{DOMAIN}."]
    assert record["Region"] == record["SetIdentifier"]
    print("record:", record["Name"], "by latency,", record["Region"])

    [database] = moto.client("rds").describe_db_instances()["DBInstances"]
    assert database["StorageEncrypted"]
    assert not database["PubliclyAccessible"]
    [group] = moto.client("logs").describe_log_groups()["logGroups"]
    assert group["retentionInDays"] == 30
    print("database: encrypted, not public; log: kept 30 days")


def references(environment: dict[str, str]) -> list[str]:
    return [value for value in environment.values() if value.startswith("aws-sm://")]


def secret_text(moto: Moto, reference: str) -> str:
    name = reference.removeprefix("aws-sm://").partition("#")[0]
    found: dict[str, Any] = moto.client("secretsmanager").get_secret_value(SecretId=name)
    return str(found["SecretString"])


def secret_value(moto: Moto, value: str) -> str:
    """What a reference leads to; any other value as it is."""
    if not value.startswith("aws-sm://"):
        return value
    return str(json.loads(secret_text(moto, value))[value.partition("#")[2]])


if __name__ == "__main__":
    main()
