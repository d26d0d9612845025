"""Settings that refer to secrets: what is a reference, what becomes of it, what stops the start."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.support.servers import REPOSITORY
from webapp import secrets_managers
from webapp.secret_refresh import SecretRefresh
from webapp.secrets_managers import MODULES, parse_secret
from webapp.settings import Settings, SettingsError, load, table
from webapp.storage.database import Database

SECRET = "a-secret-that-nobody-may-see"
Load = Callable[..., Settings]


@pytest.fixture
def load_here(tmp_path: Path) -> Load:
    return lambda **environment: load({"DATA_DIR": str(tmp_path / "data"), **environment})


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., str]:
    """Keep a text in a file, and return the reference to it."""

    def keep(text: str | bytes, name: str = "secret") -> str:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return f"file://{tmp_path / name}"

    return keep


def refusal(load_here: Load, **environment: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load_here(**environment)
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "aws-sm://weir",
        "aws-sm://weir/production/openai#key",
        "aws-sm://arn:aws:secretsmanager:eu-west-1:123456789012:secret:weir/openai-AbCdEf#key",
        "aws-sm://arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:weir-AbCdEf",
        "gcp-sm://project/name",
        "gcp-sm://project/name/3#a field",
        "gcp-sm://projects/123/secrets/name",
        "gcp-sm://projects/123/secrets/name/versions/3",
        "gcp-sm://projects/123/locations/europe-west4/secrets/name",
        "azure-kv://vault/name",
        "azure-kv://vault.vault.azure.cn/name/0123456789abcdef#key",
        "file:///run/secrets/name",
    ],
)
def test_a_value_of_these_schemes_is_a_reference(text: str) -> None:
    assert str(parse_secret(f" {text}\n")) == text


@pytest.mark.parametrize(
    "text", ["", "sk-proj-123", "postgresql://user:pw@host/name", "aws-sm:name", "xaws-sm://name"]
)
def test_any_other_value_is_the_value_itself(text: str) -> None:
    assert parse_secret(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "aws-sm://", "aws-sm://name#", "aws-sm://two words", "aws-sm://arn:aws:s3:::bucket",
        "gcp-sm://name", "gcp-sm://a/b/c/d", "azure-kv://name", "azure-kv://https://x/name",
        "file://run/secrets/x", "file://",
    ],
)  # fmt: skip
def test_a_reference_that_is_none_stops_the_start_with_how_it_looks(
    load_here: Load, text: str
) -> None:
    message = refusal(load_here, OPENAI_API_KEY=text)
    assert "- OPENAI_API_KEY must look like" in message
    assert text.partition("://")[0] in message


@pytest.mark.parametrize(
    "content",
    [SECRET, f"{SECRET}\n", f"{SECRET}\r\n", b"\xef\xbb\xbf" + SECRET.encode()],
    ids=["bare", "newline", "carriage return", "byte order mark"],
)
def test_the_newline_at_the_end_of_a_file_is_no_part_of_the_secret(
    load_here: Load, keep: Callable[..., str], content: str | bytes
) -> None:
    settings = load_here(OPENAI_API_KEY=keep(content), PROVIDER_X_API_KEY=keep(content),
                         PROVIDER_X_BASE_URL="http://x/v1")  # fmt: skip
    assert [provider.api_key for provider in settings.providers] == [SECRET, SECRET]
    assert SECRET in settings.secrets
    assert SECRET not in repr(settings.secret_references)


def test_a_field_of_a_json_secret_can_be_named(load_here: Load, keep: Callable[..., str]) -> None:
    reference = keep(f'{{"url": "{SECRET}", "port": 5432}}')
    assert load_here(SECRET_KEY=f"{reference}#url").secret_key == SECRET
    assert load_here(ADMIN_PASSWORD=f"{reference}#port").admin_password == "5432"


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ("", "", "is empty"),
        (" \n", "", "is empty"),
        ('{"key": ""}', "#key", "is empty"),
        (SECRET, "#key", "is no JSON object"),
        (f'["{SECRET}"]', "#key", "is no JSON object"),
        (f'{{"KEY": "{SECRET}"}}', "#key", "has no field 'key'"),
        (f'{{"key": ["{SECRET}"]}}', "#key", "that is no text"),
        ('{"key": true}', "#key", "that is no text"),
        (b"\xff\xfe\x00", "", "is no text"),
        (b"x" * 70_000, "", "has more than 65536 bytes"),
    ],
)
def test_what_is_wrong_names_setting_and_reference_and_no_value(
    load_here: Load, keep: Callable[..., str], content: str, field: str, said: str
) -> None:
    reference = keep(content) + field
    message = refusal(load_here, OPENAI_API_KEY=reference)
    assert f"- OPENAI_API_KEY: {reference} " in message
    assert said in message


def test_a_file_that_is_not_there_is_said_to_be_missing(load_here: Load, tmp_path: Path) -> None:
    message = refusal(load_here, SECRET_KEY=f"file://{tmp_path}/none", REDIS_URL="file:///")
    assert f"SECRET_KEY: file://{tmp_path}/none cannot be read: No such file" in message
    assert "REDIS_URL: file:/// cannot be read: Is a directory" in message


def test_a_pipe_does_not_keep_the_start_waiting(load_here: Load, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is empty" in refusal(load_here, SECRET_KEY=f"file://{tmp_path}/pipe")


def test_every_check_of_a_value_holds_for_what_was_read(
    load_here: Load, keep: Callable[..., str], tmp_path: Path
) -> None:
    message = refusal(
        load_here, APP_ENV="production", ADMIN_PASSWORD="a-long-password", SECRET_KEY=keep("short")
    )
    assert "SECRET_KEY must be set to a random value of at least 16 characters" in message
    assert f"(it is file://{tmp_path / 'secret'})" in message
    message = refusal(load_here, DATABASE_URL=keep(f"mysql://weir:{SECRET}@host/weir"))
    assert "DATABASE_URL must start with postgresql://" in message
    # A key in the place of a name or a tier.
    for entry in (f"Smoke:{SECRET}:premium", f"{SECRET}:premium:Smoke", f"{SECRET}:Smoke:premium"):
        message = refusal(
            load_here, APP_ENV="production", API_KEYS=keep(f"good:free:{'k' * 20},{entry}")
        )
        assert "entry 2" in message
    message = refusal(load_here, OPENAI_API_KEY=keep(f"{SECRET}\nsecond line"))
    assert "OPENAI_API_KEY must be one line" in message


@pytest.mark.parametrize(
    "variable", ["OPENAI_BASE_URL", "MODEL_PATH", "PROVIDER_X_BASE_URL", "LOG_LEVEL", "TIER_FREE"]
)
def test_only_secrets_may_be_references(load_here: Load, variable: str) -> None:
    message = refusal(load_here, **{variable: "aws-sm://name"})
    assert f"{variable} is no secret: only secrets may be references" in message


def test_the_page_about_secrets_names_every_secret_setting() -> None:
    page = (REPOSITORY / "docs/deploying/secrets.md").read_text()
    secret = [field.metadata["variable"] for field in table() if field.metadata["secret"]]
    assert len(secret) > 10
    assert [variable for variable in secret if f"`{variable}`" not in page] == []
    assert all(f"`{scheme}://" in page for scheme in MODULES)


def test_a_pattern_may_look_like_a_reference(load_here: Load) -> None:
    settings = load_here(PROMPT_DENYLIST="file:///etc/passwd", LOG_REDACT="aws-sm://.*")
    assert [pattern.pattern for pattern in settings.prompt_denylist] == ["file:///etc/passwd"]


def test_what_a_reference_leads_to_is_no_reference_again(
    load_here: Load, keep: Callable[..., str]
) -> None:
    assert load_here(SECRET_KEY=keep("file:///etc/hostname")).secret_key == "file:///etc/hostname"


def test_other_variables_may_hold_what_they_like(load_here: Load) -> None:
    load_here(OTHER="aws-sm://", AWS_CONFIG_FILE="file://x")


def test_a_password_of_the_database_may_be_kept_by_itself(
    load_here: Load, keep: Callable[..., str]
) -> None:
    """As RDS and others keep it: beside the user, without the host."""
    password = keep(f'{{"username": "weir", "password": "{SECRET}:/@%"}}') + "#password"
    for url in ("postgres://weir@host/weir", "postgres://weir:other@host/weir"):
        settings = load_here(DATABASE_URL=url, DATABASE_PASSWORD=password)
        made = make_url(settings.database_url)
        assert (made.username, made.password) == ("weir", f"{SECRET}:/@%")
        assert (made.host, made.database) == ("host", "weir")
        assert f"{SECRET}:/@%" in settings.secrets
    for url in ("", "sqlite:////tmp/weir.db", "postgres://host/weir"):
        message = refusal(load_here, DATABASE_URL=url, DATABASE_PASSWORD=password)
        assert "DATABASE_PASSWORD needs a DATABASE_URL of PostgreSQL" in message


def test_a_manager_that_cannot_start_does_not_keep_a_worker_from_starting(
    load_here: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that fails at its start would end all of Weir."""
    monkeypatch.setenv("AWS_PROFILE", "a-profile-that-is-gone")
    monkeypatch.setattr(secrets_managers, "_managers", {})
    reference = parse_secret("aws-sm://name")
    assert reference
    settings = replace(
        load_here(), secret_references={"SECRET_KEY": reference}, secret_values={"SECRET_KEY": "x"}
    )
    SecretRefresh(settings, Database(settings.database_url), None, {}).start()
