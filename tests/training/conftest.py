"""Tiny seeded encoders with a tokenizer, and labelled texts that can be learnt."""

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'dimee[train]'")
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from cloud_worker.training.backbones import load_backbone, load_tokenizer
from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.network import MultiExitNetwork
from common.inputs.examples import LabelledTexts

LAYERS = 4
FAMILIES = ("bert", "distilbert", "roberta")
GOOD = ("fine", "bright", "moving", "funny", "warm")
BAD = ("dull", "flat", "cold", "noisy", "empty")
OTHER = ("film", "plot", "cast", "a", "the", "with", "and", "scene", "music", "end")
SPECIAL = ("<s>", "[PAD]", "</s>", "[UNK]", "[CLS]", "[SEP]")  # RoBERTa's padding is 1, too

_SHARED = {"vocab_size": 64, "pad_token_id": 1, "max_position_embeddings": 40}


class TinyBackbone:
    """An untrained encoder on disk."""

    def __init__(self, directory: Path, family: str) -> None:
        self.directory = directory
        self.family = family

    def encode(self, examples: LabelledTexts) -> EncodedTexts:
        """Tokenise for the tiny encoders."""
        tokenizer = load_tokenizer(str(self.directory))
        return EncodedTexts(examples, ("0", "1"), tokenizer=tokenizer, pad_id=1, max_tokens=32)

    def network(self) -> MultiExitNetwork:
        """A seeded multi-exit network, not trained."""
        torch.manual_seed(3)
        return MultiExitNetwork(load_backbone(str(self.directory)), 2).eval()


def _config(family: str) -> Any:
    if family == "distilbert":
        return transformers.DistilBertConfig(**_SHARED, dim=16, n_layers=LAYERS, n_heads=4, hidden_dim=32)
    sizes = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 32}
    kind = {"bert": transformers.BertConfig, "roberta": transformers.RobertaConfig}[family]
    return kind(**_SHARED, **sizes, type_vocab_size=2 if family == "bert" else 1)


def make_backbone(family: str, directory: Path) -> TinyBackbone:
    """Write a seeded encoder and its word tokenizer."""
    torch.manual_seed(0)
    transformers.AutoModel.from_config(_config(family)).save_pretrained(directory)
    vocabulary = {word: place for place, word in enumerate((*SPECIAL, *GOOD, *BAD, *OTHER))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return TinyBackbone(directory=directory, family=family)


@pytest.fixture(scope="session", params=FAMILIES)
def any_backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyBackbone:
    """One of each family."""
    return make_backbone(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbone:
    """A tiny BERT."""
    return make_backbone("bert", tmp_path_factory.mktemp("bert"))


class Reviews:
    """Labelled texts that a tiny encoder can learn."""

    def draw(self, count: int, seed: int = 0) -> LabelledTexts:
        """Texts by seed: good words, or bad ones, among others."""
        draw = random.Random(seed)
        rows = [self._row(draw) for _ in range(count)]
        return LabelledTexts(
            source="reviews", texts=tuple(text for text, _ in rows), pairs=None, labels=tuple(name for _, name in rows)
        )

    def write(self, count: int, file: Path, seed: int = 0) -> Path:
        """Write texts as TSV with a header."""
        examples = self.draw(count, seed)
        rows = [f"{text}\t{label}" for text, label in zip(examples.texts, examples.labels, strict=True)]
        file.write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
        return file

    def _row(self, draw: random.Random) -> tuple[str, str]:
        label = draw.choice(("0", "1"))
        telling = draw.choices(GOOD if label == "1" else BAD, k=2)
        words = [*telling, *draw.choices(OTHER, k=draw.randint(2, 8))]
        draw.shuffle(words)
        return " ".join(words), label


@pytest.fixture(scope="session")
def reviews() -> Reviews:
    """Labelled texts."""
    return Reviews()
