"""What a tier computes with: its layers of a bundle, and the way on to the next tier; no connection to a broker."""

from common.config.settings import CloudSettings, EdgeSettings
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline
from common.engine.thinness import Always, Thinness
from common.model.bundle import Bundle
from common.model.manifest import Manifest
from common.routing.policies import Policy
from common.types import Tier


def open_layers(bundle: Bundle, settings: EdgeSettings | CloudSettings, tier: Tier, policy: Policy) -> Pipeline:
    """Load a tier's layers of a bundle, and run them once.

    Raises:
        ArtifactError: A file is not intact.
    """
    pipeline = Pipeline(
        bundle,
        policy,
        depth=bundle.manifest.depths.of(tier),
        threads=settings.model.threads,
        providers=settings.model.providers,
        takes_tokens=settings.worker.takes_tokens,
    )
    pipeline.warm_up()
    return pipeline


def open_escalation(
    settings: EdgeSettings | CloudSettings, manifest: Manifest, pipeline: Pipeline
) -> Escalation | None:
    """Give what packs states for the next tier; the cloud has none."""
    if isinstance(settings, CloudSettings):
        return None
    thinness = Thinness(codec=settings.worker.codec, budget=settings.link.budget, tokens=settings.link.tokens)
    chooser = Always(thinness, pipeline.links)
    return Escalation(manifest, settings.worker.codec, links=pipeline.links, chooser=chooser)
