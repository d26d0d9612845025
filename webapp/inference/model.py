"""One ONNX model: checks inputs against its signature, and computes predictions.

Inputs are rows of numbers. Outputs may be those of a regression (one number per row), or of a
classification: labels and probabilities as from scikit-learn's converter (a tensor, or a map for
each row), or a tensor of probabilities alone.
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


def wrong(reason: str) -> ValidationError:
    """The error for features that a model does not accept."""
    return ValidationError("The request is not valid: features.", details={"features": [reason]})


class NotUsable(Exception):
    """A file cannot be used as a model; the message says why."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one row; `confidence` (0..1) only for a classification."""

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
            # Loaded from its path, not from bytes: for bytes, onnxruntime holds the interpreter's
            # lock, which stalls all streams (300 ms for 250 MB).
            self._session = onnxruntime.InferenceSession(
                path, _options(), providers=["CPUExecutionProvider"]
            )
            if _digest(path) != self.digest:
                raise NotUsable("The file changed while it was read.")
            inputs = self._session.get_inputs()
        except Exception as error:
            raise NotUsable(str(error).strip().splitlines()[0]) from error
        if len(inputs) != 1 or inputs[0].type not in INPUT_TYPES or len(inputs[0].shape) != 2:
            found = ", ".join(f"{value.type} {value.shape}" for value in inputs)
            raise NotUsable(
                f"The model must have one input, a batch of rows of numbers, but has: {found}."
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
        """Raises ValidationError if the row has too many or too few numbers, or numbers that the
        model does not accept."""
        if self.features is not None and len(row) != self.features:
            raise wrong(f"Model {self.name} expects {self.features} numbers, not {len(row)}.")
        least, most = self._limits
        if self._whole:
            if min(row) < least or max(row) >= most or any(value != int(value) for value in row):
                raise wrong(f"The model {self.name} takes whole numbers of its size.")
        elif min(row) < least or max(row) > most:
            raise wrong(f"The model {self.name} takes no numbers that large.")

    def predict(self, rows: Sequence[Sequence[float]], run: Run) -> list[Prediction]:
        """One prediction for each row, in order; rows of the same length go into one call.

        `run` executes only onnxruntime, which releases the interpreter's lock: its thread has a low
        priority, so the event loop must never wait for a lock that it holds.
        """
        by_length: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(place)
        parts = [part for places in by_length.values() for part in self._parts(places)]
        batches = [numpy.array([rows[place] for place in part], dtype=self._type) for part in parts]
        outputs = run(lambda: [self._session.run(None, {self._input: batch}) for batch in batches])
        found: dict[int, Prediction] = {}
        for part, output in zip(parts, outputs, strict=True):
            found.update(zip(part, _read(output, len(part)), strict=True))
        return [found[place] for place in range(len(rows))]

    def _parts(self, places: list[int]) -> list[list[int]]:
        """The rows of each call: all at once, or one by one if the model takes a single row."""
        if self._rows is None:
            return [places]
        if self._rows != 1:
            raise NotUsable(f"The model takes {self._rows} rows at once, and no fewer.")
        return [[place] for place in places]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _options() -> Any:
    """One thread per call, so that the event loop keeps a core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _read(outputs: list[Any], rows: int) -> list[Prediction]:
    first = outputs[0]
    if len(outputs) > 1:
        return [
            Prediction(_plain(label), _confidence(probabilities))
            for label, probabilities in zip(numpy.ravel(first), outputs[1], strict=True)
        ]
    table = numpy.asarray(first).reshape(rows, -1)
    if table.shape[1] == 1:
        return [Prediction(_plain(row[0]), None) for row in table]
    return [Prediction(int(row.argmax()), float(row.max())) for row in table]


def _confidence(probabilities: Any) -> float:
    """The largest of a row's probabilities."""
    if isinstance(probabilities, dict):
        return float(max(probabilities.values()))
    return float(max(numpy.ravel(probabilities)))


def _plain(value: Any) -> float | int | str:
    plain: float | int | str = value.item() if hasattr(value, "item") else value
    return plain
