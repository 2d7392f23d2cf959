"""A growth run for people: the same tables on a terminal and in Markdown."""

from collections.abc import Callable, Sequence

from common.bench.growth.steps import Setup, Step, by_role
from common.bench.growth.sweeps import Growth, all_steps
from common.bench.report import about
from common.cli.output import print_table

_TITLES: dict[str, tuple[str, Callable[[Setup], str]]] = {
    "rate": ("requests per second, 100 devices, one edge and one cloud worker", lambda setup: f"{setup.rate_hz:.0f}"),
    "devices": ("light devices at one rate, the first again at the end", lambda setup: f"{setup.devices:,}"),
    "workers": ("edges + cloud workers, closed loop", lambda setup: f"{setup.edges} + {setup.clouds}"),
    "length": ("tokens, the edge's layers alone, closed loop", lambda setup: str(setup.tokens)),
}
_COLUMNS = (
    *("answered 1/s", "p50 ms", "p95 ms", "p99 ms", "refused", "unanswered"),
    *("edge ms", "cloud ms", "broker ms", "cores used", "others' cores", "1/s per core", "edge MB", "limit"),
)


def print_growth(growth: Growth) -> None:
    """Print the tables and what they say."""
    print(about(growth.context))  # noqa: T201
    for name, steps in all_steps(growth):
        print_table(_TITLES[name][0], (name, *_COLUMNS), [_row(name, step) for step in steps])
    print(conclusion(growth))  # noqa: T201


def as_markdown(growth: Growth) -> str:
    """Write the tables and what they say."""
    lines = [f"{about(growth.context)} Load average at the end {growth.load_average:.1f}.", "", conclusion(growth)]
    for name, steps in all_steps(growth):
        lines += ["", f"**{_TITLES[name][0]}**", "", _line((name, *_COLUMNS))]
        lines += [_line(["---:"] * (len(_COLUMNS) + 1)), *(_line(_row(name, step)) for step in steps)]
    return "\n".join(lines) + "\n"


def conclusion(growth: Growth) -> str:
    """Say in a sentence or two where the knee is, and what a device costs."""
    knee = "below the first step" if growth.knee_hz is None else f"at {growth.knee_hz:.0f} answers per second"
    return (
        f"Capacity in a closed loop {growth.capacity_hz:.0f} answers per second; the knee is {knee}. "
        f"Exhausted at {growth.beyond.setup.rate_hz:.0f} requests per second: {growth.beyond.limit}, of which other "
        f"processes used {growth.beyond.usage.foreign_cores:.1f} cores. The edge's memory grows by "
        f"{growth.kb_per_device:.1f} KB per device; back at one device it had drifted by {growth.drift_kb:.0f} KB."
    )


def _row(name: str, step: Step) -> tuple[str, ...]:
    flowed, usage = step.flowed, step.usage
    cpu, cores = by_role(step.cpu_ms), by_role(usage.cores)
    refused = ", ".join(f"{count} {code}" for code, count in flowed.refused.items()) or "0"
    return (
        _TITLES[name][1](step.setup),
        f"{step.throughput_hz:.0f}",
        *(_ms(value) for value in (flowed.p50_ms, flowed.p95_ms, flowed.p99_ms)),
        refused,
        str(flowed.unanswered + flowed.unsent),
        *(f"{cpu[role]:.2f}" for role in ("edge", "cloud", "broker")),
        f"{cores['edge'] + cores['cloud'] + cores['broker']:.2f}",
        f"{usage.foreign_cores:.2f}",
        f"{step.per_core_hz:.0f}",
        f"{usage.edge_mb:.1f}",
        step.limit,
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
