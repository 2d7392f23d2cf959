"""Evaluations as rows of text, for terminals and pages alike."""

from common.cli.output import number, percent
from common.evaluation.comparison import Comparison
from common.evaluation.evaluation import Evaluation, Studies
from common.evaluation.metrics import Interval, Metric
from common.evaluation.thinning import ThinScores, ways_over

Row = tuple[str, ...]

COVERAGE_COLUMNS = ("exit", "coverage", "achieved", "router", "entropy", "gain, points")
PROMISE_COLUMNS = ("promised drop", "kept", "refused", "mean drop", "mean reduction")


def policy_columns(found: Comparison) -> Row:
    """Heads of :func:`policy_rows`."""
    return ("policy", found.setting.metric, "drop, points", "cost", "reduction", "device/edge/cloud %", "bytes")


def policy_rows(found: Comparison) -> list[Row]:
    """Policies by rising cost: name, metric, drop, cost, reduction, shares, bytes per request."""
    return [
        (
            f"{name} (default)" if name == found.default else name,
            percent(scored.accuracy),
            f"{scored.drop_points:+.2f} {points(scored.interval.drop_points)}",
            number(scored.cost, 2),
            f"{percent(scored.reduction)} {share(scored.interval.reduction)}",
            " / ".join(f"{100 * part:.0f}" for part in scored.shares.values()),
            number(scored.payload_bytes_per_request, 0),
        )
        for name, scored in sorted(found.policies.items(), key=lambda item: item[1].cost)
    ]


def codec_columns(metric: Metric) -> Row:
    """Heads of :func:`codec_rows`."""
    return ("codec", metric, "drop, points", "bytes", "times less than int8", "than float32")


def codec_rows(scores: ThinScores, point: int) -> list[Row]:
    """Ways to send hidden states over one split point, the largest messages first."""
    here = ways_over(scores, point)
    int8, float32 = (here[name].bytes_per_request for name in ("int8", "float32"))
    return [
        (
            name,
            percent(scored.accuracy),
            f"{scored.drop_points:+.2f} {points(scored.interval)}",
            number(scored.bytes_per_request, 0),
            f"{int8 / scored.bytes_per_request:.1f}",
            f"{float32 / scored.bytes_per_request:.1f}",
        )
        for name, scored in here.items()
    ]


def coverage_rows(studies: Studies) -> list[Row]:
    """Exits and coverages: what the router and what entropy would give."""
    return [
        (
            str(found.exit_layer),
            percent(found.asked),
            percent(found.achieved),
            f"{found.router_accuracy:.2%}",
            f"{found.entropy_accuracy:.2%}",
            f"{found.gain_points:+.2f} {points(found.interval)}",
        )
        for found in studies.coverage
    ]


def promise_rows(studies: Studies) -> list[Row]:
    """Promised drops, how often they were kept, and what they saved."""
    return [
        (
            f"{kept.max_drop_points:g} points over {kept.test:,} answers",
            f"{kept.kept} of {kept.resplits}",
            str(kept.refused),
            "" if kept.mean_drop_points is None else f"{kept.mean_drop_points:+.2f}",
            "" if kept.mean_reduction is None else percent(kept.mean_reduction),
        )
        for kept in studies.promises
    ]


def footnotes(made: Evaluation) -> list[str]:
    """Everything without which the numbers mean nothing."""
    cost = made.found.document()["cost"]
    constants = ", ".join(f"{name} {value:g}" for name, value in cost["constants"].items())
    notes = [
        f"cost model {cost['model']} ({constants}); cloud-only costs {cost['cloud_only']:g} layers of the device",
        "intervals: 95 %, paired bootstrap; thresholds and routers come from the bundle's kept-back split",
    ]
    if made.reference is not None:
        notes.append(f"the same backbone plainly fine-tuned, its last exit in float32: {percent(made.reference)}")
    if made.source.is_seen:
        notes.append("WARNING: the bundle learned from this very file, so these numbers flatter it")
    return notes + [f"left out: {name}: {reason}" for name, reason in made.found.left_out.items()]


def points(found: Interval) -> str:
    """Write an interval of points."""
    return f"[{found.low:+.2f}, {found.high:+.2f}]"


def share(found: Interval) -> str:
    """Write an interval of shares."""
    return f"[{percent(found.low)}, {percent(found.high)}]"
