"""Who works on a tier's requests, and with which models."""

from dataclasses import dataclass

from common.engine.escalation import Escalation
from common.engine.variants import Variants
from common.model.manifest import Manifest
from common.types import Tier
from common.wire.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a worker is, and for whom it works."""

    tier: Tier
    node: str
    topics: Topics
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A tier's layers of one model revision, with the variants of it that may run instead."""

    variants: Variants
    escalation: Escalation | None  # None: the last tier

    @property
    def revision(self) -> str:
        """Name the tier's own among the variants."""
        return self.variants.pipelines[0].manifest.revision

    def by_revision(self) -> dict[str, "ServedModel"]:
        """Give it under every revision whose requests it can carry on."""
        return {pipeline.manifest.revision: self for pipeline in self.variants.pipelines}
