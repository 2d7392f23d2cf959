"""Recipes of thin links against each other: deprune, prune, and the tightest budget from scratch.

``python benchmarks/link_recipes.py --run RUN --train train.tsv`` trains ``fixed`` and ``deprune`` links with equal
steps, and ``prune`` with a twelfth of them, from one set of lessons, for each seed, and scores them at the tightest
budget, sent as ``graded``, on kept-back texts that no link learned from, everything travelling. Training time is
processor time of the process, the closed form that prune starts from included; the lessons, which all share, are told
apart.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.compression import course, train_link
from cloud_worker.training.lessons import Lesson, behind, lessons, longest_texts
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.progress import LogProgress
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.thin_link import BudgetedLink
from common.evaluation.metrics import Bootstrap, interval
from common.inputs.examples import read_examples

_BATCH = 32
_SHARES = {"fixed": 1, "deprune": 1, "prune": 12}  # of the steps: one in so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What every recipe is given."""

    network: MultiExitNetwork
    given: list[Lesson]
    asked: EncodedTexts  # kept-back texts
    split_point: int
    budgets: tuple[int, ...]  # ascending; the first is scored

    def train(self, recipe: str, steps: int, seed: int) -> tuple[BudgetedLink, float]:
        """Give a link and the processor time of its training in seconds."""
        plan = course(recipe, self.budgets, steps=steps, seed=seed)
        started = time.process_time()
        with LogProgress(recipe) as progress:
            link = train_link(
                self.network, self.given, self.split_point, self.budgets[-1], plan=plan, progress=progress
            )
        return link, time.process_time() - started

    def is_right(self, link: BudgetedLink | None) -> np.ndarray:
        """Say of each kept-back text [N] whether the last exit is right about it behind a link, or without one."""
        found = np.zeros(len(self.asked), bool)
        for batch in self.asked.in_order_of_length(_BATCH):
            mask, backbone = batch.attention_mask, self.network.backbone
            with torch.no_grad():
                hidden = backbone.embed(batch.input_ids, batch.token_type_ids)  # [B, S, H]
                hidden = backbone.advance(hidden, mask, 0, self.split_point)
                if link is not None:
                    hidden = link(hidden, mask, self.budgets[0], "graded")
                logits, _ = self.network.heads[-1](behind(self.network, hidden, mask, self.split_point)[-1], mask)
            found[batch.rows] = (logits.argmax(dim=1) == batch.labels).numpy()
        return found


def prepare(options: argparse.Namespace) -> tuple[Contest, float]:
    """Read the run, make the lessons; also give the lessons' processor time in seconds."""
    run, budgets = RunDirectory(options.run), tuple(map(int, options.budgets.split(",")))
    network, record, kept_back = run.load_network(), run.read_record(), run.read_kept_back()
    asked = EncodedTexts(
        kept_back.select(range(min(options.kept_back, len(kept_back)))),
        record["labels"],
        tokenizer=run.load_tokenizer(),
        pad_id=network.backbone.config.pad_token_id,
        max_tokens=record["max_tokens"],
    )
    texts = longest_texts(run, network, read_examples(options.train), options.max_texts)
    started = time.process_time()
    given = list(lessons(network, texts, options.split_point, range(len(texts)), _BATCH))
    contest = Contest(network=network, given=given, asked=asked, split_point=options.split_point, budgets=budgets)
    return contest, time.process_time() - started


def points_ahead(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Points that ``one`` is ahead of ``other``, both [seeds, N]; the interval is over texts and seeds, paired."""
    means = Bootstrap(one.shape[1]).means((one.astype(float) - other).T)  # [R, seeds]
    drawn = np.random.default_rng(0).integers(len(one), size=means.shape)
    found = interval(100 * np.take_along_axis(means, drawn, axis=1).mean(axis=1))
    return {
        "points": round(100 * float(one.mean() - other.mean()), 2),
        "interval": [round(found.low, 2), round(found.high, 2)],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train and score every recipe with every seed."""
    contest, lesson_s = prepare(options)
    right: dict[str, list[np.ndarray]] = {recipe: [] for recipe in _SHARES}
    seconds: dict[str, list[float]] = {recipe: [] for recipe in _SHARES}
    for seed in options.seeds:
        for recipe, share in _SHARES.items():
            link, taken = contest.train(recipe, options.steps // share, seed)
            right[recipe].append(contest.is_right(link))
            seconds[recipe].append(round(taken, 1))
    answers = {recipe: np.stack(rows) for recipe, rows in right.items()}
    return {
        "split_point": options.split_point,
        "budgets": contest.budgets,
        "texts": len(contest.asked),
        "without_link": round(float(contest.is_right(None).mean()), 5),
        "lessons_s": round(lesson_s, 1),
        "accuracy": {recipe: [round(float(each.mean()), 5) for each in rows] for recipe, rows in answers.items()},
        "training_s": seconds,
        "deprune_against_fixed": points_ahead(answers["deprune"], answers["fixed"]),
        "prune_against_fixed": points_ahead(answers["prune"], answers["fixed"]),
        "prune_share_of_time": round(sum(seconds["prune"]) / sum(seconds["fixed"]), 3),
    }


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="directory of a finished training run")
    parser.add_argument("--train", type=Path, required=True, help="the labelled texts that it was trained on")
    parser.add_argument("--split-point", type=int, default=2)
    parser.add_argument("--budgets", default="32,64,128", help="ascending; the first is scored")
    parser.add_argument("--steps", type=int, default=150, help="of fixed and deprune, of 32 texts")
    parser.add_argument("--max-texts", type=int, default=1000, help="training texts that the links learn from")
    parser.add_argument("--kept-back", type=int, default=1000, help="texts that are scored")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options)
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    for recipe, seconds in found["training_s"].items():
        scores = ", ".join(f"{each:.2%}" for each in found["accuracy"][recipe])
        print(f"{recipe}: {scores}; {seconds} s of training")  # noqa: T201
    for name in ("deprune_against_fixed", "prune_against_fixed", "prune_share_of_time"):
        print(f"{name.replace('_', ' ')}: {found[name]}")  # noqa: T201


if __name__ == "__main__":
    main()
