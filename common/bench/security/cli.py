"""``dimee bench security``."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from common.bench.measure import progress_line
from common.bench.security.costs import Extent, Findings, Ratio, measure
from common.cli.output import print_json, print_table
from common.commands.demo_inputs import read_inputs
from common.model.bundle import SHIPPED, open_bundle


def security(
    *,
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each kind with one text in flight.")] = 40,
    load_rounds: Annotated[int, typer.Option(min=2, help="Turns of each kind under load.")] = 6,
    tries: Annotated[int, typer.Option(min=10, help="Attacks of each kind.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure what protection costs, and attack it. Example: dimee bench security --json."""
    texts = tuple(item.text for item in read_inputs(None, open_bundle(bundle).manifest))
    extent = Extent(rounds=rounds, load_rounds=load_rounds, attacks=tries)
    with tempfile.TemporaryDirectory(prefix="dimee-security-") as folder:
        found = measure(Path(folder), bundle, texts, extent, progress_line(is_shown=not as_json))
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Findings) -> None:
    typer.echo(f"{found.machine.processor}, {found.machine.cores} cores; {found.machine.system}")
    for title, ratios in (
        ("median latency, ms", found.latency_ms),
        ("throughput, 1/s", found.throughput_hz),
        ("loading, ms", found.load_ms),
    ):
        print_table(
            title, ("answered by", "plain", "protected", "ratio", "quartiles"), [_row(*each) for each in ratios.items()]
        )
    print_table("sealing", ("step", "us"), [(name, f"{us:.1f}") for name, us in found.sealing_us.items()])
    print_table(
        "attacks",
        ("kind", "tried", "succeeded"),
        [(kind, found.attacks.tried_each, found.attacks.opened.get(kind, 0)) for kind in found.attacks.kinds]
        + [("bit flip in a bundle", found.bundle_flips["tried"], found.bundle_flips["believed"])],
    )


def _row(name: str, each: Ratio) -> tuple[str, str, str, str, str]:
    low, high = each.spread
    return name, f"{each.plain:.2f}", f"{each.protected:.2f}", f"{each.ratio:.3f}", f"{low:.2f} - {high:.2f}"
