"""The machine's profile: what is measured is what the planner reads."""

from pathlib import Path

import pytest

from common.bench.machine_profile import as_toml, measure_machine, tier_profile
from common.evaluation.profile import read_profile
from common.model.bundle import open_bundle
from common.types import Tier


def test_the_planner_reads_what_was_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("amqtt", reason="the embedded broker needs dimee[edge]")
    found = measure_machine([open_bundle(tiny_bundle)], broker="embedded", usual_tokens=12, progress=lambda _: None)
    file = tmp_path / "tiers.toml"

    file.write_text(as_toml(tier_profile(found, None, None)))
    profile = read_profile(file)

    assert profile.device.layer_ms == pytest.approx(found.fastest.layer_ms, abs=1e-4)
    assert profile.device_edge.latency_ms > 0
    assert {each.tokens for each in found.segments} == {8, 12, 16, 32}  # the tiny model ends there

    slower = tier_profile(found, Tier.CLOUD, profile)
    assert slower.device == profile.device
    assert slower.edge_cloud == profile.edge_cloud
