"""The policy in effect: the one that a node was started with, until an operating point takes its place."""

import logging

from common.engine.choice import choose_policy, routing_table
from common.model.bundle import Bundle
from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence
from common.routing.operating_point import OperatingPoint, policy_of
from common.routing.policies import Policy

_LOGGER = logging.getLogger(__name__)


class Steered:
    """A policy that can be exchanged between two questions, from any thread."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        """Begin with a bundle's policy by name.

        Raises:
            ConfigError: The bundle has no policy of this name.
        """
        self._own: Policy = choose_policy(bundle, name)
        self._table = routing_table(bundle)
        self._exits = tuple(exit_.layer for exit_ in bundle.manifest.exits)
        self._policy = self._own
        self.revision = bundle.revision
        self.point: OperatingPoint | None = None  # in effect

    @property
    def policies(self) -> tuple[str, ...]:
        """Every policy that a point may name."""
        return tuple(sorted(self._table.policies))

    def take(self, point: OperatingPoint | None) -> None:
        """Put an operating point into effect; None goes back to where the node began.

        Raises:
            ModelMismatchError: It is for another revision.
            WireError: The bundle has no such policy, or it takes no such thresholds.
        """
        policy = self._own if point is None else policy_of(point, self._table, self.revision, self._exits)
        if policy != self._policy:
            told = "its own policy" if point is None else f"{point.policy}, thresholds {point.thresholds or 'its own'}"
            _LOGGER.info("operating point of revision %s: %s", self.revision, told)
        self._policy, self.point = policy, point

    @property
    def is_selective(self) -> bool:
        """Whether an exit before the last layer chooses to answer."""
        return self._policy.is_selective

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Choose the entry tiers [batch]."""
        return self._policy.enter(evidence)

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Say for each input [batch] whether this exit's answer is good enough."""
        return self._policy.should_exit(evidence)

    def threshold_at(self, layer: int) -> float | None:
        """Tell the confidence asked for at an exit, where there is one."""
        return self._policy.threshold_at(layer)
