"""How many requests share a run of a tier's layers."""

from collections.abc import Mapping

from common.config.settings import CloudSettings, EdgeSettings
from common.engine.pipeline import Pipeline
from common.model.bundle import Bundle
from common.model.providers import PROCESSOR
from common.service.computing import open_layers
from common.service.steering import OperatingPoints
from common.types import Tier

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_WORTH = 0.9  # of the time that an input takes in the next smaller batch


def open_batching_layers(
    bundle: Bundle, settings: EdgeSettings | CloudSettings, tier: Tier, points: OperatingPoints | None = None
) -> Pipeline:
    """Load a tier's layers of a bundle; their policy follows ``points``, and as many requests share a run as pays.

    Raises:
        ConfigError: The bundle has no policy of the name in the settings.
        ArtifactError: A file is not intact.
    """
    policy = (OperatingPoints() if points is None else points).steer(bundle, settings.routing.policy)
    pipeline = open_layers(bundle, settings, tier, policy)
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
    return worthwhile({size: pipeline.warm_up(size) for size in _BATCHES})


def worthwhile(ms_by_size: Mapping[int, float]) -> int:
    """Choose the largest batch up to which each step makes one input cheaper by a tenth; sizes come rising."""
    best, *larger = ms_by_size
    for size in larger:
        if ms_by_size[size] > _WORTH * ms_by_size[best]:
            break
        best = size
    return best
