"""The models of MODEL_PATH: the list is refreshed every second, models are loaded on first use.

A new version is used from then on, and a replaced file is loaded again. If a file cannot be loaded,
its error is reported and the previous version is used.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gevent.lock import BoundedSemaphore

from webapp.errors import ModelNotFound, ProviderFailed
from webapp.observability import telemetry
from webapp.threads import LowPriorityWorker

if TYPE_CHECKING:
    from webapp.inference.model import Model, Prediction

log = logging.getLogger(__name__)

LISTING_TTL = 1.0  # seconds
DEFAULT = "default"

Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class File:
    """A version of a model; `stamp` changes when the file does."""

    name: str
    version: str
    path: Path
    stamp: Stamp


class Registry:
    """Finds and runs models. Loads and predictions run one at a time, in a low-priority thread, so
    that they take at most one core and do not slow streams down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listed_at = float("-inf")
        self._files: dict[str, list[File]] = {}
        self._loaded: dict[tuple[str, str], tuple[Stamp, Model]] = {}
        self._broken: dict[tuple[str, str], tuple[Stamp, str]] = {}
        self._running = BoundedSemaphore()
        self._background = LowPriorityWorker()

    def find(self, name: str | None, version: str | None) -> Model:
        """The model. Without a name: `default`, or else the first one; without a version: the
        newest. Raises ModelNotFound."""
        files = self._list()
        wanted = name or (DEFAULT if DEFAULT in files else next(iter(files), ""))
        if wanted not in files:
            raise ModelNotFound(f"Model {wanted!r} not found. See GET /predict/models.")
        versions = [file for file in files[wanted] if version in {None, file.version}]
        for file in versions:
            model = self._load(file)
            if model is not None:
                return model
        which = f" has no version {version!r}" if version else " has no usable version"
        raise ModelNotFound(f"Model {wanted!r}{which}. See GET /predict/models.")

    def predict(self, model: Model, rows: Sequence[Sequence[float]]) -> list[Prediction]:
        """Run a model, in the background. Raises ProviderFailed if it fails."""
        with telemetry.predicting(model.name, len(rows)), self._running:
            try:
                return model.predict(rows, self._background.run)
            except Exception as error:
                log.exception("Model %s %s failed", model.name, model.version)
                raise ProviderFailed(f"Model {model.name} failed: {error}") from error

    def listed(self) -> list[dict[str, object]]:
        """All versions, the newest of each model first: name, version, and the error if it could
        not be loaded."""
        return [
            {"model": file.name, "model_version": file.version, "error": self._error_of(file)}
            for files in self._list().values()
            for file in files
        ]

    def _list(self) -> dict[str, list[File]]:
        if time.monotonic() - self._listed_at >= LISTING_TTL:
            self._listed_at = time.monotonic()
            self._files = _files(self._path)
            existing = {(f.name, f.version) for files in self._files.values() for f in files}
            # Drop the models whose files were removed.
            self._loaded = {key: value for key, value in self._loaded.items() if key in existing}
        return self._files

    def _load(self, file: File) -> Model | None:
        """The model of a file; None if it cannot be loaded."""
        key = (file.name, file.version)
        stamp, model = self._loaded.get(key, (None, None))
        if model is not None and stamp == file.stamp:
            return model
        if self._error_of(file):
            return None
        with self._running:
            # Another request may have loaded it meanwhile.
            if self._loaded.get(key, (None, None))[0] != file.stamp and not self._error_of(file):
                self._try_to_load(file)
        return self._loaded[key][1] if key in self._loaded else None

    def _try_to_load(self, file: File) -> None:
        key = (file.name, file.version)
        try:
            model = self._background.run(lambda: _loaded(file))
        except Exception as error:  # noqa: BLE001 any error means that the file cannot be used
            log.error("Model %s %s cannot be loaded: %s", file.name, file.version, error)
            self._broken[key] = (file.stamp, str(error))
            self._loaded.pop(key, None)
            return
        self._loaded[key] = (file.stamp, model)
        self._broken.pop(key, None)

    def _error_of(self, file: File) -> str | None:
        stamp, error = self._broken.get((file.name, file.version), (None, None))
        return error if stamp == file.stamp else None


def _loaded(file: File) -> Model:
    # Imported here to save memory while no model is used.
    from webapp.inference.model import Model

    return Model(file.name, file.version, file.path)


def _files(path: Path) -> dict[str, list[File]]:
    """The versions of each model, the newest first; models by name."""
    if path.is_file():
        return {path.stem: [File(path.stem, "1", path, _stamp(path))]}
    found: dict[str, list[File]] = {}
    for file in sorted(path.glob("*/*.onnx")):
        try:
            version = File(file.parent.name, file.stem, file, _stamp(file))
        except OSError:
            continue  # it was removed meanwhile
        found.setdefault(version.name, []).append(version)
    for files in found.values():
        files.sort(key=lambda file: _order(file.version), reverse=True)
    return found


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _order(version: str) -> list[tuple[int, int, str]]:
    """`10` is newer than `9`, and `1.10` than `1.9`."""
    return [
        (1, int(part), "") if part.isdecimal() else (0, 0, part)
        for part in re.split(r"(\d+)", version)
        if part
    ]
