"""What a tier can run for one request: bundles of one training run, each to several depths.

After MDInference (arXiv 2002.06603): the most accurate choice whose mean + gamma · deviation fits what is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from common.engine.pipeline import Pipeline
from common.errors import ConfigError
from common.model.manifest import Manifest
from common.routing.selection import Choice, Profile, select

_DEEPER = 1e-9  # of two exits that are equally accurate the deeper counts: policies were fitted with it


@dataclass(frozen=True, slots=True)
class Chosen:
    """What runs for a request."""

    pipeline: Pipeline
    upto: int  # the exit that has the last word here


class Variants:
    """Pipelines over the same layers; the first is the tier's own."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self.pipelines = tuple(pipelines)
        self._of = {pipeline.manifest.revision: pipeline for pipeline in reversed(self.pipelines)}
        own = self.pipelines[0]
        self._chosen = {start: self._choices_from(start) for start in own.split_points}

    @property
    def split_points(self) -> frozenset[int]:
        """Layers at which a state may come in."""
        return self.pipelines[0].split_points

    def of(self, revision: str) -> Pipeline:
        """Give the pipeline of a request's own revision, or the tier's own where there is none."""
        return self._of.get(revision, self.pipelines[0])

    def choose(self, start: int, left_ms: float) -> Chosen:
        """Give what to run from a split point within the time that is left for computing."""
        chosen = self._chosen[start]
        if len(chosen) == 1:
            return chosen[0]
        choices = [_choice(str(place), one, start) for place, one in enumerate(chosen)]
        return chosen[int(select(choices, left_ms).name)]

    def quickest_ms(self) -> float:
        """Give the time of the quickest choice, deviation included; infinite where there is nothing to choose."""
        bounds = [
            _profile(one, start).bound_ms()
            for start, chosen in self._chosen.items()
            if len(chosen) > 1
            for one in chosen
        ]
        return min(bounds, default=math.inf)

    def _choices_from(self, start: int) -> list[Chosen]:
        """Leave out what is no deeper than the device, whose own exit says the same."""
        own = self.pipelines[0]
        beyond = max(start, own.manifest.depths.device)
        ends = [span.end for span in own.spans if span.end > beyond] or [own.depth]
        return [Chosen(pipeline, end) for pipeline in self.pipelines for end in ends]


def check_family(own: Manifest, other: Manifest, location: str) -> None:
    """Refuse a bundle that cannot carry on what another one began.

    Raises:
        ConfigError: It is of other weights, or cut differently.
    """
    if own.weights is None or own.weights != other.weights:
        raise ConfigError(
            f"worker.variants: {location!r} (weights {_short(other.weights)}) is not of the weights of model.bundle "
            f"({_short(own.weights)}); export both with 'dimee model export' from one run"
        )
    for name in ("segments", "depths", "labels", "hidden_size", "max_tokens", "is_pair"):
        if getattr(own, name) != getattr(other, name):
            raise ConfigError(
                f"worker.variants: {location!r} differs from model.bundle in its {name}; "
                "export both with the same --split, --exits and --labels"
            )


def _short(weights: str | None) -> str:
    return "unknown" if weights is None else f"{weights[:12]}…"


def _choice(name: str, one: Chosen, start: int) -> Choice:
    exits = takewhile(lambda exit_: exit_.layer <= one.upto, one.pipeline.manifest.exits)
    accuracy = max(exit_.accuracy for exit_ in exits)  # a deeper exit passes those before it
    return Choice(name=name, accuracy=accuracy + _DEEPER * one.upto, profile=_profile(one, start))


def _profile(one: Chosen, start: int) -> Profile:
    """Add up the segments from ``start`` to the choice's end."""
    parts = [
        one.pipeline.profile(span.start) for span in one.pipeline.spans if start <= span.start and span.end <= one.upto
    ]
    return Profile(
        mean_ms=sum(part.mean_ms for part in parts),
        variance=sum(part.variance for part in parts),
        measurements=min(part.measurements for part in parts),
    )
