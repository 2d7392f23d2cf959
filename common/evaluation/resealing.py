"""A bundle with another operating point: a copy with a new routing table, sealed again."""

import shutil
from pathlib import Path

import msgspec

from common.errors import ConfigError
from common.evaluation.operating import POLICY, Promise
from common.model.bundle import Bundle, seal
from common.model.manifest import MANIFEST_FILE, ROUTING_FILE, Manifest
from common.routing.policies import RoutingTable


def write_promised(bundle: Bundle, table: RoutingTable, promise: Promise, out: Path) -> Manifest:
    """Copy a bundle into a new directory, with the promised policy as its default.

    Raises:
        ConfigError: The directory is not empty.
        ArtifactError: A file of the bundle is not intact.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: the directory is not empty; name another one")
    bundle.verify()
    out.mkdir(parents=True, exist_ok=True)
    for name in bundle.manifest.files:
        shutil.copy(bundle.directory / name, out / name)
    changed = RoutingTable(default=POLICY, policies={**table.policies, POLICY: promise.policy})
    (out / ROUTING_FILE).write_bytes(msgspec.json.encode(changed))
    record = {name: value for name, value in msgspec.to_builtins(promise).items() if name != "policy"}
    manifest = msgspec.structs.replace(
        bundle.manifest,
        training={**bundle.manifest.training, "calibration": record},
        files={**bundle.manifest.files, ROUTING_FILE: seal(out / ROUTING_FILE)},
    ).sealed()
    (out / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest
