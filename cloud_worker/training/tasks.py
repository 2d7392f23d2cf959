"""A list of tasks, each trained, exported and evaluated the same way; what is finished is not repeated."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cloud_worker.training.export import ExportPlan, export_bundle
from cloud_worker.training.loop import Schedule
from cloud_worker.training.recipe import Recipe, Sources, TrainingRun
from cloud_worker.training.results import TaskResult, judge
from cloud_worker.training.rundir import RunDirectory
from common.errors import ConfigError
from common.evaluation.evaluation import evaluate_file
from common.evaluation.metrics import Metric
from common.inputs.examples import Columns
from common.model.bundle import Bundle
from common.routing.cost import CostModel

_LOGGER = logging.getLogger(__name__)

Count = Annotated[int, msgspec.Meta(ge=1)]


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task of a list; paths are relative to the directory of the data."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    train: str
    valid: str  # reported on; nothing is chosen by it
    keep_back: Count
    metric: Metric = "accuracy"
    labels: tuple[str, ...] = ()
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    split: tuple[Count, Count] = (2, 4)
    precision: Literal["float32", "int8"] = "int8"
    max_tokens: Count = 128
    references: Count = 1
    reference_epochs: Count = 3
    epochs: Count = 4
    batch_size: Count = 32
    learning_rate: float = 8e-5


class _TaskList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    task: Annotated[tuple[Task, ...], msgspec.Meta(min_length=1)]


def read_tasks(path: Path, only: Sequence[str] = ()) -> tuple[Task, ...]:
    """Read a TOML file of ``[[task]]`` tables, in its order.

    Raises:
        ConfigError: It cannot be read, is no list of tasks, or lacks a task named in ``only``.
    """
    try:
        tasks = msgspec.toml.decode(path.read_bytes(), type=_TaskList).task
    except OSError as exc:
        raise ConfigError(f"{path}: no such file; name a TOML file of [[task]] tables") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: no list of tasks: {exc}") from exc
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two tasks have one name: {sorted(names)}")
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: {path} has {names}")
    return tuple(task for task in tasks if not only or task.name in only)


class Workshop(msgspec.Struct, frozen=True, kw_only=True):
    """Where tasks are made, and what of."""

    data: Path
    out: Path
    backbone: str
    backbone_name: str
    licence: str  # of the backbone
    command: str  # for the record


def run_task(task: Task, shop: Workshop) -> TaskResult:
    """Train, export and evaluate a task, as far as that is not done yet."""
    directory = shop.out / task.name
    run = RunDirectory(directory / "run")
    if not run.record.is_file():
        _LOGGER.info("%s: training", task.name)
        TrainingRun(_sources(task, shop), _recipe(task), run).run(shop.command)
    exported = directory / "bundle"
    if not exported.is_dir():
        _LOGGER.info("%s: exporting", task.name)
        plan = ExportPlan(
            split=task.split, precision=task.precision, name=task.name, labels=task.labels, licence=shop.licence
        )
        export_bundle(run, plan, exported)
    bundle = Bundle(exported)
    kept = directory / "result.json"
    if kept.is_file():
        result = msgspec.json.decode(kept.read_bytes(), type=TaskResult)
        if result.revision == bundle.revision:
            return result
    _LOGGER.info("%s: evaluating", task.name)
    made = evaluate_file(bundle, shop.data / task.valid, cost=CostModel(), metric=task.metric, has_studies=True)
    result = judge(task.name, made)
    kept.write_bytes(msgspec.json.encode(result))
    return result


def _sources(task: Task, shop: Workshop) -> Sources:
    return Sources(
        backbone=shop.backbone,
        train=shop.data / task.train,
        valid=shop.data / task.valid,
        columns=Columns(text=task.text, pair=task.pair, label=task.label),
        keep_back=task.keep_back,
        max_tokens=task.max_tokens,
        backbone_name=shop.backbone_name or Path(shop.backbone).name,
    )


def _recipe(task: Task) -> Recipe:
    schedule = Schedule(
        epochs=task.epochs, batch_size=task.batch_size, learning_rate=task.learning_rate, average_share=0.22, seed=1
    )
    return Recipe(
        reference=replace(schedule, epochs=task.reference_epochs),
        joint=schedule,
        references=task.references,
        metric=task.metric,
    )
