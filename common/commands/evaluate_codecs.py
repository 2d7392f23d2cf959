"""``dimee evaluate --codec all``: rate and distortion of every way to send hidden states."""

from pathlib import Path
from typing import Any

import numpy as np

from common.cli.output import number, percent, print_json, print_table
from common.evaluation.labelled import Source, read_texts
from common.evaluation.metrics import Metric
from common.evaluation.thinning import ThinScore, rate_distortion
from common.evaluation.tracing import Progress
from common.model.bundle import Bundle

ALL_CODECS = "all"
Scores = dict[str, dict[int, ThinScore]]


def evaluate_codecs(
    bundle: Bundle,
    source: Source,
    data: Path,
    *,
    metric: Metric,
    progress: Progress | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Score, then print a table or one JSON document, and draw a picture where one is asked for."""
    texts, labels = read_texts(bundle, data)
    scores = rate_distortion(bundle, texts, np.asarray(labels, np.int64), metric=metric, progress=progress)
    if picture is not None:
        from common.evaluation.thinning_picture import draw_rate_distortion  # noqa: PLC0415 - matplotlib is an extra

        picture.mkdir(parents=True, exist_ok=True)
        draw_rate_distortion(scores, picture / "codecs.png")
    if as_json:
        print_json(_document(scores, bundle, source, metric))
        return
    for point in sorted({point for ways in scores.values() for point in ways}):
        _print(
            scores, point, f"{bundle.manifest.name} {bundle.revision} on {source.file}, {len(labels)} samples", metric
        )


def _document(scores: Scores, bundle: Bundle, source: Source, metric: Metric) -> dict[str, Any]:
    return {
        "metric": metric,
        "codecs": {name: {str(point): score for point, score in ways.items()} for name, ways in scores.items()},
        "data": {"file": source.file, "sha256": source.sha256, "is_seen": source.is_seen},
        "bundle": {"name": bundle.manifest.name, "revision": bundle.revision, "precision": bundle.manifest.precision},
    }


def _print(scores: Scores, point: int, title: str, metric: Metric) -> None:
    here = {name: ways[point] for name, ways in scores.items() if point in ways}
    rows = [
        (
            name,
            percent(score.accuracy),
            f"{score.drop_points:+.2f} [{score.interval.low:+.2f}, {score.interval.high:+.2f}]",
            number(score.bytes_per_request, 0),
            f"{here['int8'].bytes_per_request / score.bytes_per_request:.1f}",
            f"{here['float32'].bytes_per_request / score.bytes_per_request:.1f}",
        )
        for name, score in sorted(here.items(), key=lambda item: -item[1].bytes_per_request)
    ]
    columns = ("codec", metric, "drop, points", "bytes", "times less than int8", "than float32")
    print_table(f"{title}; everything travels after layer {point}", columns, rows)
