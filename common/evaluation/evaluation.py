"""One evaluation of a bundle on labelled data, and the document that repeats it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from common.engine.choice import routing_table
from common.errors import ConfigError
from common.evaluation.comparison import ALL, Comparison, compare
from common.evaluation.coverage import CoverageScore, compare_at_coverage
from common.evaluation.labelled import Source, check_unseen, trace_file
from common.evaluation.metrics import Metric
from common.evaluation.resplits import TIMES, KeptPromise, try_promise
from common.evaluation.scoring import Setting
from common.evaluation.trace import CALIBRATION_FILE, Trace, read_calibration
from common.evaluation.tracing import Progress
from common.model.bundle import Bundle
from common.routing.cost import CostModel

PROMISED_DROPS = (0.003, 0.005, 0.01, 0.015)


class Studies(msgspec.Struct, frozen=True, kw_only=True):
    """What only many held-out samples can tell: those kept back and those reported on, together."""

    samples: int
    coverage: list[CoverageScore]
    promises: list[KeptPromise]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of policies on one file."""

    bundle: Bundle
    source: Source
    trace: Trace
    found: Comparison
    studies: Studies | None = None

    @property
    def reference(self) -> float | None:
        """The metric of the backbone plainly fine-tuned, its last exit alone, where training measured this file."""
        record = self.bundle.manifest.training
        measured = record.get("reference", {}).get("valid")
        origin = (record.get("data") or {}).get("valid") or {}
        if measured is None or origin.get("sha256") != self.source.sha256:
            return None
        return float(measured[self.found.setting.metric])

    def document(self) -> dict[str, Any]:
        """Give everything that a reader needs to repeat the numbers."""
        manifest = self.bundle.manifest
        document = {
            **self.found.document(),
            "data": {"file": self.source.file, "sha256": self.source.sha256, "is_seen": self.source.is_seen},
            "bundle": {"name": manifest.name, "revision": manifest.revision, "precision": manifest.precision},
        }
        if self.reference is not None:
            lost = self.reference - self.found.policies[self.found.default].accuracy if self._scores_default else None
            document["fine_tuned_alone"] = {
                "accuracy": self.reference,
                "precision": "float32",
                "default_drop_points": None if lost is None else 100 * lost,
            }
        return document if self.studies is None else document | {"studies": msgspec.to_builtins(self.studies)}

    @property
    def _scores_default(self) -> bool:
        return self.found.default in self.found.policies


def evaluate_file(
    bundle: Bundle,
    data: Path,
    *,
    cost: CostModel,
    metric: Metric,
    codec: str = "int8",
    names: Sequence[str] = (ALL,),
    threads: int = 1,
    allow_seen: bool = False,
    has_studies: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Run all exits once over a labelled file and score policies on it.

    Raises:
        ConfigError: The file cannot be read, the bundle learned from it, or the metric means nothing on it.
        ArtifactError: A policy, or the studies, need what the bundle lacks.
    """
    source = check_unseen(bundle, data, allow_seen=allow_seen)
    setting = Setting(depths=bundle.manifest.depths, cost=cost, metric=metric, codec=codec)
    table = routing_table(bundle)
    calibration = read_calibration(bundle) if has_studies or CALIBRATION_FILE in bundle.manifest.files else None
    trace = trace_file(bundle, data, codec=codec, threads=threads, progress=progress)
    return Evaluation(
        bundle=bundle,
        source=source,
        trace=trace,
        found=compare(trace, table, setting, names=names, calibration=calibration),
        studies=None if calibration is None or not has_studies else study(calibration, trace, setting),
    )


def study(calibration: Trace, trace: Trace, setting: Setting) -> Studies:
    """Compare routers at equal coverage, and split the samples anew to see promises kept."""
    held_out = calibration.followed_by(trace)
    promises = [
        try_promise(held_out, setting, max_drop=drop, calibration=len(calibration), times=TIMES)
        for drop in PROMISED_DROPS
        if setting.metric == "accuracy"  # drops are promised for accuracy alone
    ]
    return Studies(samples=len(held_out), coverage=compare_at_coverage(held_out, setting.depths), promises=promises)


def chosen_metric(bundle: Bundle, wanted: str | None) -> Metric:
    """Take the asked metric, or the one of the bundle's task.

    Raises:
        ConfigError: There is no such metric.
    """
    match wanted or bundle.manifest.training.get("metric", "accuracy"):
        case "accuracy":
            return "accuracy"
        case "matthews":
            return "matthews"
        case other:
            raise ConfigError(f"--metric {other!r} is neither accuracy nor matthews")
