"""Thin links as they are trained: what is trained is what is served, and budgets are exact."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'dimee[train]'")

from cloud_worker.training.compress import archive, coarse  # noqa: E402 - behind the check for torch
from cloud_worker.training.compression import Course, Phase, course  # noqa: E402
from cloud_worker.training.thin_link import Bowl, BudgetedLink, rounded  # noqa: E402
from common.cli.root import app  # noqa: E402
from common.engine.choice import choose_policy  # noqa: E402
from common.engine.escalation import Escalation, unpack_state  # noqa: E402
from common.engine.pipeline import Exited, Pipeline, State  # noqa: E402
from common.engine.thinness import Always, Thinness  # noqa: E402
from common.evaluation.behind_links import behind_link  # noqa: E402
from common.evaluation.simulation import simulate  # noqa: E402
from common.evaluation.thinning import Behind, Standing, bring  # noqa: E402
from common.evaluation.trace import read_calibration  # noqa: E402
from common.inputs.examples import read_examples  # noqa: E402
from common.model.bundle import Bundle, open_bundle  # noqa: E402
from common.model.thin_links import LinkEntry, Rung, ThinLink, open_thin_links, read_table  # noqa: E402
from common.routing.policies import ConfidenceCascade  # noqa: E402
from common.wire.activations import codec  # noqa: E402

pytestmark = pytest.mark.train
WIDTH = 16


def a_link() -> BudgetedLink:
    states = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(1)) * torch.arange(1, WIDTH + 1)
    basis, _ = torch.linalg.qr(torch.randn(WIDTH, 8, generator=torch.Generator().manual_seed(0)))
    link = BudgetedLink(states.mean(dim=0), basis, basis.T)
    with torch.no_grad():
        link.worth.copy_(torch.tensor([1.0, 3.0, 2.0, 3.0, 0.5, 3.0, -1.0, 4.0]))  # ties, out of order
        link.bias.add_(0.1)
    return link


@pytest.mark.parametrize("budget", [1, 2, 3, 8])
def test_what_is_trained_is_what_is_served(budget: int) -> None:
    link = a_link()
    hidden = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    arrays = {name: tensor.numpy() for name, tensor in link.arrays().items()}
    arrays |= {"score": np.zeros((WIDTH, 1)), "score_bias": np.zeros(1)}
    rung = Rung(budget=budget, temperatures={}, accuracy=0.5, token_bytes=1.0)
    served = ThinLink(LinkEntry(split_point=1, file="f", rungs=(rung,)), arrays)

    sent = served.shrink(hidden[0].numpy(), budget)

    assert sent.shape == (5, budget)
    trained = link(hidden, torch.ones(1, 5), budget)[0].detach().numpy()
    np.testing.assert_allclose(served.restore(sent), trained, atol=1e-5)


@pytest.mark.parametrize("name", ["int8", "int4", "graded"])
def test_the_rounding_that_is_trained_is_the_codec_s(name: str) -> None:
    thin = torch.randn(7, 32, generator=torch.Generator().manual_seed(3)) * torch.arange(1, 33)
    padded = torch.cat([thin, torch.zeros(2, 32)])

    trained = rounded(padded[None], name)[0, :7].numpy()

    through = codec(name)
    served = through.decode(through.encode(thin.numpy()))
    np.testing.assert_allclose(trained, served, atol=2e-3 * float(thin.abs().max()))  # half-precision scales


def test_an_archive_keeps_eight_binary_digits_in_less_space() -> None:
    numbers = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float16)

    kept = coarse(numbers)

    assert np.abs(kept.astype(np.float32) / numbers - 1).max() <= 2.0**-8
    assert len(archive({"encoder": kept})) < 0.8 * numbers.nbytes
    with np.load(io.BytesIO(archive({"encoder": kept})), allow_pickle=False) as read:
        np.testing.assert_array_equal(read["encoder"], kept)


def test_gradients_are_masked_as_the_values_are() -> None:
    link = a_link()

    link(torch.ones(1, 2, WIDTH), torch.ones(1, 2), 3).sum().backward()

    moved = [place for place in range(8) if link.decoder.grad[place].abs().sum() > 0]
    assert sorted(moved) == sorted(link.order()[:3].tolist()) == [1, 3, 7]
    assert [place for place in range(8) if link.worth.grad[place] != 0] == [1, 3, 7]


def test_the_bowl_is_lowest_where_the_gates_sum_to_the_budget() -> None:
    bowl = Bowl(weight=1.0, steepness=0.5)
    losses = [float(bowl.loss(torch.full((10,), total / 10), 4)) for total in (2.0, 3.0, 4.0, 5.0, 6.0)]

    assert losses.index(min(losses)) == 2
    assert losses[0] == pytest.approx(losses[4])


def test_a_reset_keeps_what_is_open_and_lets_the_rest_compete() -> None:
    link = a_link()

    link.reset(1.0, torch.Generator().manual_seed(0))

    worth = link.worth.tolist()
    assert [worth[place] for place in (0, 1, 2, 3, 5, 7)] == [15.0] * 6
    assert all(0 <= worth[place] <= 1 for place in (4, 6))


def test_recipes_close_or_open() -> None:
    prune, deprune = (course(name, (4, 8, 12), steps=100, seed=1) for name in ("prune", "deprune"))

    assert [prune.at(step).budgets for step in (0, 50, 99)] == [(12,), (12, 8), (12, 8, 4)]
    assert [(deprune.at(step).budgets, deprune.at(step).reset) for step in (0, 45, 99)] == [
        ((4,), None),
        ((8, 4), 1.0),
        ((12, 8, 4), 1.0),
    ]
    assert Course(phases=(Phase(budgets=(4,), share=1.0),), from_axes=True).at(10_000).budgets == (4,)


def test_a_bundle_is_compressed_and_its_budgets_are_measured(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data, out = tiny_bundle.parent / "run", tiny_bundle.parent / "train.tsv", tmp_path / "thin"
    words = ["compress", run, "--bundle", tiny_bundle, "--train", data, "--out", out, "--budgets", "2,8,15"]
    app(["model", *map(str, words), "--steps", "30", "--json"], standalone_mode=False)

    bundle = open_bundle(out)
    links = open_thin_links(bundle)
    kept_back = read_examples(run / "kept_back.jsonl")
    labels = np.array(kept_back.label_indices(bundle.manifest.labels))
    standing = bring(bundle, [(text, None) for text in kept_back.texts])
    promised = {entry.split_point: entry.rungs[-1] for entry in read_table(bundle).links}

    assert set(links) == {1, 2}
    assert f"| 15 | {promised[1].accuracy:.2%}" in bundle.path("MODEL_CARD.md").read_text(encoding="utf-8")
    for point, stood in standing.items():
        logits = Behind(bundle, point, links[point]).logits(stood.states, Thinness(codec="graded", budget=15))
        assert (logits[-1].argmax(axis=1) == labels).mean() == pytest.approx(promised[point].accuracy, abs=1e-4)
        assert promised[point].accuracy > 0.9

    _check_live_is_evaluated(bundle, standing[1])

    capsys.readouterr()
    app(["evaluate", "--bundle", str(out), "--data", str(data), "--allow-seen", "--codec", "all", "--json"],
        standalone_mode=False)  # fmt: skip
    found = json.loads(capsys.readouterr().out)["codecs"]
    assert found["float32"]["1"]["drop_points"] == found["tokens"]["0"]["drop_points"] == 0
    assert found["tokens"]["0"]["bytes_per_request"] < found["int4"]["0"]["bytes_per_request"] / 2
    assert found["graded-b8-t0.5"]["1"]["bytes_per_request"] < found["int8"]["1"]["bytes_per_request"]
    assert set(found["int8"]["1"]) == {"accuracy", "drop_points", "interval", "bytes_per_request"}


def _check_live_is_evaluated(bundle: Bundle, stood: Standing) -> None:
    """Behind a budget a tier exits where the evaluation says, by the budget's own temperatures and thresholds."""
    pipeline = Pipeline(bundle, choose_policy(bundle), depth=3)
    link, thinness = pipeline.links[1], Thinness(codec="graded", budget=8)
    rung = link.rung(8)
    logits = Behind(bundle, 1, link).logits(stood.states, thinness)
    thinned = behind_link(read_calibration(bundle), 1, logits, rung.temperatures)
    evaluated = simulate(ConfidenceCascade(thresholds=rung.thresholds), thinned, bundle.manifest.depths)
    escalation = Escalation(bundle.manifest, "graded", links=pipeline.links, chooser=Always(thinness, pipeline.links))

    live = []
    for hidden in stood.states:
        message = escalation.pack("r", "d", State(hidden_states=hidden, layers_run=1), budget_ms=1.0, hops=())
        (verdict,) = pipeline.advance([unpack_state(message, bundle.manifest, pipeline.links)])
        assert isinstance(verdict, Exited)
        live.append(verdict.layer)

    assert set(rung.thresholds) == {2}
    np.testing.assert_array_equal(live, np.array(thinned.exits)[evaluated.exits])


def test_another_run_s_bundle_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["compress", tiny_bundle.parent / "run", "--bundle", "shipped", "--train", "x.tsv", "--out", tmp_path / "o"]

    with pytest.raises(Exception, match=r"x\.tsv"):
        app(["model", *map(str, words)], standalone_mode=False)
