"""Lets loose one fault after the other, and measures how soon everything works again after each."""

import random
import statistics
import struct
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.chaos.application import Application
from tests.chaos.faults import Fault, Faults, build_shim, small_disks
from tests.chaos.processes import Fleet
from tests.chaos.spread import spread
from tests.chaos.stranger import Stranger
from tests.chaos.verdict import is_kept, judge, read_rows

_RECOVERY_LIMIT_S = 30.0
_START_LIMIT_S = 90.0
_END_LIMIT_S = 120.0


class Nemesis:
    """Chooses from a bag of all kinds, so that each comes as often as the others."""

    def __init__(self, fleet: Fleet, application: Application, faults: Faults, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.recoveries: dict[str, list[float]] = {}
        self.from_online: list[float] = []
        self.unrecovered: list[str] = []
        self._fleet = fleet
        self._application = application
        self._faults = faults
        self._random = rng
        self._bag: list[str] = []

    def strike(self) -> None:
        """Begin a fault, hold it, end it, and wait until all is well."""
        faults = [self._draw() for _ in range(2 if self._random.random() < 0.15 else 1)]
        for fault in faults:
            fault.begin()
            self.done[fault.name] += 1
        time.sleep(self._random.uniform(0.1, 2.0))
        ended_at = time.monotonic()
        for fault in faults:
            fault.end()
        self._wait_recovered(faults, ended_at)
        time.sleep(self._random.uniform(0.0, 0.5))

    def _draw(self) -> Fault:
        if not self._bag:
            self._bag = list(self._faults.kinds)
            self._random.shuffle(self._bag)
        return self._faults.kinds[self._bag.pop()]()

    def _wait_recovered(self, faults: list[Fault], ended_at: float) -> None:
        name = "+".join(sorted(fault.name for fault in faults))
        until = time.monotonic() + _RECOVERY_LIMIT_S
        while time.monotonic() < until:
            first = [self._first_full(device, ended_at) for device in self._fleet.devices]
            if all(first):
                recovered_at = max(filter(None, first))
                self.recoveries.setdefault(name if len(faults) == 1 else "two at once", []).append(
                    recovered_at - ended_at
                )
                restarted = [fault.restarted for fault in faults if fault.restarted and fault.restarted != "broker"]
                online_at = max((self._fleet.online_at.get(one, ended_at) for one in restarted), default=ended_at)
                self.from_online.append(max(0.0, recovered_at - max(online_at, ended_at)))
                return
            time.sleep(0.02)
        self.unrecovered.append(name)

    def _first_full(self, device: str, after: float) -> float | None:
        tiers = ("cloud",) if self._fleet.needs_cloud(device) else ("edge", "cloud")
        times = [self._application.full_at.get((device, tier), 0.0) for tier in tiers]
        return min((at for at in times if at > after), default=None)


def run(
    bundle: str,
    *,
    duration_s: float,
    seed: int,
    broker: str,
    total: int,
    rate: float,
    directory: Path | None = None,
    is_protected: bool = False,
) -> dict[str, Any]:
    """Run everything and give the report; ``kept`` says whether the promise held."""
    rng = random.Random(seed)
    started = time.monotonic()
    with ExitStack() as stack:
        folder = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dimee-chaos-")))
        folder.mkdir(exist_ok=True)
        devices = ["device1", "device2"]
        has_disks = stack.enter_context(small_disks([folder / f"{name}.disk" for name in devices]))
        shim = build_shim(folder)
        shims = {name: folder / f"{name}.shim" for name in devices} if shim else {}
        for path in shims.values():
            path.write_bytes(struct.pack("dd", 0.0, 0.0))
        fleet = Fleet(
            folder,
            str(spread(bundle, folder / "bundle")),
            broker,
            num_devices=len(devices),
            preload=_preload(shim, shims),
            is_protected=is_protected,
        )
        stack.enter_context(fleet)
        for name in (*devices, "edge1", "edge2", "cloud1"):
            if fleet.wait_online(name, 0.0, _START_LIMIT_S) is None:
                raise SystemExit(f"{name} did not come online; see {folder}/{name}.err")
        application = Application(fleet, total=total, rate=rate, most=128, seed=seed)
        with application, Stranger(fleet, rng) as stranger:
            faults = Faults(fleet, stranger, rng, shims=shims, ballast=has_disks)
            nemesis = Nemesis(fleet, application, faults, rng)
            time.sleep(1.0)
            until = time.monotonic() + duration_s  # of faults: a slow start takes nothing of it
            while time.monotonic() < until and not (application.is_done and not application.num_open):
                nemesis.strike()
            is_all_answered = application.end(_END_LIMIT_S)
            _wait_logged(application, fleet.log)
            said = stranger.counts
        statuses = fleet.stop_devices()
        verdict = judge(application, fleet.log)
    recoveries = [one for times in nemesis.recoveries.values() for one in times]
    return {
        "seed": seed,
        "broker": broker,
        "duration_s": round(time.monotonic() - started, 1),
        **verdict,
        "kept": is_kept(verdict) and is_all_answered,
        "faults": sum(nemesis.done.values()),
        "fault_kinds": dict(sorted(nemesis.done.items())),
        "recovery_s": _summary(recoveries),
        "recovery_from_online_s": _summary(nemesis.from_online),
        "recovery_s_by_fault": {name: _summary(times) for name, times in sorted(nemesis.recoveries.items())},
        "unrecovered": nemesis.unrecovered,
        "strangers": dict(said),
        "died_by_itself": dict(fleet.restarts),
        "device_exit_statuses": statuses,
        "left_out": [name for name, has in (("clock_jump, slow_disk", shims), ("full_disk", has_disks)) if not has],
    }


def _preload(shim: Path | None, shims: dict[str, Path]) -> dict[str, dict[str, str]]:
    return {name: {"LD_PRELOAD": str(shim), "CHAOS_SHIM": str(path)} for name, path in shims.items()}


def _wait_logged(application: Application, log: Path) -> None:
    wanted = {request_id for question in application.questions.values() for request_id, _, _ in question.answers}
    until = time.monotonic() + _END_LIMIT_S / 2
    while time.monotonic() < until and not wanted <= set(read_rows(log)):
        time.sleep(0.5)


def _summary(times: list[float]) -> dict[str, float]:
    if not times:
        return {}
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(p95, 3),
        "worst": round(ordered[-1], 3),
        "faults": len(ordered),
    }
