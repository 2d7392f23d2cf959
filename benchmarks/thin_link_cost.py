"""What a thin link costs: processor time of encoder, decoder and codec, in numpy and in ONNX, beside the tier's layers.

``python benchmarks/thin_link_cost.py --bundle DIR`` ends with one JSON line. Times are processor time of this thread in
microseconds, medians over rounds that take the contestants by turns, so that other load on the machine hardly counts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from common.engine.escalation import thin
from common.engine.thinness import Thinness
from common.model.bundle import open_bundle
from common.model.segments import open_layers
from common.model.thin_links import ThinLink, attended, open_thin_links
from common.wire.activations import codec

_TOKENS = 25  # the mean of SST-2's sentences
_ROUNDS = 200
_PACKED = (("int8", 0), ("int4", 0), ("graded", 64), ("graded", 128), ("graded", 192), ("graded", 256), ("graded", 320))


def in_onnx(link: ThinLink, budget: int) -> Callable[[np.ndarray], Any]:
    """Give the encoder of one budget as an ONNX session."""
    constants = {"mean": link._mean, "encoder": np.ascontiguousarray(link._encoder[:, :budget])}  # noqa: SLF001
    graph = helper.make_graph(
        [helper.make_node("Sub", ["x", "mean"], ["c"]), helper.make_node("MatMul", ["c", "encoder"], ["y"])],
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s", len(constants["mean"])])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["s", budget])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda hidden: session.run(["y"], {"x": hidden})[0]


def measure(location: str) -> dict[str, Any]:
    """Time every contestant by turns."""
    bundle = open_bundle(location)
    links = open_thin_links(bundle)
    point = bundle.manifest.depths.device
    link, hidden = links[point], np.random.default_rng(0).standard_normal((_TOKENS, bundle.manifest.hidden_size))
    hidden = hidden.astype(np.float32)
    segments = {segment.span: segment for segment in open_layers(bundle, bundle.manifest.num_layers)}
    mask = np.ones((1, _TOKENS), np.int64)
    steps: dict[str, Callable[[], Any]] = {
        f"layers [{span.start}, {span.end})": (lambda segment=segment: segment.run(hidden[None], mask))
        for span, segment in segments.items()
    }
    for budget in link.budgets:
        small = link.shrink(hidden, budget)
        onnx = in_onnx(link, budget)
        np.testing.assert_allclose(onnx(hidden), small, atol=1e-3)
        steps[f"encoder {budget}, numpy"] = lambda budget=budget: link.shrink(hidden, budget)
        steps[f"encoder {budget}, onnx"] = lambda onnx=onnx: onnx(hidden)
        steps[f"decoder {budget}, numpy"] = lambda small=small: link.restore(small)
    width = bundle.manifest.hidden_size
    for name, budget in _PACKED:
        sent = thin(hidden, Thinness(codec=name, budget=budget), link)
        tensors = codec(name).encode(*sent)
        steps[f"{name} of {budget or width}, packed"] = lambda name=name, sent=sent: codec(name).encode(*sent)
        steps[f"{name} of {budget or width}, unpacked"] = lambda name=name, tensors=tensors: codec(name).decode(tensors)
    steps["attention"] = lambda: link.attention(hidden)
    steps["tokens chosen"] = lambda: hidden[attended(link.attention(hidden), 0.5)]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            started = time.thread_time()
            step()
            times[name].append((time.thread_time() - started) * 1e6)
    return {
        "tokens": _TOKENS,
        "split_point": point,
        "us": {name: round(statistics.median(t), 1) for name, t in times.items()},
    }


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a bundle with thin links")
    print(json.dumps(measure(parser.parse_args().bundle)))  # noqa: T201


if __name__ == "__main__":
    main()
