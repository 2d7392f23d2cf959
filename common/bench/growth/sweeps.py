"""The four sweeps of a growth run, and what they say together."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from common.bench.field import Ground
from common.bench.growth.site import Site, open_site
from common.bench.growth.steps import Step, knee, slope
from common.bench.measure import Progress
from common.bench.report import Context
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.manifest import MANIFEST_FILE

_LENGTH_POLICY = "edge-only"  # the length alone decides what a request costs
_Setting = TypeVar("_Setting")
_CAPACITY_STEPS = 3
_LENGTH_IN_FLIGHT = 8  # the longest must not wait for longer than their budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    seconds: float  # of a step
    shares: tuple[float, ...]  # of the capacity, rising
    devices: tuple[int, ...]
    workers: tuple[tuple[int, int], ...]  # edges and cloud workers
    rounds: int  # of the sweeps over rate and workers, every other one backwards
    lengths: tuple[int, ...]  # tokens


QUICK = Extent(
    seconds=2.0,
    shares=(0.25, 0.5, 0.75, 1.0, 1.5),
    devices=(1, 10, 100, 1000),
    workers=((1, 1), (2, 2)),
    rounds=1,
    lengths=(8, 32, 128, 512),
)
FULL = Extent(
    seconds=5.0,
    shares=(0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5),
    devices=(1, 10, 100, 1000),
    workers=((1, 1), (2, 1), (1, 2), (2, 2)),
    rounds=2,
    lengths=(8, 16, 32, 64, 128, 256, 512),
)


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    is_quick: bool
    context: Context
    load_average: float
    capacity_hz: float  # in a closed loop, the median of some steps
    knee_hz: float | None  # answered at the knee; None where the first step did not keep up
    beyond: Step  # at the first rate above the knee, or at the highest
    kb_per_device: float  # of the edge's resident memory
    drift_kb: float  # by which it had grown when all but one device had gone again
    rate: list[Step]
    devices: list[Step]
    workers: list[Step]
    length: list[Step]


class Sweeps(msgspec.Struct, frozen=True, kw_only=True):
    """What the sweeps found."""

    capacity: list[Step]  # closed loop
    rate: list[Step]
    devices: list[Step]
    workers: list[Step]
    length: list[Step]


def sweep(ground: Ground, extent: Extent, folder: Path, progress: Progress) -> Sweeps:
    """Measure everything, with an empty folder for a bundle of longer texts."""
    with open_site(ground) as site:
        progress("capacity")
        capacity = [site.step(seconds=extent.seconds) for _ in range(_CAPACITY_STEPS)]
        capacity_hz = _median_hz(capacity)
        rate = _rates(site, extent, capacity_hz, progress)
        devices = _devices(site, extent, capacity_hz / 2, progress)
    return Sweeps(
        capacity=capacity,
        rate=rate,
        devices=devices,
        workers=_workers(ground, extent, progress),
        length=_lengths(ground, extent, folder, progress),
    )


def conclude(found: Sweeps, context: Context, load_average: float, *, is_quick: bool) -> Growth:
    """Say where the knee is and what limits it, and what a device costs the edge."""
    at = knee(found.rate)
    kept_up_hz = 0.0 if at is None else at.setup.rate_hz or 0.0
    rates = sorted(found.rate, key=lambda step: step.setup.rate_hz or 0.0)
    beyond = next((step for step in rates if (step.setup.rate_hz or 0.0) > kept_up_hz), rates[-1])
    *growing, closing = found.devices
    memory = {step.setup.devices: step.usage.edge_mb * 1024 for step in growing}
    return Growth(
        is_quick=is_quick,
        context=context,
        load_average=load_average,
        capacity_hz=_median_hz(found.capacity),
        knee_hz=None if at is None else at.throughput_hz,
        beyond=beyond,
        kb_per_device=slope(memory),
        drift_kb=closing.usage.edge_mb * 1024 - memory[min(memory)],
        rate=found.rate,
        devices=found.devices,
        workers=found.workers,
        length=found.length,
    )


def _median_hz(steps: Sequence[Step]) -> float:
    return statistics.median(step.throughput_hz for step in steps)


def _rates(site: Site, extent: Extent, capacity_hz: float, progress: Progress) -> list[Step]:
    steps = []
    for share in _by_rounds(extent.shares, extent.rounds):
        progress(f"{share:.0%} of {capacity_hz:.0f} requests per second")
        steps.append(site.step(seconds=extent.seconds, rate_hz=share * capacity_hz))
    return steps


def _devices(site: Site, extent: Extent, rate_hz: float, progress: Progress) -> list[Step]:
    """Raise the number of devices at one rate, long enough that each has its turn; then go back to the least."""
    steps = []
    for devices in (*extent.devices, min(extent.devices)):
        progress(f"{devices} devices")
        seconds = max(extent.seconds, 1.2 * devices / rate_hz)
        steps.append(site.step(seconds=seconds, devices=devices, rate_hz=rate_hz))
    return steps


def _workers(ground: Ground, extent: Extent, progress: Progress) -> list[Step]:
    steps = []
    for edges, clouds in _by_rounds(extent.workers, extent.rounds):
        progress(f"{edges} edges, {clouds} cloud workers")
        with open_site(ground, edges=edges, clouds=clouds) as site:
            steps.append(site.step(seconds=extent.seconds))
    return steps


def _by_rounds(settings: Sequence[_Setting], rounds: int) -> Iterator[_Setting]:
    """Go up, then down, and so on, so that what disturbs the machine for a while meets all alike."""
    for number in range(rounds):
        yield from settings if number % 2 == 0 else reversed(settings)


def _lengths(ground: Ground, extent: Extent, folder: Path, progress: Progress) -> list[Step]:
    longest = _for_length(open_bundle(ground.bundle), max(extent.lengths), folder)
    whole = Ground(bundle=str(longest.directory), policy=_LENGTH_POLICY, texts=ground.texts)
    steps = []
    with open_site(whole) as site:
        for tokens in extent.lengths:
            progress(f"{tokens} tokens")
            steps.append(site.step(seconds=extent.seconds, in_flight=_LENGTH_IN_FLIGHT, tokens=tokens))
    return steps


def _for_length(bundle: Bundle, tokens: int, folder: Path) -> Bundle:
    """Give a bundle whose tiers take states of so many tokens: this one, or a copy with its limit raised."""
    if tokens <= bundle.manifest.max_tokens:
        return bundle
    copy = derive(bundle, folder, {})
    manifest = msgspec.structs.replace(copy.manifest, max_tokens=tokens).sealed()
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    return open_bundle(folder)


def all_steps(growth: Growth) -> Sequence[tuple[str, list[Step]]]:
    """Name the sweeps in the order of the page."""
    return (
        ("rate", growth.rate),
        ("devices", growth.devices),
        ("workers", growth.workers),
        ("length", growth.length),
    )
