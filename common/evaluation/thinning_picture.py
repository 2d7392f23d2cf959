"""The picture of rate and distortion: metric against bytes per request, one panel per split point."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.evaluation.thinning import ThinScore

_FAMILIES = {"all": "o", "thin": "s", "tokens": "^", "both": "D"}  # markers
_COLOURS = {
    "float32": "black",
    "float16": "gray",
    "int8": "tab:blue",
    "int4": "tab:orange",
    "graded": "tab:green",
    "tokens": "tab:red",
}


def draw_rate_distortion(scores: Mapping[str, Mapping[int, ThinScore]], file: Path) -> None:
    """Draw every way to send hidden states with the 95 % interval of its drop."""
    points = sorted({point for ways in scores.values() for point in ways})
    figure = Figure(figsize=(6 * len(points), 4.5), layout="constrained")
    for place, point in enumerate(points, start=1):
        axes = figure.add_subplot(1, len(points), place)
        for name, ways in scores.items():
            if (score := ways.get(point)) is None:
                continue
            spread = ([score.drop_points - score.interval.low], [score.interval.high - score.drop_points])
            marker = _FAMILIES[_family(name)]
            colour = _COLOURS[name.partition("-")[0]]
            axes.errorbar(
                score.bytes_per_request,
                score.drop_points,
                yerr=spread,
                fmt=marker,
                color=colour,
                ms=5,
                alpha=0.8,
                lw=0.7,
            )
        axes.set(xscale="log", xlabel="bytes per request", title=f"after layer {point}")
        axes.set_ylabel("points lost against float32" if place == 1 else "")
        axes.axhline(0, color="black", lw=0.5)
        axes.invert_xaxis()
    figure.axes[0].legend(handles=_keys(), fontsize=7, loc="upper left")
    figure.savefig(file, dpi=130)


def _family(name: str) -> str:
    has_budget, has_share = "-b" in name, "-t" in name
    return {(False, False): "all", (True, False): "thin", (False, True): "tokens", (True, True): "both"}[
        has_budget, has_share
    ]


def _keys() -> list[Line2D]:
    words = {
        "all": "all dimensions and tokens",
        "thin": "budget",
        "tokens": "fewer tokens",
        "both": "budget and tokens",
    }
    shapes = [
        Line2D([], [], color="tab:gray", marker=marker, ls="", label=words[name]) for name, marker in _FAMILIES.items()
    ]
    return [*shapes, *(Line2D([], [], color=colour, lw=3, label=name) for name, colour in _COLOURS.items())]
