"""What a thin link costs: the shipped model on the shipped sentences, with and without int8 on the way."""

from importlib.resources import files
from pathlib import Path

import pytest

from common.cli.root import app
from common.engine.choice import choose_policy
from common.errors import ConfigError
from common.evaluation.labelled import trace_file
from common.evaluation.simulation import simulate
from common.model.bundle import open_bundle

SENTENCES = Path(str(files("common.inputs"))) / "reviews.tsv"


@pytest.mark.parametrize("policy", ["default", "edge-only", "cloud-only"])
def test_int8_on_the_link_changes_at_most_one_answer_in_a_hundred(policy: str) -> None:
    bundle = open_bundle()
    chosen = choose_policy(bundle, policy)

    answers = [
        simulate(chosen, trace_file(bundle, SENTENCES, codec=codec), bundle.manifest.depths).predictions
        for codec in ("float32", "int8")
    ]

    assert (answers[0] != answers[1]).mean() <= 0.01


def test_a_codec_whose_bytes_depend_on_the_states_is_scored_with_all_the_others() -> None:
    with pytest.raises(ConfigError, match="--codec all measures them"):
        app(["evaluate", "--data", str(SENTENCES), "--codec", "graded"], standalone_mode=False)
