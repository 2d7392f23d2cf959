"""Thin links: what a bundle knows about sending fewer dimensions and fewer tokens over a split point.

A link's dimensions are ordered by what they are worth, so its first B columns are the link of budget B: one link
serves every budget, and a message says by its width which one it used. The order is part of the bundle.
"""

import io
import math
import zipfile
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import ArtifactError, WireError
from common.model.bundle import Bundle
from common.model.manifest import FileName, Manifest, Positive
from common.types import Count, Fraction

LINKS_FILE = "thin-links.json"
_MIN_TOKENS = 2

Hidden = NDArray[np.float32]  # [sequence, hidden]
Thin = NDArray[np.float32]  # [sequence, budget]


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One budget of a link, and how the exits behind it are calibrated; all fitted on the kept-back split."""

    budget: Annotated[int, msgspec.Meta(ge=1)]  # dimensions per token
    temperatures: dict[Count, Positive]  # by exit layer
    accuracy: Fraction  # of the last exit when everything travels so
    token_bytes: Positive  # of a token as ``graded``, the peaks of its dimensions apart
    thresholds: dict[Count, Fraction] = {}  # by exit layer, in the place of the default policy's own


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The link at one split point."""

    split_point: Count
    file: FileName
    rungs: Annotated[tuple[Rung, ...], msgspec.Meta(min_length=1)]  # by budget, ascending


class LinkTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All links of a bundle."""

    schema: Literal[1] = 1
    links: tuple[LinkEntry, ...]
    training: dict[str, Any]  # recipe, command, seed


class ThinLink:
    """Encoder, decoder and token score of one split point; numpy, for one matrix product is all there is to it."""

    def __init__(self, entry: LinkEntry, arrays: dict[str, NDArray[Any]]) -> None:
        """Take arrays apart that are named and shaped as ``ARRAYS`` tells."""
        self.entry = entry
        self._rungs = {rung.budget: rung for rung in entry.rungs}
        self._encoder, self._decoder, self._mean, self._bias, self._score, self._score_bias = (
            np.ascontiguousarray(arrays[name], np.float32) for name in ARRAYS
        )

    @property
    def budgets(self) -> tuple[int, ...]:
        """Budgets that the link was trained for, ascending."""
        return tuple(self._rungs)

    def shrink(self, hidden_states: Hidden, budget: int) -> Thin:
        """Encode [S, H] to [S, B]."""
        thin: Thin = np.matmul(hidden_states - self._mean, self._encoder[:, :budget])
        return thin

    def restore(self, thin: Thin) -> Hidden:
        """Decode [S, B] to [S, H].

        Raises:
            WireError: The width is none of the budgets, or what comes out has no finite numbers.
        """
        budget = thin.shape[1]
        self.rung(budget)
        hidden: Hidden = thin @ self._decoder[:budget] + self._bias
        if not np.isfinite(hidden).all():
            raise WireError("hidden states overflow behind the thin link")
        return hidden

    def graded_bytes(self, budget: int, tokens: int) -> int:
        """Tell what so many tokens take as ``graded``, about."""
        return budget + round(tokens * self.rung(budget).token_bytes)

    def rung(self, budget: int) -> Rung:
        """Give how the exits behind the link are calibrated at a budget.

        Raises:
            WireError: The link was not trained for it.
        """
        if budget not in self._rungs:
            raise WireError(
                f"hidden states of width {budget} fit no budget of the thin link at split point "
                f"{self.entry.split_point}: {list(self._rungs)}"
            )
        return self._rungs[budget]

    def attention(self, hidden_states: Hidden) -> NDArray[np.float32]:
        """Tell how much the exit head looks at each of the tokens [S, H], 1 on average."""
        scores = hidden_states @ self._score + self._score_bias  # [S, Q]
        weights = np.exp(scores - scores.max(axis=0))
        attention: NDArray[np.float32] = (weights / weights.mean(axis=0)).mean(axis=1)  # [S]
        return attention


def attended(attention: NDArray[np.float32], share: float) -> NDArray[np.intp]:
    """Give the places of that share of the tokens in their order: the first one, and those of most attention."""
    count = max(min(_MIN_TOKENS, len(attention)), math.ceil(share * len(attention) - 1e-6))
    return np.sort(np.argsort(-np.r_[np.inf, attention[1:]], kind="stable")[:count])


# encoder [H, K] and decoder [K, H] with the dimensions in order of worth; mean and bias [H] beside them; score [H, Q]
# and score_bias [Q] weigh the tokens.
ARRAYS = ("encoder", "decoder", "mean", "bias", "score", "score_bias")
ThinLinks = dict[int, ThinLink]  # by split point


def open_thin_links(bundle: Bundle) -> ThinLinks:
    """Read a bundle's links; none where it was never compressed.

    Raises:
        ArtifactError: A file is broken, or does not fit the bundle.
    """
    if LINKS_FILE not in bundle.manifest.files:
        return {}
    table = read_table(bundle)
    return {entry.split_point: ThinLink(entry, _arrays(bundle, entry)) for entry in table.links}


def read_table(bundle: Bundle) -> LinkTable:
    """Read what a bundle's links promise.

    Raises:
        ArtifactError: The file is missing or no such table.
    """
    try:
        return msgspec.json.decode(bundle.read(LINKS_FILE), type=LinkTable)
    except msgspec.DecodeError as exc:
        raise ArtifactError(f"{bundle.directory / LINKS_FILE} is no table of thin links: {exc}") from exc


def _arrays(bundle: Bundle, entry: LinkEntry) -> dict[str, NDArray[Any]]:
    source = bundle.directory / entry.file
    try:
        with np.load(io.BytesIO(bundle.read(entry.file)), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ARRAYS}
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"{source}: no npz archive of a thin link: {exc}") from exc
    _check(source.name, entry, bundle.manifest, {name: array.shape for name, array in arrays.items()})
    return arrays


def _check(source: str, entry: LinkEntry, manifest: Manifest, shapes: dict[str, tuple[int, ...]]) -> None:
    width, most, heads = manifest.hidden_size, entry.rungs[-1].budget, shapes["score_bias"][0]
    expected = {
        "encoder": (width, most),
        "decoder": (most, width),
        "mean": (width,),
        "bias": (width,),
        "score": (width, heads),
        "score_bias": (heads,),
    }
    budgets = [rung.budget for rung in entry.rungs]
    if shapes != expected or budgets != sorted(set(budgets)) or most >= width:
        raise ArtifactError(f"{source}: shapes {shapes} and budgets {budgets} do not fit width {width}")
    boundaries = {0, *(segment.span.end for segment in manifest.segments)} - {manifest.num_layers}
    behind = {exit_.layer for exit_ in manifest.exits if exit_.layer > entry.split_point}
    if entry.split_point not in boundaries or any(
        set(rung.temperatures) != behind or not set(rung.thresholds) <= behind - {manifest.num_layers}
        for rung in entry.rungs
    ):
        raise ArtifactError(f"{source}: split point {entry.split_point} or its exits are not those of the bundle")
