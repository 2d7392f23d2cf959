"""One comparison: every policy asked for, on the same trace, under one cost model."""

from collections.abc import Sequence
from typing import Any

import msgspec

from common.errors import ArtifactError, ConfigError
from common.evaluation.baselines import SplitEE, oracle, splitee
from common.evaluation.metrics import check_labels
from common.evaluation.scoring import PolicyScore, Setting, score_routes
from common.evaluation.simulation import Routes, simulate
from common.evaluation.table import fit_table
from common.evaluation.trace import Trace
from common.routing.policies import RoutingTable

ALL = "all"
BASELINES = ("splitee", "oracle")
NAMES = (
    "cloud-only",
    "edge-only",
    "device-only",
    "random",
    "dimee-pure",
    "dimee",
    "dimec-dc",
    "confidence-cascade",
    "entropy-cascade",
    "patience",
    "splitee",
    "learned-router",
    "oracle",
)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Scores by policy, under what they were taken."""

    default: str
    setting: Setting
    samples: int
    policies: dict[str, PolicyScore]
    left_out: dict[str, str]  # why, by policy

    def document(self) -> dict[str, Any]:
        """Give the comparison as JSON is to show it: constants beside every percentage."""
        cost = msgspec.to_builtins(self.setting.cost)
        return {
            "default": self.default,
            "samples": self.samples,
            "metric": self.setting.metric,
            "depths": msgspec.to_builtins(self.setting.depths),
            "cost": {
                "model": cost.pop("name"),
                "constants": cost,
                "cloud_only": self.setting.cost.cloud_only(self.setting.depths),
                "unit": "one layer on the device",
            },
            "codec": self.setting.codec,
            "intervals": "95 %, paired bootstrap",
            "policies": msgspec.to_builtins(self.policies),
            "left_out": self.left_out,
        }


def compare(
    trace: Trace, table: RoutingTable, setting: Setting, *, names: Sequence[str] = (ALL,), calibration: Trace | None
) -> Comparison:
    """Score policies of a bundle, and those that only an evaluation can play.

    Args:
        trace: The data to report on.
        table: The bundle's policies; what it lacks is fitted on ``calibration``.
        setting: Cost model, metric, codec.
        names: Policies, or ``all``.
        calibration: The kept-back split, where the bundle has one.

    Raises:
        ConfigError: A name is no policy, or the metric means nothing on this data.
        ArtifactError: A named policy needs what the bundle lacks.
    """
    check_labels(setting.metric, trace.labels)
    known = dict(table.policies)
    if calibration is not None and not {*NAMES} - {*BASELINES} <= known.keys():
        known = fit_table(calibration, setting).policies | known
    wanted = list(dict.fromkeys([*NAMES, *known])) if ALL in names else list(names)
    routes: dict[str, Routes] = {}
    left_out: dict[str, str] = {}
    for name in wanted:
        if name in known:
            routes[name] = simulate(known[name], trace, setting.depths)
        elif name in BASELINES:
            routes[name] = _play(name, trace, setting)
        elif name not in NAMES:
            raise ConfigError(f"policy {name!r} is not one of {sorted({*NAMES, *known})}, nor {ALL!r}")
        elif ALL in names:
            left_out[name] = _lacking(name, calibration)
        else:
            raise ArtifactError(f"policy {name!r} cannot be scored: {_lacking(name, calibration)}")
    scores = score_routes(trace, routes, setting)
    return Comparison(default=table.default, setting=setting, samples=len(trace), policies=scores, left_out=left_out)


def _play(name: str, trace: Trace, setting: Setting) -> Routes:
    if name == "oracle":
        return oracle(trace, setting.depths, setting.cost)
    return splitee(SplitEE(layers=trace.exits, threshold=0.85), trace)


def _lacking(name: str, calibration: Trace | None) -> str:
    if calibration is None:
        return "the bundle has neither the policy nor a calibration.npz to fit it on"
    if name == "dimec-dc":
        return "the bundle's calibration.npz holds no probabilities by epoch"
    return "the bundle's calibration.npz does not suffice to fit it"
