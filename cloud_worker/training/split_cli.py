"""``dimee model train-split``: one network trained on two machines over MQTT."""

import json
import logging
import sys
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from cloud_worker.training.backbones import load_backbone, load_tokenizer
from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.split import keep_back
from cloud_worker.training.split_over import TrainingDevice, TrainingServer
from cloud_worker.training.split_parts import DevicePart, ServerPart, SplitPlan
from common.config.settings import Mqtt
from common.errors import TransportError
from common.inputs.examples import LabelledTexts, read_examples
from common.service.lifecycle import Stopping
from common.transport.mqtt import MqttTransport
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_CONNECT_LIMIT_S = 30.0


class Part(StrEnum):
    """Which part of the network this process trains."""

    DEVICE = "device"
    SERVER = "server"


def train_split(  # noqa: PLR0913 - options of a command
    part: Annotated[Part, typer.Option(help="device or server; start the server first.")],
    split_over: Annotated[str, typer.Option(help="The broker's host.")],
    backbone: Annotated[str, typer.Option(help="Directory or hub name; the same on both sides.")],
    train: Annotated[Path, typer.Option(help="Labelled texts; the server reads only how many labels there are.")],
    *,
    split: Annotated[int, typer.Option(min=1, help="Layers of the device part.")] = 2,
    budget: Annotated[int, typer.Option(min=0, help="Dimensions per token, both ways; 0 is all. The device says.")] = 0,
    codec: Annotated[
        str, typer.Option(help="Of what this part sends: float32, float16, int8, int4 or graded.")
    ] = "int8",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    keep: Annotated[int, typer.Option("--keep-back", min=1, help="Texts kept back for the accuracy.")] = 500,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longest input; the rest is cut.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of weights and order; the same on both sides.")] = 1,
    port: Annotated[int, typer.Option(help="The broker's port.")] = 1883,
    site: Annotated[str, typer.Option(help="First level of the topics.")] = "home",
    out: Annotated[Path | None, typer.Option(help="File for this part's weights.")] = None,
) -> None:
    """Train the first layers here and the others there; activations and gradients travel compressed, dropout is off.

    Example: dimee model train-split --part device --split-over broker.local --backbone bert --train train.tsv
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    examples = read_examples(train)
    torch.manual_seed(seed)
    network = MultiExitNetwork(load_backbone(backbone), len(examples.label_names())).eval()  # dropout would differ
    plan = SplitPlan(split_point=split, codec=codec, budget=budget)
    settings, topics = Mqtt(host=split_over, port=port, site=site), Topics(site)
    transport = MqttTransport(settings, client_id=f"{site}-training-{part}")
    if part is Part.SERVER:
        stopping = Stopping()
        stopping.on_signals()
        server = TrainingServer(ServerPart(network, plan), transport, topics)
        with transport:
            _wait(transport, settings)
            server.run(lambda: stopping.is_asked)
    else:
        device = TrainingDevice(DevicePart(network, plan), transport, topics)
        lessons = _Lessons(examples, backbone, network, keep=keep, max_tokens=max_tokens, seed=seed)
        with transport:
            _wait(transport, settings)
            typer.echo(json.dumps(lessons.train(device, steps, batch_size)))
    if out is not None:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, str(out))


class _Lessons:
    """The texts of the device part: those to learn from, and those kept back."""

    def __init__(
        self,
        examples: LabelledTexts,
        backbone: str,
        network: MultiExitNetwork,
        *,
        keep: int,
        max_tokens: int,
        seed: int,
    ) -> None:
        self._seed = seed
        parted = keep_back(examples.texts, examples.pairs, keep, seed)
        self._kept_back_rows = parted.kept_back
        self._training, self._kept_back = (
            EncodedTexts(
                examples.select(rows),
                examples.label_names(),
                tokenizer=load_tokenizer(backbone),
                pad_id=network.backbone.config.pad_token_id,
                max_tokens=max_tokens,
            )
            for rows in (parted.training, parted.kept_back)
        )

    def train(self, device: TrainingDevice, steps: int, batch_size: int) -> dict[str, object]:
        """Take so many steps, then measure; bytes are those of the steps alone."""
        batches = (rows for epoch in range(steps) for rows in self._training.shuffled(batch_size, self._seed, epoch))
        losses: list[float] = []
        device.train(self._training, islice(batches, steps), losses.append)
        traffic = {"up_bytes": device.traffic.up_bytes, "down_bytes": device.traffic.down_bytes}
        is_right = device.is_right(self._kept_back)
        missed = [row for row, right in zip(self._kept_back_rows, is_right.tolist(), strict=True) if not right]
        return {"steps": steps, **traffic, "losses": losses, "accuracy": float(is_right.mean()), "missed": missed}


def _wait(transport: MqttTransport, settings: Mqtt) -> None:
    if not transport.wait_connected(_CONNECT_LIMIT_S):
        raise TransportError(f"no connection to {settings.host}:{settings.port} within {_CONNECT_LIMIT_S:.0f} s")
