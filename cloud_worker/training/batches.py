"""Token batches of similar length, in an order that seed and epoch alone decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from common.inputs.examples import LabelledTexts

_BATCHES_PER_BUCKET = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Padded tokens of some rows."""

    rows: Tensor  # [B], row numbers in the encoded texts
    input_ids: Tensor  # [B, S]
    attention_mask: Tensor  # [B, S], 1 token, 0 padding
    token_type_ids: Tensor  # [B, S]
    labels: Tensor  # [B]


class EncodedTexts:
    """Texts as token ids, padded batch by batch."""

    def __init__(
        self, examples: LabelledTexts, label_names: Sequence[str], *, tokenizer: Tokenizer, pad_id: int, max_tokens: int
    ) -> None:
        self.max_tokens = max_tokens
        tokenizer.enable_truncation(max_tokens)
        if examples.pairs is None:
            encodings = tokenizer.encode_batch(list(examples.texts))
        else:
            encodings = tokenizer.encode_batch(list(zip(examples.texts, examples.pairs, strict=True)))
        self._pad_id = pad_id
        self._ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        self._types = [np.array(encoding.type_ids, dtype=np.int64) for encoding in encodings]
        self.lengths = np.array([len(ids) for ids in self._ids])
        self.labels = torch.tensor(examples.label_indices(label_names))  # [N]

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Pad the named rows to the longest of them."""
        shape = (len(rows), int(self.lengths[list(rows)].max()))
        input_ids = np.full(shape, self._pad_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            length = self.lengths[row]
            input_ids[place, :length] = self._ids[row]
            token_type_ids[place, :length] = self._types[row]
            attention_mask[place, :length] = 1
        return Batch(
            rows=torch.tensor(list(rows)),
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            token_type_ids=torch.from_numpy(token_type_ids),
            labels=self.labels[list(rows)],
        )

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """Rows of each batch of one epoch: random, but of similar length within a batch."""
        draw = np.random.default_rng([seed, epoch])
        order = draw.permutation(len(self))
        bucket = batch_size * _BATCHES_PER_BUCKET
        batches: list[list[int]] = []
        for start in range(0, len(order), bucket):
            rows = order[start : start + bucket]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[cut : cut + batch_size].tolist() for cut in range(0, len(rows), batch_size)]
        return [batches[place] for place in draw.permutation(len(batches))]

    def in_order_of_length(self, batch_size: int) -> Iterator[Batch]:
        """Every row once, the cheapest way; a batch's ``rows`` say which."""
        order = np.argsort(self.lengths, kind="stable").tolist()
        for start in range(0, len(order), batch_size):
            yield self.batch(order[start : start + batch_size])
