"""POST /predict and /batch-predict, through the real server, with models made for it."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from scripts import forecast_model
from tests.conftest import MakeWeir
from tests.support import onnx_models
from tests.support.servers import Valkey, Weir, wait_until

KEY = "test_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},narrow:narrow:narrow_key_0123456789",
    "TIERS": "enterprise=100000/minute;narrow=100/minute",
    "TIER_NARROW": "models=sum",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.regression(folder / "sum" / "1.onnx", [1, 1, 1])
    onnx_models.regression(folder / "sum" / "9.onnx", [9, 9, 9])
    onnx_models.regression(folder / "sum" / "10.onnx", [10, 10, 10])
    onnx_models.regression(folder / "single" / "1.onnx", [1, 2], rows=1)
    onnx_models.classification(folder / "labels" / "1.onnx", labels=True)
    onnx_models.classification(folder / "chances" / "1.onnx", labels=False)
    onnx_models.rows_of_the_call(folder / "rows" / "1.onnx")
    onnx_models.logarithm(folder / "log" / "1.onnx")
    (folder / "sum" / "11.onnx").write_bytes(b"no model")
    (folder / "broken").mkdir()
    (folder / "broken" / "1.onnx").write_bytes(b"no model either")
    return folder


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, models: Path) -> Weir:
    return start_shared_weir(**SETTINGS, MODEL_PATH=models)


@pytest.fixture(scope="module")
def with_valkey(start_shared_weir: MakeWeir, models: Path, fresh_shared_valkey: Valkey) -> Weir:
    return start_shared_weir(**SETTINGS, MODEL_PATH=models, REDIS_URL=fresh_shared_valkey.url)


def predict(weir: Weir, features: Any, key: str = KEY, **more: Any) -> requests.Response:
    headers = more.pop("headers", None)
    body = {"features": features, **more}
    return weir.post("/predict", key=key, json=body, headers=headers)


def value(weir: Weir, features: Any, **more: Any) -> Any:
    answer = predict(weir, features, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["prediction"]


def test_the_model_that_ships_computes_what_numpy_computes(start_weir: MakeWeir) -> None:
    weir = start_weir(**SETTINGS)
    weights = np.array([-0.1086332, -0.17190207])
    for length in (1, 2, 3, 10, 50, 100):
        window = np.sin(np.arange(length)) * 50 + 200 + np.arange(length)
        expected = forecast_model.predicted(window, weights)
        assert value(weir, list(window)) == pytest.approx(expected, rel=1e-5)
    answer = predict(weir, [1, 2, 3]).json()
    assert (answer["model"], answer["model_version"], answer["confidence"]) == (
        "forecast", "1", None,
    )  # fmt: skip
    assert predict(weir, list(range(101))).status_code == 422


def test_the_model_that_ships_is_the_script_s() -> None:
    import csv

    with (forecast_model.FOLDER / "passengers.csv").open() as file:
        series = np.array([float(row["passengers"]) for row in csv.DictReader(file)])
    made = forecast_model.model_of(forecast_model.trained(series))
    kept = forecast_model.onnx.load(forecast_model.FOLDER / "1.onnx")
    assert made.graph.node == kept.graph.node
    for ours, theirs in zip(made.graph.initializer, kept.graph.initializer, strict=True):
        assert np.allclose(
            forecast_model.numpy_helper.to_array(ours),
            forecast_model.numpy_helper.to_array(theirs), rtol=1e-5,
        )  # fmt: skip


def test_signatures_are_the_models_own(weir: Weir) -> None:
    assert value(weir, [1, 2, 3], model="sum") == 60
    assert value(weir, [1, 2], model="single") == 5
    labelled = predict(weir, [0, math.log(3)], model="labels").json()
    assert labelled["prediction"] == 20
    assert labelled["confidence"] == pytest.approx(0.75)
    chance = predict(weir, [math.log(3), 0], model="chances").json()
    assert (chance["prediction"], chance["confidence"]) == (0, pytest.approx(0.75))


def test_the_newest_version_that_works_answers(weir: Weir) -> None:
    assert predict(weir, [1, 1, 1], model="sum").json()["model_version"] == "10"
    assert value(weir, [1, 1, 1], model="sum", model_version="9") == 27
    refused = predict(weir, [1, 1, 1], model="sum", model_version="11")
    assert (refused.status_code, refused.json()["error"]) == (404, "ModelNotFound")
    assert predict(weir, [1], model="broken").status_code == 404
    listed = weir.get("/v1/predict/models", key=KEY).json()["models"]
    errors = {(one["model"], one["model_version"]): one["error"] for one in listed}
    assert errors["sum", "11"]
    assert errors["sum", "10"] is None
    versions = [one["model_version"] for one in listed if one["model"] == "sum"]
    assert versions == ["11", "10", "9", "1"]
    assert any("cannot be loaded" in line.get("message", "") for line in weir.logs())
    shown = weir.get("/health/detailed").json()["inference"]
    assert listed == shown


def wait_for(condition: Callable[[], bool]) -> None:
    """The folder is looked through once a second."""
    wait_until(condition, 5, pause=0.1)


def test_versions_come_and_go_without_a_restart(start_weir: MakeWeir, tmp_path: Path) -> None:
    onnx_models.regression(tmp_path / "m" / "1.onnx", [1])
    weir = start_weir(**SETTINGS, MODEL_PATH=tmp_path)
    assert value(weir, [1]) == 1
    onnx_models.regression(tmp_path / "m" / "2.onnx", [2])
    wait_for(lambda: value(weir, [1]) == 2)
    onnx_models.regression(tmp_path / "m" / "2.onnx", [3])
    wait_for(lambda: value(weir, [1]) == 3)
    (tmp_path / "m" / "2.onnx").write_bytes(b"broken by a deployment")
    wait_for(lambda: value(weir, [1]) == 1)
    onnx_models.regression(tmp_path / "m" / "2.onnx", [4])
    wait_for(lambda: value(weir, [1]) == 4)
    (tmp_path / "m" / "2.onnx").unlink()
    wait_for(lambda: value(weir, [1]) == 1)
    onnx_models.regression(tmp_path / "default" / "1.onnx", [7])
    wait_for(lambda: value(weir, [1]) == 7)

    # A file that is still being written is tried again.
    onnx_models.regression(tmp_path / "w" / "1.onnx", [1] * 100)
    whole = (tmp_path / "w" / "1.onnx").read_bytes()

    def version() -> str:
        answer = predict(weir, [1] * 100, model="w")
        return answer.json()["model_version"] if answer.ok else "none"

    wait_for(lambda: version() == "1")
    with (tmp_path / "w" / "2.onnx").open("wb", buffering=0) as file:
        file.write(whole[: len(whole) // 2])

        def tried() -> bool:
            assert version() == "1"
            listed = weir.get("/predict/models", key=KEY).json()["models"]
            newest = next(one for one in listed if one["model"] == "w")
            return bool(newest["error"])

        wait_for(tried)
        file.write(whole[len(whole) // 2 :])
    wait_for(lambda: version() == "2")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_models_work_in_a_thread_that_comes_second(weir: Weir) -> None:
    assert value(weir, [1, 2, 3], model="sum") == 60
    master = weir.process.pid
    [worker] = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    threads = [int(thread.name) for thread in Path(f"/proc/{worker}/task").iterdir()]
    nice = {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
    loop = nice.pop(int(worker))
    # The rest of them, SQLite's too, is as the loop is.
    assert set(nice.values()) == {loop, loop + 10}


def test_a_model_may_be_one_file(start_weir: MakeWeir, tmp_path: Path) -> None:
    onnx_models.regression(tmp_path / "churn.onnx", [2, 2])
    weir = start_weir(**SETTINGS, MODEL_PATH=tmp_path / "churn.onnx")
    answer = predict(weir, [1, 1]).json()
    assert (answer["prediction"], answer["model"], answer["model_version"]) == (4, "churn", "1")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "features"),
        ({"features": []}, "features"),
        ({"features": [1] * 101}, "features"),
        ({"features": ["1"] * 100_000}, "features"),
        ({"features": [10**400]}, "features"),
        ({"features": 1}, "features"),
        ({"features": [1, "2", 3]}, "features"),
        ({"features": [1, True, 3]}, "features"),
        ({"features": [1, None, 3]}, "features"),
        ({"features": [1, 2], "model": "sum"}, "features"),
        ({"features": [1], "model": ""}, "model"),
        ({"features": [1], "feature": [1]}, "feature"),
    ],
)
def test_wrong_bodies_name_their_field(weir: Weir, body: Any, field: str) -> None:
    answer = weir.post("/predict", key=KEY, json=body)
    assert answer.status_code in {400, 422}, answer.text
    if answer.status_code == 422:
        assert field in answer.json()["details"]


@pytest.mark.parametrize(("number", "status"), [("NaN", 400), ("Infinity", 400), ("1e999", 422)])
def test_numbers_are_finite(weir: Weir, number: str, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = weir.post("/predict", key=KEY, data=f'{{"features": [{number}]}}', headers=headers)
    assert answer.status_code == status, answer.text


def test_an_answer_that_is_no_number_is_an_error(weir: Weir) -> None:
    assert value(weir, [1], model="log") == 0
    answer = predict(weir, [0], model="log")
    assert (answer.status_code, answer.json()["error"]) == (422, "ValidationError")
    rows = {"requests": [{"features": [n], "model": "log"} for n in (1, 2, 0)]}
    batch = weir.post("/batch-predict", key=KEY, json=rows)
    assert list(batch.json()["details"]["requests"]) == ["2"]
    assert predict(weir, [1e300, 1, 1], model="sum").status_code == 422


def test_a_batch_is_answered_in_order_in_few_calls(weir: Weir) -> None:
    rows = [{"features": [float(n)] * (1 + n % 2), "model": "rows"} for n in range(10)]
    rows.insert(3, {"features": [1, 2, 3], "model": "sum"})
    answer = weir.post("/batch-predict", key=KEY, json={"requests": rows})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    predictions = [one["prediction"] for one in body["predictions"]]
    assert predictions == [5, 5, 5, 60, 5, 5, 5, 5, 5, 5, 5]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert body["total_latency_ms"] > 0


def test_a_batch_counts_as_one_request_and_names_the_row_at_fault(weir: Weir) -> None:
    ask = {"requests": [{"features": [1, 1, 1], "model": "sum"}] * 50}
    left = [
        int(weir.post("/batch-predict", key=KEY, json=ask).headers["X-RateLimit-Remaining"])
        for _ in range(2)
    ]
    assert left[0] - left[1] == 1
    ask["requests"] = [*ask["requests"][:2], {"features": [1], "model": "sum"}]
    wrong = weir.post("/batch-predict", key=KEY, json=ask)
    assert wrong.status_code == 422
    assert list(wrong.json()["details"]["requests"]) == ["2"]
    for requests_ in ([], [{"features": [1]}] * 101, [{}] * 90_000):
        assert weir.post("/batch-predict", key=KEY, json={"requests": requests_}).status_code == 422


def test_a_key_may_be_kept_to_some_models(weir: Weir) -> None:
    narrow = "narrow_key_0123456789"
    assert predict(weir, [1, 1, 1], key=narrow, model="sum").status_code == 200
    refused = predict(weir, [1], key=narrow, model="rows")
    assert (refused.status_code, refused.json()["error"]) == (403, "ModelNotAllowed")
    listed = weir.get("/predict/models", key=narrow).json()["models"]
    assert {one["model"] for one in listed} == {"sum"}
    assert weir.post("/predict", json={"features": [1]}).status_code == 403


@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_a_batch_are_kept_one_by_one(
    request: pytest.FixtureRequest, valkey: Valkey, shared: bool
) -> None:
    weir = request.getfixturevalue("with_valkey" if shared else "weir")

    def batch(*rows: list[float]) -> tuple[str, list[Any], list[bool]]:
        ask = {"requests": [{"features": row, "model": "sum"} for row in rows]}
        answer = weir.post("/batch-predict", key=KEY, json=ask)
        told = answer.json()["predictions"]
        values = [one["prediction"] for one in told]
        return answer.headers["X-Cache"], values, [one["cached"] for one in told]

    assert batch([1, 1, 4], [2, 2, 4]) == ("MISS", [60, 80], [False, False])
    assert batch([3, 3, 4], [2, 2, 4], [1, 1, 4]) == ("MISS", [100, 80, 60], [False, True, True])
    assert batch([3, 3, 4], [1, 1, 4]) == ("HIT", [100, 60], [True, True])
    if shared:
        valkey.stop()
        assert batch([3, 3, 4], [1, 1, 4]) == ("MISS", [100, 60], [False, False])
        valkey.start()
        wait_until(lambda: batch([3, 3, 4], [1, 1, 4])[0] == "HIT", 20, "the cache's return")


@pytest.mark.parametrize("shared", [False, True])
def test_answers_are_kept_as_others_are(request: pytest.FixtureRequest, shared: bool) -> None:
    weir = request.getfixturevalue("with_valkey" if shared else "weir")
    figures = ("total_requests", "cache_hits", "cache_misses")

    def stats() -> list[int]:
        told = weir.get("/stats", key=KEY).json()
        return [told[name] for name in figures]

    def steady() -> list[int]:
        """Once the last request of another test is in them: each worker counts once a second."""
        seen = stats()
        time.sleep(1.2)
        return seen if stats() == seen else []

    before = wait_until(steady)
    first, second = (predict(weir, [1, 2, 5], model="sum") for _ in range(2))
    assert (first.json()["cached"], first.headers["X-Cache"]) == (False, "MISS")
    assert (second.json()["cached"], second.headers["X-Cache"]) == (True, "HIT")
    assert second.headers["Age"] == "0"
    assert predict(weir, [1, 2, 5.5], model="sum").headers["X-Cache"] == "MISS"
    headers = {"Cache-Control": "no-cache"}
    fresh = predict(weir, [1, 2, 5], model="sum", headers=headers)
    assert fresh.headers["X-Cache"] == "BYPASS"
    wait_until(lambda: [now - then for now, then in zip(stats(), before, strict=True)] == [4, 1, 2])
