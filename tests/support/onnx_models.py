"""Small ONNX models for tests, each with a predictable answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Node = onnx.NodeProto


def save(
    path: Path,
    nodes: Sequence[Node],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, np.ndarray],
    shape: Sequence[Any],
) -> None:
    """Write a model whose input `x` has this shape; `outputs` are (type, shape) by name."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, *told) for name, told in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written and then renamed, as deployments do.
    draft = path.with_suffix(".part")
    onnx.save(model, draft)
    draft.rename(path)


def regression(path: Path, weights: Sequence[float], *, rows: Any = "rows") -> None:
    """The weighted sum of the numbers in a row."""
    save(
        path,
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        {"y": (TensorProto.FLOAT, [rows, 1])},
        {"weights": np.array(weights, dtype=np.float32).reshape(-1, 1)},
        [rows, len(weights)],
    )


def classification(path: Path, *, labels: bool) -> None:
    """Softmax over two numbers, with labels 10 and 20, or only with probabilities."""
    nodes = [helper.make_node("Softmax", ["x"], ["probabilities"], axis=1)]
    outputs: dict[str, tuple[int, list[Any]]] = {}
    if labels:
        nodes += [
            helper.make_node("ArgMax", ["x"], ["place"], axis=1, keepdims=0),
            helper.make_node("Gather", ["labels", "place"], ["label"]),
        ]
        outputs["label"] = (TensorProto.INT64, ["rows"])
    outputs["probabilities"] = (TensorProto.FLOAT, ["rows", 2])
    constants = {"labels": np.array([10, 20], dtype=np.int64)} if labels else {}
    save(path, nodes, outputs, constants, ["rows", 2])


def rows_of_the_call(path: Path) -> None:
    """Returns, for each row, the number of rows in the call."""
    save(
        path,
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["rows"]),
            helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["sum", "nothing"], ["zeros"]),
            helper.make_node("Add", ["zeros", "count"], ["y"]),
        ],
        {"y": (TensorProto.FLOAT, ["n", 1])},
        {
            "zero": np.array(0, dtype=np.int64),
            "axis": np.array([1], dtype=np.int64),
            "nothing": np.array(0, dtype=np.float32),
        },
        ["n", "columns"],
    )


def logarithm(path: Path) -> None:
    """The logarithm of a number, which is not finite for 0."""
    node = helper.make_node("Log", ["x"], ["y"])
    save(path, [node], {"y": (TensorProto.FLOAT, ["rows", 1])}, {}, ["rows", 1])
