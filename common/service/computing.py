"""What a tier computes with: its layers of a bundle, and the way on to the next tier; no connection to a broker."""

from collections.abc import Mapping

from common.config.settings import CloudSettings, EdgeSettings
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline
from common.engine.thinness import Always, Thinness
from common.model.bundle import Bundle
from common.model.manifest import Manifest
from common.model.providers import PROCESSOR
from common.service.steering import OperatingPoints
from common.types import Tier

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_WORTH = 0.9  # of the time that an input takes in the next smaller batch


def open_layers(
    bundle: Bundle, settings: EdgeSettings | CloudSettings, tier: Tier, points: OperatingPoints | None = None
) -> Pipeline:
    """Load a tier's layers of a bundle, and run them once; their policy follows ``points``.

    Raises:
        ConfigError: The bundle has no policy of the name in the settings.
        ArtifactError: A file is not intact.
    """
    policy = (OperatingPoints() if points is None else points).steer(bundle, settings.routing.policy)
    pipeline = Pipeline(
        bundle,
        policy,
        depth=bundle.manifest.depths.of(tier),
        threads=settings.model.threads,
        providers=settings.model.providers,
        takes_tokens=settings.worker.takes_tokens,
    )
    pipeline.warm_up()
    pipeline.max_batch = batch_size(settings.worker.max_batch, pipeline)
    return pipeline


def batch_size(asked: int | None, pipeline: Pipeline) -> int:
    """Decide how many requests are computed together at most, where nobody asks for a number.

    One on a processor, where company costs time, and in int8 anywhere, where answers depend on it (decision 9); on an
    accelerator as many as still make each one cheaper.
    """
    if asked is not None:
        return asked
    if pipeline.provider == PROCESSOR or pipeline.manifest.precision == "int8":
        return 1
    return worthwhile(pipeline.time_batches(_BATCHES))


def worthwhile(ms_by_size: Mapping[int, float]) -> int:
    """Choose the largest batch up to which each step makes one input cheaper by a tenth; sizes come rising."""
    best, *larger = ms_by_size
    for size in larger:
        if ms_by_size[size] > _WORTH * ms_by_size[best]:
            break
        best = size
    return best


def open_escalation(
    settings: EdgeSettings | CloudSettings, manifest: Manifest, pipeline: Pipeline
) -> Escalation | None:
    """Give what packs states for the next tier; the cloud has none."""
    if isinstance(settings, CloudSettings):
        return None
    thinness = Thinness(codec=settings.worker.codec, budget=settings.link.budget, tokens=settings.link.tokens)
    chooser = Always(thinness, pipeline.links)
    return Escalation(manifest, settings.worker.codec, links=pipeline.links, chooser=chooser)
