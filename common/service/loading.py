"""What a tier loads: its own bundle's layers, their variants, and those of published bundles."""

import logging
from pathlib import Path

from common.config.settings import CloudSettings, EdgeSettings
from common.engine.pipeline import Pipeline
from common.engine.variants import Variants, check_family
from common.errors import ArtifactError
from common.model.bundle import Bundle, open_bundle
from common.model.shelf import Shelf
from common.service.batching import open_batching_layers
from common.service.computing import open_escalation
from common.service.served import ServedModel
from common.service.steering import OperatingPoints
from common.service.trust import bundle_gate
from common.types import Tier

_LOGGER = logging.getLogger(__name__)


def open_pipeline(
    settings: EdgeSettings | CloudSettings, tier: Tier, points: OperatingPoints | None = None
) -> tuple[Bundle, Pipeline]:
    """Load the segments a tier needs; their policy follows ``points``.

    Raises:
        ConfigError: The bundle or the policy does not exist.
        ArtifactError: The bundle is not intact.
    """
    bundle = open_first(settings)
    pipeline = open_batching_layers(bundle, settings, tier, points)
    name, depth, provider = bundle.manifest.name, pipeline.depth, pipeline.provider
    _LOGGER.info("%s serves %s, revision %s, layers 0-%d, on %s", tier, name, bundle.revision, depth, provider)
    return bundle, pipeline


def open_first(settings: EdgeSettings | CloudSettings) -> Bundle:
    """Open the bundle of the settings; where the gate has left it behind, the stable one of the site's rollout.

    Raises:
        ConfigError: There is none.
        ArtifactError: It is not intact, or not to be believed.
    """
    try:
        return open_bundle(settings.model.bundle, bundle_gate(settings.model))
    except ArtifactError as exc:
        shelf = None if settings.updates.folder is None else Shelf(Path(settings.updates.folder))
        stable = None if shelf is None else shelf.choice.rollout.stable
        if shelf is None or stable is None or not shelf.has(stable):
            raise
        _LOGGER.warning("model.bundle is not served, the published bundle alone is: %s", exc)
        return Bundle(shelf.bundle(stable.revision), bundle_gate(settings.model))


def load_served(
    bundle: Bundle, settings: EdgeSettings | CloudSettings, tier: Tier, points: OperatingPoints
) -> ServedModel:
    """Load a tier's layers of a published bundle.

    Raises:
        ConfigError: The bundle has no policy of the name in the settings.
        ArtifactError: The bundle is not intact.
    """
    pipeline = open_batching_layers(bundle, settings, tier, points)
    return ServedModel(variants=Variants((pipeline,)), escalation=open_escalation(settings, bundle.manifest, pipeline))


def open_variants(
    settings: EdgeSettings | CloudSettings, tier: Tier, own: Bundle, points: OperatingPoints | None = None
) -> tuple[Pipeline, ...]:
    """Load the other bundles that a tier may run, each with the policy of its own routing table.

    Raises:
        ConfigError: One is of other weights or another cut than the tier's own, or does not exist.
        ArtifactError: One is not intact.
    """
    pipelines = []
    for location in settings.worker.variants:
        bundle = open_bundle(location, bundle_gate(settings.model))
        check_family(own.manifest, bundle.manifest, location)
        pipelines.append(open_batching_layers(bundle, settings, tier, points))
        _LOGGER.info("%s may also run %s, revision %s", tier, bundle.manifest.precision, bundle.revision)
    return tuple(pipelines)
