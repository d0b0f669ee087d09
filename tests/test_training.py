"""training.train: the paper's alternating updates (Sec. 4, 5.1), and how training is resumed."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import identical
from torch.optim.optimizer import register_optimizer_step_pre_hook

from semlib import auxiliary, models
from semlib.datasets import ImageSet
from semlib.training import Recipe, train
from workbench.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 8
LOSSES = {"classification": None, "rotation": auxiliary.rotation}
every_method = pytest.mark.parametrize("method", LOSSES)
in_both_precisions = pytest.mark.parametrize("bfloat16", [False, True])
SMALL = {"epochs": 4, "batch_size": 32}


def noise(count: int = 96) -> ImageSet:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, SIDE, SIDE), dtype=np.uint8)
    return ImageSet(images, np.arange(count, dtype=np.int64) % 3)


def network(loss=None, seed: int = 0, dropout: float = 0.3):
    heads = getattr(loss, "heads", None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build("wrn-10-1", 3, (1, SIDE, SIDE), dropout, heads, mean=[0.5], std=[0.25])


def trained(net=None, data=None, loss=None, *, seed=0, resume=None, **settings):
    """(state_dict of the trained network, losses of each epoch)."""
    net = net or network(loss)
    states = train(net, data or noise(), Recipe(**SMALL | settings), loss, seed=seed, resume=resume)
    losses = [(state.epoch, state.loss, state.auxiliary_loss) for state in states]
    return net.state_dict(), losses


def seen_by(net) -> list[tuple[str, torch.Tensor]]:
    """Of each forward pass from now on the head and a copy of the images."""
    seen = []

    def see(module, inputs, options):
        seen.append((options.get("head", "classification"), inputs[0].clone()))

    net.register_forward_pre_hook(see, with_kwargs=True)
    return seen


def own_loss(net, images):
    return net(images, head="mine").square().mean()


own_loss.heads = {"mine": 2}

# --- arithmetic


@pytest.mark.parametrize("weight", [0.5, 1.0, 0.0])
def test_epoch_equals_a_literal_loop(weight, device):
    """Nesterov momentum 0.9 and weight decay 5e-4 written out; auxiliary step, then class step."""
    data = noise()
    batch = 32
    rates = iter((0.1, 0.02, 0.004))  # step schedule: 0, 1/3 and 2/3 of all steps done
    recipe = Recipe(1, batch, crop_padding=0, flip=False, auxiliary_weight=weight)
    net = network(auxiliary.rotation, dropout=0.0)
    literal = copy.deepcopy(net).train()
    start = copy.deepcopy(net.state_dict())
    list(train(net, data, recipe, auxiliary.rotation, seed=5, device=device))

    momenta = {"auxiliary": {}, "class": {}}  # two optimisers, each with momenta of its own

    def update(task, loss, rate):
        literal.zero_grad(set_to_none=True)
        loss.backward()
        for name, w in literal.named_parameters():
            if w.grad is None:  # the other task's head
                continue
            g = w.grad + 5e-4 * w.detach()
            v = g + 0.9 * momenta[task][name] if name in momenta[task] else g
            momenta[task][name] = v
            w.data -= rate * (g + 0.9 * v)

    generator = torch.Generator(device).manual_seed(5)
    order = torch.randperm(len(data), generator=generator, device=device).cpu().numpy()
    for index in order.reshape(-1, batch):
        rate = next(rates)
        turned = []
        for image in data.images[index[: batch // 4]]:
            turned += [np.rot90(image, k, (1, 2)) for k in range(4)]
        logits = literal(torch.tensor(np.stack(turned) / 255).float(), head="rotation")
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 3] * (batch // 4)))
        update("auxiliary", weight * loss, rate)
        logits = literal(torch.tensor(data.images[index] / 255).float())
        update("class", F.cross_entropy(logits, torch.tensor(data.labels[index])), rate)

    for name, value in literal.state_dict().items():
        found = net.state_dict()[name].cpu()
        torch.testing.assert_close(found, value, rtol=1e-4, atol=2e-5, msg=f"{name} differs")
        if "weight" in name:
            assert not torch.equal(value, start[name])


@every_method
def test_each_task_leaves_the_others_head(method):
    """Snapshots before each forward pass: between two of them lies the step of the first's task."""
    loss = LOSSES[method]
    seen = []
    net = network(loss)

    def snapshot(module, inputs, options):
        heads = {name: head.weight.detach().clone() for name, head in net.heads.items()}
        seen.append((options.get("head", "classification"), heads))

    net.register_forward_pre_hook(snapshot, with_kwargs=True)
    trained(net, loss=loss, epochs=2)
    if loss is None:
        assert {task for task, _ in seen} == {"classification"} == set(net.heads)
        return
    assert [task for task, _ in seen] == ["rotation", "classification"] * 6
    for (task, before), (_, after) in itertools.pairwise(seen):
        other = {"rotation": "classification", "classification": "rotation"}[task]
        assert torch.equal(before[other], after[other])
        assert not torch.equal(before[task], after[task])


def test_in_bfloat16_each_pass_computes_with_the_weights_that_the_last_step_left():
    """Inside one autocast block the bfloat16 copies of the weights would be the old ones."""
    net = network(auxiliary.rotation, dropout=0.0)
    passes = []

    def check(module, inputs, options, output):
        fresh = copy.deepcopy(module)  # which has no bfloat16 copies yet
        fresh._forward_hooks.clear()
        passes.append(torch.equal(fresh(*inputs, **options), output))

    net.register_forward_hook(check, with_kwargs=True)
    trained(net, loss=auxiliary.rotation, epochs=1, bfloat16=True)
    assert passes == [True] * 6


def test_float32_is_computed_without_tf32():
    """On a GPU convolutions have TF32 by default; the setting can be read without one."""
    seen = {}
    for bfloat16 in (False, True):

        def loss(net, images, bfloat16=bfloat16):
            cudnn = torch.backends.cudnn
            new = hasattr(cudnn, "conv")
            full = cudnn.conv.fp32_precision == "ieee" if new else not cudnn.allow_tf32
            seen[bfloat16] = full
            return net(images).sum() * 0

        trained(loss=loss, epochs=1, bfloat16=bfloat16)
    assert seen == {False: True, True: False}


def rates(**settings):
    """The learning rate of every optimiser step, two an epoch."""
    seen = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )
    try:
        trained(data=noise(64), **settings)
    finally:
        handle.remove()
    return seen


def test_schedules():
    """The paper's steps at 60, 120 and 160 of 200 epochs; one_cycle rises, then falls to near 0."""
    paper = [Recipe().rate(epoch) for epoch in (0, 59.999, 60, 119, 120, 159, 160, 199)]
    assert paper == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008], rel=1e-12)
    assert rates(epochs=10) == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 4 + [0.0008] * 4)
    seen = rates(epochs=20, schedule="one_cycle", learning_rate=0.4)
    peak = int(np.argmax(seen))
    assert seen[:peak] == sorted(seen[:peak]) and seen[peak:] == sorted(seen[peak:], reverse=True)
    assert 0 < peak < 20 and seen[peak] == pytest.approx(0.4) and max(seen[0], seen[-1]) < 0.02
    with pytest.raises(ValueError, match="unknown schedule 'cosine'; choose step or one_cycle"):
        Recipe(schedule="cosine")


def test_losses_are_means_over_the_epoch_unweighted():
    """At next to no learning rate every image keeps its loss; the auxiliary loss is 1, 2, 3, ..."""
    data = noise()
    steps = itertools.count(1)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 3))
    logits = net(torch.tensor(data.images / 255).float())
    expected = F.cross_entropy(logits, torch.tensor(data.labels)).item()
    still = {"epochs": 2, "learning_rate": 1e-12, "crop_padding": 0, "flip": False}
    _, losses = trained(net, data, lambda net, x: 0 * net(x).sum() + next(steps), **still)
    assert losses == [(k, pytest.approx(expected, rel=1e-5), mean) for k, mean in ((1, 2), (2, 5))]


@every_method
def test_a_loss_that_is_not_finite_is_an_error_that_says_where(method):
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d of 3, learning rate 1e\+12"):
        trained(loss=LOSSES[method], learning_rate=1e12)


# --- batches


def test_an_incomplete_last_batch_is_dropped_and_a_loss_may_take_a_share():
    def share(net, images):
        return own_loss(net, images)

    share.heads = own_loss.heads
    share.share = 2
    net = network(own_loss)
    seen = seen_by(net)
    trained(net, noise(95), share, epochs=2)
    sizes = [(head, len(images)) for head, images in seen]
    assert sizes == [("mine", 16), ("classification", 32)] * 4
    with pytest.raises(ValueError, match="batch_size = 32 is more than the 31 training images"):
        trained(data=noise(31))


def views(image: np.ndarray, padding: int, flip: bool) -> dict[bytes, tuple]:
    """Every view of an image that augmentation may make, with its place."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    found = {}
    places = range(2 * padding + 1)
    for top, left in itertools.product(places, places):
        view = padded[:, top : top + SIDE, left : left + SIDE]
        found[view.tobytes()] = top, left, False
        if flip:
            found[view[:, :, ::-1].tobytes()] = top, left, True
    return found


@pytest.mark.parametrize("padding, flip", [(0, False), (0, True), (2, False), (None, True)])
@pytest.mark.parametrize("augmented", [False, True])
def test_crops_and_flips_are_as_set(padding, flip, augmented):
    data = noise()
    of_image = {}
    possible = {}
    for n, image in enumerate(data.images):
        found = views(image, 1 if padding is None else padding, flip)
        possible |= found
        of_image |= dict.fromkeys(found, n)
    whole = {image.tobytes() for image in data.images}
    net = network(own_loss)
    passes = seen_by(net)
    changes = {"crop_padding": padding, "flip": flip, "auxiliary_augment": augmented}
    trained(net, data, own_loss, epochs=7, **changes)
    seen = {"classification": [], "mine": []}
    for head, images in passes:
        pixels = (images * 255).round().to(torch.uint8).numpy()
        seen[head] += [np.ascontiguousarray(image).tobytes() for image in pixels]
    first_epoch = sorted(of_image[view] for view in seen["classification"][:96])
    assert first_epoch == list(range(96))  # every image once
    assert {possible[view] for view in seen["classification"]} == set(possible.values())
    augments = augmented and (padding != 0 or flip)
    assert set(seen["mine"]) <= set(possible) and (set(seen["mine"]) <= whole) == (not augments)


def test_crops_of_crop_side_are_cut_from_the_image_and_a_plain_image_is_its_centre():
    """Every pixel is its own place."""
    places = np.arange(100, dtype=np.uint8).reshape(1, 1, 10, 10).repeat(96, 0)
    net = network(own_loss)
    seen = {"classification": set(), "mine": set()}
    passes = seen_by(net)
    trained(net, ImageSet(places, noise().labels), own_loss, crop_side=8, flip=False)
    for head, images in passes:
        assert images.shape[2:] == (8, 8)
        seen[head] |= set((images[:, 0, 0, 0] * 255).round().int().tolist())
    corners = {10 * top + left for top, left in itertools.product(range(3), repeat=2)}
    assert seen == {"classification": corners, "mine": {11}}


def test_a_transform_is_of_classifications_images_alone():
    def grey(images, generator):
        return torch.full_like(images, 0.75)

    net = network(auxiliary.rotation)
    seen = seen_by(net)
    list(train(net, noise(), Recipe(1, 32), auxiliary.rotation, transform=grey))
    pixels = {head: images.unique().tolist() for head, images in seen}
    assert pixels["classification"] == [0.75] and len(pixels["rotation"]) > 100


# --- randomness


def test_the_seed_decides_and_the_callers_generators_are_left():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, _ = trained(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert identical(first, trained(seed=1)[0])
    assert not identical(first, trained(seed=2)[0])


def test_dropout_follows_the_seed_and_differs_in_each_epoch():
    """All images are equal, so that their order makes no difference."""
    same = ImageSet(np.full((32, 1, SIDE, SIDE), 90, np.uint8), np.zeros(32, np.int64))
    kept = []
    net = network()
    dropout = next(module for module in net.modules() if isinstance(module, torch.nn.Dropout))
    dropout.register_forward_hook(lambda module, given, out: kept.append((given[0] != 0, out != 0)))
    first, _ = trained(net, same, epochs=2, seed=1)
    assert identical(first, trained(data=same, epochs=2, seed=1)[0])
    assert not identical(first, trained(data=same, epochs=2, seed=2)[0])
    both = kept[0][0] & kept[1][0]  # otherwise it is zero without dropout
    assert not torch.equal(kept[0][1][both], kept[1][1][both])


# --- resume


@every_method
@in_both_precisions
@pytest.mark.parametrize("threads", [1, 2])
def test_resumed_training_is_bit_identical(tmp_path, threads, bfloat16, method):
    """Stopped after each epoch, and gone on with by a network of other weights, from a file."""
    torch.set_num_threads(threads)
    loss = LOSSES[method]
    found = []
    saved = None
    whole, losses = trained(loss=loss, bfloat16=bfloat16)
    for stop in range(4):
        net = network(loss, seed=stop)
        torch.manual_seed(1000 + stop)  # nor does the caller's random state count
        recipe = Recipe(**SMALL, bfloat16=bfloat16)
        state = next(train(net, noise(), recipe, loss, resume=saved))
        found.append((state.epoch, state.loss, state.auxiliary_loss))
        torch.save(state.state_dict(), tmp_path / "state.pt")
        saved = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.set_num_threads(1)
    assert found == losses and identical(net.state_dict(), whole)
    again = network(loss, seed=9)
    assert not list(train(again, noise(), recipe, loss, resume=saved))  # nothing is left to do
    assert identical(again.state_dict(), whole)


def test_a_state_goes_on_as_often_as_wanted_and_never_as_another_epochs():
    states = train(network(), noise(), Recipe(**SMALL))
    first = next(states)
    saved = first.state_dict()
    ways = [trained(network(seed=9), resume=saved) for _ in range(2)]
    second = next(states)  # meanwhile the original goes on, which leaves `saved` as it was
    assert (first.epoch, second.epoch) == (1, 2)
    with pytest.raises(RuntimeError, match="training has gone on since epoch 1"):
        first.state_dict()
    ways += [trained(network(seed=9), resume=saved), trained(network(seed=9), resume=second)]
    whole, losses = trained()
    assert all(identical(state, whole) for state, _ in ways)
    assert [found for _, found in ways] == [losses[1:]] * 3 + [losses[2:]]


def test_an_epoch_that_fails_half_way_leaves_no_state_to_go_on_from():
    def fail(images, generator):
        if stop:
            raise KeyboardInterrupt
        return images

    stop = False
    states = train(network(), noise(), Recipe(**SMALL), transform=fail)
    state = next(states)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        next(states)
    with pytest.raises(RuntimeError, match="gone on since epoch 1"):
        state.state_dict()


# --- checkpoints on disk


@pytest.fixture
def kept(tmp_path):
    """The checkpoint of epoch 4."""
    checkpoint = Checkpoint(tmp_path / "run" / "checkpoint.pt", {"data": "a"}, {"threads": 1})
    for state in train(network(), noise(), Recipe(**SMALL)):
        checkpoint.save(state.state_dict())
    return checkpoint


def test_a_checkpoint_of_other_data_is_not_used_and_of_another_machine_is(kept, capsys):
    assert Checkpoint(kept.path, {"data": "b"}, kept.machine).load() is None
    said = "".join(capsys.readouterr())
    assert "checkpoint.pt in run was made by other settings or on other data" in said
    assert Checkpoint(kept.path, kept.stamp, {"threads": 2}).load()["epoch"] == 4
    said = "".join(capsys.readouterr())
    assert "{'threads': 2}" in said and "{'threads': 1}" in said


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_a_checkpoint_that_can_not_be_read_at_the_moment_stays(kept, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("workbench.checkpoint.zipfile.ZipFile", fail)
    assert kept.load() is None and kept.path.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and -m gpu")
def test_a_compiled_network_trains_to_what_another_does():
    start = network(auxiliary.rotation, dropout=0.0)
    found = []
    for compile in (False, True):
        net = copy.deepcopy(start)
        options = {"device": "cuda", "compile": compile}
        list(train(net, noise(), Recipe(1, 32), auxiliary.rotation, **options))
        found.append(net.state_dict())
    for name, plain in found[0].items():
        torch.testing.assert_close(found[1][name], plain, rtol=1e-3, atol=1e-4, msg=name)
