"""What a device computes with: one bundle's way in, its first layers, and the way out to other tiers."""

from dataclasses import dataclass

from common.config.settings import DeviceSettings
from common.engine.adaptive import Adaptive
from common.engine.choice import find_clusterer
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline
from common.engine.thinness import Always, Thinness
from common.engine.uplink import Unmeasured, Uplink, Way
from common.model.bundle import Bundle
from common.model.manifest import Manifest
from common.model.thin_links import ThinLinks
from common.service.steering import OperatingPoints


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """The embedding and the device's layers of one revision; a request keeps the one it began with."""

    manifest: Manifest
    entrance: Entrance
    pipeline: Pipeline
    escalation: Escalation
    uplink: Way
    adaptive: Adaptive | None = None  # looks at the uplink before each message


def load_model(bundle: Bundle, settings: DeviceSettings, points: OperatingPoints | None = None) -> DeviceModel:
    """Load the embedding and the device's layers, and run them once; the policy follows ``points``.

    Raises:
        ConfigError: The bundle has no policy of the name in the settings.
        ArtifactError: The bundle is not intact, or does not run.
    """
    policy = (OperatingPoints() if points is None else points).steer(bundle, settings.routing.policy)
    threads, providers = settings.model.threads, settings.model.providers
    depth = bundle.manifest.depths.device
    pipeline = Pipeline(bundle, policy, depth=depth, threads=threads, providers=providers)
    uplink = Uplink() if settings.uplink.is_adaptive else None
    adaptive = None if uplink is None else _open_adaptive(settings, bundle.manifest, pipeline.links, uplink)
    chooser = adaptive or Always(_widest(settings), pipeline.links)
    model = DeviceModel(
        manifest=bundle.manifest,
        entrance=Entrance(bundle, policy, clusterer=find_clusterer(bundle), threads=threads, providers=providers),
        pipeline=pipeline,
        escalation=Escalation(
            bundle.manifest,
            settings.device.codec,
            links=pipeline.links,
            chooser=chooser,
            sends_tokens=settings.device.offload == "tokens",
        ),
        uplink=uplink or Unmeasured(),
        adaptive=adaptive,
    )
    warm_up = ("warm", "up") if bundle.manifest.is_pair else ("warm up", None)
    model.pipeline.advance([model.entrance.enter(*warm_up).state])  # the first run of a session is slow
    return model


def _widest(settings: DeviceSettings) -> Thinness:
    return Thinness(codec=settings.device.codec, budget=settings.link.budget, tokens=settings.link.tokens)


def _open_adaptive(settings: DeviceSettings, manifest: Manifest, links: ThinLinks, uplink: Uplink) -> Adaptive:
    return Adaptive(
        _widest(settings),
        links,
        uplink,
        width=manifest.hidden_size,
        time_share=settings.uplink.time_share,
        least_accuracy=round(manifest.exits[-1].accuracy - settings.uplink.max_drop_points / 100, 5),  # as recorded
    )
