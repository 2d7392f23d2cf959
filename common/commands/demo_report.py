"""What a demo measured, read from the log that the tiers wrote."""

from pathlib import Path
from typing import Any

import msgspec

from common.cli.output import number, percent, print_table
from common.model.manifest import Manifest
from common.routing.cost import CostModel
from common.store.engine import readable_log
from common.store.queries import Filters
from common.store.statistics import stats
from common.types import Reason, Tier


class TierReport(msgspec.Struct, frozen=True, kw_only=True):
    """One tier's answers."""

    answered: int
    share: float
    accuracy: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes cost, with the constants that the numbers rest on."""

    model: str
    constants: dict[str, float]
    per_request: float
    cloud_only: float
    reduction: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A demo in numbers."""

    samples: int
    answered: int
    degraded: int
    accuracy: float | None
    tiers: dict[Tier, TierReport]
    payload_bytes_per_request: float | None
    cost: CostReport
    log: str
    is_log_kept: bool


def report(database: Path, device_id: str, manifest: Manifest, *, samples: int, is_kept: bool) -> Report:
    """Read one device's requests from the log."""
    with readable_log(str(database)) as engine:
        found = stats(engine, Filters(device=device_id))
    overall, model = found.overall, CostModel()
    cloud_only, per_request = model.cloud_only(manifest.depths), overall.cost_per_request or 0.0
    constants = {name: value for name, value in msgspec.to_builtins(model).items() if name != "name"}
    return Report(
        samples=samples,
        answered=found.requests - overall.reasons.get(Reason.FAILED, 0),
        degraded=overall.reasons.get(Reason.DEGRADED, 0),
        accuracy=overall.accuracy,
        tiers={
            tier: TierReport(
                answered=figures.answered,
                share=figures.share,
                accuracy=figures.accuracy,
                latency_ms_p50=figures.latency_ms_p50,
                latency_ms_p95=figures.latency_ms_p95,
            )
            for tier, figures in found.tiers.items()
        },
        payload_bytes_per_request=overall.payload_bytes_per_request,
        cost=CostReport(
            model=model.name,
            constants=constants,
            per_request=per_request,
            cloud_only=cloud_only,
            reduction=1 - per_request / cloud_only,
        ),
        log=str(database),
        is_log_kept=is_kept,
    )


def print_report(result: Report, elapsed_s: float) -> None:
    """Print the table a newcomer sees."""
    rows: list[tuple[Any, ...]] = [
        (
            str(tier),
            tier_report.answered,
            percent(tier_report.share),
            percent(tier_report.accuracy),
            number(tier_report.latency_ms_p50),
            number(tier_report.latency_ms_p95),
        )
        for tier, tier_report in result.tiers.items()
    ]
    rows.append(("all", result.answered, percent(1.0), percent(result.accuracy), None, None))
    columns = ("answered by", "answers", "share", "accuracy", "median ms", "p95 ms")
    print_table(f"{result.answered} of {result.samples} texts in {elapsed_s:.1f} s", columns, rows)
    cost = result.cost
    constants = ", ".join(f"{name} {value:g}" for name, value in cost.constants.items())
    print(f"hidden states sent   {number(result.payload_bytes_per_request, 0)} bytes per request")  # noqa: T201
    print(  # noqa: T201
        f"cost                 {cost.per_request:.2f} against {cost.cloud_only:g} cloud-only: "
        f"{percent(cost.reduction)} less\n"
        f"                     ({cost.model}: {constants})"
    )
    if result.degraded:
        print(f"degraded             {result.degraded} answered by the device because no outcome came in time")  # noqa: T201
    if result.is_log_kept:
        print(f"log                  {result.log}\n                     dimee log stats --db {result.log}")  # noqa: T201
    else:
        print("log                  not kept; --log PATH keeps it, then: dimee log stats --db PATH")  # noqa: T201
