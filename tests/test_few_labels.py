"""Few labels: which training images are drawn, what is computed of them, and the gain by their
number.
"""

import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from helpers import ROOT, tiny, tiny_data
from test_tables import record

from semlib import datasets, training
from semlib.datasets import DataError, Dataset, ImageSet
from workbench import runs
from workbench.batch import notebooks
from workbench.experiment import (
    CHOSEN_WEIGHTS,
    SCORES,
    ConfigError,
    create,
    read_parameters,
    several,
)
from workbench.images import prepared
from workbench.results import plots, show, stats, tables
from workbench.runs import plan

FILES = sorted((ROOT / "params").glob("*/few_labels.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    tiny_data(root / "data")
    return root


def numbered(classes=5, each=39):
    """Every image is its own number, so that it is known again."""
    count = classes * each
    images = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 4, 1, 1)
    labels = np.arange(count) // 3 % classes
    return Dataset(
        "numbered",
        ImageSet(images, labels),
        ImageSet(images[:classes], np.arange(classes)),
        tuple("abcde"[:classes]),
    )


# --- which images


def test_so_many_of_each_class_and_none_of_the_anomaly_in_the_data_sets_order():
    data = numbered()
    index = datasets.training_images(data, "b", 7, trial=3)
    assert np.bincount(data.train.labels[index], minlength=5).tolist() == [7, 0, 7, 7, 7]
    assert (np.diff(index) > 0).all()
    split = datasets.hold_out(data, "b", 7, trial=3)
    np.testing.assert_array_equal(split.train.images, data.train.images[index])
    np.testing.assert_array_equal(split.kept[split.train.labels], data.train.labels[index])
    assert len(split.test) == len(data.test) and split.is_anomaly.sum() == 1


def test_trials_and_held_out_classes_have_images_of_their_own():
    data = numbered()
    drawn = {
        (a, t): frozenset(datasets.training_images(data, a, 7, t))
        for a in ("b", "c", None)
        for t in range(3)
    }
    assert (
        len(set(drawn.values()))
        == len(drawn)
        == len({frozenset(i for i in one if data.train.labels[i] == 0) for one in drawn.values()})
    )
    of_a = [
        len({i for i in one & other if data.train.labels[i] == 0})
        for one in drawn.values()
        for other in drawn.values()
    ]
    assert np.mean([n for n in of_a if n < 7]) < 3  # 7 of 39: by chance 1.3 in common
    assert drawn["b", 1] == frozenset(datasets.training_images(data, "b", 7, 1))


def test_a_larger_number_includes_a_smaller_ones_images_and_all_are_all():
    data = numbered()
    few, more, every = (datasets.training_images(data, "b", n, 1) for n in (3, 30, 39))
    assert set(few) < set(more) < set(every)
    np.testing.assert_array_equal(every, datasets.training_images(data, "b"))
    np.testing.assert_array_equal(every, np.flatnonzero(data.train.labels != 1))


def test_each_image_is_drawn_equally_often():
    data = numbered(classes=3, each=21)
    counts = sum(
        np.bincount(datasets.training_images(data, "a", 5, t), minlength=63) for t in range(400)
    )
    drawn = counts[data.train.labels != 0]  # each 400 * 5 / 21 = 95 on average
    assert scipy.stats.chisquare(drawn).pvalue > 1e-4 and drawn.sum() == 400 * 10


def test_the_images_drawn_are_the_same_everywhere():
    """Known indices: another version of NumPy or another system may not draw others."""
    index = datasets.training_images(numbered(), "b", 2, trial=1)
    assert index.tolist() == [0, 12, 29, 38, 82, 106, 114, 191]


@pytest.mark.parametrize("anomaly", ["a", None])
def test_more_than_there_are_is_one_line_that_says_how_many_there_are(anomaly):
    data = numbered()
    labels = np.where((data.train.labels == 2) & (np.arange(195) % 2 == 0), 3, data.train.labels)
    there = int((labels == 2).sum())
    data = Dataset(data.name, ImageSet(data.train.images, labels), data.test, data.classes)
    with pytest.raises(
        DataError, match=f"train_per_class: {there + 1} is more than numbered has of c: {there}$"
    ):
        datasets.training_images(data, anomaly, there + 1)
    assert len(datasets.training_images(data, anomaly, there))


def test_before_a_run_begins_too_much_is_refused_and_a_batch_must_fit(folder):
    data = runs.load(tiny(folder))
    with pytest.raises(
        (ConfigError, DataError), match=r"train_per_class: 65 is more than tiny has of \w+: 64"
    ):
        runs.check_data(tiny(folder, train_per_class=65), data)
    with pytest.raises(
        ConfigError,
        match="batch_size: 64 is more than 60; tiny has 60 images to train on with train_per_class 20",
    ):
        runs.check_data(tiny(folder, train_per_class=20), data)


def test_a_training_of_one_step_on_one_cycle_is_refused_and_of_few_warned_of(folder):
    """The learning rate of one_cycle's first step is 0."""
    data, few = prepared.load("tiny", folder / "data"), {"epochs": 1, "batch_size": 192}
    said, do = (
        "with batch_size 192 and 192 images make",
        "choose more epochs or a smaller batch_size",
    )
    with pytest.raises(
        ConfigError,
        match=f"epochs: 1 {said} 1 training step, and the learning rate of .* is 0; {do}",
    ):
        runs.check_data(tiny(folder, schedule="one_cycle", **few), data)
    for schedule, epochs, steps in (
        ("step", 1, "1 training step"),
        ("one_cycle", 2, "2 training steps"),
    ):
        with pytest.warns(
            UserWarning, match=f"epochs: {epochs} {said} {steps}, too few to learn much; {do}"
        ):
            runs.check_data(tiny(folder, schedule=schedule, **few | {"epochs": epochs}), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs.check_data(tiny(folder, schedule="one_cycle"), data)


def test_validation_images_are_never_among_them():
    data = prepared.load("digits", validation=True)
    kept = {image.tobytes() for image in data.test.images}
    train = datasets.hold_out(data, "3", 20).train
    alone = [image for image in train.images if image.tobytes() in kept]
    whole = [image for image in data.train.images if image.tobytes() in kept]
    assert len(train) == 180 and len(alone) <= len(whole)  # the digits may have two equal images
    index = datasets.training_images(data, "3", 20)
    assert index.max() < len(data.train)


# --- what is trained


def test_all_methods_of_a_trial_train_on_the_same_images_with_their_mean(folder, monkeypatch):
    seen, real = {}, training.train

    def watched(net, data, *args, **kwargs):
        seen[kwargs["description"]] = (data.images, [net.mean.item(), net.std.item()])
        return real(net, data, *args, **kwargs)

    monkeypatch.setattr(training, "train", watched)
    how = {
        "train_per_class": 30,
        "trials": 2,
        "epochs": 1,
        "scores": ["msp", "knn"],
        "methods": ["classification", "rotation"],
    }
    experiment = tiny(folder, **how)
    records = runs.complete(experiment)
    data = runs.load(experiment)
    for trial in (0, 1):
        split = datasets.hold_out(data, "one", 30, trial)
        for method in experiment.methods:
            images, pixels = seen[f"one, {method}, trial {trial}"]
            np.testing.assert_array_equal(images, split.train.images)
            assert pixels == pytest.approx(
                [split.train.images.mean() / 255, split.train.images.std() / 255], rel=1e-5
            )
    assert {record.settings["train_per_class"] for record in records} == {30} and len(records) == 4
    net = runs.network(records[0], data)
    assert [net.mean.item(), net.std.item()] == seen["one, classification, trial 0"][1]


def test_the_number_is_in_the_address_and_absent_where_all_are_used():
    def address(**changes):
        return plan.Run(create({"precision": "float32"} | changes), "cat", "rotation", 0).address

    assert len({address(), address(train_per_class=500), address(train_per_class=100)}) == 3
    assert address(train_per_class=None) == address() == address(train_per_class="none")


def test_evaluations_can_be_a_fraction_of_epochs_apart():
    for epochs, every, expected in (
        (25, 2.5, [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]),
        (7, 3, [3, 6, 7]),
        (3, 1, [1, 2, 3]),
    ):
        how = create(
            {"architecture": "wrn-10-1", "norm_batch": None, "batch_size": 8, "epochs": epochs}
            | {"evaluate_every": every}
        )
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        images = ImageSet(np.zeros((8, 1, 8, 8), np.uint8), np.arange(8) % 2)
        history = training.train(
            net, images, how.training, evaluate=lambda epoch: {}, evaluate_every=every
        )
        assert [row["epoch"] for row in history] == expected


# --- parameters


def test_labels_make_an_experiment_each_with_ten_evaluations():
    made = several({"labels": {500: 100, "2000": 25, "all": 7}, "dataset": "digits", "trials": 2})
    assert [(e.train_per_class, e.epochs, e.evaluate_every) for e in made] == [
        (500, 100, 10),
        (2000, 25, 2.5),
        (None, 7, 1),
    ]
    assert several({"labels": None}) == (create({}),)


def test_labels_with_epochs_beside_them_are_one_line():
    with pytest.raises(ConfigError, match="epochs: labels has epochs"):
        several({"labels": {500: 100}, "epochs": 3})


@pytest.mark.parametrize(
    "labels",
    [
        {500: 1, "500": 2},
        {"all": 1, None: 2},
        {},
        {0: 3},
        {"few": 3},
        {500: 0},
        {500: None},
        [500],
        500,
        {True: 3},
        {1.5: 2},
    ],
)
def test_labels_that_are_none_are_one_line(labels):
    with pytest.raises(ConfigError, match=r"^labels: [^\n]+$"):
        several({"labels": labels})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_papermill_can_sort_the_keys_of_labels(path):
    assert all(isinstance(key, str) for key in read_parameters(path)["labels"])
    given, made = notebooks.parameters(
        ROOT / "notebooks" / "few_labels.ipynb", [], [["labels", "{500: 100, all: 10}"]]
    )
    assert given["labels"] == {"500": 100, "all": 10} and [e.train_per_class for e in made] == [
        500,
        None,
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_number_of_labels_has_as_many_steps_and_ten_evaluations(path):
    _, made = notebooks.parameters(ROOT / "notebooks" / "few_labels.ipynb", [path], [])
    whole = 50000 if made[0].dataset == "cifar10" else len(prepared.load("digits").train)
    steps = [e.epochs * int((e.train_per_class or whole / 10) * 9 // e.batch_size) for e in made]
    assert max(steps) <= 1.01 * min(steps) and len(made) >= 2
    for e in made:
        points = [
            k
            for k in range(1, e.epochs + 1)
            if k == e.epochs or k // e.evaluate_every > (k - 1) // e.evaluate_every
        ]
        assert len(points) == 10
    assert {e.precision for e in made} == {"bfloat16" if path.parent.name == "fast" else "float32"}
    if made[0].dataset == "cifar10":
        assert set(made[0].scores) == set(SCORES) and made[0].train_per_class == 500


def test_table_3_on_cpus_is_the_point_of_all_training_images():
    _, made = notebooks.parameters(
        ROOT / "notebooks/few_labels.ipynb", [ROOT / "params/cpu/few_labels.yaml"], []
    )
    (whole,) = [e for e in made if e.train_per_class is None]
    table = create(read_parameters("params/cpu/table3_cifar10.yaml"))
    assert {run.address for run in plan.planned(table)} <= {
        run.address for run in plan.planned(whole)
    }


def test_names_of_outputs_carry_the_labels():
    few, whole = (create({"train_per_class": n, "profile": "cpu"}) for n in (500, None))
    assert few.output("few_labels", ".csv").name == "few_labels-cifar10-500_a_class.csv"
    assert whole.output("few_labels", ".csv").name == "few_labels-cifar10.csv"
    assert (
        notebooks.executed(ROOT / "notebooks" / "few_labels.ipynb", few).name
        == "few_labels-cifar10.ipynb"
    )
    assert (
        notebooks.executed(ROOT / "notebooks" / "holdout.ipynb", few).name
        == "holdout-cifar10-500_a_class.ipynb"
    )


# --- the auxiliary weight


def test_chosen_weights_are_kept_apart_by_labels(tmp_path):
    def chosen(labels, best):
        search = {
            "dataset": "digits",
            "hold_out": "none",
            "trials": 1,
            "auxiliary_weights": {"rotation": [0.1, 2]},
        }
        experiments = several(search | {"labels": labels})
        accuracies = (0.99, *(0.9 if e.auxiliary_weight == best else 0.5 for e in experiments[1:]))
        found = [
            (e, [record(None, e.methods[0], 0, 0, 0, a)])
            for e, a in zip(experiments, accuracies, strict=True)
        ]
        table = tables.by_weight(found)
        tables.save_chosen_weights(table, tmp_path / "demo")
        return show.weights(table)

    chosen({"all": 10}, 0.1)
    shown = chosen({20: 60}, 2)
    assert (
        shown.index.names == ["Data set", "Images a class", "Method"]
        and "In the paper" not in shown
    )
    open_ = {
        "dataset": "digits",
        "profile": "demo",
        "outputs": str(tmp_path),
        "auxiliary_weight": None,
    }
    weights = [several(open_ | {"train_per_class": n})[0].auxiliary_weight for n in (None, 20, 50)]
    assert weights == [0.1, 2, 1]
    chosen({20: 60}, 0.1)
    assert several(open_ | {"train_per_class": 20})[0].auxiliary_weight == 0.1
    assert len((tmp_path / "demo" / CHOSEN_WEIGHTS).read_text().splitlines()) == 3
    assert chosen({"all": 10, 20: 60}, 2).Chosen.tolist().count("chosen") == 2


# --- tables and figures


CLASSES = [str(k) for k in range(8)]


def measured(gain, trials=2, seed=0, lacking=(), **changes):
    """(experiment, records) whose rotation is above classification by gain[class] points in MSP, by
    chance besides.
    """
    rng = np.random.default_rng(seed)
    experiment = create(
        {"dataset": "digits", "profile": "few", "trials": trials, "hold_out": CLASSES} | changes
    )
    records = []
    for trial in range(trials):
        for k, name in enumerate(CLASSES):
            for method in experiment.methods:
                values = dict(
                    zip(("msp", "odin", "accuracy"), rng.uniform(0.2, 0.5, 3), strict=True)
                )
                if (name, method) in lacking:
                    continue
                plus = gain[k] / 100 if method == "rotation" else 0
                metrics = {
                    key + end: value + plus * (1 + bool(end)) + (end == "@upright") / 10
                    for key, value in values.items()
                    for end in ("", "@upright")
                }
                records.append(
                    record(
                        name,
                        method,
                        trial,
                        0,
                        0,
                        0,
                        metrics=metrics,
                        train_images=800,
                        classes=tuple(CLASSES),
                    )
                )
    return experiment, records


def test_gains_are_those_of_a_paired_t_test_and_of_wilcoxons():
    experiment, records = measured([3, 1, 4, 1, 5, 9, 2, 6], train_per_class=20)
    frame = pd.DataFrame(
        [
            {"class": r.hold_out, "method": r.method, "value": 100 * r.metrics["msp"]}
            for r in records
        ]
    )
    means = frame.groupby(["method", "class"]).value.mean()
    plain, turned = means["classification"], means["rotation"]
    row = (
        stats.gains([(experiment, records)])
        .query("statistics == 'mixed' and measure == 'msp'")
        .iloc[0]
    )
    test = scipy.stats.ttest_rel(turned, plain)
    interval = test.confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert (row.plain, row["with"], row.gain) == pytest.approx(
        (plain.mean(), turned.mean(), (turned - plain).mean())
    )
    assert row.p == pytest.approx(scipy.stats.wilcoxon(turned, plain).pvalue)
    assert (row.above, row.classes, row.images) == ((turned > plain).sum(), 8, 20)
    text = show.gains(stats.gains([(experiment, records)])).loc[
        ("20", "mixed", "Rotation-augmented", "MSP")
    ]
    numbers = [
        f"{row.plain:.2f}",
        f"{row['with']:.2f}",
        f"{row.gain:+.2f} ({row.low:+.2f} to {row.high:+.2f})",
    ]
    assert text.tolist() == [*numbers, f"{row.above} of 8", f"{row.p:.3f}"]


def test_gains_of_both_statistics_and_of_nothing():
    found, nothing = measured([2] * 8, train_per_class=20), measured([2] * 8, train_per_class=40)[0]
    table = stats.gains([found, (nothing, [])])
    assert set(zip(table.images, table.statistics, table.measure, strict=True)) == {
        (n, s, m)
        for n in (20, 40)
        for s in ("mixed", "upright")
        for m in ("msp", "odin", "accuracy")
    }
    pair = table[(table.images == 20) & (table.measure == "msp")].set_index("statistics")
    assert pair.plain["upright"] == pytest.approx(pair.plain["mixed"] + 10)
    assert table[table.images == 40].gain.isna().all()
    text = show.gains(table)
    assert (
        text.loc["40", "Gain (95 % over held-out classes)"] == "not run"
    ).all() and "nan" not in text.to_string().lower()


def test_a_class_that_lacks_a_method_is_in_no_gain():
    experiment, records = measured([2] * 8, lacking={("3", "rotation"), ("4", "classification")})
    table = stats.gains([(experiment, records)])
    assert set(table.classes) == {6}
    plain = [
        r.metrics["msp"] for r in records if r.method == "classification" and r.hold_out != "3"
    ]
    assert table.query("statistics == 'mixed' and measure == 'msp'").plain.item() == pytest.approx(
        100 * np.mean(plain)
    )


def test_equal_is_not_above():
    experiment, records = measured([0] * 8)
    plain = {(r.hold_out, r.trial): r for r in records if r.method == "classification"}
    same = [r.model_copy(update={"metrics": plain[r.hold_out, r.trial].metrics}) for r in records]
    table = stats.gains([(experiment, same)])
    assert set(table.gain) == {0} and set(table.above) == {0}


def test_the_primary_result_is_a_sentence_and_says_what_is_not_finished():
    found = measured([3, 1, 4, 1, 5, 9, 2, 6], train_per_class=20)
    said = show.primary(stats.gains([found]), *found)
    row = stats.gains([found]).query("statistics == 'mixed' and measure == 'msp'").iloc[0]
    for part in (
        "20 training images a class",
        f"{row.gain:+.2f} points",
        f"{row.low:+.2f} to {row.high:+.2f}",
        "mean of 2 trials",
    ):
        assert part in said
    for r in found[1]:
        r.metrics["msp@upright"] = 0.5  # of the mixed statistics alone
    assert show.primary(stats.gains([found]), *found) == said
    assert "So far" not in said and f"above in {row.above} of 8 classes" in said
    part = measured([1] * 8, lacking={("3", "rotation")})
    assert "So far 30 of 32 runs are finished: not yet the result." in show.primary(
        stats.gains([part]), *part
    )
    uneven = found[0], found[1][:-1]
    assert "mean of 1 or 2 trials. So far 31 of 32" in show.primary(stats.gains([uneven]), *uneven)
    assert show.primary(stats.gains([(found[0], [])]), found[0], []).endswith("not run.")


def test_gains_need_plain_classification():
    other = create(
        {"methods": ["classification", "cpc"], "dataset": "digits", "hold_out": ["1", "2"]}
    )
    with pytest.raises(ConfigError, match="classification and rotation"):
        show.primary(stats.gains([(other, [])]), other, [])
    with pytest.raises(ConfigError, match="classification"):
        stats.gains([(create({"methods": "rotation", "dataset": "digits"}), [])])


def test_papers_numbers_stand_only_beside_all_training_images():
    few, whole = (create({"train_per_class": n}) for n in (500, None))
    assert "paper" not in tables.by_class(few, []).columns.get_level_values("statistic")
    assert "paper" in tables.by_class(whole, []).columns.get_level_values("statistic")
    assert (
        show.differences(tables.by_class(few, [])).iloc[0, 0].startswith("the paper has no numbers")
    )
    subsets = {
        n: tables.by_class(create({"dataset": "imagenet_dog", "train_per_class": n}), [])
        for n in (100, None)
    }
    papers = {
        n: tables.by_subset({"imagenet_dog": table}, tables.published("table5_imagenet_rotation"))
        for n, table in subsets.items()
    }
    assert ["paper" in papers[n].columns.get_level_values("statistic") for n in (100, None)] == [
        False,
        True,
    ]
    none = [(create({"hold_out": "none", "train_per_class": n}), []) for n in (500, None)]
    accuracies = [
        tables.generalization([one]).columns.get_level_values("statistic") for one in none
    ]
    assert ["paper" in names for names in accuracies] == [False, True]


def test_headings_and_remarks_say_how_many():
    experiment, records = measured([1] * 8, train_per_class=20)
    assert "20 training images a class" in show.heading(experiment)
    assert any(
        "Trained on 20 images of each class, drawn anew" in line
        for line in show.remarks(experiment, records)
    )
    whole = create({"dataset": "digits"})
    said = "Averages are of the trials that have every class: 2 with Classification-only, 1 with Rotation-augmented."
    assert said in show.remarks(experiment, records[:-1]) and said not in show.remarks(
        experiment, records
    )
    fewer = [record for record in records if (record.hold_out, record.trial) != ("7", 1)]
    assert said.replace("2 with", "1 with") in show.remarks(experiment, fewer)
    assert "a class" not in show.heading(whole) + " ".join(show.remarks(whole, []))


def lines(figure):
    return [axis for axis in figure.axes if axis.get_xlabel().startswith("training images")]


def test_the_figure_shows_each_class_the_mean_and_its_interval():
    """In each measure's panel, whatever order the runs are in; of the statistics asked for; dotted
    where the paper's are.
    """
    sizes = {20: [4] * 8, None: [1] * 8, 400: range(8)}  # None: all, which are 100 a class
    found = [
        measured(gain, seed=k, train_per_class=n, statistics="upright")
        for k, (n, gain) in enumerate(sizes.items())
    ]
    figure = plots.gain_by_labels(found[::-1])
    for axis, measure in zip(lines(figure), ("msp", "odin", "accuracy"), strict=True):
        assert axis.get_title() == {
            "msp": "MSP average precision",
            "odin": "ODIN average precision",
        }.get(measure, "Accuracy")
        ticks = [t.get_text() for t in axis.get_xticklabels()]
        assert axis.get_xscale() == "log" and ticks == [
            "20\n2 trials",
            "100\n2 trials",
            "400\n2 trials",
        ]
        thin = [line for line in axis.lines if line.get_label() == "a held-out class"]
        gains = np.transpose(
            [stats.gain(tables.by_class(*one), "rotation", measure) for one in found]
        )
        np.testing.assert_allclose([line.get_ydata() for line in thin], gains)
        (bars,) = axis.containers
        rows = stats.gains(found).query("statistics == 'upright' and measure == @measure")
        np.testing.assert_allclose(
            bars.lines[0].get_xydata(), np.transpose([[20, 100, 400], rows.gain])
        )
        ends = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, rows[["low", "high"]])
        assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"] == [500]
    assert figure.legends[0].texts[-1].get_text() == "the paper's numbers: 500 in Table 4 (STL-10)"
    plt.close(figure)


def test_each_line_is_named_at_its_end_and_no_name_is_on_another():
    few, (experiment, records) = (
        measured([4] * 8, train_per_class=20),
        measured([1] * 8, train_per_class=40),
    )
    part = [record for record in records if record.hold_out in few[0].hold_out[:3]]
    figure = plots.gain_by_labels([few, (experiment, part)])
    figure.canvas.draw()
    axis = lines(figure)[0]
    ends = {text.get_text(): text.xy for text in axis.texts}
    assert [name for name, (x, _) in ends.items() if x == 20] != [] and set(ends) == set(
        few[0].hold_out
    )
    assert {name for name, (x, _) in ends.items() if x == 40} == set(few[0].hold_out[:3])
    for at, one in ((20, few), (40, (experiment, part))):
        gained = stats.gain(tables.by_class(*one), "rotation", "msp").sort_values()
        rising = [name for name in gained.index if ends[name][0] == at]
        assert sorted(rising, key=lambda name: ends[name][1]) == rising
        assert np.mean([ends[name][1] for name in rising]) == pytest.approx(
            gained[rising].mean()
        )  # moved apart alone
    boxes = [text.get_window_extent() for text in axis.texts if text.xy[0] == 20]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    plt.close(figure)


def test_a_mean_of_some_of_the_classes_is_not_drawn_beside_those_of_all():
    few, (experiment, records) = (
        measured([4] * 8, train_per_class=20),
        measured([1] * 8, train_per_class=40),
    )
    part = [record for record in records if record.hold_out in few[0].hold_out[:3]]
    figure = plots.gain_by_labels([few, (experiment, part)])
    axis = lines(figure)[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["20\n2 trials", "40\n3 of 8 run"]
    assert axis.containers[0].lines[0].get_xdata().tolist() == [20]
    assert "3 that were run, of 8" in show.gains(stats.gains([(experiment, part)])).to_string()
    twice = plots.gain_by_labels(
        [(experiment, part), (experiment, part)]
    )  # as many images as another entry has
    assert [t.get_text() for t in lines(twice)[0].get_xticklabels()] == ["40\n3 of 8 run"] * 2
    plt.close(twice)
    plt.close(figure)


@pytest.mark.parametrize("numbers", [(20, 40), (20, None)])
def test_what_is_not_run_says_so_and_the_figure_renders(numbers, tmp_path):
    few, other = (measured([4] * 8, train_per_class=n) for n in numbers)
    for runs_ in ([few, (other[0], [])], [(few[0], []), (other[0], [])]):
        figure = plots.gain_by_labels(runs_)
        figure.canvas.draw()
        shown = " ".join(
            text.get_text()
            for axis in figure.axes
            for text in (*axis.get_xticklabels(), *axis.texts)
        )
        assert ("none of 8 run" in shown) == (numbers[1] is not None or not runs_[0][1]), shown
        plots.save_several(figure, tmp_path / "figure.png", runs_)
        plt.close(figure)
    assert (tmp_path / "figure.png").exists() and (
        tmp_path / "figure.unfinished.png"
    ).exists()  # the second shows less
