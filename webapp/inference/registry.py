"""The models of MODEL_PATH: listed again every second, loaded when they are first asked.

A new version is the newest from then on; a file that was replaced is loaded again; one that cannot
be loaded is reported, and the version before it answers.
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
    """Finds models. One thing runs at a time, in the background: streams come first, and no more
    than one core is taken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listed_at = float("-inf")
        self._files: dict[str, list[File]] = {}
        self._loaded: dict[tuple[str, str], tuple[Stamp, Model]] = {}
        self._broken: dict[tuple[str, str], tuple[Stamp, str]] = {}
        self._running = BoundedSemaphore()
        self._background = LowPriorityWorker()

    def find(self, name: str | None, version: str | None) -> Model:
        """The model: the only one or `default` where no name is given, its newest version where no
        version is. Raises ModelNotFound."""
        files = self._list()
        wanted = name or (DEFAULT if DEFAULT in files else next(iter(files), ""))
        if wanted not in files:
            raise ModelNotFound(f"Model {wanted!r} not found. See GET /predict/models.")
        versions = [one for one in files[wanted] if version in {None, one.version}]
        for file in versions:
            model = self._load(file)
            if model is not None:
                return model
        which = f" has no version {version!r}" if version else " has no usable version"
        raise ModelNotFound(f"Model {wanted!r}{which}. See GET /predict/models.")

    def predict(self, model: Model, rows: Sequence[Sequence[float]]) -> list[Prediction]:
        """Ask a model, in the background. Raises ProviderFailed where it cannot answer."""
        with telemetry.predicting(model.name, len(rows)), self._running:
            try:
                return model.predict(rows, self._background.run)
            except Exception as error:
                log.exception("Model %s %s failed", model.name, model.version)
                raise ProviderFailed(f"Model {model.name} failed: {error}") from error

    def listed(self) -> list[dict[str, object]]:
        """Every version, the newest of each model first: name, version, and of one that was tried
        and cannot be loaded the error."""
        return [
            {"model": file.name, "model_version": file.version, "error": self._error_of(file)}
            for files in self._list().values()
            for file in files
        ]

    def _list(self) -> dict[str, list[File]]:
        if time.monotonic() - self._listed_at >= LISTING_TTL:
            self._listed_at = time.monotonic()
            self._files = _files(self._path)
            there = {(one.name, one.version) for files in self._files.values() for one in files}
            # What was taken away leaves the memory too.
            self._loaded = {place: one for place, one in self._loaded.items() if place in there}
        return self._files

    def _load(self, file: File) -> Model | None:
        """The model of a file; None where it cannot be loaded."""
        place = (file.name, file.version)
        stamp, model = self._loaded.get(place, (None, None))
        if model is not None and stamp == file.stamp:
            return model
        if self._error_of(file):
            return None
        with self._running:
            # Others may have waited for the same.
            if self._loaded.get(place, (None, None))[0] != file.stamp and not self._error_of(file):
                self._try_to_load(file)
        return self._loaded[place][1] if place in self._loaded else None

    def _try_to_load(self, file: File) -> None:
        place = (file.name, file.version)
        try:
            model = self._background.run(lambda: _loaded(file))
        except Exception as error:  # noqa: BLE001 whatever it is, the file cannot be used
            log.error("Model %s %s cannot be loaded: %s", file.name, file.version, error)
            self._broken[place] = (file.stamp, str(error))
            self._loaded.pop(place, None)
            return
        self._loaded[place] = (file.stamp, model)
        self._broken.pop(place, None)

    def _error_of(self, file: File) -> str | None:
        stamp, error = self._broken.get((file.name, file.version), (None, None))
        return error if stamp == file.stamp else None


def _loaded(file: File) -> Model:
    # Imported here: what serves no model need not have it in memory.
    from webapp.inference.model import Model

    return Model(file.name, file.version, file.path)


def _files(path: Path) -> dict[str, list[File]]:
    """The versions of each model, the newest first; models by name."""
    if path.is_file():
        return {path.stem: [File(path.stem, "1", path, _stamp(path))]}
    found: dict[str, list[File]] = {}
    for file in sorted(path.glob("*/*.onnx")):
        try:
            one = File(file.parent.name, file.stem, file, _stamp(file))
        except OSError:
            continue  # it was taken away meanwhile
        found.setdefault(one.name, []).append(one)
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
