"""Commands ``dimee model train``, ``export`` and ``tasks``."""

import json
import logging
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cloud_worker.training.export import ExportPlan, export_bundle
from cloud_worker.training.loop import Schedule
from cloud_worker.training.provenance import command_line
from cloud_worker.training.recipe import Recipe, Sources, TrainingRun
from cloud_worker.training.results_page import results_page
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.tasks import Workshop, read_tasks, run_task
from common.errors import ConfigError
from common.inputs.examples import Columns

app = typer.Typer(no_args_is_help=True)


class Precision(StrEnum):
    """Arithmetic of the exported layers."""

    INT8 = "int8"
    FLOAT32 = "float32"


class TaskMetric(StrEnum):
    """What a task is scored by."""

    ACCURACY = "accuracy"
    MATTHEWS = "matthews"


@app.command()
def train(  # noqa: PLR0913 - options of a command
    backbone: Annotated[str, typer.Option(help="Directory or hub name of a BERT, DistilBERT or RoBERTa encoder.")],
    train: Annotated[Path, typer.Option(help="Labelled texts: TSV, CSV, JSON, JSONL, or a SNIPS directory.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    *,
    backbone_name: Annotated[str, typer.Option(help="Name of the backbone in the record.")] = "",
    valid: Annotated[Path | None, typer.Option(help="Labelled texts for the report alone.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the text, by name or number from 0.")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    keep_back: Annotated[int, typer.Option(min=1, help="Whole texts kept back for calibration.")] = 2000,
    metric: Annotated[TaskMetric, typer.Option(help="accuracy or matthews (CoLA).")] = TaskMetric.ACCURACY,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longest input; the rest is cut.")] = 128,
    reference_epochs: Annotated[int, typer.Option(min=1, help="Epochs of the last exit alone (the teacher).")] = 3,
    references: Annotated[int, typer.Option(min=1, help="Models of the last exit alone that teach together.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of all exits together.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of the backbone.")] = 8e-5,
    head_learning_rate: Annotated[float, typer.Option(help="Peak rate of the exit heads.")] = 5e-4,
    distillation: Annotated[float, typer.Option(min=0, max=1, help="Share of the teacher in the loss.")] = 0.5,
    temperature: Annotated[float, typer.Option(min=0.1, help="Softens the teacher.")] = 2.0,
    average_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the last steps to average.")] = 0.22,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and dropout.")] = 1,
    split_seed: Annotated[int, typer.Option(help="Seed of the kept-back draw.")] = 7,
    bfloat16: Annotated[bool, typer.Option(help="Matrix products in bfloat16, where the CPU has it.")] = True,
    checkpoint_steps: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 300,
    resume: Annotated[bool, typer.Option(help="Carry on from the last checkpoint in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Fine-tune a backbone with an exit head per layer.

    Example: dimee model train --backbone sentence-transformers/all-MiniLM-L6-v2 --train train.tsv --out run
    """
    _refuse_overwriting(out, resume=resume)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    schedule = Schedule(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        average_share=average_share,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
        bfloat16=bfloat16,
    )
    sources = Sources(
        backbone=backbone,
        train=train,
        valid=valid,
        columns=Columns(text=text_column, pair=pair_column, label=label_column),
        keep_back=keep_back,
        split_seed=split_seed,
        max_tokens=max_tokens,
        backbone_name=backbone_name or Path(backbone).name,
    )
    recipe = Recipe(
        reference=replace(schedule, epochs=reference_epochs),
        joint=schedule,
        references=references,
        distillation=distillation,
        temperature=temperature,
        metric=metric.value,
    )
    record = TrainingRun(sources, recipe, RunDirectory(out)).run(command_line(["dimee", *sys.argv[1:]]))
    if as_json:
        typer.echo(json.dumps(record))


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Directory of a finished training run.")],
    split: Annotated[str, typer.Option(help="Layers up to which device and edge go: M,N.")],
    out: Annotated[Path, typer.Option(help="Bundle directory to write.")],
    *,
    precision: Annotated[Precision, typer.Option(help="int8 or float32.")] = Precision.INT8,
    exits: Annotated[str, typer.Option(help="Further exits inside the tiers, e.g. 1,5.")] = "",
    name: Annotated[str, typer.Option(help="Name of the bundle; by default that of the data's directory.")] = "",
    labels: Annotated[str, typer.Option(help="Names of the classes in the order of the data's, e.g. no,yes.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the backbone, for the model card.")] = "see its page",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Write the bundle of a training run: ONNX segments, calibration, manifest.

    Example: dimee model export --run run --split 2,4 --out bundle
    """
    depths = _layers("--split", split)
    if len(depths) != 2:
        raise ConfigError(f"--split {split}: must be two layers, M,N")
    plan = ExportPlan(
        split=(depths[0], depths[1]),
        exits=_layers("--exits", exits),
        precision=precision.value,
        name=name,
        licence=licence,
        labels=tuple(filter(None, labels.split(","))),
    )
    manifest = export_bundle(RunDirectory(run), plan, out)
    if as_json:
        typer.echo(msgspec.json.encode(manifest))
    else:
        size_mb = sum(seal.num_bytes for seal in manifest.files.values()) / 1e6
        typer.echo(f"{out}: revision {manifest.revision}, {manifest.precision}, {size_mb:.1f} MB")
        for entry in manifest.exits:
            typer.echo(f"  exit {entry.layer}: {entry.accuracy:.2%} kept back, temperature {entry.temperature:.2f}")


@app.command()
def tasks(
    tasks: Annotated[Path, typer.Argument(help="TOML file of [[task]] tables, e.g. examples/tasks.toml.")],
    data: Annotated[Path, typer.Option(help="Directory that the tasks' files lie in.")],
    backbone: Annotated[str, typer.Option(help="Directory or hub name of a BERT, DistilBERT or RoBERTa encoder.")],
    out: Annotated[Path, typer.Option(help="Directory for runs, bundles and results; what is finished is kept.")],
    *,
    backbone_name: Annotated[str, typer.Option(help="Name of the backbone in the records.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the backbone, for the model cards.")] = "see its page",
    only: Annotated[list[str] | None, typer.Option(help="A task by name; may be repeated.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the results as Markdown here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train, export and evaluate a list of tasks.

    Example: dimee model tasks examples/tasks.toml --data GLUE --backbone DIRECTORY --out runs --page results.md
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    command = command_line(["dimee", *sys.argv[1:]])
    shop = Workshop(
        data=data, out=out, backbone=backbone, backbone_name=backbone_name, licence=licence, command=command
    )
    results = [run_task(task, shop) for task in read_tasks(tasks, only or ())]
    if page is not None:
        page.write_text(results_page(results, command), encoding="utf-8")
    if as_json:
        typer.echo(msgspec.json.encode(results))
    elif page is None:
        typer.echo(results_page(results, command))


def _layers(option: str, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError as exc:
        raise ConfigError(f"{option} {value}: must be layer numbers divided by commas") from exc


def _refuse_overwriting(out: Path, *, resume: bool) -> None:
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise ConfigError(f"--out {out}: the directory is not empty; give --resume to carry on, or another directory")
