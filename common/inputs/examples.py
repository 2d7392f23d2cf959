"""Labelled texts, as files hold them: TSV, CSV, JSON Lines, GLUE-style JSON, and SNIPS's parallel files."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError

TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("text_a", "text_b"),
    ("#1 String", "#2 String"),
)
TEXT_COLUMNS = ("sentence", "text", "utterance", "review", "query", "sentence1", "question", "text_a")
LABEL_COLUMNS = ("label", "gold_label", "Quality", "is_duplicate", "intent", "class", "category", "target")

_COLA = ("source", "label", "star", "sentence")  # the one headerless file of GLUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns to read; None means detect among the common names.

    A name of digits is a column's number from 0, for a file without a header.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts:
    """Texts, or pairs of them, each with the name of its label."""

    source: str
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def label_names(self) -> tuple[str, ...]:
        """Distinct labels; by value when all are whole numbers, else by name."""
        names = set(self.labels)
        if all(name.lstrip("-").isdigit() for name in names):
            return tuple(sorted(names, key=int))
        return tuple(sorted(names))

    def label_indices(self, label_names: Sequence[str]) -> list[int]:
        """Place of every label in ``label_names``."""
        place = {name: index for index, name in enumerate(label_names)}
        unknown = sorted(set(self.labels) - place.keys())
        if unknown:
            raise ConfigError(
                f"{self.source}: label {unknown[0]!r} is not one of {list(label_names)}; "
                "train on a file that has every label, or name the right --label-column"
            )
        return [place[label] for label in self.labels]

    def select(self, rows: Sequence[int]) -> "LabelledTexts":
        """Keep the named rows, in that order."""
        return LabelledTexts(
            source=self.source,
            texts=tuple(self.texts[row] for row in rows),
            pairs=None if self.pairs is None else tuple(self.pairs[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


def read_examples(path: Path, columns: Columns | None = None) -> LabelledTexts:
    """Read a file of labelled texts, or a directory in SNIPS's form.

    Raises:
        ConfigError: The file cannot be read, lacks a column, or holds fewer than two labels.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file; name an existing TSV, CSV, JSON, JSONL file or a SNIPS directory")
    rows = _parallel_files(path) if path.is_dir() else _rows(path, columns or Columns())
    examples = _collect(path, rows, columns or Columns())
    if len(set(examples.labels)) < 2:
        raise ConfigError(
            f"{path}: every row has the label {examples.labels[0]!r}; "
            "a classifier needs two labels at least: check --label-column"
        )
    return examples


def sha256_of(path: Path) -> str:
    """Hash a file, or the files of a SNIPS directory one after another."""
    digest = hashlib.sha256()
    for part in [path / "seq.in", path / "label"] if path.is_dir() else [path]:
        digest.update(part.read_bytes())
    return digest.hexdigest()


def _rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, row) of a file by its suffix; a JSON document counts entries."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: byte {exc.start} is not UTF-8; save the file as UTF-8") from exc
    if not content.strip():
        raise ConfigError(f"{path}: the file is empty; it needs labelled rows")
    match path.suffix.lower():
        case ".jsonl":
            return _json_lines(path, content)
        case ".json":
            return _json_document(path, content)
        case ".csv":
            return _table(path, csv.reader(content.splitlines(keepends=True)), columns)
        case _:
            lines = content.splitlines() if "\x85" not in content else content.split("\n")
            return _table(path, (line.split("\t") for line in lines), columns)


def _table(path: Path, cells: Iterator[list[str]], columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    header, first = _header(path, next(iter(cells)), columns)
    if first is not None:
        yield 1, first
    for line, row in enumerate(cells, start=2):
        if row and any(cell.strip() for cell in row):
            if len(row) < len(header):
                raise ConfigError(f"{path}:{line}: {len(row)} columns where the header has {len(header)}: mend the row")
            yield line, dict(zip(header, row, strict=False))


def _header(path: Path, row: list[str], columns: Columns) -> tuple[Sequence[str], dict[str, str] | None]:
    """Column names, and the first row's values when that row is no header."""
    chosen = [name for name in (columns.text, columns.pair, columns.label) if name is not None]
    if chosen and all(name.isdigit() for name in chosen):
        numbers = [str(number) for number in range(len(row))]
        return numbers, dict(zip(numbers, row, strict=True))
    if set(row) & {*TEXT_COLUMNS, *LABEL_COLUMNS, *chosen, "#1 String"}:
        return row, None
    if len(row) == len(_COLA) and row[1] in {"0", "1"}:
        return _COLA, dict(zip(_COLA, row, strict=True))
    raise ConfigError(
        f"{path}:1: none of {row[:6]} names a text or a label; add a header, "
        "or give columns by number (--text-column 0 --label-column 1)"
    )


def _json_lines(path: Path, content: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _as_row(path, number, json.loads(line))
            except json.JSONDecodeError as exc:
                raise ConfigError(f"{path}:{number}: {exc.msg}; every line must be one JSON object") from exc


def _json_document(path: Path, content: str) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        document = json.loads(content)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{path}:{exc.lineno}: {exc.msg}; the file must be one JSON document") from exc
    entries = document.values() if isinstance(document, dict) else document
    for number, entry in enumerate(entries, start=1):
        yield number, _as_row(path, number, entry)


def _as_row(path: Path, number: int, entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}:{number}: {str(entry)[:60]!r} is no JSON object with a text and a label")
    return {key: str(value) for key, value in entry.items() if value is not None}


def _parallel_files(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a directory with one text per line in seq.in and its label in the same line of label."""
    for name in ("seq.in", "label"):
        if not (path / name).is_file():
            raise ConfigError(f"{path}: a directory must hold the parallel files seq.in and label; {name} is missing")
    texts = (path / "seq.in").read_text(encoding="utf-8").splitlines()
    labels = (path / "label").read_text(encoding="utf-8").splitlines()
    if len(texts) != len(labels):
        raise ConfigError(f"{path}: seq.in has {len(texts)} lines and label {len(labels)}; they must be parallel")
    for line, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        yield line, {"text": text, "label": label}


def _collect(path: Path, rows: Iterator[tuple[int, dict[str, str]]], columns: Columns) -> LabelledTexts:
    chosen: Columns | None = None
    texts: list[str] = []
    pairs: list[str] = []
    labels: list[str] = []
    for line, row in rows:
        chosen = chosen or _detect(path, row, columns)
        texts.append(_cell(path, line, row, chosen.text))
        labels.append(_cell(path, line, row, chosen.label))
        if chosen.pair is not None:
            pairs.append(_cell(path, line, row, chosen.pair))
    if chosen is None:
        raise ConfigError(f"{path}: the file has a header and no rows; it needs labelled rows")
    return LabelledTexts(
        source=str(path),
        texts=tuple(texts),
        pairs=tuple(pairs) if chosen.pair is not None else None,
        labels=tuple(labels),
    )


def _detect(path: Path, row: dict[str, str], columns: Columns) -> Columns:
    """Columns of this file: those asked for, the rest by their common names."""
    text, pair = columns.text, columns.pair
    if text is None:
        text, found = next(
            ((first, second) for first, second in TEXT_PAIRS if first in row and row.get(second)),
            (next((name for name in TEXT_COLUMNS if name in row), None), None),
        )
        pair = pair or found
    label = columns.label or next((name for name in LABEL_COLUMNS if name in row), None)
    for option, name in (("--text-column", text), ("--label-column", label), ("--pair-column", pair)):
        if option != "--pair-column" and name is None:
            raise ConfigError(f"{path}: none of the columns {list(row)} has a usual name; name it with {option}")
        if name is not None and name not in row:
            raise ConfigError(f"{path}: no column {name!r} ({option}); the columns are {list(row)}")
    return Columns(text=text, pair=pair, label=label)


def _cell(path: Path, line: int, row: dict[str, str], column: str | None) -> str:
    value = row.get(column or "", "").strip()
    if not value:
        raise ConfigError(f"{path}:{line}: column {column!r} is empty; fill it or take the row out")
    return value
