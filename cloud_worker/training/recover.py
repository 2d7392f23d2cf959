"""The torch network back out of a bundle's ONNX segments, for a bundle whose training run is lost.

Weights of an int8 bundle come back as they are served: rounded. Exit heads that were not exported stay untrained.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from cloud_worker.training.network import MultiExitNetwork
from common.errors import ArtifactError
from common.model.bundle import Bundle

_PRODUCTS = ("MatMul", "MatMulInteger")
_AFTER_A_PRODUCT = ("Mul", "Cast")  # of whole numbers: their scale, then the bias
_EMBEDDINGS = "backbone.embeddings."


def recover_weights(bundle: Bundle, network: MultiExitNetwork) -> None:
    """Load a bundle's weights into a network of its shape.

    Raises:
        ArtifactError: Weights are missing, or are of another shape.
    """
    found = dict(_embedding_weights(bundle.path(bundle.manifest.embedding)))
    for entry in bundle.manifest.segments:
        found |= _layer_weights(bundle.path(entry.file))
    exported = {exit_.layer - 1 for exit_ in bundle.manifest.exits}
    try:
        missing, unexpected = network.load_state_dict(found, strict=False)
    except RuntimeError as exc:
        raise ArtifactError(f"{bundle.directory}: the backbone's config.json is of another network: {exc}") from exc
    lacking = [name for name in missing if not _is_head_beside(name, exported)]
    if lacking or unexpected:
        raise ArtifactError(f"{bundle.directory}: the segments lack {lacking}, and hold {unexpected} besides")


def position_rows(bundle: Bundle) -> int:
    """Tell how many positions the exported embedding knows; export cuts what the longest input does not need."""
    weights = dict(_embedding_weights(bundle.path(bundle.manifest.embedding)))
    return len(weights[_EMBEDDINGS + "position_embeddings.weight"])


def _is_head_beside(name: str, exported: set[int]) -> bool:
    head, _, rest = name.partition(".")
    return head == "heads" and int(rest.split(".")[0]) not in exported


def _embedding_weights(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Tables by name; those of int8 rows and a scale per row, which have no names, by their place: words first."""
    graph, arrays = _read(file)
    for name, array in arrays.items():
        if name.endswith((".weight", ".bias")):
            yield "backbone." + name.removeprefix("backbone.0."), _tensor(array)
    tables = ("word_embeddings", "position_embeddings")
    rows = [node.input[0] for node in graph.node if arrays.get(_first(node), _NOTHING).dtype == np.int8]
    scales = [
        node.input[0]
        for node in graph.node
        if node.op_type.startswith("Gather") and arrays[_first(node)].shape[1:] == (1,)
    ]
    for table, row, scale in zip(tables, rows, scales, strict=bool(rows)):
        yield f"{_EMBEDDINGS}{table}.weight", _tensor(arrays[row] * arrays[scale])


_NOTHING = np.empty(0)


def _first(node: onnx.NodeProto) -> str:
    return str(node.input[0])


def _layer_weights(file: Path) -> dict[str, Tensor]:
    """Weights of layers and heads: norms by their own names, matrices by the bias that is added to their product."""
    graph, arrays = _read(file)
    makers = {output: node for node in graph.node for output in node.output}
    found = {
        name.removeprefix("network."): _tensor(array)
        for name, array in arrays.items()
        if name.startswith("network.") and array.ndim == 1
    }
    for node in graph.node:
        bias = next((name for name in node.input if name.endswith(".bias") and name in arrays), None)
        product = None if bias is None else _product(node, makers)
        if bias is not None and product is not None:
            weight = _matrix(product, arrays)
            found[bias.removeprefix("network.").removesuffix("bias") + "weight"] = _tensor(weight)
    return found


def _product(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Find the product that a node adds a bias to."""
    if node.op_type == "Gemm":
        return node
    if node.op_type != "Add":
        return None
    made = next((makers[name] for name in node.input if name in makers), None)
    while made is not None and made.op_type in _AFTER_A_PRODUCT:
        made = makers.get(_first(made))
    return made if made is not None and made.op_type in _PRODUCTS else None


def _matrix(product: onnx.NodeProto, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Give the right factor [out, in], as torch keeps it."""
    name = str(product.input[1])
    factor = arrays[name]
    if product.op_type == "MatMulInteger":
        factor = factor * arrays[name.removesuffix("_quantized") + "_scale"]
    is_turned = any(attribute.name == "transB" and attribute.i for attribute in product.attribute)
    return factor if is_turned else factor.T


def _read(file: Path) -> tuple[onnx.GraphProto, dict[str, NDArray[Any]]]:
    graph = onnx.load(file).graph
    return graph, {each.name: numpy_helper.to_array(each) for each in graph.initializer}


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))  # a copy: ONNX's arrays are read-only
