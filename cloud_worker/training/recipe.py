"""The training recipe: keep back, fine-tune the last exit alone, then train all exits with those models as teacher."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

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
from common.evaluation.metrics import Metric
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
    backbone_name: str = ""  # for the record, where the backbone is a directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Both stages.

    The references, alike but for their seeds, are the teacher together; the first of them is the plainly fine-tuned
    model to be compared with.
    """

    reference: Schedule
    joint: Schedule
    references: int = 1
    distillation: float = 0.5
    temperature: float = 2.0
    metric: Metric = "accuracy"


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
        self._network = self._fresh_network(recipe.reference.seed)
        self._kept_back = self._encode(self._examples.select(self._split.kept_back))
        self._seconds: dict[str, float] = {}

    def run(self, command: str) -> dict[str, object]:
        """Train, measure and write; returns the record that run.json holds."""
        self._directory.path.mkdir(parents=True, exist_ok=True)
        training = self._encode(self._examples.select(self._split.training))
        _LOGGER.info("training on %d rows; %d kept back", len(training), len(self._kept_back))
        references = [self._fit_reference(place, training) for place in range(self._recipe.references)]
        teacher_logits = self._teach(training)
        load_weights(self._network, self._directory.reference_weights(0))
        self._fit_joint(training, teacher_logits)
        return self._write(command, references)

    @property
    def _last(self) -> tuple[int, ...]:
        return (self._network.num_layers,)

    @property
    def _bfloat16(self) -> bool:
        return self._recipe.joint.bfloat16

    def _encode(self, examples: LabelledTexts) -> EncodedTexts:
        return EncodedTexts(
            examples,
            self._labels,
            tokenizer=self._tokenizer,
            pad_id=self._network.backbone.config.pad_token_id,
            max_tokens=min(self._sources.max_tokens, self._network.backbone.max_tokens),
        )

    def _fresh_network(self, seed: int) -> MultiExitNetwork:
        torch.manual_seed(seed)
        return MultiExitNetwork(load_backbone(self._sources.backbone), len(self._labels))

    def _fit_reference(self, place: int, training: EncodedTexts) -> dict[str, Observations]:
        """Fine-tune the last exit alone, or load it where this was done before; tell what it says."""
        weights = self._directory.reference_weights(place)
        schedule = replace(self._recipe.reference, seed=self._recipe.reference.seed + place)
        self._network = self._fresh_network(schedule.seed)
        if weights.is_file():
            _LOGGER.info("reference %d is finished; its weights are taken", place + 1)
            load_weights(self._network, weights)
        else:
            objective = Objective(exits=self._last, weights=(1.0,))
            self._fit(f"reference {place + 1}", training, objective, schedule)
            save_weights(self._network, weights)
        return self._measure()

    def _teach(self, training: EncodedTexts) -> Tensor:
        """Mean logits [N, C] of the references for the training rows; kept while the run is unfinished."""
        file = self._directory.teacher_logits
        if not file.is_file():
            opinions = []
            for place in range(self._recipe.references):
                load_weights(self._network, self._directory.reference_weights(place))
                opinions.append(self._last_logits(training))
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
        self._fit("joint", training, objective, self._recipe.joint, teacher_logits)
        save_weights(self._network, self._directory.weights)

    def _fit(
        self,
        stage: str,
        training: EncodedTexts,
        objective: Objective,
        schedule: Schedule,
        teacher_logits: Tensor | None = None,
    ) -> None:
        checkpoints = self._directory.checkpoints(stage.replace(" ", "-"))
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

    def _write(self, command: str, references: list[dict[str, Observations]]) -> dict[str, object]:
        measured = self._measure()
        measured["kept_back"].save(
            self._directory.observations,
            {"true_probability": self._directory.epochs(), "rows": np.array(self._split.kept_back)},
        )
        self._directory.teacher_logits.unlink(missing_ok=True)
        self._directory.write_kept_back(self._examples.select(self._split.kept_back))
        self._directory.save_backbone(self._network, self._tokenizer)
        references_told = [{name: _metrics(found)[-1] for name, found in told.items()} for told in references]
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
            "metric": self._recipe.metric,
            "reference": references_told[0],
            "references": references_told,
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
