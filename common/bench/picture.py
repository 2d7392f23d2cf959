"""A benchmark as a picture: throughput, and latency by link; needs matplotlib."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from common.bench.report import Document, Row

mpl.use("agg")


def draw(document: Document, path: Path) -> None:
    """Draw the medians with their extremes."""
    throughput = [row for row in document.rows if row.measure == "throughput"]
    latency = [row for row in document.rows if row.measure == "median latency" and row.broker == throughput[0].broker]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    throughput.sort(key=lambda row: row.median)
    left.barh([row.contestant for row in throughput], **_bars(throughput))
    left.set_xlabel("answers per second")
    names = list(dict.fromkeys(row.contestant for row in latency))
    links = list(dict.fromkeys(row.link for row in latency))
    for place, name in enumerate(names):
        rows = [row for row in latency if row.contestant == name]
        heights = _bars(rows)
        at = [links.index(row.link) + 0.8 * place / len(names) for row in rows]
        right.bar(at, heights["width"], 0.8 / len(names), yerr=heights["xerr"], align="edge", label=name)
    right.set_xticks([place + 0.4 for place in range(len(links))], links, rotation=20)
    right.set_yscale("log")
    right.set_ylabel("median latency, ms")
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    machine = document.context.machine
    figure.suptitle(
        f"{machine.processor}, {machine.cores} cores; {document.context.bundle} {document.context.revision}, "
        f"{document.context.precision}; commit {machine.commit}"
    )
    figure.savefig(path)
    plt.close(figure)


def _bars(rows: list[Row]) -> dict[str, Any]:
    below = [row.median - row.least for row in rows]
    above = [row.largest - row.median for row in rows]
    return {"width": [row.median for row in rows], "xerr": [below, above]}
