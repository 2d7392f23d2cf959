"""The page of results, in Markdown: every number from the evaluations, none by hand."""

from collections.abc import Sequence

from cloud_worker.training.results import AIMED_DROP_POINTS, AIMED_REDUCTION, TaskResult
from common.cli.output import percent
from common.evaluation.machine import this_machine
from common.evaluation.tables import COVERAGE_COLUMNS, PROMISE_COLUMNS, coverage_rows, points, promise_rows, share

_OBSTACLES = {
    "none": "nothing: met",
    "backbone": "the backbone: its last exit does not beat the most frequent label by two standard errors",
    "exits": "the exits: not even the oracle saves enough",
    "router": "the router: the oracle saves enough, no confidence threshold does",
    "calibration": "the sample: thresholds that had seen this data would do",
}
_OVERVIEW = (
    "task",
    "samples",
    "metric",
    "cloud-only",
    "fine-tuned alone",
    "default",
    "drop",
    "reduction",
    "in the way",
)


def results_page(results: Sequence[TaskResult], command: str) -> str:
    """Write the page of several tasks."""
    machine = this_machine()
    parts = [
        "# Results",
        (
            f"Made by `{command}` at commit `{machine.commit or 'unknown'}`, dimee {machine.packages['dimee']}, "
            f"onnxruntime {machine.packages['onnxruntime']}; not edited by hand. "
            "[Routing](routing.md) reads these tables."
        ),
        (
            "Thresholds, pools and routers come from inputs of the training file that training never saw; the tables "
            f"report on another file. Aimed at: {percent(AIMED_REDUCTION)} less cost at {AIMED_DROP_POINTS:g} points "
            "of drop at most, against the last exit of the same model for everything."
        ),
        _table(_OVERVIEW, [_overview(result) for result in results]),
        "`hindsight` below is the cascade whose thresholds had seen the reported data: a bound for any calibration.",
    ]
    return "\n\n".join([*parts, *(_section(result) for result in results)]) + "\n"


def _overview(result: TaskResult) -> tuple[str, ...]:
    found = result.scored
    return (
        f"[{result.name}](#{result.name})",
        f"{result.samples:,}",
        result.metric,
        percent(found.accuracy + found.drop_points / 100),
        "" if result.fine_tuned_alone is None else percent(result.fine_tuned_alone),
        percent(found.accuracy),
        f"{found.drop_points:+.2f} {points(found.interval.drop_points)}",
        f"{percent(found.reduction)} {share(found.interval.reduction)}",
        _OBSTACLES[result.obstacle],
    )


def _section(result: TaskResult) -> str:
    exits = [(str(exit_.layer), percent(exit_.kept_back), percent(exit_.valid)) for exit_ in result.exits]
    columns = ("policy", result.metric, "drop, points", "cost", "reduction", "device / edge / cloud, %", "bytes")
    parts = [
        f"## {result.name}",
        (
            f"Revision `{result.revision}`, {result.training:,} rows trained on, {result.kept_back:,} kept back, "
            f"{result.samples:,} of `{result.data}` reported on."
        ),
        _table(("exit after layer", f"kept back, {result.metric}", f"{result.data}, float32"), exits),
        _table(columns, result.policies),
        "  \n".join(result.notes),
        (
            f"Default {result.default}: {percent(result.scored.reduction)}. At no more drop the best policy is "
            f"{result.best} with {percent(result.best_reduction)}; hindsight {percent(result.hindsight)}, oracle "
            f"{percent(result.oracle)}. In the way: {_OBSTACLES[result.obstacle]}."
        ),
        (
            "Learned router against entropy at equal coverage, five folds over "
            f"{result.studies.samples:,} held-out samples:"
        ),
        _table(COVERAGE_COLUMNS, coverage_rows(result.studies)),
    ]
    if result.studies.promises:
        parts += [
            "Promises at 90 % confidence, on random splits of the same samples:",
            _table(PROMISE_COLUMNS, promise_rows(result.studies)),
        ]
    return "\n\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
