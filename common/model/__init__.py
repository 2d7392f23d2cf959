"""Bundles: what they promise, that they are intact, and the ONNX segments inside."""
