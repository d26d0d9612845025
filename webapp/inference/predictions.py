"""Predictions through the cache: each row is cached separately, under its model's digest."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from webapp import json_codec
from webapp.errors import ValidationError
from webapp.inference.registry import Registry
from webapp.llm.calls import CacheUse

if TYPE_CHECKING:
    from webapp.inference.model import Model


class Cache(Protocol):
    """Stores predictions for `ttl` seconds."""

    ttl: int

    def get_many(self, keys: Sequence[str]) -> list[dict[str, Any] | None]: ...

    def put_many(self, entries: Mapping[str, dict[str, Any]]) -> None: ...


@dataclass(frozen=True, slots=True)
class PredictionInput:
    """One row for a model; None is the default model, or its newest version."""

    features: tuple[float, ...]
    model: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """The result of one row; `age` (seconds) is None unless it came from the cache."""

    value: float | int | str
    confidence: float | None
    model: str
    version: str
    age: float | None


class Predictions:
    """Predicts rows, from the cache or with models."""

    def __init__(self, registry: Registry, cache: Cache) -> None:
        self.registry = registry
        self._cache = cache

    def predict(self, rows: Sequence[PredictionInput], use: CacheUse) -> list[Predicted]:
        """One result for each row, in order.

        Raises ModelNotFound, ValidationError and ProviderFailed for the whole batch; the error's
        `row` is the index of the row at fault.
        """
        models = [self._model(place, row) for place, row in enumerate(rows)]
        keys = [
            _key(use.scope, model.digest, row.features)
            for model, row in zip(models, rows, strict=True)
        ]
        found: dict[int, Predicted] = {}
        for place, (model, entry) in enumerate(zip(models, self._cached(keys, use), strict=True)):
            if entry is not None:
                age = time.time() - entry["at"]
                found[place] = Predicted(
                    entry["value"], entry["confidence"], model.name, model.version, age
                )
        missing = [place for place in range(len(rows)) if place not in found]
        entries: dict[str, dict[str, Any]] = {}
        for model in dict.fromkeys(models[place] for place in missing):
            places = [place for place in missing if models[place] is model]
            answers = self.registry.predict(model, [rows[place].features for place in places])
            for place, answer in zip(places, answers, strict=True):
                value, confidence = answer.value, answer.confidence
                if not _is_finite(value) or not _is_finite(confidence):
                    raise _no_answer(model.name, place)
                found[place] = Predicted(value, confidence, model.name, model.version, None)
                entries[keys[place]] = {
                    "value": value, "confidence": confidence, "at": time.time(),
                }  # fmt: skip
        if use.write and entries:
            self._cache.put_many(entries)
        return [found[place] for place in range(len(rows))]

    def _model(self, place: int, row: PredictionInput) -> Model:
        try:
            model = self.registry.find(row.model, row.version)
            model.check(row.features)
        except Exception as error:
            error.row = place  # type: ignore[attr-defined]
            raise
        return model

    def _cached(self, keys: Sequence[str], use: CacheUse) -> list[dict[str, Any] | None]:
        """The entry of each key, if it is cached and recent enough."""
        if not use.read:
            return [None] * len(keys)
        oldest = self._cache.ttl if use.max_age is None else min(self._cache.ttl, use.max_age)
        since = time.time() - oldest
        return [
            entry if entry is not None and entry["at"] >= since else None
            for entry in self._cache.get_many(keys)
        ]


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _no_answer(model: str, row: int) -> ValidationError:
    details = {"features": [f"Model {model} gives no finite result for these features."]}
    error = ValidationError("The request is not valid: features.", details=details)
    error.row = row  # type: ignore[attr-defined]
    return error


def _key(scope: str | None, digest: str, features: tuple[float, ...]) -> str:
    shape = json_codec.dumps(["predict", scope, digest, features])
    return hashlib.sha256(shape).hexdigest()
