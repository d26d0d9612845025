"""deploy/aws/deploy.sh, without an account: what it tells ECS, and how it goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import REPOSITORY

SCRIPT = REPOSITORY / "deploy/aws/deploy.sh"
STAND_IN = Path(__file__).parent / "aws_stand_in.sh"
BEFORE = "arn:aws:ecs:r:1:task-definition/weir:7"
ADDRESS = "https://weir.example"
# As ECS describes it; what it has added is what registering refuses.
DEFINITION: dict[str, Any] = {
    "taskDefinitionArn": BEFORE,
    "family": "weir",
    "revision": 7,
    "status": "ACTIVE",
    "registeredAt": "2026-11-28T12:00:00+00:00",
    "registeredBy": "arn:aws:iam::1:user/someone",
    "requiresAttributes": [{"name": "com.amazonaws.ecs.capability.ecr-auth"}],
    "compatibilities": ["EC2", "FARGATE"],
    "requiresCompatibilities": ["FARGATE"],
    "cpu": "512",
    "memory": "1024",
    "networkMode": "awsvpc",
    "executionRoleArn": "arn:aws:iam::1:role/execution",
    "taskRoleArn": "arn:aws:iam::1:role/task",
    "containerDefinitions": [{"name": "weir", "image": "repository:1", "essential": True}],
    "volumes": [],
}


class Ecs:
    """A folder in which the stand-in for aws keeps what it is told."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        programs = folder / "programs"
        self.state.mkdir()
        programs.mkdir()
        (programs / "aws").symlink_to(STAND_IN)
        smoke = programs / "python"
        smoke.write_text(
            f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\n'
            f'echo "smoke $2" >>{self.state}/changes\n'
            f"code=$(head -n 1 {self.state}/codes); sed -i 1d {self.state}/codes\n"
            'exit "${code:-0}"\n'
        )
        smoke.chmod(0o755)
        self.answers(
            running="", serving=BEFORE, states="IN_PROGRESS SCALE_UP\nSUCCESSFUL CLEAN_UP\n",
            definition=json.dumps(DEFINITION), codes="", worker="None",
        )  # fmt: skip
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "PYTHON": str(smoke),
            "WEIR_API_KEY": "a-key",
            "POLL_SECONDS": "0",
        }

    def answers(self, **answers: str) -> None:
        for name, answer in answers.items():
            (self.state / name).write_text(answer)

    def deploy(self) -> tuple[int, list[str]]:
        done = subprocess.run(
            [SCRIPT, "repository@sha256:2", ADDRESS],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        file = self.state / "changes"
        return done.returncode, file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def ecs(tmp_path: Path) -> Ecs:
    return Ecs(tmp_path)


def test_a_good_version_stays(ecs: Ecs) -> None:
    assert ecs.deploy() == (0, ["update weir:8", f"smoke {ADDRESS}"])


def test_the_definition_that_serves_is_registered_anew_with_nothing_but_another_image(
    ecs: Ecs,
) -> None:
    import botocore.session

    ecs.deploy()
    registered = json.loads((ecs.state / "registered-weir").read_text())
    (container,) = registered["containerDefinitions"]
    assert container.pop("image") == "repository@sha256:2"
    operation = botocore.session.get_session().get_service_model("ecs")
    known = operation.operation_model("RegisterTaskDefinition").input_shape.members
    assert set(registered) == set(DEFINITION) & set(known)
    assert registered["taskRoleArn"] == DEFINITION["taskRoleArn"]


def test_what_ecs_may_add_to_a_definition_is_left_out() -> None:
    import botocore.session

    model = botocore.session.get_session().get_service_model("ecs")
    described = set(model.shape_for("TaskDefinition").members)
    sent = set(model.operation_model("RegisterTaskDefinition").input_shape.members)
    # Those of a definition that was deleted: none that serves has them.
    added = described - sent - {"deregisteredAt", "deleteRequestedAt"}
    script = SCRIPT.read_text()
    assert all(f'"{name}"' in script for name in added), added


def with_workers(ecs: Ecs) -> None:
    ecs.answers(
        **{"worker-definition": json.dumps(DEFINITION | {"family": "weir-worker"})},
        worker=BEFORE.replace("/weir:", "/weir-worker:"),
    )


def test_workers_follow_a_version_that_stays(ecs: Ecs) -> None:
    with_workers(ecs)
    assert ecs.deploy() == (0, ["update weir:8", f"smoke {ADDRESS}", "update weir-worker:8"])
    registered = json.loads((ecs.state / "registered-weir-worker").read_text())
    assert registered["containerDefinitions"][0]["image"] == "repository@sha256:2"


def test_workers_stay_with_the_version_that_serves(ecs: Ecs) -> None:
    with_workers(ecs)
    ecs.answers(codes="1\n")
    assert ecs.deploy() == (1, ["update weir:8", f"smoke {ADDRESS}", "update weir:7"])


def test_workers_that_ecs_takes_back_are_a_failure_and_leave_what_serves(ecs: Ecs) -> None:
    with_workers(ecs)
    ecs.answers(**{"worker-fails": ""})
    assert ecs.deploy() == (1, ["update weir:8", f"smoke {ADDRESS}", "update weir-worker:8"])


def test_a_canary_is_tested_while_the_version_before_is_still_there(ecs: Ecs) -> None:
    ecs.answers(
        states="IN_PROGRESS PRODUCTION_TRAFFIC_SHIFT\nIN_PROGRESS BAKE_TIME\n"
        "IN_PROGRESS BAKE_TIME\nSUCCESSFUL CLEAN_UP\n"
    )
    assert ecs.deploy() == (0, ["update weir:8", f"smoke {ADDRESS}", f"smoke {ADDRESS}"])


def test_a_canary_that_fails_the_smoke_test_is_stopped(ecs: Ecs) -> None:
    ecs.answers(states="IN_PROGRESS BAKE_TIME\n", codes="1\n")
    assert ecs.deploy() == (1, ["update weir:8", f"smoke {ADDRESS}", "stop ROLLBACK"])


def test_a_version_that_fails_the_smoke_test_at_the_end_gives_way_to_the_one_before(
    ecs: Ecs,
) -> None:
    ecs.answers(codes="1\n")
    assert ecs.deploy() == (1, ["update weir:8", f"smoke {ADDRESS}", "update weir:7"])


def test_what_ecs_took_back_itself_is_a_failure_and_not_taken_back_again(ecs: Ecs) -> None:
    ecs.answers(states="IN_PROGRESS SCALE_UP\nROLLBACK_IN_PROGRESS -\nROLLBACK_SUCCESSFUL -\n")
    assert ecs.deploy() == (1, ["update weir:8"])


def test_a_deployment_does_not_begin_within_another(ecs: Ecs) -> None:
    ecs.answers(running="arn:of:another")
    assert ecs.deploy() == (1, [])


def test_an_update_that_ecs_refuses_is_not_stopped(ecs: Ecs) -> None:
    ecs.answers(refuses="")
    code, changes = ecs.deploy()
    assert code != 0
    assert changes == ["update weir:8"]
