"""A tier's segments run in order, with the policy asked at every exit head."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.engine.choice import choose_policy
from common.engine.token_embedding import TokenEmbedding
from common.model.bundle import Bundle
from common.model.providers import PROCESSOR, Providers
from common.model.segments import LayerSegment, SegmentOutput, open_layers, unmasked
from common.model.thin_links import Rung, open_thin_links
from common.routing.evidence import ExitEvidence, Floats, softmax
from common.routing.exits import ConfidenceCascade
from common.routing.policies import Policy
from common.routing.selection import Profile
from common.types import Reason, Span
from common.wire.tokens import Tokens

_UNKNOWN = Profile()
_BELIEVED_S = 10.0
_WARM_UP_RUNS = 3
_WARM_UP_TOKENS = 16


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One input somewhere between two layers."""

    hidden_states: Floats  # [sequence, hidden], real tokens only
    layers_run: int
    predictions: tuple[int, ...] = ()  # at the exits passed so far
    confidences: tuple[float, ...] = ()  # there
    rung: Rung | None = None  # how the exits behind the thin link that it came over are calibrated
    form: tuple[int, int] = (0, 0)  # tokens and dimensions in which it came over the wire
    compute_ms: float = 0.0  # in this tier's layers so far
    tokens: Tokens | None = None  # what it was embedded from, before any layer has run


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    """An exit head answered."""

    logits: tuple[float, ...]
    confidence: float
    layer: int
    threshold: float | None
    reason: Reason
    predictions: tuple[int, ...]  # all exits passed, this one last
    confidences: tuple[float, ...]  # there
    compute_ms: float = 0.0  # in this tier's layers

    @property
    def best(self) -> "Exited":
        """What is known of the answer, as an unsure state has it too."""
        return self


class Unsure(msgspec.Struct, frozen=True, kw_only=True):
    """The tier's last exit head was not confident: the state is to be carried on elsewhere."""

    state: State
    best: Exited  # what that head would have answered


Verdict = Exited | Unsure


class _Run(NamedTuple):
    """A segment's output, and the milliseconds that it took for each of the inputs."""

    output: SegmentOutput
    input_ms: float


class _Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment made of several states."""

    hidden_states: list[Floats]  # each [sequence, hidden], real tokens only
    logits: Floats  # [states, labels]
    pooled: Floats  # [states, pooled]
    compute_ms: list[float]


class Pipeline:
    """Segments from any split point to this tier's depth."""

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        *,
        depth: int,
        threads: int = 1,
        providers: Providers = (PROCESSOR,),
        takes_tokens: bool = False,
    ) -> None:
        self.max_batch = 1  # states that share a run of a segment
        self.depth = depth
        self.manifest = bundle.manifest
        self._profiles: dict[int, Profile] = {}  # of the segment that begins at a layer, per input
        self._measured_at: dict[int, float] = {}  # monotonic seconds
        self._num_layers = bundle.manifest.num_layers
        self._segments = {segment.span.start: segment for segment in open_layers(bundle, depth, threads, providers)}
        self._temperatures = {exit_.layer: exit_.temperature for exit_ in bundle.manifest.exits}
        self._policy = policy
        default = choose_policy(bundle)
        self._default_thresholds = default.thresholds if isinstance(default, ConfidenceCascade) else {}
        self.links = open_thin_links(bundle)  # over which states may come in
        self.embedding = TokenEmbedding(bundle, threads) if takes_tokens else None  # of inputs that come as tokens

    @property
    def split_points(self) -> frozenset[int]:
        """Layers at which a state may come in."""
        return frozenset(self._segments)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The segments, from the first layer on."""
        return tuple(segment.span for _, segment in sorted(self._segments.items()))

    @property
    def provider(self) -> str:
        """What runs the segments, as far as it can."""
        return next(iter(self._segments.values())).provider

    def advance(self, states: Sequence[State], *, upto: int | None = None) -> list[Verdict]:
        """Carry states that stand at one split point as far as the policy asks.

        The segments run over ``max_batch`` states at once, padded and masked where they differ in length; all exits are
        read together, for what runs between two segments runs out of cold caches. Those that exit leave at once.

        Args:
            states: Where the inputs stand.
            upto: The exit that has the last word though the tier is deeper, for want of time.
        """
        verdicts: dict[int, Verdict] = {}
        waiting = dict(enumerate(states))
        while waiting:
            waiting = self._run_segment(waiting, verdicts, upto)
        return [verdicts[item] for item in range(len(states))]

    def warm_up(self, together: int = 1) -> float:
        """Run every segment a few times over so many inputs at once: first runs are slow, the next tell its profile.

        Returns:
            The least milliseconds that an input took in all segments.
        """
        hidden = np.zeros((together, _WARM_UP_TOKENS, self.manifest.hidden_size), np.float32)  # [B, S, H]
        mask = np.ones((together, _WARM_UP_TOKENS), np.int64)  # [B, S]
        least_ms = 0.0
        for segment in self._segments.values():
            spent_ms = [run.input_ms for run in _run_each(segment, [(hidden, mask)] * _WARM_UP_RUNS)]
            self._note(segment, spent_ms)
            least_ms += min(spent_ms)
        return least_ms

    def profile(self, start: int) -> Profile:
        """Tell how long the segment from a layer takes; unknown again after a while, or one slow run would ban it."""
        is_believed = time.monotonic() - self._measured_at.get(start, -math.inf) < _BELIEVED_S
        return self._profiles[start] if is_believed else _UNKNOWN

    def _note(self, segment: LayerSegment, spent_ms: Sequence[float]) -> None:
        """Learn from what runs of a segment took for each input."""
        start = segment.span.start
        for each_ms in spent_ms:
            self._profiles[start] = self._profiles.get(start, _UNKNOWN).updated(each_ms)
        self._measured_at[start] = time.monotonic()

    def _run_all(self, segment: LayerSegment, states: Sequence[State]) -> _Ran:
        batches = [states[begin : begin + self.max_batch] for begin in range(0, len(states), self.max_batch)]
        runs = _run_each(segment, [_stack(batch) for batch in batches])
        self._note(segment, [run.input_ms for run in runs])
        pairs = [(run, row, state) for run, batch in zip(runs, batches, strict=True) for row, state in enumerate(batch)]
        return _Ran(
            hidden_states=[run.output.hidden_states[row, : len(state.hidden_states)] for run, row, state in pairs],
            logits=_joined([run.output.logits for run in runs]),
            pooled=_joined([run.output.pooled for run in runs]),
            compute_ms=[state.compute_ms + run.input_ms for run, _, state in pairs],
        )

    def _run_segment(
        self, waiting: dict[int, State], verdicts: dict[int, Verdict], upto: int | None
    ) -> dict[int, State]:
        states = list(waiting.values())
        segment = self._segments[states[0].layers_run]
        ran = self._run_all(segment, states)
        exits = self._read_exit(segment, ran, states)
        stays: dict[int, State] = {}
        for hidden, (item, state), (best, is_enough) in zip(ran.hidden_states, waiting.items(), exits, strict=True):
            if is_enough:
                verdicts[item] = best
                continue
            if segment.span.end == upto and upto != self.depth:
                verdicts[item] = msgspec.structs.replace(best, reason=Reason.FINAL)
                continue
            carried = State(
                hidden_states=hidden,
                layers_run=segment.span.end,
                predictions=best.predictions,
                confidences=best.confidences,
                rung=state.rung,
                compute_ms=best.compute_ms,
            )
            if segment.span.end == self.depth:
                verdicts[item] = Unsure(state=carried, best=best)
            else:
                stays[item] = carried
        return stays

    def _read_exit(self, segment: LayerSegment, ran: _Ran, states: Sequence[State]) -> list[tuple[Exited, bool]]:
        layer = segment.span.end
        logits = ran.logits.tolist()
        if not math.isfinite(sum(map(sum, logits))):
            raise ValueError(f"layers up to {layer} gave logits that are no finite numbers")
        probabilities = softmax(ran.logits, self._temperatures_at(layer, states))  # [B, C]
        is_last = layer == self._num_layers
        threshold = None if is_last else self._policy.threshold_at(layer)
        asked = self._asked(layer, threshold, states)
        is_enough = [True] * len(states) if is_last else self._are_enough(layer, probabilities, ran.pooled, states)
        reason = Reason.CONFIDENT if not is_last and self._policy.is_selective else Reason.FINAL
        exits = []
        for row, (state, calibrated) in enumerate(zip(states, probabilities.tolist(), strict=True)):
            confidence = max(calibrated)
            best = Exited(
                logits=tuple(logits[row]),
                confidence=confidence,
                layer=layer,
                threshold=asked.get(row, threshold),
                reason=reason,
                predictions=(*state.predictions, calibrated.index(confidence)),
                confidences=(*state.confidences, confidence),
                compute_ms=ran.compute_ms[row],
            )
            exits.append((best, confidence >= np.float32(asked[row]) if row in asked else is_enough[row]))
        return exits

    def _are_enough(self, layer: int, probabilities: Floats, pooled: Floats, states: Sequence[State]) -> list[bool]:
        """Ask the policy about an exit of each state."""
        evidence = ExitEvidence(
            layer=layer,
            probabilities=probabilities,
            pooled=pooled,
            earlier=np.array([state.predictions for state in states], np.intp),
            earlier_confidences=np.array([state.confidences for state in states], np.float32),
            is_tier_end=layer == self.depth,
        )
        is_enough: list[bool] = self._policy.should_exit(evidence).tolist()
        return is_enough

    def _temperatures_at(self, layer: int, states: Sequence[State]) -> Floats:
        """Give the temperature [B, 1] of an exit for each state: a thin link changes how sure one may be."""
        usual = self._temperatures[layer]
        temperatures = [usual if state.rung is None else state.rung.temperatures[layer] for state in states]
        return np.array(temperatures, np.float32)[:, None]

    def _asked(self, layer: int, usual: float | None, states: Sequence[State]) -> dict[int, float]:
        """Give by row the threshold of the budget that a state came in, while the default policy's own is in force."""
        if usual is None or usual != self._default_thresholds.get(layer):
            return {}
        return {
            row: state.rung.thresholds[layer]
            for row, state in enumerate(states)
            if state.rung is not None and layer in state.rung.thresholds
        }


def _run_each(segment: LayerSegment, inputs: Sequence[tuple[Floats, NDArray[np.int64]]]) -> list[_Run]:
    """Run a segment over batches in turn, with as little in between as can be: all of it runs out of cold caches."""
    runs = []
    for hidden, mask in inputs:
        started = time.perf_counter()
        output = segment.run(hidden, mask)
        runs.append(_Run(output, (time.perf_counter() - started) * 1000 / len(hidden)))
    return runs


def _joined(parts: Sequence[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stack(states: Sequence[State]) -> tuple[Floats, NDArray[np.int64]]:
    lengths = [len(state.hidden_states) for state in states]
    if len(states) == 1:
        return states[0].hidden_states[None], unmasked(lengths[0])
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)  # [B, S]
    hidden = np.zeros((*mask.shape, states[0].hidden_states.shape[1]), np.float32)  # [B, S, H]
    for row, state in enumerate(states):
        hidden[row, : lengths[row]] = state.hidden_states
    return hidden, mask
