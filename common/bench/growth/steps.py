"""One step of a sweep: a load on a site, what became of it, and what it cost whom."""

from collections.abc import Mapping, Sequence

import msgspec

from common.bench.parts import Flowed
from common.config.settings import DeviceLimits

CROWD = "crowd"
_SURE_SHARE = 0.99  # of a step's requests must be answered
_TIMELY_SHARE = 0.1  # of the budget, for the 95th percentile
_BUSY_CORE = 0.9
_IDLE_CORE = 0.1


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a step is about."""

    edges: int = 1
    clouds: int = 1
    devices: int = 100
    rate_hz: float | None = None  # None: closed loop
    tokens: int | None = None  # None: as the texts have them


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Who used which part of the machine during a step."""

    lasted_s: float  # the step, with the wait for what never came
    cores: dict[str, float]  # on average, by process
    idle_cores: float
    foreign_cores: float  # used by what does not belong to the benchmark
    edge_mb: float  # resident memory of the first edge after the step


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A measured step."""

    setup: Setup
    flowed: Flowed
    usage: Usage
    throughput_hz: float
    cpu_ms: dict[str, float]  # per answered request, by process
    per_core_hz: float  # answers per second and core that tiers and broker used
    limit: str  # what was exhausted, if anything
    has_kept_up: bool


def measured(setup: Setup, flowed: Flowed, usage: Usage) -> Step:
    """Work out a step's figures."""
    cpu_s = {name: used * usage.lasted_s for name, used in usage.cores.items()}
    ours_s = sum(used_s for name, used_s in cpu_s.items() if name != CROWD)
    return Step(
        setup=setup,
        flowed=flowed,
        usage=usage,
        throughput_hz=flowed.answered / flowed.elapsed_s,
        cpu_ms={name: 1000 * used_s / max(1, flowed.answered) for name, used_s in cpu_s.items()},
        per_core_hz=flowed.answered / ours_s if ours_s else 0.0,
        limit=_limit(usage),
        has_kept_up=_has_kept_up(flowed),
    )


def knee(steps: Sequence[Step]) -> Step | None:
    """Give a step of the highest rate up to which at every rate at least one step has kept up.

    A shared machine stalls now and then: what a rate can do once, it can do.
    """
    last = None
    for rate_hz in sorted({step.setup.rate_hz or 0.0 for step in steps}):
        good = [step for step in steps if step.setup.rate_hz == rate_hz and step.has_kept_up]
        if not good:
            break
        last = good[0]
    return last


def slope(points: Mapping[int, float]) -> float:
    """Fit a line by least squares, and give how steep it is."""
    mean_x, mean_y = sum(points) / len(points), sum(points.values()) / len(points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points.items())
    return rise / sum((x - mean_x) ** 2 for x in points)


def by_role(figures: Mapping[str, float]) -> dict[str, float]:
    """Add up the figures of the edges, and of the cloud workers."""
    roles: dict[str, float] = {}
    for name, figure in figures.items():
        role = name.partition("-")[0]
        roles[role] = roles.get(role, 0.0) + figure
    return roles


def _limit(usage: Usage) -> str:
    if usage.idle_cores < _IDLE_CORE:
        return "all cores"
    name, used = max(usage.cores.items(), key=lambda item: item[1])
    return name if used > _BUSY_CORE else "nothing"


def _has_kept_up(flowed: Flowed) -> bool:
    asked = flowed.sent + flowed.unsent
    is_sure = asked > 0 and flowed.answered >= _SURE_SHARE * asked
    return is_sure and flowed.p95_ms is not None and flowed.p95_ms <= _TIMELY_SHARE * DeviceLimits().budget_ms
