"""``dimee model compress``: thin links for the bundle of a finished training run."""

import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.card import CARD_FILE, with_links
from cloud_worker.training.compression import Course, course, train_link
from cloud_worker.training.lessons import lessons, longest_texts
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.progress import progress_for
from cloud_worker.training.provenance import command_line, origin_of, versions
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.thin_link import BudgetedLink
from common.engine.choice import choose_policy
from common.errors import ConfigError
from common.evaluation.behind_links import fit_rung
from common.evaluation.scoring import Setting
from common.evaluation.thinning import Behind, bring
from common.evaluation.trace import Trace, read_calibration
from common.inputs.examples import Columns, LabelledTexts, read_examples
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.thin_links import LINKS_FILE, LinkEntry, LinkTable, Rung, ThinLink
from common.routing.exits import ConfidenceCascade

_LOGGER = logging.getLogger(__name__)
_BATCH = 32
_DIGITS_LESS = 3  # of the eleven binary ones of half precision


def compress(  # noqa: PLR0913 - options of a command
    run: Annotated[Path, typer.Argument(help="Directory of the finished training run.")],
    bundle: Annotated[Path, typer.Option(help="The bundle exported from it.")],
    train: Annotated[Path, typer.Option(help="The labelled texts that it was trained on.")],
    out: Annotated[Path, typer.Option(help="Bundle directory to write.")],
    *,
    recipe: Annotated[str, typer.Option(help="prune, deprune, or fixed (the tightest budget alone).")] = "prune",
    budgets: Annotated[str, typer.Option(help="Dimensions per token, ascending.")] = "8,16,32,64,96,128,160,192,256",
    steps: Annotated[int, typer.Option(min=0, help="Steps per link, of 32 texts; 0 leaves it as it starts.")] = 400,
    max_texts: Annotated[int, typer.Option(min=64, help="Training texts that a link learns from.")] = 10_000,
    text_column: Annotated[str | None, typer.Option(help="Column of the text, by name or number from 0.")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order and the draws.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the links as JSON.")] = False,
) -> None:
    """Train thin links behind which the model stays as it is, and calibrate every exit behind each budget.

    Example: dimee model compress run --bundle bundle --train train.tsv --recipe prune --out thin
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: the directory is not empty; name another one")
    columns = Columns(text=text_column, pair=pair_column, label=label_column)
    compressor = Compressor(RunDirectory(run), open_bundle(bundle), read_examples(train, columns), source=train)
    wanted = _ascending(budgets, compressor.width)
    plan = course(recipe, wanted, steps=steps, seed=seed)
    table = compressor.compress(out, plan, wanted, max_texts=max_texts, recipe=recipe)
    if as_json:
        typer.echo(msgspec.json.encode(table))
        return
    typer.echo(f"{out}: {len(table.links)} thin links")
    for link in table.links:
        for rung in link.rungs:
            typer.echo(f"  split {link.split_point}, {rung.budget} dimensions: {rung.accuracy:.2%} kept back")


class Compressor:
    """A run, its bundle and its data, checked to belong together."""

    def __init__(self, run: RunDirectory, bundle: Bundle, examples: LabelledTexts, *, source: Path) -> None:
        self._record = run.read_record()
        self._bundle = bundle
        self._run = run
        self._examples = examples
        self._source = source
        digest = origin_of(source, len(examples))["sha256"]
        if bundle.manifest.training.get("data") != self._record["data"]:
            raise ConfigError(f"--bundle {bundle.directory}: it was not exported from the run {run.path}")
        if self._record["data"]["train"]["sha256"] != digest:
            raise ConfigError(f"--train {source}: the run {run.path} was trained on another file")

    @property
    def width(self) -> int:
        """Dimensions of the model's hidden states."""
        return self._bundle.manifest.hidden_size

    def compress(self, out: Path, plan: Course, budgets: tuple[int, ...], *, max_texts: int, recipe: str) -> LinkTable:
        """Train, calibrate and write."""
        network = self._run.load_network()
        texts = longest_texts(self._run, network, self._examples, max_texts)
        kept_back = self._run.read_kept_back()
        trace = self._calibration(kept_back.label_indices(self._record["labels"]))
        default = choose_policy(self._bundle)
        own = default.thresholds if isinstance(default, ConfidenceCascade) else {}
        setting = Setting(depths=self._bundle.manifest.depths, metric=self._record["metric"])
        pairs = kept_back.pairs or (None,) * len(kept_back)
        standing = bring(self._bundle, list(zip(kept_back.texts, pairs, strict=True)))
        entries: list[LinkEntry] = []
        files: dict[str, bytes] = {}
        for point, stood in standing.items():
            trained = self._train(network, texts, point, max(budgets), plan=plan)
            arrays = _arrays(trained, network, point)
            name = f"thin-link-{point:02d}.npz"
            files[name] = archive(arrays)
            _LOGGER.info("split %d: calibrating %d budgets on %d texts", point, len(budgets), len(trace))
            blank = _entry(
                point,
                name,
                tuple(Rung(budget=each, temperatures={}, accuracy=0.0, token_bytes=1.0) for each in budgets),
            )
            behind = Behind(self._bundle, point, ThinLink(blank, arrays))
            rungs = tuple(fit_rung(behind, stood, trace, own, setting, budget=each) for each in budgets)
            entries.append(_entry(point, name, rungs))
        table = LinkTable(links=tuple(entries), training=self._origin(plan, recipe, max_texts))
        files[LINKS_FILE] = msgspec.json.format(msgspec.json.encode(table))
        card = self._bundle.path(CARD_FILE).read_text(encoding="utf-8")
        files[CARD_FILE] = with_links(card, table).encode()
        derive(self._bundle, out, files)
        return table

    def _calibration(self, labels: Sequence[int]) -> Trace:
        """Read what the exits say of the kept-back texts without a link."""
        trace = read_calibration(self._bundle)
        if trace.labels.tolist() != list(labels):
            raise ConfigError(
                f"{self._bundle.directory}: its calibration is not of the texts that {self._run.path} keeps"
            )
        return trace

    def _train(
        self, network: MultiExitNetwork, texts: EncodedTexts, point: int, most: int, *, plan: Course
    ) -> BudgetedLink:
        given = list(lessons(network, texts, point, range(len(texts)), _BATCH))
        with progress_for(f"split {point}") as progress:
            return train_link(network, given, point, most, plan=plan, progress=progress)

    def _origin(self, plan: Course, recipe: str, max_texts: int) -> dict[str, Any]:
        return {
            "command": command_line(["dimee", *sys.argv[1:]]),
            "recipe": recipe,
            "course": json.loads(json.dumps(asdict(plan))),
            "max_texts": max_texts,
            "train": origin_of(self._source, len(self._examples)),
            "versions": versions(),
        }


def _entry(point: int, name: str, rungs: tuple[Rung, ...]) -> LinkEntry:
    return LinkEntry(split_point=point, file=name, rungs=rungs)


def _arrays(link: BudgetedLink, network: MultiExitNetwork, point: int) -> dict[str, np.ndarray]:
    """Arrays of a link as they are served, as coarse on disk and here alike."""
    score: torch.nn.Linear = network.heads[point - 1].score  # type: ignore[assignment]
    tensors = link.arrays() | {"score": score.weight.detach().T, "score_bias": score.bias.detach()}
    return {name: coarse(tensor.numpy().astype(np.float16)) for name, tensor in tensors.items()}


def coarse(array: NDArray[np.float16]) -> NDArray[np.float16]:
    """Round to eight digits of eleven, finer than any codec: the archive then takes four fifths of the space."""
    step = 1 << _DIGITS_LESS
    rounded = (array.view(np.uint16) + step // 2) & (2**16 - step)
    return rounded.astype(np.uint16).view(np.float16)


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    """Pack a link's arrays as its file in a bundle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _ascending(budgets: str, width: int) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in budgets.split(","))
    except ValueError as exc:
        raise ConfigError(f"--budgets {budgets}: must be numbers divided by commas") from exc
    if list(found) != sorted(set(found)) or not 0 < found[0] <= found[-1] < width:
        raise ConfigError(f"--budgets {budgets}: must ascend between 1 and {width - 1}, the model's width less one")
    return found
