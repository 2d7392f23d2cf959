"""What the demo asks: the shipped sentences, or a file of the user's."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from common.errors import ConfigError
from common.inputs.examples import read_examples
from common.model.manifest import Manifest
from common.wire.documents import Input

SHIPPED_INPUTS = Path(str(files("common.inputs"))) / "reviews.tsv"
_TABLES = {".tsv", ".csv", ".json", ".jsonl"}


def read_inputs(path: Path | None, manifest: Manifest) -> Sequence[Input]:
    """Read labelled inputs, or plain lines without labels; labels come in the model's own names.

    Raises:
        ConfigError: The file does not exist, holds nothing, or has a label that the model does not know.
    """
    source = path or SHIPPED_INPUTS
    if not source.exists():
        raise ConfigError(f"--input {source}: no such file")
    if source.is_file() and source.suffix.lower() not in _TABLES:
        return _plain_lines(source)
    examples = read_examples(source)
    pairs = examples.pairs or (None,) * len(examples)
    return [
        Input(text=text, pair=pair, label=manifest.label_named(label), id=str(number))
        for number, (text, pair, label) in enumerate(zip(examples.texts, pairs, examples.labels, strict=True), start=1)
    ]


def _plain_lines(path: Path) -> Sequence[Input]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"--input {path}: byte {exc.start} is not UTF-8; save the file as UTF-8") from exc
    inputs = [Input(text=line, id=str(number)) for number, line in enumerate(lines, start=1) if line.strip()]
    if not inputs:
        raise ConfigError(f"--input {path}: the file holds no text")
    return inputs
