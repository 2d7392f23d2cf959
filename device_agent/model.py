"""What a device computes with: one bundle's way in, its first layers, and the way out to other tiers."""

from dataclasses import dataclass

from common.config.settings import DeviceSettings
from common.engine.choice import choose_policy, find_clusterer
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline
from common.engine.thinness import Always, Thinness
from common.model.bundle import Bundle
from common.model.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """The embedding and the device's layers of one revision; a request keeps the one it began with."""

    manifest: Manifest
    entrance: Entrance
    pipeline: Pipeline
    escalation: Escalation


def load_model(bundle: Bundle, settings: DeviceSettings) -> DeviceModel:
    """Load the embedding and the device's layers, and run them once.

    Raises:
        ConfigError: The bundle has no policy of the name in the settings.
        ArtifactError: The bundle is not intact, or does not run.
    """
    policy = choose_policy(bundle, settings.routing.policy)
    pipeline = Pipeline(bundle, policy, depth=bundle.manifest.depths.device, threads=settings.model.threads)
    thinness = Thinness(codec=settings.device.codec, budget=settings.link.budget, tokens=settings.link.tokens)
    chooser = Always(thinness, pipeline.links)
    model = DeviceModel(
        manifest=bundle.manifest,
        entrance=Entrance(bundle, policy, clusterer=find_clusterer(bundle), threads=settings.model.threads),
        pipeline=pipeline,
        escalation=Escalation(bundle.manifest, settings.device.codec, links=pipeline.links, chooser=chooser),
    )
    warm_up = ("warm", "up") if bundle.manifest.is_pair else ("warm up", None)
    model.pipeline.advance([model.entrance.enter(*warm_up).state])  # the first run of a session is slow
    return model
