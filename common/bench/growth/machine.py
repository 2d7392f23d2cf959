"""How busy this machine's cores are, whoever keeps them so."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from common.evaluation.machine import num_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreTime:
    """Seconds that the cores of this process have idled, by a clock."""

    at: float  # monotonic seconds
    idle_s: float

    def idle_cores(self, later: "CoreTime") -> float:
        """Give how many cores idled on average until ``later``."""
        return (later.idle_s - self.idle_s) / (later.at - self.at)


def core_time() -> CoreTime:
    """Read the idle time of the cores that this process may use; none where the system does not tell."""
    at = time.monotonic()
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return CoreTime(at=at, idle_s=0.0)
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    fields = [line.split() for line in lines if line.split()[0] in ours]
    ticks = sum(int(idle) + int(waiting) for _, _, _, _, idle, waiting, *_ in fields)
    return CoreTime(at=at, idle_s=ticks / os.sysconf("SC_CLK_TCK"))


def foreign_cores(idle: float, ours: float) -> float:
    """Give the cores that neither idled nor were ours; clocks tick, so never less than none."""
    return max(0.0, num_cores() - idle - ours)
