"""Torch modules to ONNX files, and ONNX files to int8."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
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
    halve_first(model)
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


def halve_first(model: onnx.ModelProto) -> None:
    """Turn x · (½ · (1 + erf)) into (x · ½) · (1 + erf): onnxruntime fuses a GELU only in that order."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    halves = {node.output[0]: node for node in model.graph.node if node.op_type == "Mul" and _is_half(node, model)}
    for gelu in model.graph.node:
        halved = next((halves[name] for name in gelu.input if name in halves), None)
        if gelu.op_type != "Mul" or halved is None:
            continue
        half, one_and_erf = halved.input
        if not _comes_of_erf(made_by.get(one_and_erf), made_by):
            continue
        (x,) = (name for name in gelu.input if name != halved.output[0])
        halved.input[:] = [x, half]
        gelu.input[:] = [halved.output[0], one_and_erf]


def _is_half(product: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a product's first factor is the constant one half."""
    constants = (each for each in model.graph.initializer if each.name == product.input[0])
    return any(numpy_helper.to_array(each).size == 1 and numpy_helper.to_array(each) == 0.5 for each in constants)


def _comes_of_erf(node: onnx.NodeProto | None, made_by: Mapping[str, onnx.NodeProto]) -> bool:
    return node is not None and any(name in made_by and made_by[name].op_type == "Erf" for name in node.input)


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
