from pathlib import Path

import pytest

from common.errors import ConfigError
from common.inputs.examples import Columns, read_examples

pytestmark = pytest.mark.train


def write(file: Path, content: str) -> Path:
    file.write_text(content, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "sentence\tlabel\na fine film\t1\ndull\t0\n"),
        ("a.csv", 'label,text\n1,"a fine film"\n0,dull\n'),
        ("a.jsonl", '{"text": "a fine film", "label": 1}\n{"text": "dull", "label": 0}\n'),
        ("a.json", '{"0": {"text_a": "a fine film", "label": "1"}, "1": {"text_a": "dull", "label": "0"}}'),
        ("cola.tsv", "gj04\t1\t\ta fine film\ngj04\t0\t*\tdull\n"),
    ],
)
def test_every_form_gives_the_same_examples(tmp_path: Path, name: str, content: str) -> None:
    examples = read_examples(write(tmp_path / name, content))

    assert examples.texts == ("a fine film", "dull")
    assert examples.pairs is None
    assert examples.labels == ("1", "0")
    assert examples.label_names() == ("0", "1")


def test_pairs_are_detected_under_a_byte_order_mark(tmp_path: Path) -> None:
    content = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tone\ttwo\n0\t7\t9\tone\tthree\n"

    examples = read_examples(write(tmp_path / "mrpc.tsv", content))

    assert examples.texts == ("one", "one")
    assert examples.pairs == ("two", "three")
    assert examples.labels == ("1", "0")


def test_quotes_in_a_tsv_are_words(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "a.tsv", 'sentence\tlabel\n" fine\t1\ndull "\t0\n'))

    assert examples.texts == ('" fine', 'dull "')


def test_parallel_files_of_a_directory_are_read(tmp_path: Path) -> None:
    write(tmp_path / "seq.in", "play a song\nbook a table\n")
    write(tmp_path / "label", "PlayMusic\nBookRestaurant\n")

    examples = read_examples(tmp_path)

    assert examples.label_names() == ("BookRestaurant", "PlayMusic")
    assert examples.label_indices(examples.label_names()) == [1, 0]


def test_columns_can_be_numbers_where_no_header_stands(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "a.tsv", "7\tfine\tx\n8\tdull\ty\n"), Columns(text="1", label="2"))

    assert examples.texts == ("fine", "dull")
    assert examples.labels == ("x", "y")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "the file is empty"),
        ("sentence\tlabel\n", "a header and no rows"),
        ("sentence\tlabel\nfine\t1\ngood\t1\n", "every row has the label '1'"),
        ("sentence\tstars\nfine\t1\n", "name it with --label-column"),
        ("sentence\tlabel\nfine\t1\ndull\n", ":3: 1 columns where the header has 2"),
        ("sentence\tlabel\nfine\t1\n \t0\n", ":3: column 'sentence' is empty"),
        ("fine\t1\ndull\t0\n", "give columns by number"),
    ],
)
def test_bad_files_are_refused_by_name_and_line(tmp_path: Path, content: str, told: str) -> None:
    file = write(tmp_path / "bad.tsv", content)

    with pytest.raises(ConfigError) as refusal:
        read_examples(file)

    assert told in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_a_broken_json_line_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", '{"text": "fine", "label": 1}\n{"text": \n')

    with pytest.raises(ConfigError, match=r"bad\.jsonl:2: "):
        read_examples(file)


def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_bytes(b"sentence\tlabel\nna\xefve\t1\n")

    with pytest.raises(ConfigError, match="byte 17 is not UTF-8"):
        read_examples(tmp_path / "bad.tsv")


def test_an_unknown_label_of_another_file_is_named(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "a.tsv", "sentence\tlabel\nfine\t2\ndull\t0\n"))

    with pytest.raises(ConfigError, match="label '2' is not one of"):
        examples.label_indices(("0", "1"))
