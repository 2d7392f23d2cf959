"""The training recipe: keep back, fine-tune the last exit alone, then train all exits with that model as teacher."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_worker.training.backbones import load_backbone, load_tokenizer
from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.checkpoints import load_weights, save_weights
from cloud_worker.training.loop import Schedule, Stage, predict
from cloud_worker.training.losses import Objective
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.observations import Observations, observe
from cloud_worker.training.progress import progress_for
from cloud_worker.training.provenance import origin_of, versions
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.split import Split, keep_back
from common.errors import ConfigError
from common.inputs.examples import Columns, LabelledTexts, read_examples

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a run is made of."""

    backbone: str
    train: Path
    valid: Path | None = None
    columns: Columns = field(default_factory=Columns)
    keep_back: int = 2000
    split_seed: int = 7
    max_tokens: int = 128
    start: Path | None = None  # a finished run to go on from
    backbone_name: str = ""  # for the record, where the backbone is a directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Both stages. The reference stage gives the teacher, and the plainly fine-tuned model to be compared with."""

    reference: Schedule
    joint: Schedule
    distillation: float = 0.5
    whole_repeats: int = 1  # how often an epoch of the joint stage shows each whole text
    temperature: float = 2.0


def exit_weights(num_layers: int) -> tuple[float, ...]:
    """Weight of every exit: rises with depth to 1 in the middle, and the last counts double.

    The first layers cannot say much and must not pull the backbone; a last exit that falls is no reference.
    """
    rising = [min(1.0, 2 * layer / num_layers) for layer in range(1, num_layers)]
    return (*rising, 2.0)


class TrainingRun:
    """One run, from files to a run directory; finished stages are not repeated when it is resumed."""

    def __init__(self, sources: Sources, recipe: Recipe, directory: RunDirectory) -> None:
        self._sources = sources
        self._recipe = recipe
        self._directory = directory
        self._examples = read_examples(sources.train, sources.columns)
        self._labels = self._examples.label_names()
        self._valid = None if sources.valid is None else read_examples(sources.valid, sources.columns)
        if self._valid is not None:
            self._valid.label_indices(self._labels)
        self._split = keep_back(self._examples.texts, self._examples.pairs, sources.keep_back, sources.split_seed)
        self._tokenizer = load_tokenizer(sources.backbone)
        torch.manual_seed(recipe.reference.seed)
        self._network = MultiExitNetwork(load_backbone(sources.backbone), len(self._labels))
        self._kept_back = self._encode(self._examples.select(self._split.kept_back))
        self._seconds: dict[str, float] = {}
        self._start = None if sources.start is None else RunDirectory(sources.start)
        if self._start is not None:
            self._refuse_another_split(self._start.read_record())

    def run(self, command: str) -> dict[str, object]:
        """Train, measure and write; returns the record that run.json holds."""
        self._directory.path.mkdir(parents=True, exist_ok=True)
        training = self._encode(self._examples.select(self._split.training))
        _LOGGER.info("training on %d rows; %d kept back", len(training), len(self._kept_back))
        self._fit_reference(training)
        reference = self._measure()
        repeated = self._split.whole_training * (self._recipe.whole_repeats - 1)
        training = self._encode(self._examples.select(self._split.training + repeated))
        self._fit_joint(training, self._teach(training))
        return self._write(command, reference)

    @property
    def _last(self) -> tuple[int, ...]:
        return (self._network.num_layers,)

    @property
    def _bfloat16(self) -> bool:
        return self._recipe.joint.bfloat16

    def _refuse_another_split(self, record: dict[str, Any]) -> None:
        """A run on another split has seen what this one keeps back."""
        digest, split = origin_of(self._sources.train, 0)["sha256"], _summary(self._split, self._sources)
        if record["data"]["train"]["sha256"] != digest or record["split"] != split:
            raise ConfigError(
                f"--start {self._sources.start}: it was trained on another file or split, and has seen what is to be "
                "kept back; give the same --train, --keep-back and --split-seed"
            )

    def _encode(self, examples: LabelledTexts) -> EncodedTexts:
        return EncodedTexts(
            examples,
            self._labels,
            tokenizer=self._tokenizer,
            pad_id=self._network.backbone.config.pad_token_id,
            max_tokens=min(self._sources.max_tokens, self._network.backbone.max_tokens),
        )

    def _fit_reference(self, training: EncodedTexts) -> None:
        """Fine-tune the last exit alone, or load it where this was done before."""
        if self._start is not None:
            shutil.copyfile(self._start.reference_weights, self._directory.reference_weights)
        if self._directory.reference_weights.is_file():
            _LOGGER.info("the reference stage is finished; its weights are taken")
            load_weights(self._network, self._directory.reference_weights)
            return
        objective = Objective(exits=self._last, weights=(1.0,))
        self._fit("reference", training, objective, teacher_logits=None)
        save_weights(self._network, self._directory.reference_weights)

    def _teach(self, training: EncodedTexts) -> Tensor:
        """Logits [N, C] of the frozen teacher for the training rows; kept while the run is unfinished.

        The teacher is the reference; in a run that goes on from another one, the mean of that run's reference and its
        last exit (born-again networks, Furlanello et al. 2018).
        """
        file = self._directory.teacher_logits
        opinions = [] if file.is_file() else [self._last_logits(training)]
        if self._start is not None:
            load_weights(self._network, self._start.weights)
            opinions += [] if file.is_file() else [self._last_logits(training)]
        if opinions:
            np.save(file, np.mean(opinions, axis=0), allow_pickle=False)
        return torch.from_numpy(np.load(file, allow_pickle=False))

    def _last_logits(self, training: EncodedTexts) -> NDArray[np.float32]:
        last: NDArray[np.float32] = predict(self._network, training, self._last, bfloat16=self._bfloat16)[0]
        return last

    def _fit_joint(self, training: EncodedTexts, teacher_logits: Tensor) -> None:
        """Train all exits, or load them where this was done before."""
        if self._directory.weights.is_file():
            _LOGGER.info("the joint stage is finished; its weights are taken")
            load_weights(self._network, self._directory.weights)
            return
        layers = self._network.num_layers
        self._network.freeze_words()
        objective = Objective(
            exits=tuple(range(1, layers + 1)),
            weights=exit_weights(layers),
            distillation=self._recipe.distillation,
            temperature=self._recipe.temperature,
        )
        self._fit("joint", training, objective, teacher_logits)
        save_weights(self._network, self._directory.weights)

    def _fit(self, stage: str, training: EncodedTexts, objective: Objective, teacher_logits: Tensor | None) -> None:
        schedule = self._recipe.reference if stage == "reference" else self._recipe.joint
        checkpoints = self._directory.checkpoints(stage)
        started = time.monotonic()
        with progress_for(stage) as progress:
            Stage(
                self._network,
                training,
                objective=objective,
                schedule=schedule,
                checkpoints=checkpoints,
                teacher_logits=teacher_logits,
            ).run(progress, self._after_epoch(stage, objective))
        self._seconds[stage] = round(time.monotonic() - started, 1)
        checkpoints.discard()

    def _after_epoch(self, stage: str, objective: Objective) -> Callable[[int], None]:
        """Follow the kept-back texts over the epochs (data cartography, Swayamdipta et al. 2020)."""

        def watch(epoch: int) -> None:
            logits = predict(self._network, self._kept_back, objective.exits, bfloat16=self._bfloat16)  # [exits, N, C]
            right = (logits.argmax(axis=2) == self._kept_back.labels.numpy()).mean(axis=1)
            told = " ".join(f"{100 * share:.1f}" for share in right)
            _LOGGER.info(
                "%s: epoch %d, kept-back accuracy %% after layers %s: %s", stage, epoch + 1, objective.exits, told
            )
            if stage == "joint":
                self._directory.remember_epoch(epoch, _true_probability(logits, self._kept_back.labels.numpy()))

        return watch

    def _measure(self) -> dict[str, Observations]:
        measured = {"kept_back": observe(self._network, self._kept_back)}
        if self._valid is not None:
            measured["valid"] = observe(self._network, self._encode(self._valid))
        return measured

    def _write(self, command: str, reference: dict[str, Observations]) -> dict[str, object]:
        measured = self._measure()
        measured["kept_back"].save(
            self._directory.observations,
            {"true_probability": self._directory.epochs(), "rows": np.array(self._split.kept_back)},
        )
        self._directory.teacher_logits.unlink(missing_ok=True)
        self._directory.write_kept_back(self._examples.select(self._split.kept_back))
        self._directory.save_backbone(self._network, self._tokenizer)
        record: dict[str, object] = {
            "command": command,
            "backbone": self._sources.backbone_name,
            "data": {
                "train": origin_of(self._sources.train, len(self._examples)),
                "valid": self._valid and origin_of(self._sources.valid or Path(), len(self._valid)),
            },
            "labels": list(self._labels),
            "pairs": self._examples.pairs is not None,
            "max_tokens": self._kept_back.max_tokens,
            "split": _summary(self._split, self._sources),
            "recipe": asdict(self._recipe) | {"exit_weights": exit_weights(self._network.num_layers)},
            "metrics": {name: _metrics(found) for name, found in measured.items()},
            "reference": {name: _metrics(found)[-1] for name, found in reference.items()},
            "seconds": self._seconds,
            "versions": versions(),
        }
        self._directory.write_record(record)
        return record


def _true_probability(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Probability of the true label, [exits, N], of logits [exits, N, C]."""
    shifted = np.exp(logits - logits.max(axis=2, keepdims=True))
    probability: NDArray[np.float32] = (shifted / shifted.sum(axis=2, keepdims=True))[:, np.arange(len(labels)), labels]
    return probability


def _summary(split: Split, sources: Sources) -> dict[str, int]:
    return {
        "kept_back": len(split.kept_back),
        "training": len(split.training),
        "dropped": len(split.dropped),
        "whole_texts": split.whole_texts,
        "seed": sources.split_seed,
    }


def _metrics(found: Observations) -> list[dict[str, float]]:
    """Accuracy and Matthews correlation of every exit, from the first to the last."""
    return [
        {"exit_layer": layer, "accuracy": round(float(accuracy), 5), "matthews": round(float(matthews), 5)}
        for layer, (accuracy, matthews) in enumerate(zip(found.accuracy(), found.matthews(), strict=True), start=1)
    ]
