"""Policies: records with two pure methods, kept in a bundle's routing table by name."""

from typing import Protocol

import msgspec

from common.routing.entry import Dimee, Fixed, RandomEntry
from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence
from common.routing.exits import ConfidenceCascade, EntropyCascade, Patience
from common.routing.router import LearnedRouter


class Policy(Protocol):
    """Where an input enters, and whether an exit may answer."""

    @property
    def is_selective(self) -> bool:
        """Whether an exit before the last layer chooses to answer; otherwise it has the last word of its route."""
        ...

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Choose the entry tiers [batch]."""
        ...

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Say for each input [batch] whether this exit's answer is good enough; never asked at the last layer."""
        ...

    def threshold_at(self, layer: int) -> float | None:
        """Tell the confidence asked for at an exit, where there is one."""
        ...


AnyPolicy = Fixed | RandomEntry | ConfidenceCascade | EntropyCascade | Patience | Dimee | LearnedRouter


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle's policies by name, and which of them is the default (``routing.json``)."""

    default: str
    policies: dict[str, AnyPolicy]
