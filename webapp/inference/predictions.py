"""Predictions through the cache: each row is kept by itself, under its model's content."""

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
    """Where predictions are kept for `ttl` seconds."""

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
    """What came of one row; `age` (seconds) is None unless the cache answered."""

    value: float | int | str
    confidence: float | None
    model: str
    version: str
    age: float | None


class Predictions:
    """Answers rows from the cache or from models."""

    def __init__(self, registry: Registry, cache: Cache) -> None:
        self.registry = registry
        self._cache = cache

    def predict(self, rows: Sequence[PredictionInput], use: CacheUse) -> list[Predicted]:
        """One answer for each row, in order.

        Raises ModelNotFound, ValidationError and ProviderFailed, all before or instead of any
        answer; `row` of an error is the place of the row at fault.
        """
        models = [self._model(place, row) for place, row in enumerate(rows)]
        keys = [
            _key(use.scope, model.digest, row.features)
            for model, row in zip(models, rows, strict=True)
        ]
        found: dict[int, Predicted] = {}
        for place, (model, kept) in enumerate(zip(models, self._kept(keys, use), strict=True)):
            if kept is not None:
                age = time.time() - kept["at"]
                found[place] = Predicted(
                    kept["value"], kept["confidence"], model.name, model.version, age
                )
        missing = [place for place in range(len(rows)) if place not in found]
        entries: dict[str, dict[str, Any]] = {}
        for model in dict.fromkeys(models[place] for place in missing):
            places = [place for place in missing if models[place] is model]
            answers = self.registry.predict(model, [rows[place].features for place in places])
            for place, one in zip(places, answers, strict=True):
                if not _is_finite(one.value) or not _is_finite(one.confidence):
                    raise _no_answer(model.name, place)
                found[place] = Predicted(one.value, one.confidence, model.name, model.version, None)
                entries[keys[place]] = {
                    "value": one.value, "confidence": one.confidence, "at": time.time(),
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

    def _kept(self, keys: Sequence[str], use: CacheUse) -> list[dict[str, Any] | None]:
        """What is kept under each key and young enough."""
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
    said = {"features": [f"Model {model} gives no finite result for these features."]}
    error = ValidationError("The request is not valid: features.", details=said)
    error.row = row  # type: ignore[attr-defined]
    return error


def _key(scope: str | None, digest: str, features: tuple[float, ...]) -> str:
    shape = json_codec.dumps(["predict", scope, digest, features])
    return hashlib.sha256(shape).hexdigest()
