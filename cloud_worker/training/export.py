"""A trained run to a bundle: ONNX segments whose parity is checked, calibrated exits, sealed by hashes."""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.calibrate import trace_kept_back
from cloud_worker.training.card import CARD_FILE, model_card
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.onnx_files import quantise, write_onnx
from cloud_worker.training.parity import Chain, check_agreement, check_float32
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.segments import EmbeddingModule, SpanModule, shrink_embeddings
from common.errors import ConfigError
from common.evaluation.scoring import Setting
from common.evaluation.table import fit_table
from common.evaluation.trace import CALIBRATION_FILE, Trace
from common.inputs.examples import sha256_of
from common.model.bundle import Bundle, seal
from common.model.manifest import MANIFEST_FILE, ROUTING_FILE, TOKENIZER_FILE, ExitEntry, Manifest, SegmentEntry
from common.types import Depths, Span

_EMBEDDING_FILE = "embedding.onnx"
_LOGGER = logging.getLogger(__name__)
_SAMPLE_TEXTS = 3  # of the export's tracing; axes stay open
_PARITY_TEXTS = 256

Precision = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What to export: the tiers' depths m and n, further exits inside the tiers, and the precision."""

    split: tuple[int, int]
    exits: tuple[int, ...] = ()
    precision: Precision = "int8"
    name: str = ""
    licence: str = "see the backbone's page"
    labels: tuple[str, ...] = ()  # names of the classes, by index; those of the data when empty

    def depths(self, num_layers: int) -> Depths:
        """Depths of the tiers on a backbone of ``num_layers``."""
        device, edge = self.split
        if not 0 < device < edge < num_layers:
            raise ConfigError(f"--split {device},{edge}: must be M,N with 0 < M < N < {num_layers} (the layers)")
        beyond = [exit_layer for exit_layer in self.exits if not 0 < exit_layer <= num_layers]
        if beyond:
            raise ConfigError(f"--exits {beyond[0]}: exits stand after layers 1 to {num_layers}")
        return Depths(device=device, edge=edge, cloud=num_layers)

    def label_names(self, known: Sequence[str]) -> tuple[str, ...]:
        """Names of the classes for people, in the order of the data's labels."""
        if self.labels and len(set(self.labels)) != len(known):
            raise ConfigError(f"--labels {','.join(self.labels)}: must be {len(known)} names, for {', '.join(known)}")
        return self.labels or tuple(known)

    def spans(self, num_layers: int) -> list[Span]:
        """Segments of the bundle, from the first layer to the last."""
        depths = self.depths(num_layers)
        boundaries = sorted({0, depths.device, depths.edge, depths.cloud, *self.exits})
        return [Span(start=start, end=end) for start, end in pairwise(boundaries)]


def export_bundle(run: RunDirectory, plan: ExportPlan, out: Path) -> Manifest:
    """Write the bundle of a finished run into an empty or new directory.

    Raises:
        ConfigError: The split does not fit the backbone, or ``out`` is in use.
        ArtifactError: The run is unfinished, or a segment does not say what the network says.
    """
    record = run.read_record()
    network = run.load_network(attention="eager")
    spans = plan.spans(network.num_layers)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: the directory is not empty; name another one")
    texts = _kept_back(run, record, network)
    with tempfile.TemporaryDirectory(prefix="dimee-export-") as scratch:
        made = Path(scratch)
        report = _write_segments(network, spans, texts, plan.precision, made)
        shutil.copy(run.path / "tokenizer.json", made / TOKENIZER_FILE)
        draft = _manifest(plan, record, network, made)
        trace = _calibrate(run, draft, made)
        if plan.precision == "int8":
            report["int8_agreement"] = check_agreement(trace.logits, _expected(run, trace.exits), trace.exits)
        (made / CALIBRATION_FILE).write_bytes(trace.to_bytes())
        routing = fit_table(trace, Setting(depths=draft.depths, metric=record["metric"]))
        (made / ROUTING_FILE).write_bytes(msgspec.json.encode(routing))
        origin = {**record, "weights": sha256_of(run.weights), "export": report}
        calibrated = msgspec.structs.replace(draft, exits=_exits(trace), training=origin)
        (made / CARD_FILE).write_text(model_card(calibrated, plan.licence), encoding="utf-8")
        manifest = _seal(calibrated, made)
        shutil.copytree(made, out, dirs_exist_ok=True)
    return manifest


def _calibrate(run: RunDirectory, draft: Manifest, directory: Path) -> Trace:
    """Trace the kept-back texts through what is exported so far."""
    _seal(draft, directory)
    with np.load(run.observations, allow_pickle=False) as observed:
        epochs = observed["true_probability"]
    return trace_kept_back(Bundle(directory), run.read_kept_back(), epochs)


def _expected(run: RunDirectory, exits: Sequence[int]) -> NDArray[np.float32]:
    """Logits [exits, N, C] of the network itself on the kept-back texts."""
    with np.load(run.observations, allow_pickle=False) as observed:
        logits: NDArray[np.float32] = observed["logits"][[layer - 1 for layer in exits]]
    return logits


def _seal(manifest: Manifest, directory: Path) -> Manifest:
    """Write the manifest over the files that lie in its directory."""
    found = sorted(file for file in directory.iterdir() if file.name != MANIFEST_FILE)
    sealed = msgspec.structs.replace(manifest, files={file.name: seal(file) for file in found}).sealed()
    (directory / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(sealed)))
    return sealed


def _kept_back(run: RunDirectory, record: dict[str, Any], network: MultiExitNetwork) -> EncodedTexts:
    return EncodedTexts(
        run.read_kept_back(),
        record["labels"],
        tokenizer=run.load_tokenizer(),
        pad_id=network.backbone.config.pad_token_id,
        max_tokens=record["max_tokens"],
    )


def _write_segments(
    network: MultiExitNetwork, spans: Sequence[Span], texts: EncodedTexts, precision: Precision, directory: Path
) -> dict[str, Any]:
    """Export in float32, check parity, then quantise in place; returns what was found."""
    shrink_embeddings(network, texts.max_tokens, to_bytes=False)
    _write_embedding(network, texts, directory)
    for span in spans:
        _write_span(network, span, texts, directory)
    chain = Chain(directory / _EMBEDDING_FILE, [(span, directory / _segment_file(span)) for span in spans])
    sample = np.linspace(0, len(texts) - 1, min(_PARITY_TEXTS, len(texts))).astype(int).tolist()
    batches = [texts.batch(sample[start : start + 16]) for start in range(0, len(sample), 16)]
    worst = check_float32(chain, network, [*batches, texts.batch(sample[:1])])
    _LOGGER.info("float32 segments differ from the network by at most %.1e", worst)
    if precision == "int8":
        shrink_embeddings(network, texts.max_tokens, to_bytes=True)
        _write_embedding(network, texts, directory)
        for span in spans:
            file = directory / _segment_file(span)
            file.replace(file.with_suffix(".float32"))
            quantise(file.with_suffix(".float32"), file)
            file.with_suffix(".float32").unlink()
    return {"float32_parity": worst}


def _write_embedding(network: MultiExitNetwork, texts: EncodedTexts, directory: Path) -> None:
    batch = texts.batch(range(_SAMPLE_TEXTS))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if network.backbone.takes_token_types:
        inputs["token_type_ids"] = batch.token_type_ids
    write_onnx(EmbeddingModule(network), inputs, ("hidden_states",), directory / _EMBEDDING_FILE)


def _write_span(network: MultiExitNetwork, span: Span, texts: EncodedTexts, directory: Path) -> None:
    batch = texts.batch(range(_SAMPLE_TEXTS))
    hidden_states = network.backbone.embed(batch.input_ids, batch.token_type_ids).detach()
    write_onnx(
        SpanModule(network, span.start, span.end),
        {"hidden_states": hidden_states, "attention_mask": batch.attention_mask},
        ("next_hidden_states", "logits", "pooled"),
        directory / _segment_file(span),
    )


def _segment_file(span: Span) -> str:
    return f"layers-{span.start:02d}-{span.end:02d}.onnx"


def _exits(trace: Trace) -> tuple[ExitEntry, ...]:
    accuracy = (trace.predictions() == trace.labels).mean(axis=1)  # [exits]
    return tuple(
        ExitEntry(layer=layer, temperature=temperature, accuracy=round(float(share), 5))
        for layer, temperature, share in zip(trace.exits, trace.temperatures, accuracy, strict=True)
    )


def _manifest(plan: ExportPlan, record: dict[str, Any], network: MultiExitNetwork, directory: Path) -> Manifest:
    """Describe the segments in a directory; the exits are not calibrated yet."""
    spans = plan.spans(network.num_layers)
    return Manifest(
        name=plan.name or Path(record["data"]["train"]["name"]).parent.name or "bundle",
        backbone=record["backbone"],
        num_layers=network.num_layers,
        hidden_size=network.backbone.hidden_size,
        max_tokens=record["max_tokens"],
        labels=plan.label_names(record["labels"]),
        precision=plan.precision,
        is_pair=record["pairs"],
        has_token_types=network.backbone.takes_token_types,
        depths=plan.depths(network.num_layers),
        embedding=_EMBEDDING_FILE,
        segments=tuple(SegmentEntry(file=_segment_file(span), span=span) for span in spans),
        exits=tuple(ExitEntry(layer=span.end, temperature=1.0, accuracy=0.0) for span in spans),
        training=record,
        files={file.name: seal(file) for file in directory.iterdir()},
    )
