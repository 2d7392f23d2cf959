"""``dimee bench``: this machine, the pipeline and its rivals, side by side in one run."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from common.bench.field import RIVALS, Ground
from common.bench.machine_profile import MachineProfile, as_toml, measure_machine, tier_profile
from common.bench.measure import progress_line
from common.bench.report import as_markdown, context_of, print_document
from common.bench.suite import FULL, QUICK, Suite
from common.cli.groups import LazyGroup
from common.cli.output import print_json, print_table
from common.commands.demo_inputs import read_inputs
from common.engine.choice import DEFAULT, routing_table
from common.errors import ConfigError
from common.evaluation.profile import read_profile
from common.model.bundle import SHIPPED, open_bundle
from common.types import Tier


class BenchGroup(LazyGroup):
    """Measurements, and those that need an extra."""

    entry_point_group: ClassVar[str] = "dimee.commands.bench"
    summaries: ClassVar[dict[str, str]] = {
        "growth": "Find where the tiers stop keeping up, and why.",
        "security": "Measure what protection costs, and attack it.",
    }


app = typer.Typer(
    cls=BenchGroup, rich_markup_mode=None, invoke_without_command=True, help="Measure this machine and the pipeline."
)


@app.callback()
def bench(
    context: typer.Context,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer texts, rounds, rivals and links; under a minute.")
    ] = False,
    rivals: Annotated[str | None, typer.Option(help=f"Which of {', '.join(RIVALS)}; with commas.")] = None,
    inputs: Annotated[Path | None, typer.Option("--input", help="TSV, CSV or JSONL, or plain lines.")] = None,
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    policy: Annotated[str, typer.Option(help="A policy of the bundle by name.")] = DEFAULT,
    picture: Annotated[Path | None, typer.Option(help="Write a picture here (PNG or SVG).")] = None,
    tables: Annotated[Path | None, typer.Option(help="Write the tables here (Markdown).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare the pipeline with its rivals. Example: dimee bench --quick --json."""
    if context.invoked_subcommand is not None:
        return
    opened = open_bundle(bundle)
    texts = tuple(item.text for item in read_inputs(inputs, opened.manifest))
    extent = QUICK if quick else FULL
    if rivals is not None:
        extent = replace(extent, rivals=_named(rivals))
    chosen = routing_table(opened).default if policy == DEFAULT else policy
    ground = Ground(bundle=str(opened.directory.absolute()), policy=chosen, texts=texts)
    suite = Suite(ground, context_of(opened, chosen, inputs, len(texts)), extent, progress_line(is_shown=not as_json))
    suite.run()
    document = suite.document(is_quick=quick)
    if picture is not None:
        from common.bench.picture import draw  # noqa: PLC0415 - matplotlib is an optional extra

        draw(document, picture)
    if tables is not None:
        tables.write_text(as_markdown(document), encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        print_document(document)


@app.command()
def profile(
    *,
    bundles: Annotated[
        list[str] | None, typer.Option("--bundle", help="May be repeated, e.g. int8 and float32.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="The usual length.")] = 24,
    broker: Annotated[str, typer.Option(help="embedded, mosquitto, or HOST:PORT.")] = "embedded",
    out: Annotated[Path | None, typer.Option(help="Write a profile for tiers and 'dimee plan' here (TOML).")] = None,
    tier: Annotated[Tier | None, typer.Option(help="Change only this tier of an existing --out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure this machine for its tiers and the planner. Example: dimee bench profile --out tiers.toml."""
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: its directory does not exist")
    known = read_profile(out) if out is not None and tier is not None and out.exists() else None
    locations = [
        location if location == SHIPPED else str(Path(location).absolute()) for location in bundles or [SHIPPED]
    ]
    found = measure_machine(locations, broker=broker, usual_tokens=tokens, progress=progress_line(is_shown=not as_json))
    if out is not None:
        out.write_text(as_toml(tier_profile(found, tier, known)), encoding="utf-8")
    if as_json:
        print_json(found)
    else:
        _print_profile(found)


def _print_profile(found: MachineProfile) -> None:
    columns = ("layers", "precision", "threads", "tokens", "ms per layer", "p90")
    rows = [
        (
            f"{each.span.start}-{each.span.end}",
            each.precision,
            each.threads,
            each.tokens,
            f"{each.layer_ms:.3f}",
            f"{each.layer_ms_p90:.3f}",
        )
        for each in found.segments
    ]
    print_table("layers", columns, rows)
    codecs = [(each.codec, each.tokens, each.num_bytes, f"{each.round_trip_ms:.3f}") for each in found.codecs]
    print_table("codecs, there and back", ("codec", "tokens", "bytes", "ms"), codecs)
    typer.echo(f"broker, there and back: {found.link.latency_ms:.2f} ms, {found.link.mbit_s:,.0f} Mbit/s")
    for tier, best in found.tiers.items():
        typer.echo(
            f"{tier}: {best.precision} with threads = {best.settings.threads}, {best.layer_ms:.3f} ms a layer "
            f"at {found.usual_tokens} tokens; codec = {best.settings.codec}"
        )


def _named(rivals: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in rivals.split(","))
    if unknown := set(names) - set(RIVALS):
        raise ConfigError(f"--rivals {min(unknown)!r} is none of {', '.join(RIVALS)}")
    return names
