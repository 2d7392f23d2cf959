"""One bundle out of another."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.errors import ConfigError
from common.model.bundle import Bundle, seal
from common.model.manifest import MANIFEST_FILE


def derive(bundle: Bundle, target: Path, changed: Mapping[str, bytes]) -> Bundle:
    """Write a copy of a bundle with some files changed or added, under its own revision.

    Raises:
        ConfigError: The target holds something already.
    """
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty; name another directory")
    bundle.verify()
    target.mkdir(parents=True, exist_ok=True)
    for name in bundle.manifest.files:
        shutil.copy(bundle.path(name), target / name)
    for name, content in changed.items():
        (target / name).write_bytes(content)
    seals = bundle.manifest.files | {name: seal(target / name) for name in changed}
    manifest = msgspec.structs.replace(bundle.manifest, files=seals).sealed()
    (target / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return Bundle(target)
