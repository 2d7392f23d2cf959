from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_worker.training.checkpoints import Checkpoints
from cloud_worker.training.loop import Schedule, Stage, autocast, predict
from cloud_worker.training.losses import Objective, distillation_loss, exit_loss, label_loss
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.progress import LogProgress

pytestmark = pytest.mark.train
LAYERS = 4
EVERY_EXIT = tuple(range(1, LAYERS + 1))
OBJECTIVE = Objective(exits=EVERY_EXIT, weights=(1.0,) * LAYERS)
SCHEDULE = Schedule(
    epochs=2,
    batch_size=8,
    learning_rate=1e-3,
    head_learning_rate=1e-2,
    average_share=0.2,
    checkpoint_steps=3,
    bfloat16=False,
)


def train(backbone: Any, reviews: Any, directory: Path, *, stop_after: int | None = None) -> MultiExitNetwork:
    network = backbone.network()
    stage = Stage(
        network,
        backbone.encode(reviews.draw(60)),
        objective=OBJECTIVE,
        schedule=SCHEDULE,
        checkpoints=Checkpoints(directory),
    )
    stage.run(LogProgress("test"), lambda _epoch: None, stop_after=stop_after)
    return network


@pytest.mark.parametrize("crash", [4, 8, 9, 13])
def test_a_resumed_run_ends_with_the_same_weights(backbone: Any, reviews: Any, tmp_path: Path, crash: int) -> None:
    straight = train(backbone, reviews, tmp_path / "straight")

    train(backbone, reviews, tmp_path / "crashed", stop_after=crash)
    torch.manual_seed(99)
    resumed = train(backbone, reviews, tmp_path / "crashed")

    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.ones(2, 2)

    for has_it, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has_it=has_it: has_it)
        with autocast(enabled=True):
            assert (matrix @ matrix).dtype == dtype


def test_training_teaches_every_exit(backbone: Any, reviews: Any, tmp_path: Path) -> None:
    network = backbone.network()
    Stage(
        network,
        backbone.encode(reviews.draw(400)),
        objective=OBJECTIVE,
        schedule=Schedule(epochs=4, learning_rate=1e-3, head_learning_rate=1e-2, batch_size=16, bfloat16=False),
        checkpoints=Checkpoints(tmp_path / "checkpoint"),
    ).run(LogProgress("test"), lambda _epoch: None)

    unseen = backbone.encode(reviews.draw(200, seed=1))
    right = predict(network, unseen, EVERY_EXIT).argmax(axis=2) == unseen.labels.numpy()

    assert right.mean(axis=1).min() > 0.9


def test_the_joint_loss_is_the_weighted_mean_of_the_exits() -> None:
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # [2, 1, 2]
    labels = torch.tensor([0])
    near, far = torch.log1p(torch.tensor(-2.0).exp()), torch.log1p(torch.tensor(1.0).exp())

    loss = exit_loss(logits, labels, None, Objective(exits=(1, 2), weights=(1.0, 3.0)))

    torch.testing.assert_close(label_loss(logits, labels), torch.stack([near, far]))
    torch.testing.assert_close(loss, (near + 3 * far) / 4)


def test_an_exit_that_says_what_the_teacher_says_has_nothing_to_learn() -> None:
    teacher = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    logits = torch.stack([teacher, teacher.flip(1)])

    same, other = distillation_loss(logits, teacher, temperature=2.0)

    assert same == pytest.approx(0.0, abs=1e-6)
    assert other > 0.1


def test_every_row_is_learnt_once_per_epoch(backbone: Any, reviews: Any) -> None:
    texts = backbone.encode(reviews.draw(70))

    batches = texts.shuffled(8, seed=5, epoch=0)

    assert sorted(row for batch in batches for row in batch) == list(range(70))
    assert batches == texts.shuffled(8, seed=5, epoch=0)
    assert batches != texts.shuffled(8, seed=5, epoch=1)
