"""Pictures: drawn without a display, in colours that stay apart for colour-blind readers (Okabe and Ito)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.evaluation.planning import PlanPoint
from common.evaluation.scoring import PolicyScore
from common.types import POOLS

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*Xh<>d8p"


def draw_front(points: Sequence[PlanPoint], front: Sequence[PlanPoint], chosen: PlanPoint, file: Path) -> None:
    """Draw all plans grey, the undominated ones blue, the choice marked."""
    figure = _figure()
    axes = figure.add_subplot()
    axes.scatter([p.cost for p in points], [p.drop_points for p in points], s=4, color="#cccccc", label="all plans")
    axes.scatter([p.cost for p in front], [p.drop_points for p in front], s=12, color=COLOURS[0], label="not beaten")
    axes.scatter([chosen.cost], [chosen.drop_points], s=90, marker="*", color=COLOURS[3], label="chosen")
    axes.set(xlabel="cost per request", ylabel="accuracy drop, points", title="Plans: less and lower is better")
    axes.legend()
    figure.savefig(file)


def draw_trade_off(scores: Mapping[str, PolicyScore], curves: Mapping[str, NDArray[Any]], file: Path) -> None:
    """Draw accuracy against cost: a point with its 95 % interval per policy, a line per family of cascades [P, 2]."""
    figure = _figure(9, 5.5)
    axes = figure.add_subplot()
    for place, (name, curve) in enumerate(curves.items()):
        axes.plot(
            curve[:, 0], curve[:, 1], color=COLOURS[place], linewidth=1, alpha=0.7, label=f"{name}, all thresholds"
        )
    for place, (name, scored) in enumerate(scores.items()):
        half = abs(scored.interval.drop_points.high - scored.interval.drop_points.low) / 200
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.errorbar(scored.cost, scored.accuracy, yerr=half, fmt=marker, color=colour, capsize=2, label=name)
    axes.set(xlabel="cost per request, layers of the device", ylabel="accuracy", title="Accuracy against cost")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(file)


def draw_tiers(scores: Mapping[str, PolicyScore], file: Path) -> None:
    """Draw accuracy and cost of each policy side by side as bars."""
    names = sorted(scores, key=lambda name: scores[name].cost)
    figure = _figure(9, 5)
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(names, [100 * scores[name].accuracy for name in names], color=COLOURS[0])
    floor = 100 * min(scored.accuracy for scored in scores.values()) - 2
    left.set(xlabel="accuracy, %", xlim=(max(0.0, floor), 100 * max(scored.accuracy for scored in scores.values()) + 1))
    left.set_title("Accuracy")
    for tier, colour in zip(("device", "edge", "cloud"), COLOURS, strict=False):
        shift = np.zeros(len(names))
        for before in ("device", "edge", "cloud")[: ("device", "edge", "cloud").index(tier)]:
            shift += [scores[name].shares[before] for name in names]
        right.barh(names, [scores[name].shares[tier] for name in names], left=shift, color=colour, label=tier)
    for row, name in enumerate(names):
        right.text(1.02, row, f"{scores[name].cost:.2f}", va="center", fontsize=8)
    right.set(xlabel="share of answers; cost at the right", xlim=(0, 1.2), title="Who answers, and the cost")
    right.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.2))
    figure.savefig(file)


def draw_constants(sweeps: Mapping[str, Mapping[str, NDArray[Any]]], file: Path) -> None:
    """Draw the reduction of several policies as one constant of the cost varies: constant -> policy -> [P, 2]."""
    figure = _figure(3.2 * len(sweeps), 3.6)
    for axes, (constant, curves) in zip(
        np.atleast_1d(figure.subplots(1, len(sweeps), sharey=True)), sweeps.items(), strict=True
    ):
        for place, (name, curve) in enumerate(curves.items()):
            axes.plot(curve[:, 0], 100 * curve[:, 1], color=COLOURS[place % len(COLOURS)], label=name)
        axes.set(xlabel=constant, title=f"varying {constant}")
    figure.axes[0].set_ylabel("cost reduction, %")
    figure.axes[-1].legend(fontsize=7)
    figure.savefig(file)


def draw_pools(places: NDArray[Any], pools: NDArray[np.intp], file: Path) -> None:
    """Draw the mean embeddings in two dimensions [N, 2], coloured by pool."""
    figure = _figure(6, 5.5)
    axes = figure.add_subplot()
    for index, pool in enumerate(POOLS):
        rows = pools == index
        axes.scatter(
            places[rows, 0], places[rows, 1], s=6, alpha=0.6, color=COLOURS[index], label=f"{pool} ({rows.mean():.0%})"
        )
    axes.set(xticks=[], yticks=[], title="Mean embeddings of the kept-back split, by pool (t-SNE)")
    axes.legend()
    figure.savefig(file)


def _figure(width: float = 7, height: float = 5) -> Figure:
    mpl.rcParams["svg.hashsalt"] = "dimee"
    return Figure(figsize=(width, height), dpi=120, layout="constrained")
