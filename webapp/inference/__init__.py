"""Inference on the operator's own models, in ONNX."""

import os

# Read when onnxruntime is first imported. Otherwise it sends telemetry to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
