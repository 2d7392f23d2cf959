"""A bundle whose requests are answered on all tiers about equally, so that every link and process matters."""

from pathlib import Path

import msgspec
import numpy as np

from common.engine.choice import routing_table
from common.engine.entrance import Entrance
from common.engine.pipeline import Pipeline
from common.model.bundle import open_bundle
from common.model.derivation import derive
from common.model.manifest import ROUTING_FILE
from common.routing.policies import ConfidenceCascade
from tests.tiny import sentences

_SAMPLES = 200


def spread(bundle: str, target: Path) -> Path:
    """Derive a bundle whose default policy answers a third on the device and half of the rest on the edge."""
    source = open_bundle(bundle)
    depths, never = source.manifest.depths, ConfidenceCascade(thresholds={})
    entrance = Entrance(source, never)
    pipeline = Pipeline(source, never, depth=depths.edge)
    device, edge = Pipeline(source, never, depth=depths.device), []
    near = []
    for text, _ in sentences(_SAMPLES, seed=9):
        state = entrance.enter(text).state
        near.append(_confidence(device, state))
        edge.append(_confidence(pipeline, state))
    thresholds = {depths.device: float(np.quantile(near, 2 / 3)), depths.edge: float(np.quantile(edge, 1 / 2))}
    table = routing_table(source)
    policies = {**table.policies, "chaos": ConfidenceCascade(thresholds=thresholds)}
    routing = msgspec.structs.replace(table, policies=policies, default="chaos")
    return derive(source, target, {ROUTING_FILE: msgspec.json.encode(routing)}).directory


def _confidence(pipeline: Pipeline, state: object) -> float:
    (verdict,) = pipeline.advance([state])  # type: ignore[list-item]
    return verdict.best.confidence
