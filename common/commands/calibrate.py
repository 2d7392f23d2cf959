"""``dimee model calibrate``: an operating point for a budget, with a promise that holds."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.cli.output import number, percent, print_json
from common.commands.evaluate import PAPER, cost_model
from common.engine.choice import routing_table
from common.errors import ConfigError
from common.evaluation import budgets, families
from common.evaluation.evaluation import chosen_metric
from common.evaluation.metrics import Interval
from common.evaluation.operating import Budget, Desk, Promise
from common.evaluation.profile import Profile, read_profile
from common.evaluation.resealing import write_promised
from common.evaluation.scoring import Setting
from common.evaluation.trace import read_calibration
from common.model.bundle import SHIPPED, open_bundle
from common.routing.cost import CostModel
from common.routing.exits import ConfidenceCascade


def calibrate(
    bundle: Annotated[
        str, typer.Argument(help="A bundle's directory; the shipped bundle when none is named.")
    ] = SHIPPED,
    *,
    max_drop: Annotated[float | None, typer.Option(help="Accuracy points lost at most, promised.")] = None,
    max_cloud: Annotated[str | None, typer.Option(help="Share of answers from the cloud, e.g. 10%.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Hidden states sent: 4kB per request, or 2MB/h.")] = None,
    rate: Annotated[str | None, typer.Option(help="Requests per time, e.g. 500/h; for bytes over time.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="A percentile, e.g. p95=150ms; needs --profile.")] = None,
    profile: Annotated[Path | None, typer.Option(help="TOML with milliseconds per layer and link.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the promise.")] = 0.9,
    over: Annotated[int | None, typer.Option(min=1, help="Promise the drop over the next N answers.")] = None,
    cost: Annotated[str, typer.Option(help="paper, or a TOML or JSON file.")] = PAPER,
    out: Annotated[Path | None, typer.Option(help="Write the bundle with this operating point here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Choose thresholds for a budget. Example: dimee model calibrate --max-drop 0.5 --max-cloud 10% --out mine."""
    opened = open_bundle(bundle)
    budget = _budget(max_drop, max_cloud, max_bytes=max_bytes, rate=rate, max_latency=max_latency)
    if chosen_metric(opened, None) != "accuracy" and max_drop is not None:
        raise ConfigError("--max-drop is promised for accuracy alone; this bundle's metric is a correlation")
    setting = Setting(depths=opened.manifest.depths, cost=cost_model(cost, ""))
    tiers: Profile | None = None if profile is None else read_profile(profile)
    promise = Desk(read_calibration(opened), setting, profile=tiers).choose(budget, confidence=confidence, over=over)
    revision = None if out is None else write_promised(opened, routing_table(opened), promise, out).revision
    if as_json:
        document = msgspec.to_builtins(promise) | {"cost": setting.cost, "revision": revision}
        print_json(document)
    else:
        _print(promise, setting.cost, out=out, revision=revision)


def _budget(
    max_drop: float | None, max_cloud: str | None, *, max_bytes: str | None, rate: str | None, max_latency: str | None
) -> Budget:
    if max_drop is None and max_cloud is None and max_bytes is None and max_latency is None:
        raise ConfigError("name a budget: --max-drop, --max-cloud, --max-bytes or --max-latency")
    if max_drop is not None and not 0 < max_drop < 100:
        raise ConfigError(f"--max-drop {max_drop:g}: must be above 0 and below 100 points")
    quantile, limit_ms = (0.95, None) if max_latency is None else budgets.latency("--max-latency", max_latency)
    return Budget(
        max_drop=None if max_drop is None else max_drop / 100,
        max_cloud=None if max_cloud is None else budgets.share("--max-cloud", max_cloud),
        max_bytes=None if max_bytes is None else budgets.bytes_per_request("--max-bytes", max_bytes, rate),
        max_latency_ms=limit_ms,
        latency_quantile=quantile,
    )


def _print(promise: Promise, cost: CostModel, *, out: Path | None, revision: str | None) -> None:
    found, sure = promise.expected, f"{promise.confidence:.0%}"
    lines = {
        "drop": f"not promised; at most {promise.certified_drop_points:.2f} points at {sure} confidence",
        "expected": f"{found.drop_points:+.2f} points, 95 % {_span(found.drop_interval, '+.2f')}",
        "saving": f"{percent(found.reduction)}, 95 % {_span(found.reduction_interval, '.1%')}",
        "constants": f"cost model {cost.name}: {_constants(cost)}",
        "cloud": f"{percent(found.cloud_share)} of answers, 95 % {_span(found.cloud_interval, '.1%')}",
        "bytes": f"{number(found.payload_bytes_per_request, 0)} per request",
    }
    if promise.promised_drop_points is not None:
        scope = "in the long run" if promise.over is None else f"over the next {promise.over:,} answers"
        lines["drop"] = (
            f"at most {promise.promised_drop_points:g} points {scope}, promised at {sure} confidence "
            f"from {promise.samples:,} kept-back samples"
        )
    if found.latency_ms is not None:
        lines["latency"] = f"{found.latency_ms:.1f} ms at the asked percentile, without queues"
    if promise.samples_for_next is not None:
        lines["more"] = f"about {promise.samples_for_next:,} kept-back samples would promise the next saving"
    typer.echo(f"answer early from a confidence of {promise.threshold} on, at every exit")
    for name, told in lines.items():
        typer.echo(f"  {name:<10} {told}")
    typer.echo(f"a running site takes it by: {_operate(promise)}")
    written = "nothing written; --out DIR writes a bundle with this operating point"
    typer.echo(written if out is None else f"wrote {out}, revision {revision}")


def _operate(promise: Promise) -> str:
    thresholds = promise.policy.thresholds if isinstance(promise.policy, ConfidenceCascade) else {}
    options = [f"--threshold {layer}={value:g}" for layer, value in thresholds.items()]
    return " ".join(["dimee model operate", families.confidence_family().name, *options])


def _span(found: Interval, form: str) -> str:
    return f"[{found.low:{form}}, {found.high:{form}}]"


def _constants(cost: CostModel) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in msgspec.to_builtins(cost).items() if name != "name")
