"""One ONNX model: what its own signature says of inputs and outputs, and its answers.

Inputs are rows of numbers. Outputs may be those of a regression (one number a row), or of a
classification: labels and probabilities as scikit-learn's converter gives them (a tensor, or a map
for each row), or a tensor of probabilities alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnxruntime

from webapp.errors import ValidationError

INPUT_TYPES: dict[str, Any] = {
    "tensor(float)": numpy.float32,
    "tensor(double)": numpy.float64,
    "tensor(int64)": numpy.int64,
    "tensor(int32)": numpy.int32,
}

Outputs = list[list[Any]]
Run = Callable[[Callable[[], Outputs]], Outputs]


def wrong(said: str) -> ValidationError:
    """The error of features that a model cannot take."""
    return ValidationError("The request is not valid: features.", details={"features": [said]})


class NotUsable(Exception):
    """Why a file cannot be used as a model."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one row; `confidence` (0..1) only of a class."""

    value: float | int | str
    confidence: float | None


class Model:
    """A loaded file. `digest` is the SHA-256 of its content."""

    def __init__(self, name: str, version: str, path: Path) -> None:
        """Raises NotUsable."""
        self.name = name
        self.version = version
        try:
            self.digest = _digest(path)
            # Not from its bytes: to read those, onnxruntime would keep the interpreter's lock, and
            # no stream would go on (300 ms for 250 MB).
            self._session = onnxruntime.InferenceSession(
                path, _options(), providers=["CPUExecutionProvider"]
            )
            if _digest(path) != self.digest:
                raise NotUsable("The file changed while it was read.")
            inputs = self._session.get_inputs()
        except Exception as error:
            raise NotUsable(str(error).strip().splitlines()[0]) from error
        if len(inputs) != 1 or inputs[0].type not in INPUT_TYPES or len(inputs[0].shape) != 2:
            told = ", ".join(f"{one.type} {one.shape}" for one in inputs)
            raise NotUsable(
                f"The model must have one input, a batch of rows of numbers, but has: {told}."
            )
        self._input = inputs[0].name
        self._type = INPUT_TYPES[inputs[0].type]
        self._whole = numpy.issubdtype(self._type, numpy.integer)
        limits = numpy.iinfo(self._type) if self._whole else numpy.finfo(self._type)
        self._limits = (float(limits.min), float(limits.max))
        rows, columns = inputs[0].shape
        self._rows = rows if isinstance(rows, int) and rows > 0 else None
        self.features = columns if isinstance(columns, int) and columns > 0 else None
        """How many numbers a row must have; None for any."""

    def check(self, row: Sequence[float]) -> None:
        """Raises ValidationError where the row has too many numbers, too few, or others than the
        model takes."""
        if self.features is not None and len(row) != self.features:
            raise wrong(f"Model {self.name} expects {self.features} numbers, not {len(row)}.")
        least, most = self._limits
        if self._whole:
            if min(row) < least or max(row) >= most or any(value != int(value) for value in row):
                raise wrong(f"The model {self.name} takes whole numbers of its size.")
        elif min(row) < least or max(row) > most:
            raise wrong(f"The model {self.name} takes no numbers that large.")

    def predict(self, rows: Sequence[Sequence[float]], run: Run) -> list[Prediction]:
        """One prediction for each row, in order; rows of one length go into one call.

        Only onnxruntime works in `run`, without the interpreter's lock: what it does comes second,
        and nobody may have to wait for a lock that it has.
        """
        by_length: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(place)
        parts = [part for places in by_length.values() for part in self._parts(places)]
        batches = [numpy.array([rows[place] for place in part], dtype=self._type) for part in parts]
        outputs = run(lambda: [self._session.run(None, {self._input: one}) for one in batches])
        found: dict[int, Prediction] = {}
        for part, told in zip(parts, outputs, strict=True):
            found.update(zip(part, _read(told, len(part)), strict=True))
        return [found[place] for place in range(len(rows))]

    def _parts(self, places: list[int]) -> list[list[int]]:
        """As many as a call takes; of a model for a fixed number of rows, that many."""
        if self._rows is None:
            return [places]
        if self._rows != 1:
            raise NotUsable(f"The model takes {self._rows} rows at once, and no fewer.")
        return [[place] for place in places]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _options() -> Any:
    """One thread a call: what runs beside gevent's loop must leave it a core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _read(outputs: list[Any], rows: int) -> list[Prediction]:
    first = outputs[0]
    if len(outputs) > 1:
        return [
            Prediction(_plain(label), _confidence(told))
            for label, told in zip(numpy.ravel(first), outputs[1], strict=True)
        ]
    table = numpy.asarray(first).reshape(rows, -1)
    if table.shape[1] == 1:
        return [Prediction(_plain(row[0]), None) for row in table]
    return [Prediction(int(row.argmax()), float(row.max())) for row in table]


def _confidence(told: Any) -> float:
    """The largest of a row's probabilities."""
    values = told.values() if isinstance(told, dict) else numpy.ravel(told)
    return float(max(values))


def _plain(value: Any) -> float | int | str:
    plain: float | int | str = value.item() if hasattr(value, "item") else value
    return plain
