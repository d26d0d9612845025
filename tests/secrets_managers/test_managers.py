"""The clouds' own SDKs, against moto and a server that speaks Google's and Azure's REST."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clouds import Clouds
from tests.support.moto import Moto
from tests.support.servers import _request
from webapp import secrets_managers
from webapp.secrets_managers import ManagerUnavailable, SecretError
from webapp.settings import SettingsError, load

# What a machine of a developer has, which would find its way into the SDKs.
OF_THIS_MACHINE = ("AWS_", "GOOGLE_", "AZURE_", "CLOUDSDK_", "HTTP_", "http_", "https_", "no_")


@pytest.fixture(autouse=True)
def environment(
    monkeypatch: pytest.MonkeyPatch, aws: Moto, clouds: Clouds, tmp_path: Path
) -> Iterator[None]:
    """That of a container with an identity of its own, and SDKs that nobody has used yet."""
    for name in [name for name in os.environ if name.startswith(OF_THIS_MACHINE)]:
        monkeypatch.delenv(name)
    for name, value in {**aws.start().environment, **clouds.environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    made: dict[str, Any] = {}
    monkeypatch.setattr(secrets_managers, "_managers", made)
    yield
    for manager in made.values():
        for client in [*manager._clients.values(), getattr(manager, "_credential", None)]:
            if client:
                getattr(client, "transport", client).close()
    clouds.kept.status, clouds.kept.seconds = 0, 0.0


def read(text: str) -> str | SecretError:
    reference = secrets_managers.parse_secret(text)
    assert reference
    return secrets_managers.read([reference])[reference]


def test_aws_is_read_by_name_by_arn_in_its_region_and_as_bytes(aws: Moto) -> None:
    arn = aws.keep("weir/openai", '{"key": "one"}')
    elsewhere = aws.keep("weir/openai", "two", region="us-west-2")
    aws.keep("weir/bytes", b"three\n")
    assert read("aws-sm://weir/openai#key") == read(f"aws-sm://{arn}#key") == "one"
    assert read(f"aws-sm://{elsewhere}") == "two"
    assert read("aws-sm://weir/bytes") == "three"


def test_google_is_read_by_short_and_full_name_by_version_and_in_its_region(
    clouds: Clouds,
) -> None:
    clouds.keep_google("project", "openai", "one\n")
    clouds.keep_google("project", "openai", "two", region="europe-west4")
    assert read("gcp-sm://project/openai") == "one"
    assert read("gcp-sm://projects/project/secrets/openai/versions/3") == "one"
    assert clouds.kept.asked[-1].endswith("/versions/3:access")
    assert read("gcp-sm://projects/project/locations/europe-west4/secrets/openai") == "two"


def test_azure_is_read_from_a_vault_of_any_of_its_clouds(clouds: Clouds) -> None:
    clouds.keep_azure("weir.vault.azure.net", "openai", '{"key": "one"}')
    clouds.keep_azure("weir.vault.azure.cn", "openai", "two")
    assert read("azure-kv://weir/openai#key") == "one"
    assert read("azure-kv://weir.vault.azure.cn/openai") == "two"
    assert read("azure-kv://weir/openai/7#key") == "one"


@pytest.mark.parametrize("text", ["aws-sm://none", "gcp-sm://project/none", "azure-kv://weir/none"])
def test_what_is_not_there_is_not_found(text: str) -> None:
    found = read(text)
    assert isinstance(found, SecretError)
    assert not isinstance(found, ManagerUnavailable)
    assert "was not found" in str(found)


def test_permission_denied_says_which_permission_is_missing(aws: Moto, clouds: Clouds) -> None:
    aws.keep("weir/denied", "a value")
    iam: Any = aws.client("iam")
    iam.create_user(UserName="weir")
    key = iam.create_access_key(UserName="weir")["AccessKey"]
    os.environ["AWS_ACCESS_KEY_ID"] = key["AccessKeyId"]
    os.environ["AWS_SECRET_ACCESS_KEY"] = key["SecretAccessKey"]
    _request("POST", f"{aws.url}/moto-api/reset-auth", data="0")
    try:
        assert "secretsmanager:GetSecretValue" in str(read("aws-sm://weir/denied"))
    finally:
        _request("POST", f"{aws.url}/moto-api/reset-auth", data="inf")
    clouds.kept.status = 403
    assert "roles/secretmanager.secretAccessor" in str(read("gcp-sm://project/openai"))
    assert "Key Vault Secrets User" in str(read("azure-kv://weir/openai"))


def test_a_manager_that_is_away_is_asked_once_and_said_to_be_unreachable(
    aws: Moto, clouds: Clouds
) -> None:
    aws.stop()
    clouds.kept.status = 503
    clouds.kept.asked.clear()
    texts = ["aws-sm://a", "gcp-sm://p/a", "gcp-sm://p/b", "azure-kv://v/a", "azure-kv://v/b"]
    references = [secrets_managers.parse_secret(text) for text in texts]
    found = secrets_managers.read(filter(None, references))
    assert all(isinstance(value, ManagerUnavailable) for value in found.values())
    assert {str(value).partition(" (")[0] for value in found.values()} == {"cannot be reached"}
    assert not any(place.endswith("/b") for place in clouds.kept.asked)


def test_without_credentials_of_the_cloud_it_says_so(
    monkeypatch: pytest.MonkeyPatch, clouds: Clouds
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "IDENTITY_ENDPOINT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "WorkloadIdentityCredential")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert "no credentials of AWS" in str(read("aws-sm://weir/openai"))
    assert "no identity of Azure" in str(read("azure-kv://weir/openai"))


def test_credentials_of_aws_that_come_later_are_found(
    monkeypatch: pytest.MonkeyPatch, aws: Moto
) -> None:
    """As where a pod runs before what tells it who it is."""
    aws.keep("weir/later", "a value")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert isinstance(read("aws-sm://weir/later"), ManagerUnavailable)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    assert read("aws-sm://weir/later") == "a value"


def test_without_a_region_it_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    assert "set AWS_REGION" in str(read("aws-sm://weir/openai"))


@pytest.mark.parametrize(
    ("text", "package", "requirements"),
    [
        ("aws-sm://name", "boto3", "requirements-aws.txt"),
        ("gcp-sm://project/name", "google.cloud.secretmanager_v1", "requirements-gcp.txt"),
        ("azure-kv://vault/name", "azure.identity", "requirements-azure.txt"),
    ],
)
def test_a_missing_sdk_stops_the_start_and_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, package: str, requirements: str
) -> None:
    module = secrets_managers.MODULES[text.partition(":")[0]][0]
    monkeypatch.delitem(sys.modules, f"webapp.secrets_managers.{module}", raising=False)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError) as refused:
        load({"DATA_DIR": str(tmp_path), "OPENAI_API_KEY": text})
    wanted = f"OPENAI_API_KEY: {text} needs a package: pip install -r {requirements}"
    assert wanted in str(refused.value)


def test_the_start_waits_some_seconds_for_a_manager(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds.keep_google("project", "openai", "one")
    clouds.kept.status = 503
    monkeypatch.setattr(secrets_managers, "START_RETRY_PAUSE", 0.1)
    environment = {"DATA_DIR": str(tmp_path), "OPENAI_API_KEY": "gcp-sm://project/openai"}
    back = threading.Timer(0.5, setattr, (clouds.kept, "status", 0))
    back.start()
    assert load(environment).openai_api_key == "one"
    clouds.kept.status = 503
    monkeypatch.setattr(secrets_managers, "START_TIMEOUT", 0.2)
    with pytest.raises(SettingsError, match="gcp-sm://project/openai cannot be reached"):
        load(environment)
