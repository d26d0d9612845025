"""Clients name as many models as they like: what is counted and shown of them is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp.metering import target_activity
from webapp.metering.overview import MAX_TARGETS, Overview
from webapp.metering.ranges import RANGES
from webapp.metering.target_activity import CALLED
from webapp.observability.metrics import OTHER, ModelLabels
from webapp.storage import migrations
from webapp.storage.database import Database

MODELS = 300


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/weir.db")
    migrations.upgrade(database)
    return database


def test_only_so_many_models_have_figures_of_their_own(database: Database) -> None:
    counters = [{"failed_calls": "failed"}.get(name, name) for name in CALLED]
    rows = [
        {"key_id": 1, "endpoint": "/chat", "provider": provider, "model": f"model-{number}"}
        | dict.fromkeys(counters, 1)
        | {"cost_nano": number}
        for provider in ("first", "second")
        for number in range(MODELS)
    ]
    database.write(lambda connection: target_activity.add_calls(connection, rows))
    figures = Overview(database).figures(RANGES["1h"])
    assert len(figures.targets) == MAX_TARGETS + 2
    assert {one.model for one in figures.targets if one.total.calls > 1} == {OTHER}
    assert figures.now.calls == sum(one.total.calls for one in figures.targets) == 2 * MODELS
    for one in figures.targets:
        assert sum(step.cost_nano for step in one.steps) == one.total.cost_nano
        assert one.total.cost_nano


def test_a_model_has_a_name_of_its_own_once_it_has_answered_as_long_as_there_is_room() -> None:
    models = ModelLabels({("openai", "configured")}, free=2)
    assert models.of("openai", "configured") == ("openai", "configured")
    assert models.of("openai", "first") == ("openai", OTHER)
    for name, counted in (("first", "first"), ("second", "second"), ("third", OTHER)):
        assert models.of("openai", name, answered=True) == ("openai", counted)
    assert models.of("openai", "second") == ("openai", "second")
