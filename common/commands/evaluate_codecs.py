"""``dimee evaluate --codec all``: rate and distortion of every way to send hidden states."""

from pathlib import Path
from typing import Any

import numpy as np
import typer

from common.cli.output import print_json, print_table
from common.errors import ConfigError
from common.evaluation.labelled import Source, read_texts
from common.evaluation.metrics import Metric
from common.evaluation.tables import codec_columns, codec_rows
from common.evaluation.thinning import ThinScores, rate_distortion, split_points
from common.evaluation.tracing import Progress
from common.model.bundle import Bundle

ALL_CODECS = "all"


def evaluate_codecs(
    bundle: Bundle,
    source: Source,
    data: Path,
    *,
    metric: Metric,
    progress: Progress | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Score, then print a table or one JSON document, and write a report where one is asked for."""
    texts, labels = read_texts(bundle, data)
    scores = rate_distortion(bundle, texts, np.asarray(labels, np.int64), metric=metric, progress=progress)
    if report is not None:
        _write_report(report, scores, bundle, source, metric=metric, samples=len(labels))
    if as_json:
        print_json(_document(scores, bundle, source, metric))
        return
    name = f"{bundle.manifest.name} {bundle.revision} on {source.file}, {len(labels)} samples"
    for point in split_points(scores):
        print_table(f"{name}; everything travels after layer {point}", codec_columns(metric), codec_rows(scores, point))


def _document(scores: ThinScores, bundle: Bundle, source: Source, metric: Metric) -> dict[str, Any]:
    return {
        "metric": metric,
        "codecs": {name: {str(point): score for point, score in ways.items()} for name, ways in scores.items()},
        "data": {"file": source.file, "sha256": source.sha256, "is_seen": source.is_seen},
        "bundle": {"name": bundle.manifest.name, "revision": bundle.revision, "precision": bundle.manifest.precision},
    }


def _write_report(
    directory: Path, scores: ThinScores, bundle: Bundle, source: Source, *, metric: Metric, samples: int
) -> None:
    try:
        from common.evaluation.thinning_report import write_report  # noqa: PLC0415 - matplotlib is an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(f"--report needs {exc.name!r}; install it with pip install 'dimee[evaluate]'") from exc
    name = bundle.manifest.name
    files = write_report(
        directory,
        scores,
        metric=metric,
        samples=samples,
        title=f"What the link carries: {name}",
        origin={"bundle": name, "revision": bundle.revision, "data": source.file, "sha256": source.sha256[:16]},
    )
    typer.echo(f"wrote {len(files)} files; open {files[-1]}", err=True)
