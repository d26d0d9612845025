"""Trains models/forecast/1.onnx, the included model, on the series in the same folder.

python -m scripts.forecast_model
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).resolve().parents[1] / "models" / "forecast"
LONGEST = 36  # values; the longest window in training
OPSET, IR_VERSION = 17, 9


def main() -> None:
    """Train and write the model."""
    with (FOLDER / "passengers.csv").open() as file:
        series = np.array([float(row["passengers"]) for row in csv.DictReader(file)])
    onnx.save(model_of(trained(series)), FOLDER / "1.onnx")
    print(FOLDER / "1.onnx", trained(series))


def described(window: np.ndarray) -> np.ndarray:
    """The features of a window: the last value's distance from the mean, and the slope."""
    places = np.arange(len(window)) - (len(window) - 1) / 2
    spread = max(float((places**2).sum()), 1.0)
    slope = float(((window - window.mean()) * places).sum()) / spread
    return np.array([window[-1] - window.mean(), slope])


def trained(series: np.ndarray) -> np.ndarray:
    """The weights of the features; their sum predicts the difference to the next value."""
    windows = [
        (series[start : start + length], series[start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(series) - length)
    ]
    inputs = np.array([described(window) for window, _ in windows])
    differences = np.array([following - window[-1] for window, following in windows])
    weights, *_ = np.linalg.lstsq(inputs, differences, rcond=None)
    return weights


def predicted(window: np.ndarray, weights: np.ndarray) -> float:
    """The model's computation in NumPy."""
    return float(window[-1] + described(window) @ weights)


def model_of(weights: np.ndarray) -> onnx.ModelProto:
    """The same computation as ONNX, for any number of windows of one length."""

    def constant(name: str, value: object, kind: type) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, dtype=kind), name)

    node = helper.make_node
    nodes = [
        node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=1),
        node("Shape", ["features"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"], axis=0),
        node("Sub", ["length", "one"], ["last_place"]),
        node("Gather", ["features", "last_place"], ["last_values"], axis=1),
        node("Unsqueeze", ["last_values", "axis_1"], ["last"]),
        node("Cast", ["length"], ["count"], to=TensorProto.FLOAT),
        node("Range", ["zero_f", "count", "one_f"], ["places"]),
        node("ReduceMean", ["places"], ["middle"], axes=[0], keepdims=1),
        node("Sub", ["places", "middle"], ["centred"]),
        node("Mul", ["centred", "centred"], ["squares"]),
        node("ReduceSum", ["squares"], ["sum_of_squares"], keepdims=1),
        node("Max", ["sum_of_squares", "one_f"], ["spread"]),
        node("Sub", ["features", "mean"], ["deviations"]),
        node("Mul", ["deviations", "centred"], ["products"]),
        node("ReduceSum", ["products", "axis_1"], ["covariance"], keepdims=1),
        node("Div", ["covariance", "spread"], ["slope"]),
        node("Sub", ["last", "mean"], ["distance"]),
        node("Mul", ["distance", "weight_distance"], ["by_distance"]),
        node("Mul", ["slope", "weight_slope"], ["by_slope"]),
        node("Add", ["last", "by_distance"], ["so_far"]),
        node("Add", ["so_far", "by_slope"], ["next"]),
    ]
    graph = helper.make_graph(
        nodes,
        "forecast",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["windows", "values"])],
        [helper.make_tensor_value_info("next", TensorProto.FLOAT, ["windows", 1])],
        [
            constant("one", 1, np.int64),
            constant("axis_1", [1], np.int64),
            constant("zero_f", 0, np.float32),
            constant("one_f", 1, np.float32),
            constant("weight_distance", weights[0], np.float32),
            constant("weight_slope", weights[1], np.float32),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
