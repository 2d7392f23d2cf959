"""Torch modules to ONNX files, and ONNX files to int8."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

OPSET = 18  # runs on onnxruntime from 1.14 on

_SMALL = (".score.", ".classify.")  # of ExitHead


def write_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...], file: Path) -> None:
    """Export with the axes ``batch`` and ``sequence`` left open in every input."""
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # misses torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            args=(),
            kwargs=dict(inputs),
            dynamo=True,
            opset_version=OPSET,
            output_names=list(outputs),
            dynamic_shapes={name: {0: batch, 1: sequence} for name in inputs},
            verbose=False,
        )
    assert program is not None  # noqa: S101 - always a program where no file is named
    model = program.model_proto
    _drop_traces(model)
    onnx.save(model, file)


def quantise(source: Path, target: Path) -> None:
    """Turn matrix products to int8, weights per channel; the last ones of an exit head stay float32.

    Seven bits per weight: with eight, processors without VNNI saturate and answer differently from the rest.
    """
    model = onnx.load(source)
    del model.graph.value_info[:]  # the new exporter's shapes do not survive the rewriting of the graph
    onnx.save(model, target)
    logging.getLogger().addFilter(_is_no_advice)
    try:
        quantize_dynamic(
            target,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_small_products(model),
        )
    finally:
        logging.getLogger().removeFilter(_is_no_advice)


def _small_products(model: onnx.ModelProto) -> list[str]:
    """Names of the exit heads' scoring and classifying products: a few rows each, and they decide the answer."""
    small = [node for node in model.graph.node if any(part in name for name in node.input for part in _SMALL)]
    biased = {name for node in small for name in node.input}
    products = [
        node.name
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm"} and (node in small or biased & set(node.output))
    ]
    return [*products, *(f"{name}_MatMul" for name in products)]  # a Gemm is first rewritten under that name


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()


def _drop_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces: they name paths of this machine and are larger than the graph."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
