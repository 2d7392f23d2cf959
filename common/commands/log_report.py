"""``dimee log report``: accuracy and calibration, who answers, and whether exits drift from a bundle's record."""

from typing import Annotated

import msgspec
import typer

from common.cli.output import number, percent, print_json, print_table
from common.commands.log_options import (
    DEFAULT_URL,
    AsJson,
    ByDevice,
    ByTier,
    Database,
    Since,
    Until,
    filters_of,
    opened,
)
from common.model.bundle import SHIPPED, open_bundle
from common.store.calibration import Calibration, calibration
from common.store.exits import exit_counts, tier_counts
from common.types import TIERS, Tier


class TierShare(msgspec.Struct, frozen=True, kw_only=True):
    """What share of the answers a tier gave, now and before."""

    tier: Tier
    share: float  # 0..1
    share_before: float | None  # None where there is no time before


class ExitShare(msgspec.Struct, frozen=True, kw_only=True):
    """What share of a revision's own answers came from an exit, and what the bundle's record leads to expect."""

    layer: int
    share: float  # 0..1
    expected: float | None  # None where the bundle keeps no record


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How far a revision's exits are from its bundle's record."""

    revision: str
    answers: int  # without fallbacks
    drift: float | None  # total variation distance, 0..1
    exits: tuple[ExitShare, ...]


def report(
    *,
    db: Database = DEFAULT_URL,
    tier: ByTier = None,
    device: ByDevice = None,
    since: Since = None,
    until: Until = None,
    bundle: Annotated[str, typer.Option(help="Whose record the exits are held against.")] = SHIPPED,
    policy: Annotated[str, typer.Option(help="The routing.policy in force.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Report accuracy and calibration by tier and device, and what has shifted. Example: dimee log report --since 7d.

    With --since, the tiers' shares of the answers are compared with all the time before.
    """
    from common.engine.choice import choose_policy  # noqa: PLC0415 - other commands of the log need no numpy
    from common.evaluation.exits import expected_exits  # noqa: PLC0415

    opened_bundle = open_bundle(bundle)
    expected = expected_exits(opened_bundle, choose_policy(opened_bundle, policy))
    filters = filters_of(tier, device, None, None, since=since, until=until)
    with opened(db) as engine:
        groups = calibration(engine, filters)
        before = msgspec.structs.replace(filters, since=None, until=filters.since)
        earlier = tier_counts(engine, before) if filters.since is not None else {}
        shares = _shares(tier_counts(engine, filters), earlier)
        found = exit_counts(engine, filters).get(opened_bundle.revision, {})
    drifted = _drift(opened_bundle.revision, expected, found)
    if as_json:
        return print_json({"groups": groups, "shares": shares, "drift": drifted})
    _print_calibration(groups)
    print_table(
        "who answers",
        ("tier", "share", "before", "shift in points"),
        ((s.tier, percent(s.share), percent(s.share_before), _shift(s.share, s.share_before)) for s in shares),
    )
    distance = "-" if drifted.drift is None else f"{drifted.drift:.2f}"
    return print_table(
        f"exits of revision {drifted.revision}, {drifted.answers:,} answers, drift {distance}",
        ("layer", "share", "recorded", "shift in points"),
        ((e.layer, percent(e.share), percent(e.expected), _shift(e.share, e.expected)) for e in drifted.exits),
    )


def _print_calibration(groups: list[Calibration]) -> None:
    columns = ("tier", "device", "labelled", "accuracy", "confidence", "calibration error")
    rows = (
        (g.tier, g.device, g.labelled, percent(g.accuracy), percent(g.confidence), percent(g.calibration_error))
        for g in groups
    )
    print_table("labelled answers", columns, rows)


def _drift(revision: str, expected: dict[int, float], found: dict[int, int]) -> Drift:
    from common.evaluation.exits import drift  # noqa: PLC0415

    answers = sum(found.values())
    exits = tuple(
        ExitShare(
            layer=layer,
            share=found.get(layer, 0) / answers if answers else 0.0,
            expected=expected.get(layer, 0.0) if expected else None,
        )
        for layer in sorted(expected.keys() | found.keys())
    )
    distance = drift(expected, found) if expected and answers else None
    return Drift(revision=revision, answers=answers, drift=distance, exits=exits)


def _shares(now: dict[str, int], before: dict[str, int]) -> list[TierShare]:
    total, total_before = sum(now.values()), sum(before.values())
    return [
        TierShare(
            tier=tier,
            share=now.get(tier, 0) / total if total else 0.0,
            share_before=before.get(tier, 0) / total_before if total_before else None,
        )
        for tier in TIERS
    ]


def _shift(share: float, before: float | None) -> str:
    return "-" if before is None else number(100 * (share - before))
