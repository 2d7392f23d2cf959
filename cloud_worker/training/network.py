"""The multi-exit network: a backbone with an exit head after every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cloud_worker.training.backbones import Backbone
from cloud_worker.training.batches import Batch
from cloud_worker.training.heads import POOLED_SIZE, ExitHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What all exits say about a batch."""

    logits: Tensor  # [L, B, C]
    pooled: Tensor  # [L, B, P]


class MultiExitNetwork(nn.Module):
    """Backbone of L layers and L exit heads; exit i reads the hidden states after layer i."""

    def __init__(self, backbone: Backbone, num_labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_labels = num_labels
        self.pooled_size = POOLED_SIZE
        self.heads = nn.ModuleList(ExitHead(backbone.hidden_size, num_labels) for _ in backbone.layers)

    @property
    def num_layers(self) -> int:
        """Number of backbone layers, L."""
        return len(self.backbone.layers)

    def freeze_words(self) -> None:
        """Learn no more in the word table: half of MiniLM's weights, and 40 % of the time of a step."""
        words: nn.Embedding = self.backbone.embeddings.word_embeddings  # type: ignore[assignment]
        words.weight.requires_grad = False

    def forward(self, batch: Batch, exits: Sequence[int]) -> Tensor:
        """Logits [exits, B, C] of the named exits (layers run, 1..L, ascending)."""
        hidden_states = self.backbone.embed(batch.input_ids, batch.token_type_ids)  # [B, S, H]
        logits: list[Tensor] = []
        start = 0
        for exit_layer in exits:
            hidden_states = self.backbone.advance(hidden_states, batch.attention_mask, start, exit_layer)
            logits.append(self.heads[exit_layer - 1](hidden_states, batch.attention_mask)[0])
            start = exit_layer
        return torch.stack(logits)

    def speak(self, batch: Batch) -> Answers:
        """Logits and pooled states of all exits."""
        hidden_states = self.backbone.embed(batch.input_ids, batch.token_type_ids)  # [B, S, H]
        logits: list[Tensor] = []
        pooled: list[Tensor] = []
        for layer, head in enumerate(self.heads):
            hidden_states = self.backbone.advance(hidden_states, batch.attention_mask, layer, layer + 1)
            said, state = head(hidden_states, batch.attention_mask)
            logits.append(said)
            pooled.append(state)
        return Answers(logits=torch.stack(logits), pooled=torch.stack(pooled))

    def mean_embedding(self, batch: Batch) -> Tensor:
        """Masked mean [B, H] of the embedding output, the feature of the pools."""
        hidden_states = self.backbone.embed(batch.input_ids, batch.token_type_ids)  # [B, S, H]
        mask = batch.attention_mask[:, :, None].to(hidden_states.dtype)  # [B, S, 1]
        return (hidden_states * mask).sum(dim=1) / mask.sum(dim=1)
