"""The picture of rate and distortion: metric against bytes per request, one panel per split point."""

from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from common.evaluation.figures import COLOURS, MARKERS
from common.evaluation.metrics import Metric
from common.evaluation.thinning import ThinScore, ThinScores, split_points, ways_over


def draw_rate_distortion(scores: ThinScores, metric: Metric, file: Path) -> None:
    """Draw every way to send hidden states with the 95 % interval of its drop; ways of one kind are a line."""
    points = split_points(scores)
    kinds = list(dict.fromkeys(map(_kind, scores)))
    figure = Figure(figsize=(5 * len(points), 5), dpi=120, layout="constrained")
    for axes, point in zip(figure.subplots(1, len(points), squeeze=False, sharey=True)[0], points, strict=True):
        lines: defaultdict[str, list[ThinScore]] = defaultdict(list)
        for name, score in ways_over(scores, point).items():
            lines[_kind(name)].append(score)
        for place, kind in enumerate(kinds):
            if found := lines.get(kind):
                axes.errorbar(
                    [score.bytes_per_request for score in found],
                    [100 * score.accuracy for score in found],
                    yerr=list(zip(*map(_spread, found), strict=True)),
                    fmt=MARKERS[place] + "-",
                    color=COLOURS[place % len(COLOURS)],
                    label=kind,
                    linewidth=1,
                    elinewidth=0.7,
                    markersize=5,
                    alpha=0.8,
                )
        axes.set(xscale="log", xlabel="bytes per request", title=f"after layer {point}")
        axes.invert_xaxis()
        axes.legend(fontsize=8, loc="lower left")
    figure.axes[0].set_ylabel(f"{metric}, %")
    figure.savefig(file)


def _kind(name: str) -> str:
    codec, *parts = name.split("-")
    if not any(part.startswith("b") for part in parts):
        return codec  # and shares of the tokens
    return "budgets" + "".join(f", {part[1:]} of the tokens" for part in parts if part.startswith("t"))


def _spread(score: ThinScore) -> tuple[float, float]:
    """Give the interval around the metric: more points lost are further down."""
    low, high = score.interval.high - score.drop_points, score.drop_points - score.interval.low
    return max(0.0, low), max(0.0, high)
