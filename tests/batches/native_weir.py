"""A worker that takes the steps of native batches, with real stores, in the process of the test."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import select, text, update

from tests.support.servers import Provider
from webapp.accounts.configured_keys import sync_configured_keys
from webapp.accounts.keys import api_keys
from webapp.api.line_format import OpenAILineFormat
from webapp.application import create_app
from webapp.batches.batch import Batch
from webapp.batches.finalization import Finalization
from webapp.batches.line_runner import GatewayLineRunner
from webapp.batches.native.assembly import make_native
from webapp.batches.tables import BatchState, Mode, native_batches
from webapp.batches.validator import Validator
from webapp.settings import load
from webapp.storage.blobs import make_blob_store

CHAT = "/v1/chat/completions"
KEY = "test_key_0123456789"
PRICES = (
    "openai/*: input=1, output=2, batch.factor=0.5, max_output=1000; "
    "azure/*: input=1, output=2, batch.factor=0.5, max_output=1000; "
    "anthropic/*: input=1, output=2, batch.factor=0.5, max_output=1000"
)
INPUT, OUTPUT = 500, 1_000  # nano-USD per token at the batch price
FINISHED = {BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED, BatchState.FAILED}


def settings_of(provider: Provider, data_dir: Path, database_url: str, **more: Any) -> dict:
    env = {
        "DATA_DIR": data_dir,
        "API_KEYS": f"test:enterprise:{KEY}",
        "TIERS": "enterprise=99999/minute",
        "MODEL_PRICES": PRICES,
        "OPENAI_BASE_URL": provider.base_url,
        "OPENAI_API_KEY": "sk-stand-in",
        "ANTHROPIC_API_KEY": "sk-ant-stand-in",
        "ANTHROPIC_BASE_URL": provider.anthropic_url,
        **more,
    }
    if database_url:
        env["DATABASE_URL"] = database_url
    return {name: str(value) for name, value in env.items()}


class NativeWeir:
    """One worker. Several of one database are several workers."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        settings = load(env)
        self.services = services = create_app(settings).extensions["weir"]
        line_format = OpenAILineFormat()
        runner = GatewayLineRunner(
            services.gateway, services.identities, line_format, deadline=60, own_cache=False
        )
        self.database = services.database
        sync_configured_keys(self.database, settings.api_keys)
        self.blobs = blobs = make_blob_store(settings.files_url, settings.data_dir, self.database)
        self.native = make_native(
            self.database, blobs, services.batches, services.ledger, services.prices,
            services.gateway, line_format, runner.principal, lambda words: words,
        )  # fmt: skip
        self.finalization = Finalization(services.batches, services.batch_lines, services.files)
        self.validator = Validator(
            services.batches, services.batch_lines, blobs, self.finalization, runner, line_format,
            self.native.choice,
        )  # fmt: skip

    def close(self) -> None:
        # What it has left to write would open connections again in the middle of another test.
        self.services.ledger.close()
        self.database.engine.dispose()

    @property
    def key_id(self) -> int:
        query = select(api_keys.c.id)
        return self.database.read(lambda c: c.execute(query).scalar_one())

    def batch(
        self,
        lines: list[dict[str, Any]],
        *,
        endpoint: str = CHAT,
        **metadata: Any,
    ) -> Batch:
        """A batch of these bodies, validated."""
        texts = [
            json.dumps(
                {"custom_id": f"c-{number}", "method": "POST", "url": endpoint, "body": body}
            )
            for number, body in enumerate(lines)
        ]
        cap = metadata.pop("cap_nano", None)
        mode = metadata.pop("mode", "native")
        services = self.services
        file = services.files.save(
            self.key_id, "batch", "input.jsonl", [line.encode() + b"\n" for line in texts]
        )
        batch = services.batches.create(
            key_id=self.key_id, endpoint=endpoint, input_file_id=file.id,
            metadata={"weir_mode": mode}, completion_window=metadata.pop("window", "24h"),
            seconds=86_400, mode=Mode(mode), cap_nano=cap, on_lost="retry",
            output_expires_after=None, request_id="req-1",
        )  # fmt: skip
        self.validator.validate(batch)
        return services.batches.find(batch.id)

    def step(self) -> float | None:
        """Take all steps that are due, and then those that would be, as the executor does: it ends
        the waiting lines of stopped batches, too."""
        self._stop_waiting()
        self.due()
        try:
            return self.native.batches.advance()
        finally:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        for batch in self.services.batches.active():
            if batch.stopped_by:
                self.services.batch_lines.stop(batch.id, batch.stopped_by["code"])

    def due(self) -> None:
        """Let all next steps be due now."""
        now = update(native_batches).values(due_at=0)
        self.database.write(lambda connection: connection.execute(now))

    def rows(self, query: str) -> list[dict[str, Any]]:
        def read(connection: Any) -> list[dict[str, Any]]:
            return [dict(row) for row in connection.execute(text(query)).mappings()]

        return self.database.read(read)

    def lines(self) -> Counter[str]:
        return Counter(row["state"] for row in self.rows("SELECT state FROM batch_lines"))

    def parts(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM native_batches ORDER BY part")

    def reserved(self) -> int:
        """Nano-USD that the budgets of the batch and of the key's day hold reserved."""
        found = {int(row["reserved_nano"]) for row in self.rows("SELECT * FROM budgets")} or {0}
        assert len(found) == 1, "day, month and batch hold the same"
        return found.pop()

    def finish(self, batch: Batch) -> tuple[Batch, list[dict[str, Any]], list[dict[str, Any]]]:
        """End a batch of which no line waits. Returns it, its output and its errors."""
        batch = self.services.batches.find(batch.id)
        assert not batch.waiting
        self.finalization.finish(batch)
        batch = self.services.batches.find(batch.id)
        return batch, self._file(batch.output_file_id), self._file(batch.error_file_id)

    def _file(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        return [json.loads(line) for line in b"".join(self.blobs.read(file_id)).split(b"\n")[:-1]]

    def check_money(self, provider: Provider) -> int:
        """Assert that ledger, budgets and usage say what the provider served, at its batch price.

        Returns what was spent, in nano-USD.
        """
        served = [batch["served"] for batch in provider.batches()]
        cost = sum(read * INPUT + written * OUTPUT for read, written in served)
        rows = self.rows("SELECT * FROM ledger")
        assert not [row for row in rows if row["state"] == "reserved"]
        assert sum(row["cost_nano"] or 0 for row in rows) == cost
        for budget in self.rows("SELECT * FROM budgets"):
            assert (budget["spent_nano"], budget["reserved_nano"]) == (cost, 0), budget
        [usage] = self.rows("SELECT sum(cost_nano) AS cost FROM usage")
        assert int(usage["cost"] or 0) == cost
        totals = {row["name"]: row["value"] for row in self.rows("SELECT * FROM batch_totals")}
        assert totals.get("cost_nano", 0) == cost
        return cost


def main() -> None:
    """Take steps in a process of its own. Its settings are JSON on the command line."""
    NativeWeir(json.loads(sys.argv[1])).step()


if __name__ == "__main__":
    main()
