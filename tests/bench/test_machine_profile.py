"""The machine's profile: what is measured is what the tiers and the planner read."""

from pathlib import Path

import pytest

from common.bench.machine_profile import CodecTime, as_toml, measure_machine, quickest_codec, tier_profile
from common.config.load import load
from common.config.settings import CloudSettings, DeviceSettings
from common.evaluation.profile import LinkProfile, read_profile
from common.types import Tier


def test_tiers_and_planner_read_what_was_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("amqtt", reason="the embedded broker needs dimee[edge]")
    found = measure_machine([str(tiny_bundle)], broker="embedded", usual_tokens=12, progress=lambda _: None)
    file = tmp_path / "tiers.toml"

    file.write_text(as_toml(tier_profile(found, None, None)))
    profile = read_profile(file)
    cloud = load(CloudSettings, None, {"DIMEE_NODE__ID": "cloud-1", "DIMEE_MODEL__PROFILE_FILE": str(file)})

    assert profile.device.layer_ms == pytest.approx(found.tiers[Tier.DEVICE].layer_ms, abs=1e-4)
    assert profile.device_edge == found.link
    assert {each.tokens for each in found.segments} == {8, 12, 16, 32}  # the tiny model ends there
    best = found.tiers[Tier.CLOUD].settings
    assert (cloud.model.bundle, cloud.model.threads, cloud.worker.codec) == (str(tiny_bundle), best.threads, best.codec)

    slower = tier_profile(found, Tier.CLOUD, profile)
    assert slower.device == profile.device
    assert slower.edge_cloud == profile.edge_cloud


def test_file_and_environment_win_over_the_profile(tmp_path: Path) -> None:
    profile, file = tmp_path / "tiers.toml", tmp_path / "device.toml"
    profile.write_text('[device.settings]\nbundle = "/fast"\nthreads = 2\ncodec = "float16"\n')
    file.write_text(f'[node]\nid = "pi-1"\n[model]\nprofile_file = "{profile}"\nbundle = "/mine"\n')

    settings = load(DeviceSettings, file, {"DIMEE_MODEL__THREADS": "3"})

    assert (settings.model.bundle, settings.model.threads, settings.device.codec) == ("/mine", 3, "float16")


def test_the_codec_is_the_quickest_for_the_link() -> None:
    codecs = [
        CodecTime(codec="float32", tokens=24, num_bytes=36_000, round_trip_ms=0.01),
        CodecTime(codec="int8", tokens=24, num_bytes=9_000, round_trip_ms=0.2),
        CodecTime(codec="int4", tokens=24, num_bytes=4_000, round_trip_ms=0.1),  # answers otherwise
    ]

    assert quickest_codec(codecs, LinkProfile(latency_ms=1, mbit_s=10_000), 24) == "float32"
    assert quickest_codec(codecs, LinkProfile(latency_ms=1, mbit_s=10), 24) == "int8"
