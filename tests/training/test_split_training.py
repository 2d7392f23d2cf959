"""Split training: two parts over a transport learn what one machine learns, and move what they say they move."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'dimee[train]'")

from cloud_worker.training.backbones import load_backbone, load_tokenizer  # noqa: E402 - behind the check for torch
from cloud_worker.training.batches import EncodedTexts  # noqa: E402
from cloud_worker.training.losses import Objective, exit_loss  # noqa: E402
from cloud_worker.training.network import MultiExitNetwork  # noqa: E402
from cloud_worker.training.recipe import exit_weights  # noqa: E402
from cloud_worker.training.split_over import TrainingDevice, TrainingServer  # noqa: E402
from cloud_worker.training.split_parts import DevicePart, ServerPart, SplitPlan  # noqa: E402
from common.errors import WireError  # noqa: E402
from common.transport.loopback import LoopbackBroker, LoopbackTransport  # noqa: E402
from common.wire.activations import codec  # noqa: E402
from common.wire.tensors import pack, unpack  # noqa: E402
from common.wire.topics import Topics  # noqa: E402
from common.wire.training import Activations, Learned, decode_training, encode_training  # noqa: E402

pytestmark = pytest.mark.train
STEPS = 12
TOLERANCE = 2e-5  # of a loss and of a weight, absolute: sums are made in another order


def network(directory: Path) -> MultiExitNetwork:
    """The same weights every time; dropout off."""
    torch.manual_seed(3)
    return MultiExitNetwork(load_backbone(str(directory)), 2).eval()


@pytest.fixture
def texts(backbone: Any, reviews: Any) -> EncodedTexts:
    tokenizer = load_tokenizer(str(backbone.directory))
    return EncodedTexts(reviews.draw(160), ("0", "1"), tokenizer=tokenizer, pad_id=0, max_tokens=32)


@pytest.fixture
def device(backbone: Any) -> Iterator[Callable[..., TrainingDevice]]:
    """Start both parts on the in-process broker, each with a network of its own."""
    broker, stopping, threads = LoopbackBroker(), threading.Event(), []
    with LoopbackTransport(broker, client_id="device") as near, LoopbackTransport(broker, client_id="server") as far:

        def start(plan: SplitPlan) -> TrainingDevice:
            server = TrainingServer(ServerPart(network(backbone.directory), plan), far, Topics("t"))
            threads.append(threading.Thread(target=server.run, args=(stopping.is_set,)))
            threads[-1].start()
            return TrainingDevice(DevicePart(network(backbone.directory), plan), near, Topics("t"))

        yield start
        stopping.set()
        for thread in threads:
            thread.join()


def batches(texts: EncodedTexts) -> list[list[int]]:
    return [rows for epoch in range(3) for rows in texts.shuffled(16, 1, epoch)][:STEPS]


def on_one_machine(whole: MultiExitNetwork, texts: EncodedTexts, plan: SplitPlan) -> list[float]:
    """Train the unsplit network with the product's own joint loss."""
    layers = whole.num_layers
    heads = list(whole.heads.parameters())
    others = [*whole.backbone.embeddings.parameters(), *whole.backbone.layers.parameters()]
    groups = [{"params": others, "lr": plan.learning_rate}, {"params": heads, "lr": plan.head_learning_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    objective = Objective(exits=tuple(range(1, layers + 1)), weights=exit_weights(layers))
    losses = []
    for rows in batches(texts):
        batch = texts.batch(rows)
        loss = exit_loss(whole(batch, objective.exits), batch.labels, None, objective)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_two_parts_learn_step_by_step_what_one_machine_learns(
    device: Callable[..., TrainingDevice], texts: EncodedTexts, backbone: Any
) -> None:
    plan, whole, found = SplitPlan(split_point=1), network(backbone.directory), []
    parted = device(plan)

    expected = on_one_machine(whole, texts, plan)
    parted.train(texts, batches(texts), found.append)

    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert expected[-1] < expected[0]
    near = parted._part._network
    for layer in range(plan.split_point):
        for mine, theirs in zip(
            near.backbone.layers[layer].parameters(), whole.backbone.layers[layer].parameters(), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("codec_name", "budget", "fewer"), [("int8", 0, 3), ("int8", 8, 4), ("int4", 0, 4)])
def test_compressed_both_ways_it_still_learns(
    texts: EncodedTexts, backbone: Any, *, codec_name: str, budget: int, fewer: float
) -> None:
    plan = SplitPlan(split_point=1, codec=codec_name, budget=budget)
    near, far = (kind(network(backbone.directory), plan) for kind in (DevicePart, ServerPart))
    width, losses = near._network.backbone.hidden_size, []
    if near.is_thin:
        near.open_link(texts.batch(range(len(texts))))

    for step, rows in enumerate(batches(texts)):
        message = near.send(texts.batch(rows), step)
        learned = far.answer(message)
        losses.append(near.learn(learned))
        for each in (message.tensors, learned.tensors):
            assert 4 * sum(message.lengths) * width >= fewer * sum(len(tensor.data) for tensor in each)

    assert sum(losses[-4:]) < sum(losses[:4])


def test_a_link_begins_with_principal_axes_that_the_server_is_sent_once(
    device: Callable[..., TrainingDevice], texts: EncodedTexts, backbone: Any
) -> None:
    parted = device(SplitPlan(split_point=1, budget=8, link_learning_rate=0.0))
    near = parted._part

    parted.train(texts, batches(texts)[:1], lambda _loss: None)

    assert near._encoder is not None
    tokens, _ = DevicePart(network(backbone.directory), SplitPlan(split_point=1))._run(texts.batch(range(len(texts))))
    left_out = tokens - tokens @ near._encoder @ near._encoder.T
    spectrum = torch.linalg.svdvals(tokens)  # no 8 directions leave less out (Eckart and Young 1936)
    assert left_out.square().sum().item() == pytest.approx(spectrum[8:].square().sum().item(), rel=1e-3)
    assert near.send(texts.batch([0]), 1).axes == ()


def test_axes_that_do_not_fit_or_come_again_are_refused(backbone: Any, texts: EncodedTexts) -> None:
    near, far = (
        kind(network(backbone.directory), SplitPlan(split_point=1, budget=8)) for kind in (DevicePart, ServerPart)
    )
    near.open_link(texts.batch(range(len(texts))))
    message = near.send(texts.batch([0, 1]), 0)
    narrow = msgspec.structs.replace(message, axes=(pack(unpack(message.axes[0])[:, :-1]),))

    with pytest.raises(WireError, match="do not fit"):
        far.answer(narrow)
    with pytest.raises(WireError, match="fit"):
        far.answer(msgspec.structs.replace(message, axes=()))
    far.answer(message)
    with pytest.raises(WireError, match="begun before"):
        far.answer(message)


def test_a_step_that_comes_again_is_learned_once(backbone: Any, texts: EncodedTexts) -> None:
    plan, broker = SplitPlan(split_point=1), LoopbackBroker()
    server_part = ServerPart(network(backbone.directory), plan)
    with LoopbackTransport(broker, client_id="s") as transport:
        server = TrainingServer(server_part, transport, Topics("t"))
        message = DevicePart(network(backbone.directory), plan).send(texts.batch([0, 1]), 7)
        payload = encode_training(message)

        for _ in range(2):
            transport.publish(Topics("t").training("up"), payload)
            delivery = server._inbox.get(timeout=60)
            assert delivery is not None
            server._answer(delivery)

    (group, *_) = server_part._optimizer.param_groups
    assert {int(server_part._optimizer.state[weight]["step"]) for weight in group["params"]} == {1}


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": (3, 3)},
        {"labels": (0,)},
        {"labels": (0, 9)},
        {"tensors": codec("float32").encode(torch.ones(4, 5).numpy())},
        {"codec": "int9"},
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_learned(backbone: Any, changes: dict[str, Any]) -> None:
    part = ServerPart(network(backbone.directory), SplitPlan(split_point=1))
    width = part._network.backbone.hidden_size
    fields: dict[str, Any] = {
        "step": 0,
        "codec": "float32",
        "tensors": codec("float32").encode(torch.ones(4, width).numpy()),
        "lengths": (2, 2),
        "labels": (0, 1),
    }

    with pytest.raises(WireError):
        part.answer(Activations(**{**fields, **changes}))

    assert not part._optimizer.state


def test_training_messages_come_back_as_they_left_and_others_are_refused() -> None:
    learned = Learned(step=1, codec="int8", scale=4.0, tensors=(), loss=0.5, predictions=(1, 0))

    assert decode_training(encode_training(learned)) == learned
    with pytest.raises(WireError):
        decode_training(encode_training(learned)[:-1])
