"""``dimee model``: what a bundle holds, and whether it is intact; training adds its own commands."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import typer

from common.cli.groups import LazyGroup
from common.model.bundle import SHIPPED, Bundle, open_bundle
from common.model.manifest import MANIFEST_FILE
from common.model.thin_links import open_thin_links


class ModelGroup(LazyGroup):
    """Bundles, and what other packages can do with them."""

    entry_point_group: ClassVar[str] = "dimee.commands.model"
    summaries: ClassVar[dict[str, str]] = {
        "calibrate": "Choose policy and thresholds for a target.",
        "compress": "Train thin links for a bundle.",
        "export": "Write the bundle of a training run.",
        "operate": "Change a running site's policy and thresholds.",
        "publish": "Give the site's nodes a bundle, through the broker.",
        "releases": "Show what is published, and what each node runs.",
        "rollback": "Take a canary back, or else the last release.",
        "sign": "Vouch for a bundle as a numbered release.",
        "tasks": "Train, export and evaluate a list of tasks.",
        "train-split": "Train one network on two machines over MQTT.",
        "train": "Fine-tune a backbone with an exit head per layer.",
    }


app = typer.Typer(cls=ModelGroup, no_args_is_help=True, rich_markup_mode=None, help="Bundles of models.")
Location = Annotated[str, typer.Argument(help="A bundle's directory; the shipped bundle when none is named.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.callback()
def model() -> None:
    """Train, export, verify and show bundles."""


@app.command()
def show(bundle: Location = SHIPPED, *, as_json: AsJson = False) -> None:
    """Show what a bundle holds. Example: dimee model show --json."""
    opened = open_bundle(bundle)
    if as_json:
        typer.echo(msgspec.json.encode(_document(opened)))
        return
    manifest = opened.manifest
    typer.echo(f"{manifest.name}  revision {manifest.revision}\n  path       {opened.directory}")
    typer.echo(f"  backbone   {manifest.backbone}, {manifest.num_layers} layers, width {manifest.hidden_size}")
    depths = manifest.depths
    typer.echo(f"  depths     device {depths.device}, edge {depths.edge}, cloud {depths.cloud}")
    typer.echo(f"  labels     {', '.join(manifest.labels)}")
    size_mb = sum(seal.num_bytes for seal in manifest.files.values()) / 1e6
    typer.echo(f"  precision  {manifest.precision}, {size_mb:.1f} MB in {len(manifest.files)} files")
    for exit_ in manifest.exits:
        typer.echo(f"  exit {exit_.layer:<5} {exit_.accuracy:.2%} kept back, temperature {exit_.temperature:.3f}")
    for point, link in open_thin_links(opened).items():
        rungs = ", ".join(f"{rung.budget} ({rung.accuracy:.2%})" for rung in link.entry.rungs)
        typer.echo(f"  thin link at {point}: dimensions (last exit, kept back) {rungs}")


@app.command()
def verify(
    bundle: Location = SHIPPED,
    *,
    key: Annotated[Path | None, typer.Option(help="Public key that must have signed it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's files, and with a key its signature. Example: dimee model verify --key release.pub."""
    opened = open_bundle(bundle)
    if key is not None:
        _check_signature(opened, key)
    opened.verify()
    if as_json:
        files = sorted(opened.manifest.files)
        typer.echo(msgspec.json.encode({"path": str(opened.directory), "revision": opened.revision, "intact": files}))
    else:
        typer.echo(f"{opened.directory}: revision {opened.revision}, {len(opened.manifest.files)} files intact")


def _check_signature(opened: Bundle, key: Path) -> None:
    from common.certificates import files, releases  # noqa: PLC0415 - cryptography is an extra

    manifest = files.read(opened.directory / MANIFEST_FILE)
    releases.verified(opened.directory, manifest, files.read_verifying_key(key))


def _document(bundle: Bundle) -> dict[str, Any]:
    return {"path": str(bundle.directory), "revision": bundle.revision, "manifest": bundle.manifest}
