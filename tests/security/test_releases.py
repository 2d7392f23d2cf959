"""Signed bundles: every altered bit is noticed, other keys are refused, and an older release does not come back."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.certificates import files, releases
from common.cli.root import app
from common.config.settings import CloudSettings, Model, Mqtt, Node
from common.errors import ArtifactError, ConfigError
from common.model.bundle import open_bundle
from common.service.loading import open_pipeline
from common.service.trust import bundle_gate
from common.types import Tier

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SAMPLED_BITS = 1000


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A signed copy of the tiny bundle, free to change."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    releases.sign(copy, "tiny", 1, KEY)
    return copy


@pytest.fixture
def trusting(bundle: Path, tmp_path: Path) -> Model:
    """Settings of a node that believes only ``KEY``."""
    public = tmp_path / "release.pub"
    files.write_public(public, files.public_pem(KEY.public_key()))
    return Model(
        bundle=str(bundle), trusted_key_file=str(public), release_file=str(tmp_path / "state" / "release.json")
    )


def admit(model: Model, **changes: Any) -> None:
    model = msgspec.structs.replace(model, **changes)
    open_bundle(model.bundle, bundle_gate(model)).verify()


def test_a_signed_bundle_is_let_in_again_and_again(trusting: Model) -> None:
    admit(trusting)
    admit(trusting)


def test_every_single_bit_of_the_signature_counts(bundle: Path) -> None:
    manifest, signature = (bundle / "manifest.json").read_bytes(), (bundle / "signature.json").read_bytes()
    believed = []
    for bit in range(8 * len(signature)):
        (bundle / "signature.json").write_bytes(flipped(signature, bit))
        if is_believed(bundle, manifest):
            believed.append(bit)

    assert believed == []


def test_single_bits_of_the_manifest_count(bundle: Path) -> None:
    manifest = (bundle / "manifest.json").read_bytes()
    bits = random.Random(0).sample(range(8 * len(manifest)), SAMPLED_BITS)

    assert [bit for bit in bits if is_believed(bundle, flipped(manifest, bit))] == []


def test_single_bits_of_every_file_count_and_the_file_is_named(bundle: Path) -> None:
    draw = random.Random(0)
    for name in open_bundle(bundle).manifest.files:
        content = (bundle / name).read_bytes()
        for bit in draw.sample(range(8 * len(content)), SAMPLED_BITS // 50):
            (bundle / name).write_bytes(flipped(content, bit))
            with pytest.raises(ArtifactError, match=name):
                open_bundle(bundle).path(name)
        (bundle / name).write_bytes(content)


def test_a_bundle_without_a_signature_is_refused(bundle: Path, trusting: Model) -> None:
    (bundle / "signature.json").unlink()

    with pytest.raises(ArtifactError, match="is not signed"):
        admit(trusting)


def test_a_bundle_of_another_key_is_refused(bundle: Path, trusting: Model) -> None:
    releases.sign(bundle, "tiny", 2, Ed25519PrivateKey.generate())

    with pytest.raises(ArtifactError, match="not signed by the trusted key"):
        admit(trusting)


def test_a_signature_of_another_manifest_is_refused(bundle: Path, trusting: Model) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(ArtifactError, match="not the one that was signed"):
        admit(trusting)


def test_the_manifest_is_not_parsed_before_its_signature_holds(bundle: Path, trusting: Model) -> None:
    (bundle / "manifest.json").write_bytes(b"{ no json")

    with pytest.raises(ArtifactError, match="not the one that was signed"):
        admit(trusting)


def test_an_older_release_does_not_come_back_unless_told_so(bundle: Path, trusting: Model) -> None:
    releases.sign(bundle, "tiny", 7, KEY)
    admit(trusting)
    releases.sign(bundle, "tiny", 6, KEY)

    with pytest.raises(ArtifactError, match=r"release 6 .* replace release 7 .* model\.is_rollback_allowed"):
        admit(trusting)
    admit(trusting, is_rollback_allowed=True)
    admit(trusting)


def test_another_bundle_under_a_known_number_is_refused(bundle: Path, trusting: Model) -> None:
    admit(trusting)
    document = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(document))
    releases.sign(bundle, "tiny", 1, KEY)

    with pytest.raises(ArtifactError, match="would replace release 1"):
        admit(trusting)


def test_models_are_counted_apart(bundle: Path, trusting: Model) -> None:
    releases.sign(bundle, "tiny", 9, KEY)
    admit(trusting)
    releases.sign(bundle, "other", 1, KEY)

    admit(trusting)


def test_a_refused_bundle_leaves_no_trace_in_the_history(bundle: Path, trusting: Model) -> None:
    releases.sign(bundle, "tiny", 99, Ed25519PrivateKey.generate())
    with pytest.raises(ArtifactError):
        admit(trusting)

    releases.sign(bundle, "tiny", 1, KEY)
    admit(trusting)


def test_a_history_that_is_no_history_is_refused(trusting: Model) -> None:
    history = Path(str(trusting.release_file))
    history.parent.mkdir()
    history.write_text("{}x")

    with pytest.raises(ConfigError, match=r"model\.release_file"):
        admit(trusting)


def test_a_trusted_key_needs_a_history(trusting: Model) -> None:
    with pytest.raises(ConfigError, match=r"model\.release_file is not"):
        admit(trusting, release_file=None)


def test_a_tier_makes_no_session_of_an_unsigned_bundle(bundle: Path, trusting: Model) -> None:
    (bundle / "signature.json").unlink()

    with pytest.raises(ArtifactError, match="is not signed"):
        open_pipeline(CloudSettings(node=Node(id="cloud-1"), mqtt=Mqtt(), model=trusting), Tier.CLOUD)


def test_the_commands_make_a_key_sign_and_verify(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    def run(*arguments: object) -> str:
        app([str(argument) for argument in arguments], standalone_mode=False)
        return str(capsys.readouterr().out)

    run("certs", "init", "--dir", tmp_path / "certs")
    run("certs", "signer", "--dir", tmp_path / "certs")
    run("model", "sign", bundle, "--key", tmp_path / "certs" / "release.key", "--release", 3)

    assert "files intact" in run("model", "verify", bundle, "--key", tmp_path / "certs" / "release.pub")
    releases.sign(bundle, "tiny", 4, KEY)
    with pytest.raises(ArtifactError, match="not signed by the trusted key"):
        run("model", "verify", bundle, "--key", tmp_path / "certs" / "release.pub")


def is_believed(bundle: Path, manifest: bytes) -> bool:
    try:
        releases.verified(bundle, manifest, KEY.public_key())
    except ArtifactError:
        return False
    return True


def flipped(content: bytes, bit: int) -> bytes:
    altered = bytearray(content)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)
