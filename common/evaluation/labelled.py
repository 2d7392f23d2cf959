"""Labelled data for a bundle: read, checked against what the bundle has seen, run once."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.evaluation.trace import Trace
from common.evaluation.tracing import Progress, Text, trace_texts
from common.inputs.examples import read_examples, sha256_of
from common.model.bundle import Bundle

_REPORTED_ONLY = "valid"  # named by training for reports; nothing is chosen by it
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where reported samples come from."""

    file: str
    sha256: str
    is_seen: bool  # the bundle was trained or calibrated on this very file


def check_unseen(bundle: Bundle, path: Path, *, allow_seen: bool) -> Source:
    """Hash a data file and refuse it if the bundle learned from it.

    Raises:
        ConfigError: It does not exist, or was seen and that is not allowed.
    """
    if not path.exists():
        raise ConfigError(f"--data {path}: no such file; name a TSV, CSV or JSONL file with labels")
    digest = sha256_of(path)
    is_seen = digest in seen_hashes(bundle)
    if is_seen and not allow_seen:
        raise ConfigError(
            f"--data {path}: the bundle {bundle.manifest.name} learned from this file (sha256 {digest[:12]}…), so its "
            "score would flatter; name data kept apart, or --allow-seen"
        )
    return Source(file=path.name, sha256=digest, is_seen=is_seen)


def seen_hashes(bundle: Bundle) -> set[str]:
    """Hashes of the files that a bundle was trained or calibrated on, by its training record."""
    data = bundle.manifest.training.get("data", {})
    return _hashes(
        {name: part for name, part in data.items() if name != _REPORTED_ONLY} if isinstance(data, dict) else data
    )


def trace_file(
    bundle: Bundle, path: Path, *, codec: str = "int8", threads: int = 1, progress: Progress | None = None
) -> Trace:
    """Run a bundle on a labelled file.

    Raises:
        ConfigError: It is empty, or its labels or pairs are not what the bundle takes.
    """
    texts, labels = read_texts(bundle, path)
    return trace_texts(bundle, texts, labels, codec_name=codec, threads=threads, progress=progress)


def read_texts(bundle: Bundle, path: Path) -> tuple[list[Text], list[int]]:
    """Read a labelled file as texts and class indices of a bundle.

    Raises:
        ConfigError: Its labels or pairs are not what the bundle takes.
    """
    examples = read_examples(path)
    manifest = bundle.manifest
    if (examples.pairs is not None) != manifest.is_pair:
        raise ConfigError(
            f"--data {path}: holds {'pairs of texts' if examples.pairs else 'single texts'}, the bundle "
            f"{manifest.name} takes {'pairs' if manifest.is_pair else 'single texts'}"
        )
    labels = [manifest.labels.index(manifest.label_named(label)) for label in examples.labels]
    pairs = examples.pairs or (None,) * len(examples)
    return list(zip(examples.texts, pairs, strict=True)), labels


def _hashes(record: Any) -> set[str]:
    match record:
        case dict():
            return set().union(*(_hashes(part) for part in record.values()))
        case list() | tuple():
            return set().union(*(_hashes(part) for part in record))
        case str() if _SHA256.fullmatch(record):
            return {record}
        case _:
            return set()
