"""The report of rate and distortion: the picture, and under it a table per split point."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.evaluation.metrics import Metric
from common.evaluation.page import named, page, picture, table
from common.evaluation.tables import codec_columns, codec_rows
from common.evaluation.thinning import ThinScores, split_points
from common.evaluation.thinning_picture import draw_rate_distortion

_SHOWN = (
    "What is left when every text travels over one split point. Lines: the budgets of the thin link, with all or a "
    "share of the tokens. Points: codecs without a link. Bars: 95 % intervals of the points lost, by paired bootstrap. "
    "Up and to the right is better."
)


def write_report(
    directory: Path, scores: ThinScores, *, metric: Metric, samples: int, title: str, origin: Mapping[str, Any]
) -> list[Path]:
    """Draw the picture and the page; gives the files.

    Args:
        directory: Made if missing; files of the same names are replaced.
        scores: Every way to send hidden states.
        metric: Of the scores.
        samples: Texts that were sent.
        title: Heading of the page.
        origin: Bundle and data, as the JSON names them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn, written = directory / "codecs.png", directory / "report.html"
    draw_rate_distortion(scores, metric, drawn)
    told = (
        f"<p>{named(origin)}; {samples:,} samples, each sent in every way. Bytes are those of the whole message, "
        "points are lost against <code>float32</code>; <code>b</code> is a budget, dimensions per token, "
        "<code>t</code> a share of the tokens.</p>"
    )
    parts = [told, picture(drawn, _SHOWN)]
    for point in split_points(scores):
        parts += [f"<h2>After layer {point}</h2>", table(codec_columns(metric), codec_rows(scores, point))]
    written.write_text(page(title, parts), encoding="utf-8")
    return [drawn, written]
