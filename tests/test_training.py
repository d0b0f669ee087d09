"""training.train: the paper's alternating updates (Sec. 4, 5.1), and that a stopped training ends
as an undisturbed one.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.optim.swa_utils import update_bn

from semlib import auxiliary, metrics, models, training
from semlib.datasets import ImageSet
from workbench.checkpoint import Checkpoint
from workbench.experiment import create

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 8
SETTINGS = {
    "architecture": "wrn-10-1",
    "dropout": 0.3,
    "norm_batch": None,
    "epochs": 4,
    "batch_size": 32,
    "evaluate_every": 1,
}
LOSSES = {"classification": None, "rotation": auxiliary.rotation}


def experiment(**changes):
    return create(SETTINGS | changes)


def noise(count: int = 96, channels: int = 1) -> ImageSet:
    images = np.random.default_rng(0).integers(
        0, 256, (count, channels, SIDE, SIDE), dtype=np.uint8
    )
    return ImageSet(images, np.arange(count, dtype=np.int64) % 3)


def network(heads=None, seed: int = 0, dropout: float = 0.3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build("wrn-10-1", 3, (1, SIDE, SIDE), dropout, heads, mean=[0.5], std=[0.25])


def train(how=None, method="classification", data=None, **options):
    """(state of the trained network, history without seconds)."""
    loss = LOSSES.get(method, method)
    net = network(getattr(loss, "heads", None))
    options = {
        "evaluate": lambda epoch: {"probe": float(net.stem.weight.detach().double().sum())}
    } | options
    how = how or experiment()
    often = {"evaluate_every": how.evaluate_every, "checkpoint_every": how.checkpoint_every}
    history = training.train(
        net, noise() if data is None else data, how.training, loss, **often | options
    )
    return net.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def identical(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- arithmetic


def test_in_bfloat16_each_pass_computes_with_the_weights_that_the_last_step_left():
    """Inside one autocast block the bfloat16 copies of the weights would be the old ones; a copied
    network has none.
    """
    net, passes = network({"rotation": 4}, dropout=0.0), []

    def check(module, inputs, options, output):
        fresh = copy.deepcopy(module)
        fresh._forward_hooks.clear()
        passes.append(torch.equal(fresh(*inputs, **options), output))

    net.register_forward_hook(check, with_kwargs=True)
    training.train(
        net, noise(), experiment(epochs=1, dropout=0.0), auxiliary.rotation, autocast=True
    )
    assert passes == [True] * 6


@pytest.mark.parametrize("weight", [0.5, 1.0, 0.0])
def test_epoch_equals_a_literal_loop(weight, device):
    """Nesterov momentum 0.9 and weight decay 5e-4 written out by hand; auxiliary step, weighted,
    then class step.
    """
    data, batch = noise(), 32
    rates = iter((0.1, 0.02, 0.004))  # step schedule: 0, 1/3 and 2/3 of all steps done
    how = experiment(epochs=1, dropout=0.0, crop_padding=0, flip=False, auxiliary_weight=weight)
    net = network({"rotation": 4}, dropout=0.0)
    literal = copy.deepcopy(net).train()
    training.train(net, data, how, auxiliary.rotation, seed=5, device=device)

    momenta = {"auxiliary": {}, "class": {}}  # two optimisers, each with momenta of its own

    def update(task, loss, rate):
        literal.zero_grad(set_to_none=True)
        loss.backward()
        for name, w in literal.named_parameters():
            if w.grad is None:  # the other task's head
                continue
            g = w.grad + 5e-4 * w.detach()
            v = momenta[task][name] = (
                g if name not in momenta[task] else 0.9 * momenta[task][name] + g
            )
            w.data -= rate * (g + 0.9 * v)

    order = torch.randperm(
        len(data), generator=torch.Generator(device).manual_seed(5), device=device
    )
    for index in order.cpu().numpy().reshape(-1, batch):
        rate = next(rates)
        turned = np.stack(
            [
                np.rot90(image, k, (1, 2))
                for image in data.images[index[: batch // 4]]
                for k in range(4)
            ]
        )
        logits = literal(torch.tensor(turned / 255, dtype=torch.float32), head="rotation")
        update(
            "auxiliary",
            weight * F.cross_entropy(logits, torch.tensor([0, 1, 2, 3] * (batch // 4))),
            rate,
        )
        logits = literal(torch.tensor(data.images[index] / 255, dtype=torch.float32))
        update("class", F.cross_entropy(logits, torch.tensor(data.labels[index])), rate)

    start = network({"rotation": 4}, dropout=0.0).state_dict()
    for name, value in literal.state_dict().items():
        torch.testing.assert_close(
            net.state_dict()[name].cpu(),
            value,
            rtol=1e-4,
            atol=2e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )
        if "weight" in name:
            assert not torch.equal(value, start[name])


@pytest.mark.parametrize("method", LOSSES)
def test_each_task_leaves_the_others_head(method):
    """Snapshots before each forward pass: a rotation step lies before a class pass, a class step
    before a rotation pass.
    """
    loss = LOSSES[method]
    net = network(getattr(loss, "heads", None))
    seen = []

    def snapshot(module, inputs, options):
        heads = {name: head.weight.detach().clone() for name, head in net.heads.items()}
        seen.append((options.get("head", "classification"), heads))

    net.register_forward_pre_hook(snapshot, with_kwargs=True)
    training.train(net, noise(), experiment(epochs=2), loss)
    if loss is None:
        assert {task for task, _ in seen} == {"classification"}
        assert not [name for name in net.state_dict() if "rotation" in name]
        return
    assert [task for task, _ in seen] == ["rotation", "classification"] * 6
    for (task, before), (_, after) in itertools.pairwise(seen):
        other = {"rotation": "classification", "classification": "rotation"}[task]
        assert torch.equal(before[other], after[other])
        assert not torch.equal(before[task], after[task])


def rates(**changes):
    """The learning rate of every optimiser step."""
    seen = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )
    try:
        train(experiment(**changes), data=noise(64), evaluate=None)
    finally:
        handle.remove()
    return seen


def test_step_schedule_is_the_papers():
    epochs, wanted = (
        (0, 59, 60, 119, 120, 159, 160, 199),
        (0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008),
    )
    assert [0.1 * training.rate_factor("step", epoch / 200) for epoch in epochs] == pytest.approx(
        wanted, rel=1e-12
    )
    late = 0.1 * training.rate_factor("step", (59 + 0.999) / 200)  # the last step of epoch 60
    assert late == 0.1
    assert rates(epochs=10) == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 4 + [0.0008] * 4)


def test_one_cycle_rises_then_falls_to_near_zero():
    seen = rates(epochs=20, schedule="one_cycle", learning_rate=0.4)
    peak = int(np.argmax(seen))
    assert seen[:peak] == sorted(seen[:peak]) and seen[peak:] == sorted(seen[peak:], reverse=True)
    assert 0 < peak < 20 and seen[peak] == pytest.approx(0.4) and max(seen[0], seen[-1]) < 0.02


def test_incomplete_last_batch_is_dropped():
    sizes = []
    net = network()
    net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    training.train(net, noise(95), experiment(epochs=2))
    assert sizes == [32, 32] * 2
    with pytest.raises(ValueError, match="batch_size = 32 is more than the 31 training images"):
        training.train(network(), noise(31), experiment())


def test_user_auxiliary_gets_its_share_of_the_batch():
    seen = []

    def loss(net, images):
        seen.append(len(images))
        return net(images, head="mine").square().mean()

    loss.heads, loss.share = {"mine": 2}, 2
    state, history = train(method=loss)
    assert seen == [16] * 12 and "heads.mine.weight" in state and "auxiliary_loss" in history[0]


# --- augmentation


def windows(image: np.ndarray, padding: int, flip: bool) -> dict[bytes, tuple]:
    """Every view of an image that augmentation may make, with its place."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    places = itertools.product(
        range(2 * padding + 1), range(2 * padding + 1), (False, True) if flip else (False,)
    )
    cut = {p: padded[:, p[0] : p[0] + SIDE, p[1] : p[1] + SIDE] for p in places}
    return {
        np.ascontiguousarray(view[:, :, ::-1] if p[2] else view).tobytes(): p
        for p, view in cut.items()
    }


@pytest.mark.parametrize(
    ("padding", "flip"), [(0, False), (0, True), (2, False), (2, True), (None, True)]
)
@pytest.mark.parametrize("augmented", [False, True])
def test_crops_and_flips_are_as_set(padding, flip, augmented):
    data = noise()
    views = {key: (n, place) for n, image in enumerate(data.images)
             for key, place in windows(image, SIDE // 8 if padding is None else padding, flip).items()}  # fmt: skip
    upright = {image.tobytes(): n for n, image in enumerate(data.images)}
    seen = {"classification": [], "mine": []}

    def see(module, inputs, options):
        images = (inputs[0] * 255).round().to(torch.uint8).numpy()
        seen[options.get("head", "classification")] += [
            np.ascontiguousarray(image).tobytes() for image in images
        ]

    def loss(net, images):
        return net(images, head="mine").square().mean()

    loss.heads = {"mine": 2}
    net = network(loss.heads)
    net.register_forward_pre_hook(see, with_kwargs=True)
    training.train(
        net,
        data,
        experiment(crop_padding=padding, flip=flip, auxiliary_augment=augmented, epochs=7),
        loss,
    )
    places = [views[key] for key in seen["classification"]]  # KeyError: a view that may not be
    assert sorted(n for n, _ in places[:96]) == list(range(96))  # an epoch is every image once
    assert {place for _, place in places} == {
        place for _, place in views.values()
    }  # and every place occurs
    assert ({key in upright for key in seen["mine"]} == {True}) == (
        not augmented or (padding == 0 and not flip)
    )
    assert all(key in views for key in seen["mine"])


def test_crops_of_crop_side_are_cut_from_the_image_and_an_upright_one_is_its_centre():
    """Every pixel is its own place."""
    places = np.arange(100, dtype=np.uint8).reshape(1, 1, 10, 10).repeat(96, 0)
    net, seen = network({"mine": 2}), {"classification": set(), "mine": set()}

    def see(module, inputs, options):
        assert inputs[0].shape[2:] == (8, 8)
        seen[options.get("head", "classification")] |= set(
            (inputs[0][:, 0, 0, 0] * 255).round().int().tolist()
        )

    net.register_forward_pre_hook(see, with_kwargs=True)
    how = experiment(crop_side=8, flip=False)
    training.train(
        net,
        ImageSet(places, noise().labels),
        how,
        lambda net, images: net(images, head="mine").square().mean(),
    )
    assert seen == {
        "classification": {10 * top + left for top in range(3) for left in range(3)},
        "mine": {11},
    }


def test_a_transform_is_of_classifications_images_alone():
    net, seen = network({"rotation": 4}), {"classification": set(), "rotation": set()}
    net.register_forward_pre_hook(
        lambda module, inputs, options: seen[options.get("head", "classification")].update(
            inputs[0].unique().tolist()
        ),
        with_kwargs=True,
    )
    grey = {"transform": lambda images, generator: torch.full_like(images, 0.75)}
    training.train(net, noise(), experiment(epochs=1).training, auxiliary.rotation, **grey)
    assert seen["classification"] == {0.75} and len(seen["rotation"]) > 200


# --- history


def test_the_history_has_each_tasks_mean_loss_over_the_epoch_unweighted():
    """At next to no learning rate every image keeps its loss; the auxiliary loss is 1, 2, 3, ... in
    turn.
    """
    data, steps = noise(), itertools.count(1)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 3))
    expected = F.cross_entropy(
        net(torch.tensor(data.images / 255, dtype=torch.float32)), torch.tensor(data.labels)
    ).item()
    how = experiment(
        epochs=2, learning_rate=1e-12, crop_padding=0, flip=False, auxiliary_weight=0.5
    )
    history = training.train(
        net,
        data,
        how,
        lambda net, images: 0 * net(images).sum() + next(steps),
        evaluate=lambda epoch: {},
        evaluate_every=1,
    )
    assert [row["loss"] for row in history] == pytest.approx([expected, expected], rel=1e-5)
    assert [row["auxiliary_loss"] for row in history] == [2, 5]


# --- randomness


def test_seed_decides_and_the_callers_random_state_is_left():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, _ = train(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, _ = train(seed=1)
    other, _ = train(seed=2)
    assert identical(first, again) and not torch.equal(first["stem.weight"], other["stem.weight"])


def test_every_epoch_has_an_order_and_dropout_of_its_own():
    """Every image is a grey of its own."""
    data = ImageSet(
        np.arange(96, dtype=np.uint8).repeat(SIDE * SIDE).reshape(96, 1, SIDE, SIDE), noise().labels
    )
    net, orders, kept = network(), [], []
    net.register_forward_pre_hook(
        lambda module, given: orders.append((given[0][:, 0, 0, 0] * 255).round().tolist())
    )
    dropout = next(module for module in net.modules() if isinstance(module, torch.nn.Dropout))
    dropout.register_forward_hook(
        lambda module, given, found: kept.append((given[0] != 0, found != 0))
    )
    training.train(net, data, experiment(epochs=2, batch_size=96))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(96)) and orders[0] != orders[1]
    both = kept[0][0] & kept[1][0]  # else it is zero without dropout
    assert not torch.equal(kept[0][1][both], kept[1][1][both])


def test_dropout_follows_the_seed():
    """All images are equal, so that their order makes no difference."""
    same = ImageSet(np.full((32, 1, SIDE, SIDE), 90, np.uint8), np.zeros(32, np.int64))
    first, again, other = (
        train(experiment(epochs=1), data=same, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert identical(first, again) and not identical(first, other)


@pytest.mark.parametrize("method", LOSSES)
def test_evaluating_more_often_changes_nothing(method):
    often, history = train(experiment(evaluate_every=1), method)
    seldom, last = train(experiment(evaluate_every=3), method)
    never, nothing = train(experiment(), method, evaluate=None)
    assert identical(often, seldom) and identical(often, never)
    assert (
        [row["epoch"] for row in history] == [1, 2, 3, 4]
        and [row["epoch"] for row in last] == [3, 4]
        and not nothing
    )
    assert history[2:] == last


# --- resume


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2])
def test_resumed_training_is_bit_identical(tmp_path, threads, count, bfloat16, method):
    threads(count)
    whole, history = train(method=method, autocast=bfloat16)
    net, evaluated, kept = None, [], Checkpoint(tmp_path / "checkpoint.pt")

    def attempt(stop):
        nonlocal net
        seed = stop if kept.path.exists() else 0  # the checkpoint's weights count, not these
        net = network(getattr(LOSSES[method], "heads", None), seed)

        def evaluate(epoch):
            evaluated.append(epoch)
            if epoch == stop:
                raise KeyboardInterrupt
            return {"probe": float(net.stem.weight.detach().double().sum())}

        torch.manual_seed(1000 + stop)  # nor does the caller's random state
        options = {
            "autocast": bfloat16,
            "evaluate": evaluate,
            "checkpoint": kept,
            "evaluate_every": 1,
        }
        return training.train(net, noise(), experiment(), LOSSES[method], **options)

    for stop in (1, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            attempt(stop)
    resumed = attempt(9)
    assert evaluated == [
        1,
        1,
        2,
        2,
        3,
        4,
        4,
    ]  # it did go on, from the epoch after the last checkpoint
    assert identical(net.state_dict(), whole)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in resumed] == history
    assert [row["seconds"] for row in resumed] == sorted(row["seconds"] for row in resumed)
    assert attempt(9) == resumed and identical(
        net.state_dict(), whole
    )  # resumed after its last epoch


@pytest.mark.parametrize("every", [2, 3])
def test_resumed_from_seldom_checkpoints(tmp_path, every):
    how = experiment(checkpoint_every=every, epochs=5)
    whole, _ = train(how)
    stopped = {"checkpoint": Checkpoint(tmp_path / "c.pt")}

    def stop(epoch):
        if epoch == 4:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        train(how, evaluate=stop, **stopped)
    seen = []
    resumed, _ = train(how, evaluate=lambda epoch: seen.append(epoch) or {}, **stopped)
    assert identical(whole, resumed) and seen[0] == every * (
        4 // every
    )  # of which the checkpoint has no measures yet
    seen.clear()
    finished, _ = train(how, evaluate=lambda epoch: seen.append(epoch) or {}, **stopped)
    assert identical(whole, finished) and seen == [
        5
    ]  # the last epoch has a checkpoint, whatever checkpoint_every


def test_a_checkpoint_of_other_data_is_named_and_not_used(tmp_path, capsys):
    path = tmp_path / "run" / "checkpoint.pt"
    train(seed=7, checkpoint=Checkpoint(path, {"address": "a", "data": "b"}))
    capsys.readouterr()
    state, history = train(seed=1, checkpoint=Checkpoint(path, {"address": "a", "data": "c"}))
    said = "".join(capsys.readouterr())
    assert identical(state, train(seed=1)[0]) and len(history) == 4
    assert all(
        f"{name} in run was made by other settings or on other data" in said for name in CHECKPOINTS
    )


CHECKPOINTS = ("checkpoint.pt", "checkpoint.before.pt")
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "not a checkpoint": lambda path: torch.save({"epoch": 1}, path),
}


@pytest.mark.parametrize("count", [1, 2], ids=["newest", "both"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, capsys, damage, count):
    path = tmp_path / "run" / "checkpoint.pt"
    whole, _ = train(seed=1, checkpoint=Checkpoint(path))
    files = Checkpoint(path).files
    assert [file.name for file in files] == list(CHECKPOINTS)
    for file in files[:count]:
        DAMAGES[damage](file)
    capsys.readouterr()
    seen = []
    state, _ = train(
        seed=1, checkpoint=Checkpoint(path), evaluate=lambda epoch: seen.append(epoch) or {}
    )
    said = "".join(capsys.readouterr())
    assert identical(state, whole) and seen == ([3, 4] if count == 1 else [1, 2, 3, 4])
    assert [f"{name} in run can't be read" in said for name in CHECKPOINTS] == [True, count == 2]


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_a_checkpoint_that_can_not_be_read_at_the_moment_stays(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    train(checkpoint=(kept := Checkpoint(tmp_path / "c.pt")))
    monkeypatch.setattr("workbench.checkpoint.zipfile.ZipFile", fail)
    assert kept.restore(network(), {}, torch.Generator()) is None and all(
        file.exists() for file in kept.files
    )


def test_another_machine_goes_on_and_says_so(tmp_path, capsys):
    train(checkpoint=Checkpoint(tmp_path / "c.pt", machine={"threads": 1}))
    capsys.readouterr()
    seen = []
    train(
        checkpoint=Checkpoint(tmp_path / "c.pt", machine={"threads": 2}),
        evaluate=lambda epoch: seen.append(epoch) or {},
    )
    said = "".join(capsys.readouterr())
    assert seen == [4] and "{'threads': 2}" in said and "{'threads': 1}" in said


@pytest.mark.parametrize("method", LOSSES)
def test_a_loss_that_is_not_finite_is_an_error_that_says_where(tmp_path, method):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d of 3, learning rate 1e\+12"):
        train(experiment(learning_rate=1e12), method, checkpoint=Checkpoint(path))
    assert not path.exists()  # nothing to resume that is broken already


# --- upright statistics


def statistics(net) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers() if "running" in name}


def test_upright_statistics_are_those_of_all_training_images_in_one_batch():
    """Against torch's own update_bn; the first norm's input is the stem's output, written out.
    Everything is restored.
    """
    data, net = noise(), network(dropout=0.0)
    training.train(net, data, experiment(epochs=2))
    net.eval()
    before = copy.deepcopy(net.state_dict())
    images = torch.tensor(data.images / 255, dtype=torch.float32)
    with metrics.upright(net, data.images) as same, torch.no_grad():
        assert same is net and not any(module.training for module in net.modules())
        first, found = net.stem((images - net.mean) / net.std), statistics(net)
    torch.testing.assert_close(
        found["blocks.0.norm1.running_mean"], first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        found["blocks.0.norm1.running_var"], first.var((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    assert identical(net.state_dict(), before) and net.blocks[0].norm1.momentum == 0.1
    assert not any(module.training for module in net.modules())
    update_bn([images], net)
    for name, buffer in statistics(net).items():
        torch.testing.assert_close(found[name], buffer, rtol=1e-4, atol=1e-5)


def test_upright_statistics_do_not_depend_on_chance_or_on_norm_batch_and_hardly_on_the_order():
    """Images sorted by class: of consecutive batches each would be of one class, and the variance
    too small.
    """
    pixels = (
        np.random.default_rng(0).integers(0, 60, (900, 1, SIDE, SIDE))
        + np.arange(900)[:, None, None, None] // 300 * 90
    )
    images, net = pixels.astype(np.uint8), network()
    found = []
    for order in (np.arange(900), np.arange(900), np.random.default_rng(1).permutation(900)):
        for norm_batch in (None, 64):
            for norm in net.modules():
                if hasattr(norm, "norm_batch"):
                    norm.norm_batch = norm_batch
            with metrics.upright(net, images[order]):
                found.append(statistics(net))
            assert (
                net.norm.norm_batch == net.blocks[0].norm1.norm_batch == norm_batch
            )  # training goes on with it
    assert all(identical(found[0], other) for other in found[1:4])
    for name, buffer in found[0].items():
        torch.testing.assert_close(buffer, found[4][name], rtol=0.05, atol=0.02)


def test_statistics_that_upright_images_do_not_reach_stay():
    """As of a user's network with normalisation of a task's own."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.other = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
            self.other.running_mean += 3

        def forward(self, images):
            return self.used(images).flatten(1)

    net = Two()
    with metrics.upright(net, noise().images):
        assert net.other.running_mean == 3 and net.used.running_mean != 0
    assert net.used.running_mean == 0


def test_float32_is_computed_without_tf32():
    """PyTorch's convolutions on a GPU have TF32 for a default; the settings can be read without
    one.
    """
    seen = {}

    def loss(net, images):
        cudnn = torch.backends.cudnn
        seen[autocast] = (
            cudnn.conv.fp32_precision == "ieee" if hasattr(cudnn, "conv") else not cudnn.allow_tf32
        )
        return net(images).sum() * 0

    for autocast in (False, True):
        how = experiment(epochs=1, batch_size=16).training
        training.train(network(), noise(16), how, loss, autocast=autocast)
    assert seen == {False: True, True: False}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and -m gpu")
def test_a_compiled_network_trains_to_what_another_does(monkeypatch):
    compiled, compile = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *given, **how: compiled.append(given) or compile(*given, **how)
    )
    start, trained = network({"rotation": 4}, dropout=0.0), []
    for so in (False, True):
        trained.append(copy.deepcopy(start))
        training.train(
            trained[-1],
            noise(),
            experiment(epochs=1),
            auxiliary.rotation,
            device="cuda",
            compile=so,
        )
        assert len(compiled) == so
    for (name, plain), same in zip(
        trained[0].state_dict().items(), trained[1].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            same, plain, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
