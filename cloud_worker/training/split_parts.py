"""Split training: a device part and a server part of one network, which learn as if they were one.

The device runs layers [0, m) and sends hidden states; the server runs the rest, learns, and sends their gradient back.
With a budget the encoder of a thin link stands at the end of the device part and its decoder before the server part,
so both ways carry ``budget`` dimensions per token; the link begins with the principal axes of some texts, which the
device sends once. Without a budget, and with the codec float32, every step is that of one machine but for the order of
a few additions.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_worker.training.batches import Batch
from cloud_worker.training.losses import label_loss
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.recipe import exit_weights
from common.errors import WireError
from common.wire.activations import codec, decode_activation
from common.wire.messages import Tensor as TravellingTensor
from common.wire.tensors import pack, unpack
from common.wire.training import Activations, Learned

_FULL_SCALE = 1024.0  # largest value of a gradient as it travels


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """How a part learns; the split point must be the same on both sides."""

    split_point: int
    codec: str = "float32"  # of what this part sends
    budget: int = 0  # dimensions per token, for the device to say; 0 is all of them, without a link
    learning_rate: float = 5e-5
    head_learning_rate: float = 5e-4
    link_learning_rate: float = 1e-4


class DevicePart:
    """Embedding, layers [0, m) and their exit heads."""

    def __init__(self, network: MultiExitNetwork, plan: SplitPlan) -> None:
        self._network = network
        self._plan = plan
        layers = range(plan.split_point)
        weights = [*network.backbone.embeddings.parameters(), *_of_layers(network, layers)]
        self._optimizer = _optimizer(weights, _of_heads(network, layers), plan)
        self._encoder: nn.Parameter | None = None  # [H, B]
        self._axes = tuple[TravellingTensor, ...]()  # that the server has not learned of
        self._sent: Tensor | None = None
        self._loss: Tensor | None = None

    @property
    def is_thin(self) -> bool:
        """Whether a budget was asked for."""
        return self._plan.budget > 0

    def open_link(self, batch: Batch) -> None:
        """Send ``budget`` dimensions from now on: to begin with, the principal axes of a batch's hidden states."""
        with torch.no_grad():
            tokens, _ = self._run(batch)
        _, axes = torch.linalg.eigh(tokens.T @ tokens)  # [H, H], by rising weight
        self._encoder = nn.Parameter(axes.flip(1)[:, : self._plan.budget].contiguous())
        self._optimizer.add_param_group({"params": [self._encoder], "lr": self._plan.link_learning_rate})
        self._axes = (pack(self._encoder.detach().T.numpy().astype(np.float16)),)

    def send(self, batch: Batch, step: int, *, is_learning: bool = True) -> Activations:
        """Run a batch up to the split point; what is sent waits for its gradient."""
        with torch.set_grad_enabled(is_learning):
            tokens, own = self._run(batch)
            thin = tokens if self._encoder is None else tokens @ self._encoder  # [N, W]
        if is_learning:
            self._sent, self._loss = thin, _weighted(own, batch.labels, self._network, 0)
        return Activations(
            step=step,
            codec=self._plan.codec,
            tensors=codec(self._plan.codec).encode(thin.detach().numpy()),
            lengths=tuple(batch.attention_mask.sum(dim=1).tolist()),
            labels=tuple(batch.labels.tolist()) if is_learning else (),
            axes=self._axes,
        )

    def learn(self, learned: Learned) -> float:
        """Take a step by the gradient that came back; gives the whole network's loss.

        Raises:
            WireError: The gradient does not fit what was sent.
        """
        if self._sent is None or self._loss is None:
            raise AssertionError("only what was sent can be learned from")
        gradient = _decoded(learned.codec, learned.tensors, tuple(self._sent.shape)) / learned.scale
        self._optimizer.zero_grad()
        torch.autograd.backward([self._loss, self._sent], [None, torch.from_numpy(gradient)])
        self._optimizer.step()
        loss = float(self._loss.detach()) + learned.loss
        self._sent = self._loss = None
        self._axes = ()
        return loss

    def _run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give the hidden states [N, H] of all tokens at the split point, and logits [exits, B, C] on the way."""
        hidden = self._network.backbone.embed(batch.input_ids, batch.token_type_ids)  # [B, S, H]
        own: list[Tensor] = []
        for layer in range(self._plan.split_point):
            hidden = self._network.backbone.advance(hidden, batch.attention_mask, layer, layer + 1)
            own.append(self._network.heads[layer](hidden, batch.attention_mask)[0])
        return hidden[batch.attention_mask.bool()], torch.stack(own)


class ServerPart:
    """Layers [m, L) and their exit heads."""

    def __init__(self, network: MultiExitNetwork, plan: SplitPlan) -> None:
        self._network = network
        self._plan = plan
        self._decoder: nn.Parameter | None = None  # [B, H]
        layers = range(plan.split_point, network.num_layers)
        self._optimizer = _optimizer(_of_layers(network, layers), _of_heads(network, layers), plan)

    def answer(self, message: Activations) -> Learned:
        """Learn from a batch, or only name its classes where no labels came.

        Raises:
            WireError: Tensors, lengths or labels do not fit each other or the network, or a link begins twice.
        """
        for axes in message.axes:
            self._open_link(unpack(axes))
        lengths = torch.tensor(message.lengths)
        width = self._network.backbone.hidden_size if self._decoder is None else len(self._decoder)
        shape = (int(lengths.sum()), width)
        received = torch.from_numpy(_decoded(message.codec, message.tensors, shape).copy())  # [N, W]
        labels = torch.tensor(message.labels)
        if message.labels and (len(labels) != len(lengths) or int(labels.max()) >= self._network.num_labels):
            raise WireError(f"{len(labels)} labels up to {max(message.labels)} do not fit {len(lengths)} texts")
        if not message.labels:
            with torch.no_grad():
                return self._learned(message.step, self._logits(received, lengths))
        received.requires_grad_()
        logits = self._logits(received, lengths)
        loss = _weighted(logits, labels, self._network, self._plan.split_point)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return self._learned(message.step, logits, received.grad, float(loss.detach()))

    def _open_link(self, axes: NDArray[Any]) -> None:
        if self._decoder is not None:
            raise WireError("a link has begun before; start the server part anew")
        if axes.ndim != 2 or axes.shape[1] != self._network.backbone.hidden_size or not np.isfinite(axes).all():
            raise WireError(f"axes {axes.dtype}{list(axes.shape)} do not fit {self._network.backbone.hidden_size}")
        self._decoder = nn.Parameter(torch.from_numpy(axes.astype(np.float32)))
        self._optimizer.add_param_group({"params": [self._decoder], "lr": self._plan.link_learning_rate})

    def _logits(self, received: Tensor, lengths: Tensor) -> Tensor:
        """Logits [exits, B, C] of the tokens [N, W] of texts of so many tokens each."""
        tokens = received if self._decoder is None else received @ self._decoder  # [N, H]
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # [B, S]
        hidden = torch.zeros((*mask.shape, tokens.shape[1])).masked_scatter(mask.bool()[:, :, None], tokens)
        said: list[Tensor] = []
        for layer in range(self._plan.split_point, self._network.num_layers):
            hidden = self._network.backbone.advance(hidden, mask, layer, layer + 1)
            said.append(self._network.heads[layer](hidden, mask)[0])
        return torch.stack(said)

    def _learned(self, step: int, logits: Tensor, gradient: Tensor | None = None, loss: float = 0.0) -> Learned:
        scale, tensors = 1.0, tuple[TravellingTensor, ...]()
        if gradient is not None:
            peak = float(gradient.abs().max())
            scale = 2.0 ** math.floor(math.log2(_FULL_SCALE / peak)) if peak > 0 else 1.0  # exact in binary
            tensors = codec(self._plan.codec).encode((gradient * scale).numpy())
        predictions = tuple(logits[-1].argmax(dim=1).tolist())
        return Learned(
            step=step, codec=self._plan.codec, scale=scale, tensors=tensors, loss=loss, predictions=predictions
        )


def _weighted(logits: Tensor, labels: Tensor, network: MultiExitNetwork, first: int) -> Tensor:
    """Give the part of the whole network's loss that falls on exits ``first`` + 1, ..., of logits [exits, B, C]."""
    weights = torch.tensor(exit_weights(network.num_layers))
    return (weights[first : first + len(logits)] * label_loss(logits, labels)).sum() / weights.sum()


def _decoded(name: str, tensors: tuple[TravellingTensor, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = decode_activation(name, tensors)
    if values.shape != shape:
        raise WireError(f"{list(values.shape)} values came where {list(shape)} fit")
    return values


def _of_layers(network: MultiExitNetwork, layers: Iterable[int]) -> Iterator[nn.Parameter]:
    for layer in layers:
        yield from network.backbone.layers[layer].parameters()


def _of_heads(network: MultiExitNetwork, layers: Iterable[int]) -> Iterator[nn.Parameter]:
    for layer in layers:
        yield from network.heads[layer].parameters()


def _optimizer(layers: Iterable[nn.Parameter], heads: Iterable[nn.Parameter], plan: SplitPlan) -> torch.optim.Optimizer:
    groups = [
        {"params": list(layers), "lr": plan.learning_rate},
        {"params": list(heads), "lr": plan.head_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)
