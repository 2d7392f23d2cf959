"""``dimee model recover``: a run directory from a bundle, where the one that it was exported from is lost."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cloud_worker.training.backbones import build_backbone, load_tokenizer
from cloud_worker.training.checkpoints import save_weights
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.provenance import origin_of
from cloud_worker.training.recover import position_rows, recover_weights
from cloud_worker.training.rundir import RunDirectory
from cloud_worker.training.split import keep_back
from common.errors import ConfigError
from common.inputs.examples import Columns, read_examples
from common.model.bundle import Bundle, open_bundle
from common.model.manifest import TOKENIZER_FILE


def recover(
    bundle: Annotated[str, typer.Option(help="Bundle directory, or 'shipped'.")],
    backbone: Annotated[Path, typer.Option(help="Directory with the config.json of its backbone.")],
    train: Annotated[Path, typer.Option(help="The labelled texts that it was trained on.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    *,
    text_column: Annotated[str | None, typer.Option(help="Column of the text, by name or number from 0.")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
) -> None:
    """Write what 'dimee model compress' needs of a lost training run: network, tokenizer, record, kept-back texts.

    Example: dimee model recover --bundle shipped --backbone MiniLM --train train.tsv --out run
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: the directory is not empty; name another one")
    found, columns = open_bundle(bundle), Columns(text=text_column, pair=pair_column, label=label_column)
    record, examples = found.manifest.training, read_examples(train, columns)
    if record.get("data", {}).get("train", {}).get("sha256") != origin_of(train, len(examples))["sha256"]:
        raise ConfigError(f"--train {train}: the bundle {found.directory} was trained on another file")
    out.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(out)
    config = _config(backbone, position_rows(found))
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    network = _network(found, out)
    save_weights(network, run.weights)
    run.save_backbone(network, load_tokenizer(str(found.path(TOKENIZER_FILE).parent)))
    split = keep_back(examples.texts, examples.pairs, record["split"]["kept_back"], record["split"]["seed"])
    run.write_kept_back(examples.select(split.kept_back))
    run.write_record(record)
    typer.echo(f"{out}: network of {network.num_layers} layers, {len(split.kept_back)} kept-back texts")


def _config(backbone: Path, positions: int) -> dict[str, object]:
    try:
        config: dict[str, object] = json.loads((backbone / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"--backbone {backbone}: no config.json can be read there: {exc}") from exc
    return config | {"max_position_embeddings": positions}


def _network(bundle: Bundle, out: Path) -> MultiExitNetwork:
    network = MultiExitNetwork(build_backbone(out / "config.json"), len(bundle.manifest.labels))
    recover_weights(bundle, network)
    return network.eval()
