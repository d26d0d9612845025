"""The platforms that Weir recognizes, and what that means for its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# By what they put into the environment. The disk of each goes with the container.
PLATFORMS = {
    "DYNO": "heroku",
    "RENDER": "render",
    "RAILWAY_ENVIRONMENT": "railway",
    "ECS_CONTAINER_METADATA_URI_V4": "ecs",
    "K_SERVICE": "cloud_run",
    "CLOUD_RUN_JOB": "cloud_run",
    "CLOUD_RUN_WORKER_POOL": "cloud_run",
    "CONTAINER_APP_NAME": "container_apps",
    "CONTAINER_APP_JOB_NAME": "container_apps",
    "AWS_LAMBDA_FUNCTION_NAME": "lambda",
}
# Where requests come through the platform's proxy alone. ECS has a balancer only if one is added.
BEHIND_A_PROXY = frozenset(PLATFORMS.values()) - {"ecs"}
LAMBDA_DATA_DIR = Path("/tmp/weir")  # noqa: S108 nothing else is writable there


def platform_of(environment: Mapping[str, str]) -> str | None:
    """The platform that this environment is of."""
    found = next((mark for mark in PLATFORMS if environment.get(mark)), "")
    # Knative on a cluster of one's own sets it too.
    if found == "K_SERVICE" and environment.get("KUBERNETES_SERVICE_HOST"):
        return None
    return PLATFORMS.get(found)
