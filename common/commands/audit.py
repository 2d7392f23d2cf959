"""``dimee audit``: what leaves a board, seen with an attacker's eyes."""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from common.cli.output import percent, print_json, print_table
from common.commands.demo_inputs import SHIPPED_INPUTS
from common.commands.evaluate import progress
from common.errors import ConfigError
from common.evaluation.labelled import check_unseen, read_texts
from common.evaluation.leaking import Leak, LeakReport, measure_leaks
from common.evaluation.recovery import Recovery, Share
from common.model.bundle import SHIPPED, open_bundle

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What leaves a board, seen by an attacker.")
_COLUMNS = ("sent as", "recovered", "in five guesses", "content tokens", "accuracy", "drop, points")
_NOISES = (1.0, 2.0, 4.0)


@app.callback()
def audit() -> None:
    """Attack what a site sends."""


@app.command()
def leak(
    *,
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    data: Annotated[Path, typer.Option(help="Labelled TSV, CSV or JSONL; a fifth is kept secret.")] = SHIPPED_INPUTS,
    texts: Annotated[int, typer.Option(min=10, help="The first so many rows are used.")] = 2000,
    noise: Annotated[list[float] | None, typer.Option(help="In sizes of a token's values; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the secret fifth and the noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Recover tokens from hidden states, at every split point and codec. Example: dimee audit leak --noise 1."""
    noises = sorted(noise or _NOISES)
    if noises[0] <= 0:
        raise ConfigError(f"--noise {noises[0]:g}: must be above 0; no noise is tried anyway")
    opened = open_bundle(bundle)
    source = check_unseen(opened, data, allow_seen=True)
    read, labels = read_texts(opened, data)
    report = measure_leaks(
        opened, read[:texts], labels[:texts], noises=noises, seed=seed, progress=progress("attacking")
    )
    if as_json:
        print_json({"bundle": opened.manifest.name, "revision": opened.revision, "data": source, "report": report})
    else:
        _print(report, f"{opened.manifest.name} {opened.revision} on {source.file}")
        if source.is_seen:
            typer.echo("the bundle learned from these texts, so accuracies flatter")


def _print(report: LeakReport, title: str) -> None:
    for point, leaks in groupby(report.leaks, key=lambda leak: leak.split_point):
        where = f"after layer {point}" if point else "the embedding output, before layer 0"
        print_table(f"{title}; {where}", _COLUMNS, [_row(leak) for leak in leaks])
    typer.echo(
        f"learned from {report.known_texts:,} texts; {report.secret_texts:,} secret ones with "
        f"{report.secret_tokens:,} tokens, of which the known ones lack {percent(report.unmet_share)}"
    )
    first, five, content = _shares(report.base)
    typer.echo(f"always naming the commonest tokens recovers {first}, in five guesses {five}, content tokens {content}")


def _row(leak: Leak) -> tuple[str, ...]:
    sent = leak.codec + (f", {leak.budget} dimensions" if leak.budget else "")
    drop = f"{leak.drop_points:+.2f} [{leak.drop_interval.low:+.2f}, {leak.drop_interval.high:+.2f}]"
    noisy = f", noise {leak.noise:g}" if leak.noise else ""
    return (sent + noisy, *_shares(leak.recovery), percent(leak.accuracy), drop)


def _shares(recovery: Recovery) -> tuple[str, str, str]:
    return _share(recovery.first), _share(recovery.among_five), _share(recovery.content)


def _share(share: Share) -> str:
    low, high = share.interval.low, share.interval.high
    return f"{100 * share.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
