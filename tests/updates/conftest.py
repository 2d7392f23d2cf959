"""Bundles that differ in their revision alone, and ways to publish them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from common.commands.rollout import Stage, staged
from common.engine.choice import routing_table
from common.evaluation.trace import CALIBRATION_FILE, read_calibration
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.manifest import ROUTING_FILE
from common.model.rollout import Release, Rollout, read_chunk
from common.routing.policies import ConfidenceCascade
from common.wire.topics import Topics

TOPICS = Topics("house")


def make_sibling(source: Bundle, target: Path, *, threshold: float, record_scale: float = 1.0) -> Bundle:
    """Derive a bundle whose cascade leaves the device above ``threshold``; its record may claim surer exits."""
    table = routing_table(source)
    cascade = ConfidenceCascade(thresholds=dict.fromkeys((1, 2), threshold))
    changed = msgspec.structs.replace(table, default="cascade", policies={**table.policies, "cascade": cascade})
    trace = read_calibration(source)
    scaled = replace(trace, logits=(trace.logits * np.float32(record_scale)).astype(np.float32))
    files = {ROUTING_FILE: msgspec.json.encode(changed), CALIBRATION_FILE: scaled.to_bytes()}
    return derive(source, target, files)


@pytest.fixture
def old(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """What a site runs."""
    return make_sibling(open_bundle(tiny_bundle), tmp_path / "old", threshold=0.6)


@pytest.fixture
def new(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """What it is to run."""
    return make_sibling(open_bundle(tiny_bundle), tmp_path / "new", threshold=0.61)


def published(transport: Any, bundle: Bundle, *, chunk_bytes: int = 4096, spoil: bool = False) -> Release:
    """Leave a bundle at the broker; spoilt: with one bit flipped in the last part."""
    _, release = staged(Rollout(), bundle, Stage.ALL, 1.0, chunk_bytes=chunk_bytes)
    for file, number in release.chunks():
        part = bytearray(read_chunk(bundle.directory, release, file, number))
        if spoil and file.endswith(".onnx"):
            part[len(part) // 2] ^= 1
        transport.publish(TOPICS.chunk(release.revision, file, number), bytes(part), is_retained=True)
    return release
