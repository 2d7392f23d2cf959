"""A tiny seeded bundle of real ONNX, trained and exported by the product itself: three layers, splits 1 and 2."""

import random
from pathlib import Path

import pytest

from common.cli.root import app

GOOD = ("fine", "bright", "moving", "funny", "warm")
BAD = ("dull", "flat", "cold", "noisy", "empty")
OTHER = ("film", "plot", "cast", "a", "the", "with", "and", "scene", "music", "end")
LAYERS = 3


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Draw texts with their labels: good words or bad ones among others."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.choice("01")
        words = [*draw.choices(GOOD if label == "1" else BAD, k=2), *draw.choices(OTHER, k=draw.randint(2, 8))]
        draw.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def write_tsv(path: Path, count: int, seed: int) -> Path:
    """Write labelled texts with a header."""
    rows = (f"{text}\t{label}\n" for text, label in sentences(count, seed))
    path.write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    return path


def make_bundle(directory: Path, *, precision: str = "float32") -> Path:
    """Train a tiny BERT for a moment and export it; the same seed gives the same weights."""
    torch = pytest.importorskip("torch", reason="a tiny bundle is made with torch: pip install 'dimee[train]'")
    import transformers  # noqa: PLC0415 - as torch: only where it is installed
    from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: PLC0415

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {word: place for place, word in enumerate((*special, *GOOD, *BAD, *OTHER))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    backbone = directory / "backbone"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    transformers.BertModel(config).save_pretrained(backbone)
    tokenizer.save(str(backbone / "tokenizer.json"))

    run, bundle = directory / "run", directory / "bundle"
    data = write_tsv(directory / "train.tsv", 600, seed=1)
    _dimee("model", "train", "--backbone", backbone, "--train", data, "--out", run, "--keep-back", 200, *_SHORT)
    _dimee("model", "export", "--run", run, "--split", "1,2", "--precision", precision, "--out", bundle)
    return bundle


_SHORT = ("--epochs", 2, "--reference-epochs", 1, "--max-tokens", 32, "--batch-size", 16, "--learning-rate", 5e-3)


def _dimee(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float32 bundle for the whole session."""
    return make_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_variant(tiny_bundle: Path) -> Path:
    """The same weights in int8."""
    bundle = tiny_bundle.parent / "variant"
    run = tiny_bundle.parent / "run"
    _dimee("model", "export", "--run", run, "--split", "1,2", "--precision", "int8", "--out", bundle)
    return bundle
