"""Lists of tasks: trained, exported and evaluated by one command, and never twice."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cloud_worker.training.cli import app
from cloud_worker.training.results import AIMED_REDUCTION, TaskResult
from cloud_worker.training.tasks import read_tasks
from common.errors import ConfigError

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]

TASK = """
[[task]]
name = "tiny"
train = "train.tsv"
valid = "valid.tsv"
labels = ["no", "yes"]
keep_back = 60
metric = "matthews"
split = [1, 3]
precision = "float32"
max_tokens = 24
reference_epochs = 1
epochs = 2
batch_size = 16
learning_rate = 1e-3
"""


def test_one_command_trains_exports_evaluates_and_writes_the_page(backbone: Any, reviews: Any, tmp_path: Path) -> None:
    data, page = tmp_path / "data", tmp_path / "results.md"
    data.mkdir()
    reviews.write(300, data / "train.tsv")
    reviews.write(80, data / "valid.tsv", seed=1)
    (tmp_path / "tasks.toml").write_text(TASK)
    arguments = ["tasks", str(tmp_path / "tasks.toml"), "--data", str(data), "--backbone", str(backbone.directory)]
    arguments += ["--out", str(tmp_path / "out"), "--page", str(page), "--json"]

    told = CliRunner().invoke(app, arguments, catch_exceptions=False)
    weights = tmp_path / "out" / "tiny" / "run" / "model.safetensors"
    made_at = weights.stat().st_mtime_ns
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)

    (result,) = msgspec.json.decode(told.stdout, type=list[TaskResult])
    assert (result.metric, result.samples, result.kept_back) == ("matthews", 80, 60)
    assert len(result.exits) == 4
    assert result.fine_tuned_alone is not None
    assert 0 <= result.hindsight < 1
    is_met = result.scored.reduction >= AIMED_REDUCTION and result.scored.drop_points <= 0.3
    assert (result.obstacle == "none") == is_met
    assert f"revision `{result.revision}`".casefold() in page.read_text().casefold()
    assert str(tmp_path) not in page.read_text()
    assert (again.stdout, weights.stat().st_mtime_ns) == (told.stdout, made_at)


@pytest.mark.parametrize(
    ("document", "only", "told"),
    [
        ("task = []", (), "no list of tasks"),
        (TASK.replace("keep_back = 60", ""), (), "keep_back"),
        (TASK + "speed = 3\n", (), "speed"),
        (TASK + TASK, (), "two tasks have one name"),
        (TASK, ("huge",), "--only huge"),
    ],
)
def test_a_wrong_list_is_refused_by_its_fault(tmp_path: Path, document: str, only: tuple[str, ...], told: str) -> None:
    (tmp_path / "tasks.toml").write_text(document)

    with pytest.raises(ConfigError, match=told):
        read_tasks(tmp_path / "tasks.toml", only)


def test_the_example_list_can_be_read() -> None:
    tasks = read_tasks(Path(__file__).parents[2] / "examples" / "tasks.toml")

    assert {"sst2", "mrpc", "rte", "cola", "qnli", "qqp", "mnli", "snips"} == {task.name for task in tasks}
