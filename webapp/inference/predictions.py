"""Predictions through the cache: each row is kept by itself, under its model's content."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from webapp import fastjson
from webapp.errors import ValidationError
from webapp.inference.registry import Registry


class Cache(Protocol):
    """Where predictions are kept for `ttl` seconds."""

    ttl: int

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, entry: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One row for a model; None is the default model, or its newest version."""

    features: tuple[float, ...]
    model: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How a request uses the cache: whose answers, whether it reads, whether it writes, and how
    old (seconds) an answer may be."""

    scope: str | None = None
    read: bool = True
    write: bool = True
    max_age: int | None = None


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

    def predict(self, rows: Sequence[Asked], use: CacheUse) -> list[Predicted]:
        """One answer for each row, in order.

        Raises ModelNotFound, ValidationError and ProviderFailed, all before or instead of any
        answer; `row` of an error is the place of the row at fault.
        """
        found: dict[int, Predicted] = {}
        missing: dict[int, tuple[Any, str]] = {}
        for place, row in enumerate(rows):
            try:
                model = self.registry.find(row.model, row.version)
                model.check(row.features)
            except Exception as error:
                error.row = place  # type: ignore[attr-defined]
                raise
            key = _key(use.scope, model.digest, row.features)
            kept = self._kept(key, use)
            if kept is not None:
                age = time.time() - kept["at"]
                found[place] = Predicted(
                    kept["value"], kept["confidence"], model.name, model.version, age
                )
            else:
                missing[place] = (model, key)
        for model in {id(model): model for model, _ in missing.values()}.values():
            places = [place for place, (wanted, _) in missing.items() if wanted is model]
            answers = self.registry.predict(model, [rows[place].features for place in places])
            for place, one in zip(places, answers, strict=True):
                if isinstance(one.value, float) and not math.isfinite(one.value):
                    raise _no_answer(model.name, place)
                found[place] = Predicted(one.value, one.confidence, model.name, model.version, None)
                if use.write:
                    entry = {"value": one.value, "confidence": one.confidence, "at": time.time()}
                    self._cache.put(missing[place][1], entry)
        return [found[place] for place in range(len(rows))]

    def _kept(self, key: str, use: CacheUse) -> dict[str, Any] | None:
        if not use.read:
            return None
        entry = self._cache.get(key)
        if entry is None:
            return None
        oldest = self._cache.ttl if use.max_age is None else min(self._cache.ttl, use.max_age)
        return entry if time.time() - entry["at"] <= oldest else None


def _no_answer(model: str, row: int) -> ValidationError:
    said = {"features": [f"The answer of the model {model} to these is no finite number."]}
    error = ValidationError("The request is not valid: features.", details=said)
    error.row = row  # type: ignore[attr-defined]
    return error


def _key(scope: str | None, digest: str, features: tuple[float, ...]) -> str:
    shape = fastjson.dumps(["predict", scope, digest, features])
    return hashlib.sha256(shape).hexdigest()
