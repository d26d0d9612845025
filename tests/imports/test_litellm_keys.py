"""LiteLLM's virtual keys: clients keep their secrets, and no budget is larger than it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.conftest import MakeWeir
from webapp.accounts.key_changes import NewKey
from webapp.imports.litellm.keys import KeysError, read

FOLDER = Path(__file__).parents[1] / "fixtures" / "litellm"
SECRETS = [f"sk-secret-of-client-{number}" for number in range(8)]


def page() -> str:
    """The file, with the hashes of the secrets, as LiteLLM has them."""
    text = (FOLDER / "keys.json").read_text()
    for number, secret in enumerate(SECRETS):
        text = text.replace(f"HASH-{number}", hashlib.sha256(secret.encode()).hexdigest())
    return text


@pytest.fixture(scope="module")
def keys() -> dict[str, NewKey]:
    imported = read([page(), page()], "enterprise", {"team-models": ["large", "small"]})
    assert len({key.name for key in imported.keys}) == len(imported.keys), "a page twice is one"
    return {key.name: key for key in imported.keys}


def test_limits_of_a_key_are_its_own(keys: dict[str, NewKey]) -> None:
    shop = keys["shop"]

    assert shop.sha256 == hashlib.sha256(SECRETS[0].encode()).hexdigest()
    assert shop.tier == "enterprise"
    assert shop.limits == {
        "requests_per_minute": 50, "tokens_per_minute": 40000, "parallel_requests": 4,
        "usd_per_month": "20.000000000", "models": ["large", "small", "claude"],
    }  # fmt: skip


def test_a_budget_never_allows_more_than_it_did(keys: dict[str, NewKey]) -> None:
    budgets = {name: dict(key.limits or {}) for name, key in keys.items()}

    assert budgets["sk-...0002"] == {"usd_per_month": "5.750000000"}, "what is left of a life"
    assert budgets["week"] == {"usd_per_month": "7.000000000"}
    assert budgets["quarter"] == {"usd_per_month": "30.000000000"}


def test_keys_that_do_not_work_are_left_out_and_told(keys: dict[str, NewKey]) -> None:
    notes = dict(read([page()], "enterprise", {}).notes)
    told = {name: note for name, note in notes.items() if note.startswith("without")}

    assert not {"stopped", "old", "sk-...0007", "plain"} & keys.keys()
    assert "it is blocked" in notes["stopped"]
    assert "it has expired" in notes["old"]
    assert "session of LiteLLM's UI" in notes["sk-...0007"]
    assert "no SHA-256" in notes["plain"]
    assert "teams" in told["sk-...0002"]
    assert "requests a minute of models" in told["sk-...0002"]
    [second] = [key for name, key in keys.items() if name.startswith("shop ")]
    assert second.expires_at
    assert second.expires_at.year == 2099


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not JSON"), ('{"keys": ["abc"]}', "return_full_object"), ('{"a": 1}', "no list")],
)
def test_another_answer_is_refused(text: str, problem: str) -> None:
    with pytest.raises(KeysError, match=problem):
        read([text], "enterprise", {})


def test_clients_keep_their_keys_and_a_second_import_changes_nothing(
    new_weir: MakeWeir, tmp_path: Path
) -> None:
    weir, file, env = new_weir(data_dir=tmp_path), tmp_path / "keys.json", tmp_path / "weir.env"
    file.write_text(page())
    command = ["import", "litellm", str(FOLDER / "config.yaml"), "--keys", str(file)]

    dry = weir.run_flask(*command)
    assert dry.returncode == 0, dry.stderr
    assert "MODEL_ROUTES=" in dry.stdout
    assert "Keys: 5 to create" in dry.stderr
    assert json.loads(weir.run_flask("keys", "list", "--json").stdout) == []

    done = weir.run_flask(*command, "--apply", "--write", str(env))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert env.stat().st_mode & 0o777 == 0o600
    assert "5 keys created, 0 were here already" in done.stderr
    assert not any(secret in dry.stderr + done.stderr for secret in SECRETS)
    assert weir.run_flask(*command, "--write", str(env)).returncode == 1, "no file is overwritten"
    assert "0 keys created, 5 were here" in weir.run_flask(*command, "--apply").stderr

    weir.start()
    told = weir.get("/v1/key", key=SECRETS[0])
    assert told.json()["name"] == "shop"
    assert told.headers["X-RateLimit-Limit"] == "50"
    assert weir.get("/v1/key", key=SECRETS[4]).status_code == 401


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("model_list: [", "cannot be read: line 1"),
        (
            "model_list: [{model_name: a, litellm_params: {model: ollama/a, api_base: my_base}}]",
            "PROVIDER_OLLAMA_BASE_URL must start with http",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_the_command_with_the_reason(
    new_weir: MakeWeir, tmp_path: Path, config: str, problem: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config)

    done = new_weir(data_dir=tmp_path).run_flask("import", "litellm", str(file))
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
