"""Inference on the operator's own models, in ONNX."""
