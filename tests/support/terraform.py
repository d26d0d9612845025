"""Terraform on a copy of a configuration, with an emulator of AWS to plan against."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.moto import REGION, Moto
from tests.support.servers import REPOSITORY

AWS = REPOSITORY / "deploy" / "aws"
# Of the services that the configuration uses, by the provider's names.
SERVICES = """
    acm applicationautoscaling cloudwatch ec2 ecr ecs elasticache elbv2 iam logs rds route53
    secretsmanager sns sts
""".split()  # noqa: SIM905


class NoTerraform(Exception):
    """There is no Terraform, or no provider for it, and why."""


class Terraform:
    """A copy of deploy/aws, and Terraform in one of its folders. Raises NoTerraform."""

    def __init__(self, copy: Path, name: str) -> None:
        if shutil.which("terraform") is None:
            raise NoTerraform("there is no terraform on the PATH")
        self.plugins = plugin_folder()
        if not copy.exists():
            shutil.copytree(AWS, copy, ignore=shutil.ignore_patterns(".terraform*"))
        self.folder = copy / name

    def __call__(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "TF_CLI_CONFIG_FILE": os.devnull,
                "CHECKPOINT_DISABLE": "1",
                "TF_IN_AUTOMATION": "1",
            },
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def init(self) -> None:
        done = self("init", "-backend=false", "-input=false", f"-plugin-dir={self.plugins}")
        assert done.returncode == 0, done.stderr

    def use_emulator(self, moto: Moto) -> None:
        """Let the configuration mean the emulator."""
        endpoints = "\n".join(f'    {service} = "{moto.url}"' for service in SERVICES)
        (self.folder / "emulator.tf").write_text(
            f'''provider "aws" {{
  region                      = "{REGION}"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true

  endpoints {{
{endpoints}
  }}
}}
'''
        )


def plugin_folder() -> Path:
    """The folder of providers that Terraform's CLI configuration names, where it has AWS's."""
    named = os.environ.get("TF_CLI_CONFIG_FILE") or "~/.terraformrc"
    configuration = Path(named).expanduser()
    text = configuration.read_text() if configuration.is_file() else ""
    for folder in map(Path, re.findall(r'^\s*path\s*=\s*"(.+)"', text, re.MULTILINE)):
        if any(folder.glob("registry.terraform.io/hashicorp/aws/*/")):
            return folder
    raise NoTerraform(f"{named} names no folder with a provider hashicorp/aws")
