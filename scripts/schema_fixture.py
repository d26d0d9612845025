"""Saves a database filled by this version, for the upgrade tests of later versions.

python -m scripts.schema_fixture

Run it once per schema, on the last version with that schema. Writes tests/fixtures/schema_NNNN.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import count
from typing import Any

import requests

from tests.support.administrator import PASSWORD, SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.kept_database import folder_of, save
from tests.support.servers import Postgres, Provider, Valkey, Weir, free_port, wait_until
from tests.support.webhook import SECRET
from webapp.storage import migrations

CONFIGURED = "configured_key_of_the_fixture"
RESERVED = "SELECT id FROM ledger WHERE state = 'reserved'"
FAR = "2099-01-31T00:00:00Z"


def main() -> None:
    """Fill a database with requests of all kinds, and save it."""
    revision = migrations.head()
    if folder_of(revision).exists():
        raise SystemExit(f"{folder_of(revision)} is there already.")
    with Postgres() as postgres, Valkey() as valkey, Provider() as provider:
        url = postgres.create_database("filled")
        with Weir(settings(url, valkey, provider)) as weir:
            secrets = fill(weir, provider)
        print(save(url, revision, secrets))


def settings(url: str, valkey: Valkey, provider: Provider) -> dict[str, object]:
    return {
        **SETTINGS,
        "API_KEYS": f"configured:premium:{CONFIGURED}",
        "DATABASE_URL": url,
        "REDIS_URL": valkey.url,
        "OPENAI_BASE_URL": provider.base_url,
        "DEFAULT_MODEL": "stand-in-1",
        "MODEL_PRICES": PRICES,
        "LLM_MAX_RETRIES": 0,
        "LOG_PROMPTS": "true",
        # Nothing listens there, so the alert stays undelivered.
        "ALERT_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}",
        "ALERT_WEBHOOK_SECRET": SECRET,
    }


def fill(weir: Weir, provider: Provider) -> dict[str, str]:
    """Create accounts, keys in every state and calls of every kind. Returns secrets by name."""
    admin = Administrator(weir)
    secrets = {"admin's password": PASSWORD, "configured": CONFIGURED}
    ids: dict[str, int] = {}

    def make(name: str, **facts: Any) -> None:
        made = admin.post("/admin/keys", {"name": name, "tier": "enterprise", **facts})
        assert made.status_code == 201, made.text
        ids[name], secrets[name] = made.json()["id"], made.json()["secret"]

    def change(name: str, what: str, body: dict[str, Any]) -> Any:
        changed = admin.post(f"/admin/keys/{ids[name]}/{what}", body)
        assert changed.status_code == 200, changed.text
        return changed.json()

    member = {"username": "member", "password": "the member's password", "role": "member"}
    assert admin.post("/admin/accounts", member).status_code == 201
    secrets["member's password"] = member["password"]
    make("plain")
    make("budgeted", limits={"usd_per_day": 1, "usd_per_month": 20, "models": ["stand-in-*"]})
    make("alerting", limits={"usd_per_month": 0.0005})
    make("increased", limits={"usd_per_month": 0.00001})
    make("owned", owner="member", expires_at=FAR)
    make("rotated")
    make("revoked", limits={"usd_per_day": 1})
    make("interrupted", limits={"usd_per_day": 1})
    change("increased", "budget-increase", {"usd": 5, "until": FAR})

    sent = 0
    for name in ["configured", *ids]:
        send_requests(weir, provider, name, secrets[name])
        sent += 8
    change("revoked", "revoke", {})
    secrets["rotated before"] = secrets["rotated"]
    secrets["rotated"] = change("rotated", "rotate", {"grace": 60})["secret"]
    # Counters are written every second.
    wait_until(lambda: len(Books(weir).rows("SELECT id FROM requests")) >= sent, 20, "the log")
    spend(weir, secrets["alerting"])
    interrupt(weir, provider, secrets["interrupted"])
    return secrets


def send_requests(weir: Weir, provider: Provider, name: str, key: str) -> None:
    """Eight requests: plain, cached, streamed, OpenAI's, idempotent, two failing, one invalid."""
    model = {"model": "stand-in-1", "max_tokens": 12}
    first = {"message": f"the first of {name} has these seven words", **model}
    sent_once = {"Idempotency-Key": f"once-for-{name}"}
    completion = {"messages": [{"role": "user", "content": f"a completion for {name}"}], **model}
    weir.post("/chat", key=key, json=first)
    weir.post("/chat", key=key, json=first)
    list(weir.stream("/chat", {"message": f"a stream for {name}", **model, "stream": True}, key))
    weir.post("/v1/chat/completions", key=key, json=completion)
    weir.post("/chat", key=key, json=first | {"message": f"once, {name}"}, headers=sent_once)
    for fault in ({"status": 500}, {"no_usage": True}):
        provider.fault(**fault)
        weir.post("/chat", key=key, json={"message": f"{fault} for {name}", **model})
    provider.fault()
    weir.post("/chat", key=key, json={})


def spend(weir: Weir, key: str) -> None:
    """Send requests until half of the budget is spent and an alert is sent."""
    numbers = count()

    def alerted() -> bool:
        body = {"message": f"spent {next(numbers)}", "model": "stand-in-1", "max_tokens": 12}
        weir.post("/chat", key=key, json=body)
        return bool(Books(weir).rows("SELECT id FROM alerts WHERE attempts > 0"))

    wait_until(alerted, 20, "an alert")
    wait_until(lambda: not Books(weir).rows(RESERVED), 20, "the settling of all calls")


def interrupt(weir: Weir, provider: Provider, key: str) -> None:
    """Kill the server during a call, so that its reservation and idempotency key remain."""
    provider.fault(hang=True)
    body = {"message": "the last", "model": "stand-in-1", "max_tokens": 12}
    headers = {"Idempotency-Key": "interrupted"}

    def call() -> None:
        with suppress(requests.RequestException):
            weir.post("/chat", key=key, json=body, headers=headers)

    calling = threading.Thread(target=call)
    calling.start()
    wait_until(lambda: Books(weir).rows(RESERVED), 20, "a reserved call")
    weir.kill()
    calling.join()


if __name__ == "__main__":
    main()
