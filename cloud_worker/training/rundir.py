"""The run directory: everything a training run leaves for calibration, export and the model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cloud_worker.training.backbones import build_backbone, load_tokenizer
from cloud_worker.training.checkpoints import Checkpoints, load_weights
from cloud_worker.training.network import MultiExitNetwork
from common.errors import ArtifactError
from common.inputs.examples import LabelledTexts, read_examples

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of a run; written by training, read by export."""

    path: Path

    @property
    def record(self) -> Path:
        """Command, hashes, seeds, versions, split and metrics, as JSON."""
        return self.path / "run.json"

    @property
    def weights(self) -> Path:
        """Backbone and exit heads after joint training."""
        return self.path / "model.safetensors"

    def reference_weights(self, place: int) -> Path:
        """The same network after plain fine-tuning of its last exit, the first from place 0."""
        return self.path / ("reference.safetensors" if place == 0 else f"reference-{place + 1}.safetensors")

    @property
    def teacher_logits(self) -> Path:
        """The references' mean logits for the training rows, while the joint stage is unfinished."""
        return self.path / "teacher.npy"

    @property
    def observations(self) -> Path:
        """What the exits said about the kept-back texts, and their probabilities over the epochs."""
        return self.path / "kept_back.npz"

    @property
    def kept_back(self) -> Path:
        """The kept-back texts with their labels, JSON Lines."""
        return self.path / "kept_back.jsonl"

    def checkpoints(self, stage: str) -> Checkpoints:
        """Place for the checkpoint of a stage in progress."""
        return Checkpoints(self.path / f"checkpoint-{stage}")

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json."""
        self.record.write_text(json.dumps({"schema": SCHEMA, **record}, indent=2, ensure_ascii=False) + "\n")

    def read_record(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            ArtifactError: It is missing, broken or of another schema.
        """
        try:
            record: dict[str, Any] = json.loads(self.record.read_text())
        except (OSError, ValueError) as exc:
            raise ArtifactError(f"{self.record}: no record of a finished training run: {exc}") from exc
        if record.get("schema") != SCHEMA:
            raise ArtifactError(f"{self.record}: schema {record.get('schema')!r}; this version reads {SCHEMA}")
        return record

    def remember_epoch(self, epoch: int, true_probability: NDArray[np.float32]) -> None:
        """Keep the probabilities [L, N] of the kept-back texts' true labels after an epoch."""
        np.save(self.path / f"epoch-{epoch:03d}.npy", true_probability, allow_pickle=False)

    def epochs(self) -> NDArray[np.float32]:
        """Take what :meth:`remember_epoch` kept, [epochs, L, N], and remove it."""
        files = sorted(self.path.glob("epoch-*.npy"))
        history: NDArray[np.float32] = np.stack([np.load(file, allow_pickle=False) for file in files])
        for file in files:
            file.unlink()
        return history

    def write_kept_back(self, examples: LabelledTexts) -> None:
        """Write the kept-back texts."""
        rows = []
        for row, (text, label) in enumerate(zip(examples.texts, examples.labels, strict=True)):
            pair = {} if examples.pairs is None else {"text_b": examples.pairs[row]}
            rows.append(json.dumps({"text_a": text, **pair, "label": label}, ensure_ascii=False))
        self.kept_back.write_text("\n".join(rows) + "\n")

    def read_kept_back(self) -> LabelledTexts:
        """Read the kept-back texts."""
        return read_examples(self.kept_back)

    def load_network(self, attention: str = "sdpa") -> MultiExitNetwork:
        """Rebuild the trained network, in evaluation mode."""
        record = self.read_record()
        network = MultiExitNetwork(build_backbone(self.path / "config.json", attention), len(record["labels"]))
        load_weights(network, self.weights)
        return network.eval()

    def load_tokenizer(self) -> Tokenizer:
        """Tokenizer of the run, without padding or cutting."""
        return load_tokenizer(str(self.path))

    def save_backbone(self, network: MultiExitNetwork, tokenizer: Tokenizer) -> None:
        """Write what rebuilds an untrained network: config.json and tokenizer.json."""
        config = network.backbone.config.to_diff_dict() | {"model_type": network.backbone.config.model_type}
        config.pop("_name_or_path", None)
        config = {name: value for name, value in config.items() if not isinstance(value, torch.dtype)}
        (self.path / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
        tokenizer.save(str(self.path / "tokenizer.json"), pretty=False)
