"""ONNX segments: the embedding, and spans of layers that end in an exit head."""

import functools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from common.errors import ArtifactError
from common.model.bundle import Bundle
from common.model.providers import PROCESSOR, Providers, check_started, usable
from common.types import Span

Ids = NDArray[np.int64]  # [batch, sequence]
Hidden = NDArray[np.float32]  # [batch, sequence, hidden]
Logits = NDArray[np.float32]  # [batch, labels]
Pooled = NDArray[np.float32]  # [batch, pooled]

_SLOWER_FUSED = ("SkipLayerNormFusion",)  # its kernel adds element by element: a segment takes 15 % longer with it


class SegmentOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a segment's last layer, and what its exit head makes of it."""

    hidden_states: Hidden  # [batch, sequence, hidden]
    logits: Logits  # [batch, labels]
    pooled: Pooled  # [batch, pooled]: the state that the head looks at


class EmbeddingSegment:
    """Token ids to the backbone's first hidden states."""

    def __init__(self, path: Path, threads: int, providers: Providers) -> None:
        session = _session(path, threads, providers)
        self._run = _runner(session)
        self._has_token_types = len(session.get_inputs()) > 2

    def run(self, input_ids: Ids, attention_mask: Ids, token_type_ids: Ids | None = None) -> Hidden:
        """Embed [B, S] ids; gives [B, S, H]."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._has_token_types:
            feeds["token_type_ids"] = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        (hidden_states,) = self._run(["hidden_states"], feeds, None)
        return hidden_states  # type: ignore[no-any-return]


class LayerSegment:
    """Layers [start, end) and the exit head after the last of them."""

    def __init__(self, path: Path, span: Span, threads: int, providers: Providers) -> None:
        self.span = span
        session = _session(path, threads, providers)
        self._run = _runner(session)
        self.provider: str = session.get_providers()[0]  # what runs it, as far as it can

    def run(self, hidden_states: Hidden, attention_mask: Ids) -> SegmentOutput:
        """Carry [B, S, H] through the span; mask [B, S], 1 = token."""
        feeds = {"hidden_states": hidden_states, "attention_mask": attention_mask}
        hidden, logits, pooled = self._run(["next_hidden_states", "logits", "pooled"], feeds, None)
        return SegmentOutput(hidden_states=hidden, logits=logits, pooled=pooled)


@functools.lru_cache(maxsize=1024)
def unmasked(length: int) -> Ids:
    """Give the mask [1, S] of one input without padding; all share it, so nobody may write to it."""
    mask = np.ones((1, length), np.int64)
    mask.flags.writeable = False
    return mask


def open_embedding(bundle: Bundle, threads: int = 1, providers: Providers = (PROCESSOR,)) -> EmbeddingSegment:
    """Load the embedding segment."""
    return EmbeddingSegment(bundle.path(bundle.manifest.embedding), threads, providers)


def open_layers(
    bundle: Bundle, upto: int, threads: int = 1, providers: Providers = (PROCESSOR,)
) -> tuple[LayerSegment, ...]:
    """Load the segments that cover layers [0, upto)."""
    return tuple(
        LayerSegment(bundle.path(entry.file), entry.span, threads, providers)
        for entry in bundle.manifest.segments
        if entry.span.end <= upto
    )


def _session(path: Path, threads: int, providers: Providers) -> Any:
    asked = usable(providers)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(path, options, providers=list(asked), disabled_optimizers=list(_SLOWER_FUSED))
    except Exception as exc:  # onnxruntime raises bare classes of its own
        raise ArtifactError(f"{path} cannot be loaded by onnxruntime {ort.__version__}: {exc}") from exc
    check_started(asked, tuple(session.get_providers()))
    return session


def _runner(session: Any) -> Any:
    """Give what runs a session, on a processor without onnxruntime's look at the feeds' names.

    It takes 10 microseconds, twice that after a segment; on an accelerator the same wrapper falls back when one fails.
    """
    bare = getattr(session, "_sess", session) if session.get_providers() == [PROCESSOR] else session
    return bare.run
