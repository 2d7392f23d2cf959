"""Traces: what every exit says about every labelled sample, run once and scored many times."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ArtifactError
from common.model.bundle import Bundle
from common.model.manifest import ExitEntry
from common.routing.evidence import EntryEvidence, ExitEvidence, Floats, Indices, softmax
from common.routing.router import earlier_confidences

CALIBRATION_FILE = "calibration.npz"
_ARRAYS = ("logits", "pooled", "features", "lengths", "labels")
_EPOCHS = "probabilities_by_epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """All exits on labelled samples, in the samples' order; the last exit is the backbone's end."""

    exits: tuple[int, ...]  # layers run at each exit, ascending
    temperatures: tuple[float, ...]  # by exit
    logits: Floats  # [E, N, C]
    pooled: Floats  # [E, N, P]; P may be 0 where no router looks at it
    features: Floats  # [N, H]: masked mean of the embedding output
    tokens: Indices  # [N]
    labels: NDArray[np.int64]  # [N]
    probabilities_by_epoch: Floats | None = None  # [T, E, N], of the true label after each training epoch

    def __post_init__(self) -> None:
        exits, samples, _ = self.logits.shape
        found = (len(self.exits), len(self.temperatures), len(self.pooled), self.pooled.shape[1])
        if found != (exits, exits, exits, samples) or list(self.exits) != sorted(set(self.exits)):
            raise ArtifactError(f"trace of exits {self.exits} does not fit logits {list(self.logits.shape)}")
        if not len(self.features) == len(self.tokens) == len(self.labels) == samples:
            raise ArtifactError(
                f"trace has {samples} samples, {len(self.features)} features and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return int(self.logits.shape[2])

    def predictions(self) -> Indices:
        """Classes named at each exit, [E, N]."""
        predicted: Indices = self.logits.argmax(axis=2)
        return predicted

    def probabilities(self) -> Floats:
        """Calibrated probabilities [E, N, C]."""
        pairs = zip(self.logits, self.temperatures, strict=True)
        return np.stack([softmax(logits, temperature) for logits, temperature in pairs])

    def select(self, rows: NDArray[Any]) -> "Trace":
        """Keep the named samples, in that order."""
        epochs = self.probabilities_by_epoch
        return replace(
            self,
            logits=self.logits[:, rows],
            pooled=self.pooled[:, rows],
            features=self.features[rows],
            tokens=self.tokens[rows],
            labels=self.labels[rows],
            probabilities_by_epoch=None if epochs is None else epochs[:, :, rows],
        )

    def followed_by(self, other: "Trace") -> "Trace":
        """Put another trace of the same exits behind this one; what the epochs said is left out."""
        return replace(
            self,
            logits=np.concatenate([self.logits, other.logits], axis=1),
            pooled=np.concatenate([self.pooled, other.pooled], axis=1),
            features=np.concatenate([self.features, other.features]),
            tokens=np.concatenate([self.tokens, other.tokens]),
            labels=np.concatenate([self.labels, other.labels]),
            probabilities_by_epoch=None,
        )

    def restrict(self, exits: tuple[int, ...]) -> "Trace":
        """Keep the named exits only, as if no other head existed."""
        missing = set(exits) - set(self.exits)
        if missing:
            raise ArtifactError(f"exits {sorted(missing)} are not in the trace; it holds {list(self.exits)}")
        places = [self.exits.index(layer) for layer in exits]
        epochs = self.probabilities_by_epoch
        return replace(
            self,
            exits=exits,
            temperatures=tuple(self.temperatures[place] for place in places),
            logits=self.logits[places],
            pooled=self.pooled[places],
            probabilities_by_epoch=None if epochs is None else epochs[:, places],
        )

    def with_temperatures(self, temperatures: tuple[float, ...]) -> "Trace":
        """Calibrate otherwise."""
        return replace(self, temperatures=temperatures)

    def entry_evidence(self) -> EntryEvidence:
        """Give what a policy sees before any layer."""
        return EntryEvidence(features=self.features, num_tokens=self.tokens)

    def exit_evidence(self) -> tuple[ExitEvidence, ...]:
        """Give what a policy sees at each exit, as if everything had come that far."""
        predicted, probabilities = self.predictions(), self.probabilities()
        return tuple(
            ExitEvidence(
                layer=layer,
                probabilities=probabilities[place],
                pooled=self.pooled[place],
                earlier=predicted[:place].T,
                earlier_confidences=earlier_confidences(probabilities[:place]),
            )
            for place, layer in enumerate(self.exits)
        )

    def to_bytes(self) -> bytes:
        """Pack as a compressed npz: half precision for what only routers look at; exits and temperatures stay out."""
        arrays: dict[str, NDArray[Any]] = {
            "logits": self.logits.astype(np.float32),
            "pooled": self.pooled.astype(np.float16),
            "features": self.features.astype(np.float16),
            "lengths": self.tokens.astype(np.int32),
            "labels": self.labels.astype(np.int32),
        }
        if self.probabilities_by_epoch is not None:
            arrays[_EPOCHS] = self.probabilities_by_epoch.astype(np.float16)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()


def read_trace(document: bytes, source: str, exits: Sequence[ExitEntry]) -> Trace:
    """Read a packed trace of known exits.

    Raises:
        ArtifactError: It is no npz, lacks an array, or its shapes do not fit each other or the exits.
    """
    try:
        with np.load(io.BytesIO(document), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"{source}: no npz archive of a trace: {exc}") from exc
    missing = sorted(set(_ARRAYS) - set(arrays))
    if missing:
        raise ArtifactError(f"{source}: arrays {missing} are missing; it holds {sorted(arrays)}")
    epochs = arrays.get(_EPOCHS)
    return Trace(
        exits=tuple(entry.layer for entry in exits),
        temperatures=tuple(entry.temperature for entry in exits),
        logits=arrays["logits"].astype(np.float32),
        pooled=arrays["pooled"].astype(np.float32),
        features=arrays["features"].astype(np.float32),
        tokens=arrays["lengths"].astype(np.intp),
        labels=arrays["labels"].astype(np.int64),
        probabilities_by_epoch=None if epochs is None else epochs.astype(np.float32),
    )


def read_calibration(bundle: Bundle) -> Trace:
    """Read a bundle's kept-back split.

    Raises:
        ArtifactError: The bundle has none, or it is broken.
    """
    if CALIBRATION_FILE not in bundle.manifest.files:
        raise ArtifactError(
            f"bundle {bundle.directory} has no {CALIBRATION_FILE}, so nothing can be fitted for it; "
            "export it again with this version"
        )
    return read_trace(bundle.read(CALIBRATION_FILE), str(bundle.directory / CALIBRATION_FILE), bundle.manifest.exits)
