"""What protection costs: protected over unprotected in latency, throughput and loading, by turns in one run."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from common.bench.measure import Load, Progress, Rounds, latencies, quantile, run_rounds, warm_up
from common.bench.security.attacks import Ends, Tried, attacks, bundle_flips, median_us, sealing
from common.bench.security.sites import Premises, open_sites, plain, protected
from common.config.settings import CloudSettings, DeviceSettings, EdgeSettings, Model, Node
from common.engine.choice import DEFAULT
from common.evaluation.machine import Machine, this_machine
from common.model.bundle import open_bundle
from common.service.loading import open_pipeline
from common.service.trust import bundle_gate
from common.types import TIERS, Tier
from device_agent.model import load_model

PLAIN, PROTECTED = "plain", "protected"
_IN_FLIGHT = 16
_LOADS = 15


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int = 40  # with one in flight
    texts: int = 60  # of a turn with one in flight
    load_rounds: int = 6
    load_texts: int = 696
    attacks: int = 10_000
    policies: tuple[str, ...] = ("default", *(f"{tier}-only" for tier in TIERS))  # under which throughput is compared


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Protected over plain, and what it comes from."""

    ratio: float
    plain: float
    protected: float
    spread: tuple[float, float]  # quartiles of the rounds' own ratios


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one run."""

    machine: Machine
    extent: Extent
    latency_ratio: dict[str, float]  # by the tier that answered, under the bundle's default policy; and the worst
    throughput_ratio: dict[str, float]  # by the tier that answers everything, and under the default policy
    load_ratio: dict[str, float]  # by the tier that loads its part of the bundle
    sealing_us: dict[str, float]
    latency_ms: dict[str, Ratio]
    throughput_hz: dict[str, Ratio]
    load_ms: dict[str, Ratio]
    answers: dict[str, int]  # of each kind of site, by tier
    attacks: Tried
    bundle_flips: dict[str, int]


def measure(folder: Path, bundle: str, texts: tuple[str, ...], extent: Extent, progress: Progress) -> Findings:
    """Run everything in one go, in a folder that is empty."""
    premises = Premises.make(folder, bundle)
    ends = Ends(premises.authority)
    progress("loading")
    load_ms = {str(tier): _loading(premises, tier) for tier in TIERS}
    latency_ms, answers = _latency(premises, texts, extent, progress)
    rates = {
        policy.removesuffix("-only"): _throughput(premises, policy, texts, extent, progress)
        for policy in extent.policies
    }
    progress("attacks")
    return Findings(
        machine=this_machine(),
        extent=extent,
        latency_ratio=_with_worst(latency_ms, max),
        throughput_ratio=_with_worst(rates, min),
        load_ratio=_with_worst(load_ms, max),
        sealing_us=sealing(ends),
        latency_ms=latency_ms,
        throughput_hz=rates,
        load_ms=load_ms,
        answers=answers,
        attacks=attacks(ends, extent.attacks),
        bundle_flips=bundle_flips(premises.bundle, premises.public_key, extent.attacks),
    )


def _latency(
    premises: Premises, texts: tuple[str, ...], extent: Extent, progress: Progress
) -> tuple[dict[str, Ratio], dict[str, int]]:
    with open_sites(premises, (plain(), protected(premises)), DEFAULT, texts) as opened:
        warm_up(opened, 128)
        load = Load(texts_per_turn=extent.texts, rounds=extent.rounds)
        found = run_rounds(opened, (PLAIN, PROTECTED), load, lambda doing: progress(f"latency, {doing}"))
    counts = {str(tier): len(latencies(found.answers(PLAIN), tier)) for tier in TIERS}
    return {str(tier): _latency_of(found, tier) for tier in TIERS if counts[tier]}, counts


def _latency_of(found: Rounds, tier: Tier) -> Ratio:
    ratios = found.ratios(PROTECTED, PLAIN, lambda each: quantile(latencies(each.answers, tier), 0.5))
    both = {name: statistics.median(latencies(found.answers(name), tier)) for name in (PLAIN, PROTECTED)}
    return _ratio(both[PLAIN], both[PROTECTED], ratios)


def _throughput(premises: Premises, policy: str, texts: tuple[str, ...], extent: Extent, progress: Progress) -> Ratio:
    with open_sites(premises, (plain(), protected(premises)), policy, texts) as opened:
        warm_up(opened, 128)
        load = Load(texts_per_turn=extent.load_texts, rounds=extent.load_rounds, in_flight=_IN_FLIGHT)
        found = run_rounds(opened, (PLAIN, PROTECTED), load, lambda doing: progress(f"throughput, {policy}, {doing}"))
    rates = {name: statistics.median(found.figures(name, lambda each: each.throughput_hz)) for name in found.by_name}
    ratios = found.ratios(PROTECTED, PLAIN, lambda each: each.throughput_hz)
    return _ratio(rates[PLAIN], rates[PROTECTED], ratios)


def _loading(premises: Premises, tier: Tier) -> Ratio:
    """Load a tier's part of the bundle by turns, without and with its signature and release history."""
    bundle = str(premises.bundle)
    signed = Model(
        bundle=bundle,
        trusted_key_file=str(premises.public_key),
        release_file=str(premises.folder / f"load-{tier}.json"),
    )
    steps = {PLAIN: _loader(tier, Model(bundle=bundle)), PROTECTED: _loader(tier, signed)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(0)
    for _ in range(_LOADS):
        for name, step in steps.items():
            taken[name].append(median_us(step, 1) / 1000)
    ratios = [one / two for one, two in zip(taken[PROTECTED], taken[PLAIN], strict=True)]
    return _ratio(statistics.median(taken[PLAIN]), statistics.median(taken[PROTECTED]), ratios)


def _loader(tier: Tier, model: Model) -> Callable[[int], object]:
    node = Node(id="load")
    match tier:
        case Tier.DEVICE:
            device = DeviceSettings(node=node, model=model)
            return lambda _: load_model(open_bundle(model.bundle, bundle_gate(model)), device)
        case Tier.EDGE:
            return lambda _: open_pipeline(EdgeSettings(node=node, model=model), tier)
        case Tier.CLOUD:
            return lambda _: open_pipeline(CloudSettings(node=node, model=model), tier)


def _ratio(of_plain: float, of_protected: float, ratios: Sequence[float]) -> Ratio:
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Ratio(ratio=of_protected / of_plain, plain=of_plain, protected=of_protected, spread=(low, high))


def _with_worst(ratios: dict[str, Ratio], worst: Callable[[list[float]], float]) -> dict[str, float]:
    plain_ratios = {name: each.ratio for name, each in ratios.items()}
    return plain_ratios | {"worst": worst(list(plain_ratios.values()))}
