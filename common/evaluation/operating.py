"""Operating points: thresholds chosen for a budget, and what they may promise."""

from collections.abc import Callable

import msgspec
import numpy as np

from common.errors import ConfigError
from common.evaluation import families
from common.evaluation.certificates import p_value, samples_needed, upper_drop
from common.evaluation.families import NEVER, Sweep
from common.evaluation.metrics import Bootstrap, Interval, interval
from common.evaluation.profile import Profile
from common.evaluation.scoring import Setting
from common.evaluation.simulation import Numbers, Routes, exit_tiers, route_bytes, routes_of
from common.evaluation.trace import Trace
from common.routing.policies import AnyPolicy

POLICY = "promised"

_EVEN = tuple(np.round(np.arange(0.99, 0.495, -0.01), 3).tolist())  # one threshold for all exits, safe to daring
_DROPS = tuple(round(0.001 * step, 4) for step in range(1, 101))  # promises tried when the asked one cannot be kept


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for; None where nothing is asked."""

    max_drop: float | None = None  # accuracy, 0..1
    max_cloud: float | None = None  # share of answers, 0..1
    max_bytes: float | None = None  # per request
    max_latency_ms: float | None = None
    latency_quantile: float = 0.95


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What an operating point gives on the kept-back split, with 95 % intervals."""

    drop_points: float
    reduction: float
    cloud_share: float
    payload_bytes_per_request: float
    latency_ms: float | None  # at the asked quantile
    drop_interval: Interval
    reduction_interval: Interval
    cloud_interval: Interval


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """An operating point, and how sure its drop is."""

    policy: AnyPolicy
    threshold: float | None
    confidence: float
    promised_drop_points: float | None  # None where no drop was asked for
    certified_drop_points: float  # the least that this point alone would certify
    samples: int
    samples_for_next: int | None  # would promise the next, more daring point, were its estimates true
    over: int | None  # the promise is about the next so many answers; None is the long run
    expected: Expectation


class Desk:
    """A kept-back split laid out for choosing: one policy per threshold, from safe to daring.

    One threshold for all exits, because a path that is known beforehand leaves every sample for the proof: on the
    pilots, choosing a threshold per exit on one half and certifying on the other saved far less (decision record).
    """

    def __init__(self, trace: Trace, setting: Setting, *, profile: Profile | None = None) -> None:
        self._trace, self._setting, self._profile = trace, setting, profile
        self._family = families.confidence_family()
        self._sweep: Sweep = families.prepare(self._family, trace, setting.depths, setting.cost)
        self.thresholds = (NEVER, *_EVEN)
        exits = len(trace.exits) - 1
        self._routes = [self._sweep.route(np.full(exits, threshold)) for threshold in self.thresholds]
        self._harms = [self._sweep.harms(route) for route in self._routes]

    def choose(self, budget: Budget, *, confidence: float = 0.9, over: int | None = None) -> Promise:
        """Take the cheapest point within a budget; a drop is promised at ``confidence``.

        Raises:
            ConfigError: No point fits; the message names the nearest budget that one does.
        """
        certified = self._certified(budget.max_drop, 1 - confidence, over)
        allowed = [place for place in certified if self._fits(place, budget)]
        saves = [place for place in allowed if place > 0]
        if not saves:
            raise ConfigError(self._refusal(budget, confidence, over))
        place = min(saves, key=self._cost) if budget.max_drop is not None else min(saves, key=self._drop)
        return self._promise(place, budget, confidence, over)

    def _certified(self, max_drop: float | None, error: float, over: int | None) -> list[int]:
        if max_drop is None:
            return list(range(len(self.thresholds)))
        passed: list[int] = []
        for place, harm in enumerate(self._harms):
            lost, won = int((harm > 0).sum()), int((harm < 0).sum())
            if p_value(lost, won, len(harm), max_drop, error=error, over=over) > error:
                break
            passed.append(place)
        return passed

    def _fits(self, place: int, budget: Budget) -> bool:
        checks: list[tuple[float | None, Callable[[int], float]]] = [
            (budget.max_cloud, self._cloud_share),
            (budget.max_bytes, self._bytes),
            (budget.max_latency_ms, lambda at: self._latency_ms(at, budget.latency_quantile)),
        ]
        return all(limit is None or measure(place) <= limit for limit, measure in checks)

    def _refusal(self, budget: Budget, confidence: float, over: int | None) -> str:
        relaxed = msgspec.structs.replace(budget, max_drop=None)
        if budget.max_drop is None or not any(self._fits(place, relaxed) for place in self._early):
            return self._unmet_limits(budget)
        told = f"with {len(self._trace):,} kept-back samples at {confidence:.0%} confidence"
        for drop in (drop for drop in _DROPS if drop > budget.max_drop):
            points = [
                place for place in self._certified(drop, 1 - confidence, over) if place and self._fits(place, budget)
            ]
            if points:
                saved = 1 - min(map(self._cost, points)) / self._full_cost
                return (
                    f"--max-drop {100 * budget.max_drop:g} cannot be promised {told}; the nearest that can is "
                    f"--max-drop {100 * drop:g}, which saves {saved:.1%}; "
                    f"{self._more_samples(budget.max_drop, confidence)}"
                )
        return f"no drop up to {100 * _DROPS[-1]:g} points can be promised {told}; keep back more samples"

    def _unmet_limits(self, budget: Budget) -> str:
        nearest: list[str] = []
        if budget.max_cloud is not None and (least := min(map(self._cloud_share, self._early))) > budget.max_cloud:
            nearest.append(f"--max-cloud {least:.2%}")
        if budget.max_bytes is not None and (least := min(map(self._bytes, self._early))) > budget.max_bytes:
            nearest.append(f"--max-bytes {least:.0f}B per request")
        if budget.max_latency_ms is not None:
            quantile = budget.latency_quantile
            least = min(self._latency_ms(place, quantile) for place in self._early)
            if least > budget.max_latency_ms:
                nearest.append(f"--max-latency p{100 * quantile:g}={least:.1f}ms")
        told = ", ".join(nearest) if nearest else "each limit alone can be met, all together cannot; relax one"
        return f"no operating point fits; the nearest feasible: {told}"

    @property
    def _early(self) -> range:
        """Points that let something answer before the last exit."""
        return range(1, len(self.thresholds))

    def _more_samples(self, target: float, confidence: float) -> str:
        needed = [self._samples_for(place, target, confidence) for place in self._early]
        possible = [count for count in needed if count is not None]
        return f"about {min(possible):,} samples would be needed" if possible else "no number of samples would do"

    def _samples_for(self, place: int, target: float, confidence: float) -> int | None:
        if place >= len(self.thresholds):
            return None
        discordant = max(float(np.abs(self._harms[place]).mean()), target / 2)
        return samples_needed(self._drop(place), discordant, target, error=1 - confidence)

    def _promise(self, place: int, budget: Budget, confidence: float, over: int | None) -> Promise:
        harm, threshold = self._harms[place], self.thresholds[place]
        lost, won = int((harm > 0).sum()), int((harm < 0).sum())
        least = upper_drop(lost, won, len(harm), error=1 - confidence)
        exits = self._trace.exits[:-1]
        return Promise(
            policy=self._family.policy(dict.fromkeys(exits, threshold)),
            threshold=None if np.isinf(threshold) else threshold,
            confidence=confidence,
            promised_drop_points=None if budget.max_drop is None else round(100 * budget.max_drop, 6),
            certified_drop_points=100 * least,
            samples=len(harm),
            samples_for_next=None
            if budget.max_drop is None
            else self._samples_for(place + 1, budget.max_drop, confidence),
            over=over,
            expected=self._expect(place, budget),
        )

    def _expect(self, place: int, budget: Budget) -> Expectation:
        routes = self._as_routes(place)
        is_cloud = exit_tiers(routes, self._trace, self._setting.depths) == 2
        values = np.c_[100 * self._harms[place], self._sweep.costs[routes.exits], is_cloud]
        drop, cost, cloud = Bootstrap(len(self._trace)).means(values).T
        quantile = budget.latency_quantile
        return Expectation(
            drop_points=100 * self._drop(place),
            reduction=1 - self._cost(place) / self._full_cost,
            cloud_share=self._cloud_share(place),
            payload_bytes_per_request=self._bytes(place),
            latency_ms=None if self._profile is None else self._latency_ms(place, quantile),
            drop_interval=interval(drop),
            reduction_interval=interval(1 - cost / self._full_cost),
            cloud_interval=interval(cloud),
        )

    @property
    def _full_cost(self) -> float:
        return self._setting.cost.cloud_only(self._setting.depths)

    def _as_routes(self, place: int) -> Routes:
        return routes_of(self._trace, np.zeros(len(self._trace), np.intp), self._routes[place])

    def _drop(self, place: int) -> float:
        return float(self._harms[place].mean())

    def _cost(self, place: int) -> float:
        return float(self._sweep.costs[self._routes[place]].mean())

    def _cloud_share(self, place: int) -> float:
        return float((exit_tiers(self._as_routes(place), self._trace, self._setting.depths) == 2).mean())

    def _bytes(self, place: int) -> float:
        return float(route_bytes(self._as_routes(place), self._trace, self._setting.depths, self._setting.codec).mean())

    def _latency_ms(self, place: int, quantile: float) -> float:
        if self._profile is None:
            raise ConfigError("--max-latency needs --profile: milliseconds per layer and link of your machines")
        depths, codec = self._setting.depths, self._setting.codec
        times: Numbers = self._profile.latency_ms(self._as_routes(place), self._trace, depths, codec)
        return float(np.quantile(times, quantile))
