"""What a benchmark found: a row per figure, each with all it rests on, and the ratios between contestants."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from common.cli.output import print_table
from common.evaluation.machine import Machine, this_machine
from common.model.bundle import Bundle

DIMEE = "dimee"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What every row of one measurement has in common."""

    machine: Machine
    bundle: str
    revision: str
    precision: str
    policy: str
    texts: str  # where they are from
    num_texts: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: the median over rounds, with the least and the largest."""

    contestant: str
    measure: str
    unit: str
    median: float
    least: float
    largest: float
    rounds: int
    broker: str
    link: str
    configuration: dict[str, float]
    load_average: float
    context: Context


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole benchmark."""

    is_quick: bool
    seconds: float
    context: Context
    missing: dict[str, str]  # why, by contestant
    ratios: dict[str, dict[str, Any]]  # by rival: throughput, and latency_p50 by link; dimee over the rival
    overhead_ms_p50: dict[str, float]  # by broker
    efficiency: float | None
    shares: dict[str, float]  # answered by each tier
    rows: list[Row]


def context_of(bundle: Bundle, policy: str, inputs: Path | None, num_texts: int) -> Context:
    """Describe what a benchmark rests on; ``inputs`` is the file of the texts, None for the shipped ones."""
    return Context(
        machine=this_machine(),
        bundle=bundle.manifest.name,
        revision=bundle.revision,
        precision=bundle.manifest.precision,
        policy=policy,
        texts="shipped reviews" if inputs is None else inputs.name,
        num_texts=num_texts,
    )


def about(context: Context) -> str:
    """Write the machine, the versions and the bundle in a sentence or two."""
    machine = context.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}; {packages}; "
        f"commit `{machine.commit}`. Bundle {context.bundle} `{context.revision}`, {context.precision}, "
        f"policy {context.policy}; {context.num_texts} texts of {context.texts}."
    )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Give median, extremes and number of some rounds' figures."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "largest": max(values),
        "rounds": len(values),
    }


def find(rows: Sequence[Row], contestant: str, measure: str, *, broker: str = "", link: str = "") -> Row | None:
    """Give the first row of a measure; an empty broker or link matches all."""
    found = (row for row in rows if (row.contestant, row.measure) == (contestant, measure))
    return next((row for row in found if broker in ("", row.broker) and link in ("", row.link)), None)


def print_document(document: Document) -> None:
    """Print the rows as tables, one per measure."""
    context = document.context
    machine = context.machine
    print(  # noqa: T201
        f"{machine.processor}, {machine.cores} cores, {machine.system}; dimee {machine.packages['dimee']} "
        f"{machine.commit}; {context.bundle} {context.revision}, {context.precision}, policy {context.policy}"
    )
    for measure in dict.fromkeys(row.measure for row in document.rows):
        rows = [row for row in document.rows if row.measure == measure]
        print_table(
            f"{measure} ({rows[0].unit})",
            ("contestant", "link", "broker", "median", "least", "largest", "rounds"),
            [
                (
                    row.contestant,
                    row.link,
                    row.broker,
                    _digits(row.median),
                    _digits(row.least),
                    _digits(row.largest),
                    row.rounds,
                )
                for row in rows
            ],
        )
    for name, why in document.missing.items():
        print(f"missing: {name} ({why})")  # noqa: T201


def as_markdown(document: Document) -> str:
    """Write the rows as Markdown tables, one per measure."""
    shares = ", ".join(f"{tier} {share:.0%}" for tier, share in document.shares.items())
    lines = [f"{about(document.context)} Answered by {shares}."]
    for measure in dict.fromkeys(row.measure for row in document.rows):
        rows = [row for row in document.rows if row.measure == measure]
        lines += ["", f"**{measure}** ({rows[0].unit})", "", "| contestant | link | broker | median | spread | load |"]
        lines += ["| --- | --- | --- | ---: | ---: | ---: |"]
        lines += [
            f"| {row.contestant} | {row.link} | {row.broker} | {_digits(row.median)} "
            f"| {_digits(row.least)} - {_digits(row.largest)} | {row.load_average:.1f} |"
            for row in rows
        ]
    lines += [f"\nMissing: {name} ({why})." for name, why in document.missing.items()]
    return "\n".join(lines) + "\n"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
