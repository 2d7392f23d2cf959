"""What came of a task, and what stands in the way of more."""

import math
from typing import Literal

import msgspec
import numpy as np

from common.evaluation import families
from common.evaluation.baselines import oracle
from common.evaluation.evaluation import Evaluation, Studies
from common.evaluation.metrics import Metric
from common.evaluation.scoring import PolicyScore
from common.evaluation.simulation import route_costs
from common.evaluation.table import measured_path
from common.evaluation.tables import footnotes, policy_rows

AIMED_REDUCTION = 0.43  # of DIMEE's abstract
AIMED_DROP_POINTS = 0.3

Obstacle = Literal["none", "backbone", "exits", "router", "calibration"]


class ExitScore(msgspec.Struct, frozen=True, kw_only=True):
    """The metric of one exit of the network, in float32."""

    layer: int
    kept_back: float
    valid: float


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """One task, evaluated."""

    name: str
    revision: str
    data: str  # file reported on
    samples: int
    metric: Metric
    kept_back: int
    training: int
    exits: tuple[ExitScore, ...]
    fine_tuned_alone: float | None  # the plain backbone's metric on the same samples, float32
    default: str
    scored: PolicyScore  # of the default
    best: str  # deployable policy with the largest reduction at no more drop than the default's
    best_reduction: float
    hindsight: float  # reduction of the best cascade whose thresholds had seen these samples, within the aimed drop
    oracle: float  # reduction of the cheapest right exits
    obstacle: Obstacle
    policies: list[tuple[str, ...]]  # rows of the table
    notes: list[str]
    studies: Studies


def judge(name: str, made: Evaluation) -> TaskResult:
    """Read a task's result off its evaluation, studies included."""
    record, found = made.bundle.manifest.training, made.found
    scored = found.policies[found.default]
    hindsight, ideal = _hindsight(made), _oracle(made)
    best = _best(made)
    if made.studies is None:
        raise AssertionError("a task is judged with its studies")
    return TaskResult(
        name=name,
        revision=made.bundle.revision,
        data=made.source.file,
        samples=found.samples,
        metric=found.setting.metric,
        kept_back=record["split"]["kept_back"],
        training=record["split"]["training"],
        exits=tuple(
            ExitScore(layer=kept["exit_layer"], kept_back=kept[found.setting.metric], valid=valid[found.setting.metric])
            for kept, valid in zip(record["metrics"]["kept_back"], record["metrics"]["valid"], strict=True)
        ),
        fine_tuned_alone=made.reference,
        default=found.default,
        scored=scored,
        best=best,
        best_reduction=found.policies[best].reduction,
        hindsight=hindsight,
        oracle=ideal,
        obstacle=_obstacle(scored, hindsight, ideal, has_learned=_has_learned(made)),
        policies=policy_rows(found),
        notes=footnotes(made),
        studies=made.studies,
    )


def _obstacle(scored: PolicyScore, hindsight: float, ideal: float, *, has_learned: bool) -> Obstacle:
    """Name what keeps a default from its aim: with better what would it be reached?"""
    if not has_learned:
        return "backbone"
    if scored.reduction >= AIMED_REDUCTION and scored.drop_points <= AIMED_DROP_POINTS:
        return "none"
    if ideal < AIMED_REDUCTION:
        return "exits"  # even a router that knows the answers cannot save enough
    return "router" if hindsight < AIMED_REDUCTION else "calibration"


def _has_learned(made: Evaluation) -> bool:
    """Whether the last exit is right more often than always naming the most frequent label, by two standard errors."""
    labels = made.trace.labels
    frequent = np.bincount(labels).max() / len(labels)
    right = float((made.trace.predictions()[-1] == labels).mean())
    return bool(right - frequent > 2 * math.sqrt(right * (1 - right) / len(labels)))


def _hindsight(made: Evaluation) -> float:
    setting = made.found.setting
    sweep = families.prepare(families.confidence_family(), made.trace, setting.depths, setting.cost)
    points = measured_path(sweep, made.trace, setting.metric)
    return 1 - families.cheapest_within(points, AIMED_DROP_POINTS / 100).cost / setting.cost.cloud_only(setting.depths)


def _oracle(made: Evaluation) -> float:
    setting = made.found.setting
    routes = oracle(made.trace, setting.depths, setting.cost)
    costs = route_costs(routes, made.trace, setting.depths, setting.cost)
    return float(1 - costs.mean() / setting.cost.cloud_only(setting.depths))


def _best(made: Evaluation) -> str:
    default = made.found.policies[made.found.default]
    allowed = {
        name: scored.reduction
        for name, scored in made.found.policies.items()
        if name != "oracle" and scored.drop_points <= max(default.drop_points, 0.0)
    }
    return max(allowed, key=lambda name: allowed[name], default=made.found.default)
