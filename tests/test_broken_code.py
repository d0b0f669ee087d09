"""A user's score or task changes nothing but its own numbers.

One that is broken costs neither training nor the other scores.
"""

import random

import numpy as np
import pytest
import torch
from helpers import OWN_NETWORK, refused, scores, tiny, tiny_words
from sklearn.metrics import average_precision_score

from semlib import metrics
from workbench import runs
from workbench.results import plots
from workbench.runs import store

HOLDOUT = "notebooks/holdout.ipynb"
CLASSIFIER = {"methods": "classification"}


def write(place, *lines):
    imports = ["import random", "import numpy as np", "import torch"]
    (place / "mine.py").write_text("\n".join([*imports, *lines, ""]))


def function(head, *body):
    return "\n    ".join([f"def {head}:", *body]) + "\n\n"


def weights(experiment):
    (record,) = store.finished(experiment)
    return torch.load(record.home / "weights.pt")


def interrupt_scoring(monkeypatch, error, after):
    """Raise error when the test images are scored, after so many times of which."""
    score = metrics.score
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > after:
            raise error
        return score(*args)

    monkeypatch.setattr(metrics, "score", interrupted)


# --- what users' functions can't change

MEDDLING = {
    "dropout": "net.train(); return sum(net(images + 1).logsumexp(1) for _ in range(3))",
    "in_place": "logits /= 2; images.data += 0.5; return logits.logsumexp(1)",
    "weights": "net.heads['classification'].weight.data *= 2; return net(images)[:, 0]",
    "frozen": "net.requires_grad_(False), torch.set_grad_enabled(False); return logits[:, 0]",
    "hook": "net.register_forward_hook(lambda *a: 0 * a[2]); return (net(images) + logits)[:, 0]",
    "graph": "return torch.autograd.grad(logits.logsumexp(1).sum(), images)[0].sum((1, 2, 3))",
    "random": "torch.manual_seed(1), np.random.seed(1); return torch.rand(len(logits))",
}
OTHER = "return net(images).logsumexp(1) + torch.rand(len(images))"


def test_whatever_scores_do_all_others_and_the_weights_are_as_without_them(place):
    """In either order, and while training goes on: three epochs are averaged."""
    meddling = []
    for name, body in MEDDLING.items():
        meddling.append(function(f"{name}(net, images, logits)", body))
    write(place, *meddling, function("other(net, images)", OTHER))
    mine = [f"mine:{name}" for name in MEDDLING]
    found = []
    for k, order in enumerate(([], mine, mine[::-1])):
        wanted = [*order[:3], "msp", "odin", *order[3:5], "vim", "mine:other", *order[5:]]
        how = CLASSIFIER | {"average_last_epochs": 3, "profile": f"p{k}", "scores": wanted}
        runs.complete(tiny(place, **how))
        (arrays,) = scores(tiny(place, **how)).values()
        found.append((arrays, weights(tiny(place, **how))))
    plain, trained = found[0]
    for arrays, of_these in found[1:]:
        assert arrays == found[1][0] and plain.items() <= arrays.items()
        assert all(torch.equal(of_these[name], weight) for name, weight in trained.items())


FITTED = """
def s(train, labels, net):
    train.features[:] = 0
    labels[:] = 0
    net.train()
    def f(x):
        x.logits[:] = 0
        return x.features.sum(1) + torch.rand(len(x.features)).numpy()
    return f
"""


def test_a_fitted_score_is_given_copies_and_random_numbers_of_its_own(place):
    write(place, FITTED)
    found = []
    orders = (["mine:s", "msp", "cosine", "energy"], ["cosine", "energy", "mine:s", "msp"])
    for k, order in enumerate((*orders, ["msp", "cosine", "energy"])):
        # trained on after the first of two evaluations
        fixed = CLASSIFIER | {"average_last_epochs": 2, "profile": f"p{k}"}
        runs.complete(tiny(place, scores=order, **fixed))
        found.extend(scores(tiny(place, **fixed)).values())
    assert found[0] == found[1] and found[2].items() <= found[0].items()


def test_a_task_may_leave_the_network_in_evaluation_mode(place):
    body = ["assert net.training", "net.eval()", "return net(images, head='h').square().mean()"]
    write(place, function("loss(net, images)", *body), "loss.heads = {'h': 2}")
    assert len(runs.complete(tiny(place, methods="mine:loss"))) == 1


DRAWS = "float(np.random.rand() + random.random() + torch.rand(()))"


def test_what_a_task_draws_follows_the_trial_and_is_resumed(place, monkeypatch):
    body = f"return (net(images, head='h') - {DRAWS}).square().mean()"
    write(place, function("loss(net, images)", body), "loss.heads = {'h': 2}")
    experiment = tiny(place, methods="mine:loss", trials=2)
    random.seed(5)
    np.random.seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist())
    runs.complete(experiment)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    other = tiny(place, methods="mine:loss", trials=2, profile="resumed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_scoring(patch, KeyboardInterrupt, after=2)
        runs.complete(other)
    random.seed(6)
    np.random.seed(6)
    runs.complete(other)
    first = scores(experiment)
    assert scores(other) == first and len(set(map(str, first.values()))) == 2


def test_a_network_that_draws_its_weights_from_numpy_follows_the_trial(place):
    source = OWN_NETWORK.replace("def small(", "def undrawn(")
    body = ["net = undrawn(classes, image_shape, heads, mean, std)"]
    body += ["net.heads['classification'].bias.data[0] = float(np.random.rand())", "return net"]
    write(place, source, function("small(classes, image_shape, heads, mean, std)", *body))
    values = []
    for profile, trial in (("a", 0), ("b", 0), ("c", 1)):
        np.random.seed(len(values))
        how = CLASSIFIER | {"profile": profile, "first_trial": trial}
        experiment = tiny(place, architecture="mine:small", **how)
        runs.complete(experiment)
        values.extend(scores(experiment).values())
    assert values[0] == values[1] != values[2]


# --- what is broken: parameters, body, and what is said

SCORES = {
    "another argument": ("x", "return x", "missing 1 required positional argument: 'x'"),
    "two of them": ("logits, features", "return logits", "positional argument: 'features'"),
    "an array": ("logits", "return logits.numpy().max(1)", "should be a tensor, not a ndarray"),
    "nothing": ("logits", "logits.max()", "should be a tensor, not a NoneType"),
    "NaN": ("logits", "return logits[:, 0] * float('nan')", "is NaN for 16 of 16"),
    "another shape": ("logits", "return logits", "should be (16,), one number an image, not (16,"),
    "one number": ("logits", "return logits.mean()", "(16,), one number an image, not ()"),
    "an error": ("logits", "return {}['a\\nkey']", "KeyError: "),
    "a fitted shape": ("train, labels, net", "return lambda x: x.features", "not (16, 64)"),
    "a fitted NaN": ("train, labels, net", "return lambda x: x.logits[:, 0] * np.nan", "is NaN"),
    "fitted, no function": ("train, labels, net", "return train.logits", "not callable"),
    "fitted, fewer": ("train", "return lambda x: x.logits[:, 0]", "unexpected keyword argument"),
}
HEADS = "return net(images).mean()\n\n\ns.heads = 4"
TASKS = {
    "an argument more": ("net, images, labels", "return 0", "positional argument: 'labels'"),
    "a number": ("net, images", "return 1.0", "one number with a gradient, not a float"),
    "no gradient": ("net, images", "return images.mean()", "with a gradient, not a tensor ()"),
    "no mean": ("net, images", "return net(images)", "with a gradient, not a tensor (16, 3)"),
    "NaN": ("net, images", "return net(images).mean() * np.nan", "its loss is nan before any"),
    "infinite": ("net, images", "return net(images).mean().abs() * np.inf", "its loss is inf"),
    "no such head": ("net, images", "return net(images, head='h').mean()", "h"),
    "an error": ("net, images", "return images.reshape(7, 5)", "shape"),
    "heads": ("net, images", HEADS, "int"),
}
BROKEN = {("scores", name): SCORES[name] for name in SCORES}
BROKEN |= {("methods", name): TASKS[name] for name in TASKS}


@pytest.mark.parametrize(("field", "wrong"), BROKEN)
def test_what_is_broken_is_one_line_before_training(place, no_training, field, wrong):
    arguments, body, said = BROKEN[field, wrong]
    write(place, function(f"s({arguments})", body))
    names = {"scores": "[msp, mine:s]", "methods": "[rotation, mine:s]"}
    words = tiny_words(place, **{field: names[field]})
    refused("run", HOLDOUT, *words, said=["mine:s", said])
    assert not (place / "outputs").exists()


FEW = "len(logits) <= 16"
LATE = {  # each fails on more images than it is tried on
    "nan": ("logits", f"return logits[:, 0] * float(1 if {FEW} else 'nan')"),
    "shape": ("logits", f"return logits[: None if {FEW} else -1, 0]"),
    "fails": ("net, images", "return images.reshape(-1, 64 if len(images) <= 16 else 7)[:, 0]"),
    "fit": ("train, labels, net", "return lambda x: x.logits[:16, 0]"),
}


def test_scores_that_fail_after_training_cost_neither_it_nor_other_scores_or_runs(place, request):
    late = [function(f"{name}({arguments})", body) for name, (arguments, body) in LATE.items()]
    write(place, *late)
    own = [f"mine:{name}" for name in LATE]
    experiment = tiny(place, scores=[*own[:2], "msp", "odin", *own[2:], "vim"])
    with pytest.raises(FloatingPointError) as error:
        runs.complete(experiment)
    text = str(error.value)
    assert all(text.count(name) == 2 for name in own), text
    assert "classification, trial 0" in text and "rotation, trial 0" in text
    usable = tiny(place, scores=["msp", "odin", "vim"])
    records = store.finished(usable)
    assert len(records) == 2 and not store.missing(usable) and len(store.missing(experiment)) == 2
    for record in records:
        assert not [*record.home.glob("checkpoint*")]
        with np.load(record.home / "scores.npz") as file:
            assert not [name for name in file.files if name.startswith("mine")]
    request.getfixturevalue("no_training")
    with pytest.raises(FloatingPointError, match="mine:fails"):
        runs.complete(experiment)
    write(place, *(line.replace("16", "1000") for line in late))
    runs.complete(experiment)
    assert not store.missing(experiment)


def test_the_checkpoint_is_written_before_scoring(place, monkeypatch, request):
    """Whatever ends the process while it scores, no epoch is trained again."""
    experiment = tiny(place, checkpoint_every=3, evaluate_every=3, **CLASSIFIER)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        interrupt_scoring(patch, MemoryError, after=0)
        runs.complete(experiment)
    request.getfixturevalue("no_training")
    (record,) = runs.complete(experiment)
    assert list(record.history().epoch) == [3] and record.history().seconds.gt(0).all()


def test_infinite_scores_are_ranked_in_the_record_and_in_figures(place):
    found = "torch.where(best < 0.9, torch.inf, torch.where(best > 0.99, -torch.inf, -best))"
    write(place, function("s(logits)", "best = logits.softmax(1).amax(1)", f"return {found}"))
    experiment = tiny(place, scores=["msp", "mine:s"], **CLASSIFIER)
    (record,) = runs.complete(experiment)
    (name,) = [name for name in record.metrics if name.startswith("mine:s") and "@" not in name]
    arrays = record.scores()
    assert np.isinf(arrays[name]).any()
    ranks = np.unique(arrays[name], return_inverse=True)[1]
    expected = average_precision_score(arrays["is_anomaly"], ranks)
    assert record.metrics[name] == pytest.approx(expected)
    assert record.metrics[name] == metrics.average_precision(arrays["is_anomaly"], arrays[name])
    plots.precision_recall(experiment, [record]).canvas.draw()
    plots.ranked_images(record, runs.load(experiment), name).canvas.draw()


def test_a_task_that_fails_in_training_lets_the_other_runs_finish(place):
    late = ["if len(images) > 16:", "    raise LookupError('late')", "return net(images).mean()"]
    write(place, function("loss(net, images)", *late))
    experiment = tiny(place, methods=["mine:loss", "classification"], trials=2)
    with pytest.raises(LookupError, match="late") as error:
        runs.complete(experiment)
    assert [record.method for record in store.finished(experiment)] == ["classification"] * 2
    (note,) = error.value.__notes__
    assert "mine:loss, trial 0" in note and "mine:loss, trial 1" in note
