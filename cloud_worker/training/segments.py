"""What is exported: the embedding, and spans of layers that end in an exit head, as torch modules with plain inputs."""

import torch
from torch import Tensor, nn

from cloud_worker.training.network import MultiExitNetwork


class EmbeddingModule(nn.Module):
    """Token ids to hidden states; padding becomes zero."""

    def __init__(self, network: MultiExitNetwork) -> None:
        super().__init__()
        self.backbone = nn.ModuleList([network.backbone])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Hidden states [B, S, H] of input_ids, attention_mask and token_type_ids, [B, S] each."""
        hidden_states: Tensor = self.backbone[0].embed(input_ids, token_type_ids)  # type: ignore[operator]
        return hidden_states * attention_mask[:, :, None].to(hidden_states.dtype)


class SpanModule(nn.Module):
    """Layers [start, end) and the exit head after the last of them."""

    def __init__(self, network: MultiExitNetwork, start: int, end: int) -> None:
        super().__init__()
        self.network = network
        self.start = start
        self.end = end

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [B, S, H], logits [B, C] and pooled state [B, P] from hidden_states and attention_mask."""
        hidden_states = self.network.backbone.advance(hidden_states, attention_mask, self.start, self.end)
        logits, pooled = self.network.heads[self.end - 1](hidden_states, attention_mask)
        return hidden_states, logits, pooled


class ByteTable(nn.Module):
    """An embedding table of int8 rows with a scale per row: a quarter of the size, one multiplication per token."""

    rows: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127  # [V, 1]
        self.register_buffer("rows", (weight / scales).round().to(torch.int8))  # [V, H]
        self.register_buffer("scales", scales)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., H] of ids [...]."""
        return self.rows[ids].to(torch.float32) * self.scales[ids]


def shrink_embeddings(network: MultiExitNetwork, max_tokens: int, *, to_bytes: bool) -> None:
    """Cut the position table to the positions in use and, for int8, turn both tables into bytes; in place."""
    embeddings = network.backbone.embeddings
    used = network.backbone.config.max_position_embeddings - network.backbone.max_tokens + max_tokens
    positions: nn.Embedding = embeddings.position_embeddings  # type: ignore[assignment]
    positions.weight = nn.Parameter(positions.weight[:used].detach().clone(), requires_grad=False)
    positions.num_embeddings = used
    if to_bytes:
        words: nn.Embedding = embeddings.word_embeddings  # type: ignore[assignment]
        embeddings.word_embeddings = ByteTable(words.weight.detach())
        embeddings.position_embeddings = ByteTable(positions.weight.detach())
