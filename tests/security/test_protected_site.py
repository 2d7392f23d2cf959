"""Everything switched on, as processes on a real Mosquitto: TLS, access list, sealed channel and a signed bundle."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.certificates import files, releases
from common.store.engine import readable_log
from common.store.queries import oldest_first
from common.transport.contract import Inbox
from common.types import Signature, Tier
from tests.security.nodes import LIMIT_S, start, wait_online

pytestmark = [pytest.mark.broker, pytest.mark.e2e]
TEXTS = [f"{word} film with a bright scene and the music" for word in ("fine", "dull", "warm", "cold", "empty")] * 4


@pytest.fixture
def model(tiny_bundle: Path, tmp_path: Path) -> dict[str, str]:
    """Settings that lead to a signed copy of the tiny bundle and believe nothing else."""
    key = Ed25519PrivateKey.generate()
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    releases.sign(bundle, "tiny", 1, key)
    files.write_public(tmp_path / "release.pub", files.public_pem(key.public_key()))
    return {"DIMEE_MODEL__BUNDLE": str(bundle), "DIMEE_MODEL__TRUSTED_KEY_FILE": str(tmp_path / "release.pub")}


@pytest.mark.parametrize(
    ("policy", "tier", "has_core"),
    [("edge-only", "edge", False), ("cloud-only", "cloud", False), ("edge-only", "edge", True)],
)
def test_every_request_is_answered_and_the_broker_sees_nothing(
    site: Any, model: dict[str, str], tmp_path: Path, policy: str, tier: str, *, has_core: bool
) -> None:
    model |= {"DIMEE_ROUTING__POLICY": policy}
    if has_core:
        model |= {"DIMEE_CHANNEL__HAS_CORE": "true"}
    for worker in (Tier.EDGE, Tier.CLOUD):
        site.authority.rotate_seal(worker)
    overseer, seen, statuses = site.transport("overseer"), Inbox(10_000), Inbox(1000)
    overseer.subscribe("#", seen)
    overseer.subscribe("dimee/v1/home/status/+/+", statuses)

    with ExitStack() as stack:
        stack.enter_context(overseer)
        assert overseer.wait_connected(LIMIT_S)
        for worker in (Tier.EDGE, Tier.CLOUD):
            process = start(site, model, tmp_path, worker, worker, "run")
            stack.callback(process.wait, LIMIT_S)
            stack.callback(process.terminate)
        wait_online(statuses, {"edge-1", "cloud-1"})
        model.pop("DIMEE_CHANNEL__HAS_CORE", None)  # tiers have one, devices none
        device = start(site, model, tmp_path, Tier.DEVICE, "device", "run", "--stdin")
        said, _ = device.communicate("\n".join(TEXTS).encode(), LIMIT_S)

    answers = [json.loads(line) for line in said.splitlines()]
    assert len(answers) == len(TEXTS)
    assert {(answer["exit_tier"], answer["reason"] == "degraded") for answer in answers} == {(tier, False)}
    assert device.returncode == 0
    carried = [each for each in iter(lambda: seen.get(0.5), None) if "/status/" not in each.topic]
    assert {each.topic.rsplit("/", 1)[-1] for each in carried} == {"request", "outcome", "log"}
    everything = b"\0".join(each.payload for each in carried)
    hidden = [b"film", b"bright", b"scene", b"int8", answers[0]["model_revision"].encode()]
    assert [secret for secret in hidden if secret in everything] == []
    with readable_log(f"sqlite:///{tmp_path}/log.sqlite") as engine:
        assert [row.signature for row in oldest_first(engine)] == [Signature.VERIFIED] * len(TEXTS)
