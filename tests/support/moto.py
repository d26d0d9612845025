"""AWS, as moto imitates it."""

from __future__ import annotations

import sys
from typing import Any

import boto3
from botocore.config import Config

from tests.support.servers import REPOSITORY, Server, _status_of

REGION = "eu-central-1"


class Moto(Server):
    """All of AWS's services at one address."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str = "secretsmanager", region: str = REGION) -> Any:
        return boto3.client(
            service, region, endpoint_url=self.url, aws_access_key_id="a",
            aws_secret_access_key="b", config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def keep(self, name: str, value: str | bytes, region: str = REGION) -> str:
        """Make a secret, or a new version of it. Returns its ARN."""
        client = self.client(region=region)
        content = {"SecretString" if isinstance(value, str) else "SecretBinary": value}
        try:
            return str(client.create_secret(Name=name, **content)["ARN"])
        except client.exceptions.ResourceExistsException:
            return str(client.put_secret_value(SecretId=name, **content)["ARN"])

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "--port", str(self.port)]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY}

    def _is_ready(self) -> bool:
        return _status_of(f"{self.url}/moto-api/data.json") == 200
