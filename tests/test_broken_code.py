"""A user's score or task changes nothing but its own numbers, and one that is broken costs neither
training nor the others.
"""

import random
import sys

import numpy as np
import pytest
import torch
from helpers import OWN_NETWORK, parameters, scores, tiny, tiny_data
from sklearn.metrics import average_precision_score

from semlib import metrics
from workbench import runs
from workbench.cli import main
from workbench.results import plots
from workbench.runs import execute, store

HOLDOUT = "notebooks/holdout.ipynb"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data; a function that writes the user's module `mine` into it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SEMLIB_DATA", str(tiny_data(tmp_path / "data")))
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(execute.training, "train", lambda *args, **options: pytest.fail("trained"))


def write(place, *lines):
    (place / "mine.py").write_text(
        "\n".join(("import random", "import numpy as np", "import torch", *lines, ""))
    )


def weights(experiment):
    return {r.method: torch.load(r.home / "weights.pt") for r in store.finished(experiment)}


MEDDLING = {
    "dropout": [
        "net.train()",
        "found = torch.stack([net(images).logsumexp(1) for _ in range(3)]).var(0)",
    ],
    "in place": [
        "logits /= 2",
        "with torch.no_grad():",
        "    images += 0.5",
        "found = logits.logsumexp(1)",
    ],
    "statistics": ["net.train()", "net(images + 1)", "net.eval()", "found = -net(images).amax(1)"],
    "weights": [
        "with torch.no_grad():",
        "    net.heads['classification'].weight.mul_(2)",
        "found = net(images)[:, 0]",
    ],
    "frozen": [
        "net.requires_grad_(False)",
        "torch.set_grad_enabled(False)",
        "found = images.mean((1, 2, 3))",
    ],
    "a hook": [
        "net.register_forward_hook(lambda *a: a[2] * 0)",
        "found = net(images)[:, 0] + logits[:, 1]",
    ],
    "its graph": [
        "(found,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)",
        "found = found.abs().sum((1, 2, 3))",
    ],
    "random": [
        "torch.manual_seed(1)",
        "np.random.seed(1)",
        "random.seed(1)",
        "found = logits[:, 0] + torch.rand(len(logits))",
    ],
}


@pytest.mark.parametrize("how", MEDDLING)
def test_whatever_a_score_does_all_others_and_the_weights_are_as_without_it(place, how):
    """In either order, and while training goes on: three epochs are averaged."""
    body = "\n    ".join(MEDDLING[how])
    write(place, f"def s(net, images, logits):\n    {body}\n    return found")
    write_other = (
        "def other(net, images):\n    return net(images).logsumexp(1) + torch.rand(len(images))"
    )
    (place / "mine.py").write_text((place / "mine.py").read_text() + "\n\n" + write_other + "\n")
    fixed = {"methods": "classification", "average_last_epochs": 3}
    plain = tiny(place, profile="plain", scores=["msp", "odin", "vim", "mine:other"], **fixed)
    runs.complete(plain)
    ((_, expected),) = scores(plain).items()
    found = []
    for k, order in enumerate(
        (
            ["mine:s", "msp", "odin", "vim", "mine:other"],
            ["msp", "mine:other", "odin", "mine:s", "vim"],
        )
    ):
        experiment = tiny(place, profile=f"with{k}", scores=order, **fixed)
        runs.complete(experiment)
        ((_, arrays),) = scores(experiment).items()
        assert {name: arrays[name] for name in expected} == expected
        assert all(torch.equal(a, b) for a, b in zip(weights(plain)["classification"].values(),
                   weights(experiment)["classification"].values(), strict=True))  # fmt: skip
        (key,) = {name.split("@")[0] for name in arrays if name.startswith("mine:s(")}
        found.append(arrays[key])
    assert found[0] == found[1]


def test_a_fitted_score_is_given_copies_and_random_numbers_of_its_own(place):
    write(place, "def s(train, labels, net):", "    train.features[:] = 0", "    labels[:] = 0", "    net.train()",
          "    def f(x):", "        x.logits[:] = 0", "        return x.features.sum(1) + torch.rand(len(x.features)).numpy()",
          "    return f")  # fmt: skip
    fixed = {
        "methods": "classification",
        "average_last_epochs": 2,
    }  # trained on after the first of two evaluations
    for k, order in enumerate(
        (["mine:s", "msp", "cosine", "energy"], ["cosine", "energy", "mine:s", "msp"])
    ):
        runs.complete(tiny(place, profile=f"p{k}", scores=order, **fixed))
    runs.complete(tiny(place, profile="plain", scores=["msp", "cosine", "energy"], **fixed))
    first, second, plain = (next(iter(scores(e).values())) for e in (
        tiny(place, profile=name, **fixed) for name in ("p0", "p1", "plain")))  # fmt: skip
    assert first == second and {name: first[name] for name in plain} == plain


def test_a_task_that_leaves_the_network_in_evaluation_mode_is_restored(place):
    """One that looks at the classes in evaluation mode: classification trains as without the mode
    that it left.
    """
    task = "def loss(net, images):\n    {}\n    return net(images, head='h').square().mean() * 0\n\n\nloss.heads = {{'h': 2}}"
    found = []
    for line in ("pass", "net.eval()"):
        write(place, task.format(line))
        experiment = tiny(
            place, methods="mine:loss", dropout=0.3, auxiliary_weight=0.0, weight_decay=0.0
        )
        found.append(weights_after(experiment))
    assert torch.equal(*found)


def weights_after(experiment):
    """Of one epoch's last classification head: it depends on dropout, not on the task's own pass
    over batch norm.
    """
    seen = []
    epoch = execute.training._update

    def update(optimizer, loss, rate):
        seen.append(len([m for m in modules if m.training]))
        epoch(optimizer, loss, rate)

    modules, network = [], execute.build.network

    def build(run, split):
        net = network(run, split)
        modules[:] = [
            m for m in net.modules() if isinstance(m, torch.nn.Dropout | torch.nn.BatchNorm2d)
        ]
        return net

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute.training, "_update", update)
        patch.setattr(execute.build, "network", build)
        runs.complete(experiment)
    assert seen and set(seen) == {len(modules)}
    return torch.tensor(seen)


DRAWS = "float(np.random.rand() + random.random() + torch.rand(()))"


def test_what_a_task_draws_from_numpy_and_random_follows_the_trial_and_is_resumed(
    place, monkeypatch
):
    write(place, "def loss(net, images):", f"    return (net(images, head='h') - {DRAWS}).square().mean()", "",
          "loss.heads = {'h': 2}")  # fmt: skip
    experiment = tiny(place, methods="mine:loss", trials=2)
    random.seed(5), np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    runs.complete(experiment)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    other = tiny(place, methods="mine:loss", trials=2, profile="resumed")
    score = execute.Scorer.score
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execute.Scorer, "score", interrupted)
        runs.complete(other)
    random.seed(6), np.random.seed(6)
    runs.complete(other)
    first, again = scores(experiment), scores(other)
    assert first == again and len(set(map(str, first.values()))) == 2


# --- what is broken

WRONG_SCORES = {
    "another argument": ("def s(x):\n    return x", "missing 1 required positional argument: 'x'"),
    "two of them": (
        "def s(logits, features):\n    return logits",
        "missing 1 required positional argument: 'features'",
    ),
    "a NumPy array": (
        "def s(logits):\n    return logits.numpy().max(1)",
        "should be a tensor, not a ndarray",
    ),
    "nothing": ("def s(logits):\n    logits.max()", "should be a tensor, not a NoneType"),
    "NaN": ("def s(logits):\n    return logits[:, 0] * float('nan')", "is NaN for 16 of 16"),
    "another shape": (
        "def s(logits):\n    return logits",
        "should be (16,), one number an image, not (16, 3)",
    ),
    "one number": (
        "def s(logits):\n    return logits.mean()",
        "should be (16,), one number an image, not ()",
    ),
    "an error": ("def s(logits):\n    return {}['a\\nkey']", "KeyError: "),
    "a fitted one's shape": (
        "def s(train, labels, net):\n    return lambda x: x.features",
        "one number an image, not (16, 64)",
    ),
    "a fitted one's NaN": (
        "def s(train, labels, net):\n    return lambda x: x.logits[:, 0] * np.nan",
        "is NaN for 16",
    ),
    "fitted, not a function": (
        "def s(train, labels, net):\n    return train.logits",
        "not callable",
    ),
    "fitted, fewer arguments": (
        "def s(train):\n    return lambda x: x.logits[:, 0]",
        "unexpected keyword argument",
    ),
}
WRONG_TASKS = {
    "an argument more": (
        "def s(net, images, labels):\n    return 0",
        "missing 1 required positional argument: 'labels'",
    ),
    "a number": (
        "def s(net, images):\n    return 1.0",
        "a tensor of one number with a gradient, not a float",
    ),
    "no gradient": (
        "def s(net, images):\n    return images.mean()",
        "with a gradient, not a tensor ()",
    ),
    "no mean": (
        "def s(net, images):\n    return net(images)",
        "one number with a gradient, not a tensor (16, 3)",
    ),
    "NaN": (
        "def s(net, images):\n    return net(images).mean() * float('nan')",
        "its loss is nan before any training",
    ),
    "infinite": (
        "def s(net, images):\n    return net(images).mean().abs() * float('inf')",
        "its loss is inf",
    ),
    "no such head": ("def s(net, images):\n    return net(images, head='h').mean()", "h"),
    "an error": ("def s(net, images):\n    return images.reshape(7, 5)", "shape"),
    "heads": ("def s(net, images):\n    return net(images).mean()\n\n\ns.heads = 4", "int"),
}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("scores", w) for w in WRONG_SCORES] + [("methods", w) for w in WRONG_TASKS],
    ids=str,
)
def test_what_is_broken_is_one_line_before_training(place, no_training, capsys, field, wrong):
    source, said = (WRONG_SCORES if field == "scores" else WRONG_TASKS)[wrong]
    write(place, source)
    given = tiny(place).model_dump(
        mode="json", include={"dataset", "outputs", "architecture", "epochs", "batch_size"}
    )
    names = {"scores": "[msp, mine:s]"} if field == "scores" else {"methods": "[rotation, mine:s]"}
    assert (
        main(
            ["run", HOLDOUT, *parameters(**given | {"missing": "train", "hold_out": "one"} | names)]
        )
        == 2
    )
    out = capsys.readouterr()
    assert (
        out.err.startswith("error: ")
        and out.err.count("\n") == 1
        and "mine:s" in out.err
        and said in out.err
    ), out.err
    assert not (place / "outputs").exists()


LATE = (  # each fails where a few images don't show it
    "def nan(logits):\n    return logits[:, 0] * float('nan' if len(logits) > 16 else 1)",
    "def shape(logits):\n    return logits[: -1 if len(logits) > 16 else None, 0]",
    "def fails(net, images):\n    return images.reshape(-1, 64)[:, 0] if len(images) <= 16 else images.reshape(3, -1)",
    "def fit(train, labels, net):\n    return lambda x: x.logits[:, 0] if len(x.logits) <= 16 else x.logits",
)


def test_scores_that_fail_after_training_cost_neither_it_nor_the_others_nor_other_runs(
    place, monkeypatch
):
    write(place, "\n\n\n".join(LATE))
    own = [f"mine:{name}" for name in ("nan", "shape", "fails", "fit")]
    experiment = tiny(place, scores=[*own[:2], "msp", "odin", *own[2:], "vim"])
    with pytest.raises(FloatingPointError) as error:
        runs.complete(experiment)
    text = str(error.value)
    assert (
        all(text.count(name) == 2 for name in own)
        and "classification, trial 0" in text
        and "rotation, trial 0" in text
    )
    usable = tiny(place, scores=["msp", "odin", "vim"])
    records = store.finished(usable)
    assert len(records) == 2 and not store.missing(usable) and len(store.missing(experiment)) == 2
    assert all(set(record.scoring) == {"msp", "odin", "vim"} for record in records)
    assert not [path for r in records for path in r.home.glob("checkpoint*")]
    monkeypatch.setattr(
        execute.training, "train", lambda *args, **options: pytest.fail("trained again")
    )
    with pytest.raises(FloatingPointError, match="mine:fails"):
        runs.complete(experiment)
    write(place, *(line.replace("16", "1000") for line in LATE))
    for record in runs.complete(experiment):
        assert {how["score"] for how in record.scoring.values()} == {*experiment.scores}


def test_the_checkpoint_is_written_before_scoring(place, monkeypatch):
    """Whatever ends the process while it scores, no epoch is trained again."""
    experiment = tiny(place, methods="classification", checkpoint_every=3, evaluate_every=3)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(execute.Scorer, "score", lambda *args: (_ for _ in ()).throw(MemoryError()))
        runs.complete(experiment)
    monkeypatch.setattr(execute.training, "_alternate", lambda *args: pytest.fail("trained again"))
    (record,) = runs.complete(experiment)
    assert list(record.history().epoch) == [3] and record.history().seconds.gt(0).all()


def test_infinite_scores_are_ranked_in_the_record_and_in_figures(place):
    write(place, "def s(logits):", "    best = logits.softmax(1).amax(1)",
          "    return torch.where(best < 0.9, torch.inf, torch.where(best > 0.99, -torch.inf, -best))")  # fmt: skip
    experiment = tiny(place, methods="classification", scores=["msp", "mine:s"])
    (record,) = runs.complete(experiment)
    arrays, key = record.scores(), list(record.scoring)[-1]
    assert key.startswith("mine:s(") and np.isinf(arrays[key]).any()
    ranks = np.unique(arrays[key], return_inverse=True)[1]
    assert record.metrics[key] == pytest.approx(
        average_precision_score(arrays["is_anomaly"], ranks)
    )
    assert record.metrics[key] == metrics.average_precision(arrays["is_anomaly"], arrays[key])
    plots.precision_recall(experiment, [record]).canvas.draw()
    plots.ranked_images(record, runs.load(experiment), key).canvas.draw()


def test_a_task_that_fails_in_training_lets_the_other_runs_finish(place):
    write(
        place,
        "def loss(net, images):\n    if len(images) > 16:\n        raise LookupError('late')\n    return net(images).mean()",
    )
    experiment = tiny(place, methods=["mine:loss", "classification"], trials=2)
    with pytest.raises(LookupError, match="late") as error:
        runs.complete(experiment)
    assert [record.method for record in store.finished(experiment)] == ["classification"] * 2
    assert (
        "mine:loss, trial 0" in error.value.__notes__[0]
        and "mine:loss, trial 1" in error.value.__notes__[0]
    )


def test_a_network_that_draws_its_weights_from_numpy_follows_the_trial(place):
    source = OWN_NETWORK.replace("def small(", "def undrawn(")
    lines = ["    net = undrawn(classes, image_shape, heads, mean, std)"]
    lines += [
        "    torch.nn.init.constant_(net.heads['classification'].bias[:1], float(np.random.rand()))",
        "    return net",
    ]
    write(place, source, "def small(classes, image_shape, heads, mean, std):", *lines)
    values = []
    for seed, (profile, trial) in enumerate((("a", 0), ("b", 0), ("c", 1))):
        np.random.seed(seed)
        how = {
            "architecture": "mine:small",
            "methods": "classification",
            "profile": profile,
            "first_trial": trial,
        }
        runs.complete(tiny(place, **how))
        values.append(next(iter(scores(tiny(place, **how)).values())))
    assert values[0] == values[1] != values[2]
