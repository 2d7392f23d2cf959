"""What a thin link learns from: hidden states at its split point, and what the unthinned network makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.loop import autocast
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.split import keep_back
from common.inputs.examples import LabelledTexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One batch; kept in half precision, for there are many."""

    hidden_states: Tensor  # [B, S, H]
    attention_mask: Tensor  # [B, S]
    taught: tuple[Tensor, ...]  # [B, S, H] after each layer behind the split point


def longest_texts(
    run: RunDirectory, network: MultiExitNetwork, examples: LabelledTexts, max_texts: int
) -> EncodedTexts:
    """Take the longest texts that a run trained on: whole sentences, not their phrases, and most tokens a step."""
    record = run.read_record()
    split = record["split"]
    parted = keep_back(examples.texts, examples.pairs, split["kept_back"], split["seed"])
    longest = sorted(parted.training, key=lambda row: -len(examples.texts[row].split()))[:max_texts]
    return EncodedTexts(
        examples.select(tuple(longest)),
        record["labels"],
        tokenizer=run.load_tokenizer(),
        pad_id=network.backbone.config.pad_token_id,
        max_tokens=record["max_tokens"],
    )


def lessons(
    network: MultiExitNetwork, texts: EncodedTexts, split_point: int, rows: Sequence[int], batch_size: int
) -> Iterator[Lesson]:
    """Run the network once over the named rows, in batches of similar length."""
    order = sorted(rows, key=lambda row: int(texts.lengths[row]))
    with torch.no_grad(), autocast(enabled=True):
        for start in range(0, len(order), batch_size):
            batch = texts.batch(order[start : start + batch_size])
            hidden_states = network.backbone.embed(batch.input_ids, batch.token_type_ids)  # [B, S, H]
            hidden_states = network.backbone.advance(hidden_states, batch.attention_mask, 0, split_point)
            taught = behind(network, hidden_states, batch.attention_mask, split_point)
            yield Lesson(
                hidden_states=hidden_states.half(),
                attention_mask=batch.attention_mask,
                taught=tuple(each.half() for each in taught),
            )


def behind(
    network: MultiExitNetwork, hidden_states: Tensor, attention_mask: Tensor, split_point: int
) -> tuple[Tensor, ...]:
    """Hidden states [B, S, H] after each layer behind a split point."""
    found = []
    for layer in range(split_point, network.num_layers):
        hidden_states = network.backbone.advance(hidden_states, attention_mask, layer, layer + 1)
        found.append(hidden_states)
    return tuple(found)


def attended(network: MultiExitNetwork, lesson: Lesson, split_point: int, share: float) -> tuple[Tensor, Tensor]:
    """Give places [B, K] and mask [B, K] of the tokens that the exit head at the split point looks at most."""
    score: torch.nn.Linear = network.heads[split_point - 1].score  # type: ignore[assignment]
    mask = lesson.attention_mask
    with torch.no_grad():
        scores = score(lesson.hidden_states.float())  # [B, S, Q]
        scores = scores.masked_fill(mask[:, :, None] == 0, torch.finfo(torch.float32).min)
        weight = scores.softmax(dim=1).sum(dim=-1).masked_fill(mask == 0, -1.0)  # [B, S]
        weight[:, 0] = torch.inf
    counts = (mask.sum(dim=1) * share - 1e-6).ceil().clamp_min(2).long()  # [B]
    ranked = weight.argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]  # [B, K]
    kept = (torch.arange(ranked.shape[1]) < counts[:, None]) & (mask.gather(1, ranked) > 0)
    return ranked, kept.long()
