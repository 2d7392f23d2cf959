"""``dimee plan``: where to split, where to start, what to send and when to answer, for the machines at hand."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.cli.output import number, percent, print_json, print_table
from common.config.document import toml_value
from common.errors import ConfigError
from common.evaluation.planning import PlanPoint, choose_plan, pareto, plan
from common.evaluation.profile import read_profile
from common.evaluation.thin_plans import measured, recorded
from common.evaluation.thinning import way_name
from common.evaluation.trace import read_calibration
from common.model.bundle import SHIPPED, open_bundle
from common.types import Tier

app = typer.Typer(rich_markup_mode=None)


@app.command(name="plan")
def show_plan(
    *,
    profile: Annotated[Path, typer.Option(help="TOML: layer_ms per tier, latency_ms and mbit_s per link, prices.")],
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    max_drop: Annotated[float, typer.Option(help="Accuracy points lost at most, as estimated.")] = 0.3,
    max_latency: Annotated[float | None, typer.Option(help="Milliseconds at p95, without queues.")] = None,
    codecs: Annotated[Path | None, typer.Option(help="What 'dimee evaluate --codec all --json' printed.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the front into this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Sweep splits, entry tiers, thresholds and what is sent. Example: dimee plan --profile tiers.toml.

    Over the bundle's thin links go the budgets with the accuracy that the bundle records; with --codecs also the other
    codecs and the shares of tokens, with the accuracy that was measured.
    """
    opened, tiers = open_bundle(bundle), read_profile(profile)
    trace = read_calibration(opened)
    thin = recorded(opened, trace.tokens) if codecs is None else measured(opened, trace.tokens, codecs)
    points = plan(trace, tiers, depths=opened.manifest.depths, thin=thin)
    front = pareto(points)
    chosen = choose_plan(front, max_drop_points=max_drop, max_latency_ms=max_latency)
    if plot is not None:
        _draw(points, front, chosen, plot)
    unit = "price" if tiers.has_prices else "ms"
    if as_json:
        constants = msgspec.to_builtins(tiers)
        print_json(
            {
                "samples": len(trace),
                "points": len(points),
                "profile": constants,
                "cost_unit": unit,
                "chosen": chosen,
                "settings": _settings(chosen),
                "front": front,
            }
        )
        return
    columns = (
        "split",
        "start",
        "sent",
        "threshold",
        "drop, points",
        "ms",
        "p95 ms",
        "bytes",
        f"cost, {unit}",
        "d/e/c %",
    )
    shown = [chosen, *(point for point in _thinned(front) if point != chosen)]
    print_table(
        f"{len(front)} of {len(points):,} plans that no other beats; the first is the choice", columns, map(_row, shown)
    )
    typer.echo(f"estimated on {len(trace):,} kept-back samples; 'dimee model calibrate' makes a promise of it")
    if thin:
        told = "the bundle records" if codecs is None else f"{codecs.name} tells"
        typer.echo(f"over a thin link all is taken off that {told} when everything travels; other codecs: nothing")
    for tier, values in _settings(chosen).items():
        typer.echo(f"{tier}: " + ", ".join(f"{key} = {toml_value(value)}" for key, value in values.items()))
    if chosen.entry is not Tier.DEVICE:
        typer.echo(f"note: inputs should start on the {chosen.entry}, the device's layers are too dear here")


def _settings(chosen: PlanPoint) -> dict[str, dict[str, str | float]]:
    """Name what the senders' settings must be."""
    return {
        tier: {f"{section}.codec": sent.codec, "link.budget": sent.budget, "link.tokens": sent.tokens}
        for tier, section, sent in (
            ("device", "device", chosen.device_sends),
            ("edge", "worker", chosen.edge_sends),
        )
    }


def _draw(points: list[PlanPoint], front: list[PlanPoint], chosen: PlanPoint, file: Path) -> None:
    try:
        from common.evaluation.figures import draw_front  # noqa: PLC0415 - matplotlib only where a picture is asked for
    except ModuleNotFoundError as exc:
        raise ConfigError(f"--plot needs {exc.name!r}; install it with pip install 'dimee[evaluate]'") from exc
    draw_front(points, front, chosen, file)


def _row(point: PlanPoint) -> tuple[str | float | None, ...]:
    return (
        f"{point.depths.device},{point.depths.edge}",
        point.entry.value,
        ", ".join(dict.fromkeys(map(way_name, (point.device_sends, point.edge_sends)))),
        number(point.threshold, 2),
        f"{point.drop_points:+.2f}",
        point.latency_ms,
        point.latency_ms_p95,
        number(point.payload_bytes_per_request, 0),
        number(point.cost, 2),
        " / ".join(percent(share).removesuffix(" %") for share in point.shares.values()),
    )


def _thinned(front: list[PlanPoint], most: int = 24) -> list[PlanPoint]:
    """Spread a long front over a screen."""
    step = max(1, -(-len(front) // most))
    return front[::step]
