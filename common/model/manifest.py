"""The manifest: what a bundle holds and promises."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec

from common.errors import ArtifactError, ConfigError
from common.types import Count, Depths, Fraction, Span

SCHEMA: Literal[1] = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
ROUTING_FILE = "routing.json"
Positive = Annotated[float, msgspec.Meta(gt=0)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]  # never a path


class FileSeal(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of the bundle must be."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    num_bytes: Count


class SegmentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive layers [start, end) in one ONNX file, with the exit head after layer ``end``."""

    file: FileName
    span: Span


class ExitEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An exit head's calibration, fitted on the kept-back split."""

    layer: Annotated[int, msgspec.Meta(ge=1)]
    temperature: Positive  # logits are divided by it before the softmax
    accuracy: Fraction  # on the kept-back split


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a tier must know before it opens a bundle's files."""

    schema: Literal[1] = SCHEMA
    name: str
    backbone: str  # where the weights came from
    num_layers: Annotated[int, msgspec.Meta(ge=2)]
    hidden_size: Annotated[int, msgspec.Meta(ge=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=2)]  # special tokens included; longer inputs are cut
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=2)]  # by class index
    precision: Literal["float32", "int8"]
    is_pair: bool = False  # inputs are pairs of texts
    has_token_types: bool = False  # the embedding segment takes token_type_ids
    depths: Depths
    embedding: FileName
    segments: Annotated[tuple[SegmentEntry, ...], msgspec.Meta(min_length=1)]
    exits: Annotated[tuple[ExitEntry, ...], msgspec.Meta(min_length=1)]
    training: dict[str, Any]  # command, data hashes, seed, metrics
    files: dict[FileName, FileSeal]
    revision: str = ""

    def __post_init__(self) -> None:
        spans = [segment.span for segment in self.segments]
        boundaries = [span.end for span in spans]
        if [span.start for span in spans] != [0, *boundaries[:-1]] or boundaries[-1] != self.num_layers:
            raise ValueError(f"segments {spans} do not cover layers 0 to {self.num_layers} without gap or overlap")
        if [exit_.layer for exit_ in self.exits] != boundaries:
            raise ValueError("every segment needs exactly one exit, at its end")
        if self.depths.cloud != self.num_layers or not {self.depths.device, self.depths.edge} <= set(boundaries):
            raise ValueError(f"the tiers' depths {self.depths} must be ends of segments {boundaries}")
        missing = {self.embedding, *(segment.file for segment in self.segments)} - set(self.files)
        if missing:
            raise ValueError(f"files {sorted(missing)} have no hash")

    @property
    def weights(self) -> str | None:
        """Name the weights that were exported: bundles of one training run agree in it, whatever their precision."""
        found = self.training.get("weights")
        return found if isinstance(found, str) else None

    def label_named(self, label: str) -> str:
        """Give a label of labelled data in this model's own words; a class index is understood too.

        Raises:
            ConfigError: The model does not know it.
        """
        if label in self.labels:
            return label
        if label.isdecimal() and int(label) < len(self.labels):
            return self.labels[int(label)]
        raise ConfigError(
            f"label {label!r} is none of this model's: {list(self.labels)}, or an index below {len(self.labels)}"
        )

    def sealed(self) -> "Manifest":
        """Give the same manifest with its revision: 16 hex digits of the hash of everything else."""
        bare = msgspec.structs.replace(self, revision="")
        digest = hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
        return msgspec.structs.replace(self, revision=digest[:16])


def parse(document: bytes, source: str) -> Manifest:
    """Read and check a manifest.

    Raises:
        ArtifactError: It is no manifest of this schema, or its revision does not match its contents.
    """
    try:
        manifest = msgspec.json.decode(document, type=Manifest)
    except msgspec.DecodeError as exc:
        raise ArtifactError(f"{source}: no bundle manifest of schema {SCHEMA}: {exc}") from exc
    if manifest.sealed().revision != manifest.revision:
        raise ArtifactError(f"{source}: contents do not match revision {manifest.revision!r}; fetch the bundle again")
    return manifest
