"""The model card: what a bundle is, where it comes from and how well it does, in Markdown from its own record."""

from typing import Any

from common.model.manifest import Manifest
from common.model.thin_links import LinkTable, Rung

CARD_FILE = "MODEL_CARD.md"
_LINKS_HEADING = "\n## Thin links\n"


def model_card(manifest: Manifest, licence: str) -> str:
    """Write the card of a bundle; ``licence`` is the backbone's."""
    record = manifest.training
    exits = ", ".join(str(entry.layer) for entry in manifest.exits)
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            (
                f"A text classifier with exits after layers {exits} of {manifest.num_layers}, for `dimee`. "
                f"Labels: {', '.join(manifest.labels)}. "
                f"Precision: {manifest.precision}. Inputs beyond {manifest.max_tokens} tokens are cut."
            ),
            "",
            f"Made from `{manifest.backbone}` (licence: {licence}).",
            "",
            "## Accuracy",
            "",
            *_accuracy(manifest, record),
            "",
            (
                "Kept back: never trained on; temperatures, pools and thresholds are fitted there. "
                "Validation: for this report alone. float32 in torch, but for the column of the exported segments."
            ),
            "",
            "## Recipe",
            "",
            *_recipe(record),
            "",
            "## Data",
            "",
            *_origins(record),
            "",
            f"Versions: {', '.join(f'{name} {found}' for name, found in record['versions'].items())}.",
            "",
        ]
    )


def with_links(card: str, table: LinkTable) -> str:
    """Add what a bundle's thin links do, in place of what the card says of others."""
    budgets = [rung.budget for rung in table.links[0].rungs]
    found = [{rung.budget: rung for rung in link.rungs} for link in table.links]
    lines = [
        card.partition(_LINKS_HEADING)[0] + _LINKS_HEADING,
        "| dimensions | " + " | ".join(f"after layer {link.split_point}" for link in table.links) + " |",
        "|---" * (1 + len(found)) + "|",
        *(f"| {each} | " + " | ".join(_rung(rungs[each]) for rungs in found) + " |" for each in budgets),
        "",
        "Accuracy of the last exit on the kept-back texts when all of them travel as `graded`, and bytes per token.",
        "",
        f"    {table.training['command']}",
        "",
    ]
    return "\n".join(lines)


def _rung(rung: Rung) -> str:
    return f"{rung.accuracy:.2%}, {rung.token_bytes:.0f} B"


def _accuracy(manifest: Manifest, record: dict[str, Any]) -> list[str]:
    exported = {entry.layer: f"{entry.accuracy:.2%}" for entry in manifest.exits}
    lines = ["| exit after layer | kept back | kept back, exported | validation |", "|---|---|---|---|"]
    for place, entry in enumerate(record["metrics"]["kept_back"]):
        layer = entry["exit_layer"]
        valid = _validation(record["metrics"], place)
        lines.append(f"| {layer} | {entry['accuracy']:.2%} | {exported.get(layer, 'not exported')} | {valid} |")
    reference = record["reference"]
    valid = f"{reference['valid']['accuracy']:.2%}" if "valid" in reference else "none"
    lines.append(f"| last, fine-tuned alone | {reference['kept_back']['accuracy']:.2%} | | {valid} |")
    return lines


def _validation(metrics: dict[str, Any], place: int) -> str:
    return f"{metrics['valid'][place]['accuracy']:.2%}" if "valid" in metrics else "none"


def _recipe(record: dict[str, Any]) -> list[str]:
    recipe, split = record["recipe"], record["split"]
    weights = ", ".join(f"{weight:.2f}" for weight in recipe["exit_weights"])
    return [
        f"    {record['command']}",
        "",
        (
            f"- Kept back: {split['kept_back']} of {split['whole_texts']} whole texts (seed {split['seed']}); "
            f"{split['dropped']} rows that are parts of them were dropped, {split['training']} rows trained on."
        ),
        (
            f"- References, {recipe['references']} by consecutive seeds: the last exit alone, "
            f"{_schedule(recipe['reference'])}."
        ),
        (
            f"- Joint: all exits from the first reference's weights, {_schedule(recipe['joint'])}; "
            f"exit weights {weights}; {recipe['distillation']:.0%} of the loss from the frozen references at "
            f"temperature {recipe['temperature']}; the word table stays as the reference left it."
        ),
    ]


def _schedule(schedule: dict[str, Any]) -> str:
    return (
        f"{schedule['epochs']} epochs, batch {schedule['batch_size']}, AdamW at {schedule['learning_rate']:g} "
        f"(heads {schedule['head_learning_rate']:g}), linear decay, weights averaged over the last "
        f"{schedule['average_share']:.0%} of the steps, seed {schedule['seed']}"
    )


def _origins(record: dict[str, Any]) -> list[str]:
    return [
        f"- {use}: `{origin['name']}`, {origin['rows']} rows, sha256 `{origin['sha256']}`"
        for use, origin in record["data"].items()
        if origin
    ]
