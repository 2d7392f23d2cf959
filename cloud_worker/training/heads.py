"""Exit heads: pool a layer's hidden states and name a label, at a small part of a layer's cost.

Early layers have not yet gathered the sentence in its first token, so the head looks at every token: a narrow
per-token projection, then attention pooling with several learned queries (self-attentive sentence embedding,
Lin et al. 2017, without the penalty term).
"""

import torch
from torch import Tensor, nn

POOLED_SIZE = 128


class ExitHead(nn.Module):
    """Attention pooling over projected tokens, then one hidden layer.

    Weights per token: H * width + H * queries, 3 % of a layer of MiniLM at the defaults.
    """

    def __init__(self, hidden_size: int, num_labels: int, width: int = POOLED_SIZE, queries: int = 4) -> None:
        super().__init__()
        self.queries = queries
        self.project = nn.Linear(hidden_size, width)
        self.score = nn.Linear(hidden_size, queries)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Linear(width, num_labels)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and pooled state [B, P] of hidden_states [B, S, H] under attention_mask [B, S]."""
        pooled = self.pool(hidden_states, attention_mask)
        return self.classify(self.dropout(pooled)), pooled

    def pool(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled state [B, P]; padding has no part in it."""
        values = torch.nn.functional.gelu(self.project(hidden_states))  # [B, S, P]
        scores = self.score(hidden_states).float()  # [B, S, Q]
        scores = scores.masked_fill(attention_mask[:, :, None] == 0, torch.finfo(torch.float32).min)
        weights = scores.softmax(dim=1).to(values.dtype)  # [B, S, Q]
        grouped = values.reshape(*scores.shape, -1)  # [B, S, Q, P / Q]
        pooled = (weights[:, :, :, None] * grouped).sum(dim=1).flatten(1)  # [B, P]
        return self.norm(pooled)  # type: ignore[no-any-return]
