"""``dimee bench growth``."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from common.bench.field import Ground
from common.bench.growth.report import as_markdown, print_growth
from common.bench.growth.sweeps import FULL, QUICK, conclude, sweep
from common.bench.measure import progress_line
from common.bench.report import context_of
from common.cli.output import print_json
from common.commands.demo_inputs import read_inputs
from common.engine.choice import DEFAULT, routing_table
from common.model.bundle import SHIPPED, open_bundle


def growth(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter steps; under 90 seconds.")] = False,
    inputs: Annotated[Path | None, typer.Option("--input", help="TSV, CSV or JSONL, or plain lines.")] = None,
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    policy: Annotated[str, typer.Option(help="A policy of the bundle by name.")] = DEFAULT,
    picture: Annotated[Path | None, typer.Option(help="Write a picture here (PNG or SVG).")] = None,
    tables: Annotated[Path | None, typer.Option(help="Write the tables here (Markdown).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find where the tiers stop keeping up, and why. Example: dimee bench growth --quick --json."""
    opened = open_bundle(bundle)
    texts = tuple(item.text for item in read_inputs(inputs, opened.manifest))
    chosen = routing_table(opened).default if policy == DEFAULT else policy
    ground = Ground(bundle=str(opened.directory.absolute()), policy=chosen, texts=texts)
    with tempfile.TemporaryDirectory(prefix="dimee-growth-bundle-") as folder:
        found = sweep(ground, QUICK if quick else FULL, Path(folder), progress_line(is_shown=not as_json))
    context = context_of(opened, chosen, inputs, len(texts))
    document = conclude(found, context, os.getloadavg()[0], is_quick=quick)
    if picture is not None:
        from common.bench.growth.picture import draw  # noqa: PLC0415 - matplotlib is an optional extra

        draw(document, picture)
    if tables is not None:
        tables.write_text(as_markdown(document), encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        print_growth(document)
