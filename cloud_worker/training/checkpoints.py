"""Checkpoints of a training stage: all that an exact resume needs; a crash leaves the last one whole."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import ArtifactError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a stage has come: ``steps`` taken in all, the last of them in ``epoch``."""

    epoch: int = 0
    step_in_epoch: int = 0
    steps: int = 0


class Checkpoints:
    """The last checkpoint of one stage, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(
        self, network: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer, position: Position
    ) -> None:
        """Replace the last checkpoint."""
        fresh = self._directory.with_suffix(".fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_weights(network, fresh / "model.safetensors")
        if average:
            save_file(average, str(fresh / "average.safetensors"))
        state = {
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "position": {"epoch": position.epoch, "step": position.step_in_epoch, "steps": position.steps},
        }
        torch.save(state, fresh / "state.pt")
        shutil.rmtree(self._directory, ignore_errors=True)
        fresh.replace(self._directory)

    def restore(
        self, network: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Position | None:
        """Load the last checkpoint into its arguments; None when there is none."""
        if not (self._directory / "state.pt").is_file():
            return None
        load_weights(network, self._directory / "model.safetensors")
        if average:
            for name, value in load_file(str(self._directory / "average.safetensors")).items():
                average[name].copy_(value)
        state: dict[str, Any] = torch.load(self._directory / "state.pt", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        place = state["position"]
        _LOGGER.info("resuming after step %d (epoch %d)", place["steps"], place["epoch"] + 1)
        return Position(epoch=place["epoch"], step_in_epoch=place["step"], steps=place["steps"])

    def discard(self) -> None:
        """Remove the checkpoint of a finished stage."""
        shutil.rmtree(self._directory, ignore_errors=True)


def save_weights(network: nn.Module, file: Path) -> None:
    """Write every weight by its name."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, str(file))


def load_weights(network: nn.Module, file: Path) -> None:
    """Read every weight by its name, in place.

    Raises:
        ArtifactError: The file is missing or of another network.
    """
    try:
        network.load_state_dict(load_file(str(file)))
    except (OSError, RuntimeError) as exc:
        raise ArtifactError(f"{file}: the weights cannot be loaded: {exc}") from exc
