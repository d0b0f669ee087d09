"""Few labels: which training images are drawn, what is computed of them, and the gain by number."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.stats
from helpers import ROOT, cells, tiny, tiny_data
from test_tables import record, without_files  # noqa: F401 - a fixture

from semlib import datasets
from semlib.datasets import DataError, Dataset, ImageSet
from workbench import results, runs
from workbench.batch import notebooks
from workbench.experiment import SCORES, ConfigError, create, several
from workbench.images import prepared
from workbench.results import plots, show, stats, tables
from workbench.runs import plan

NOTEBOOK = ROOT / "notebooks" / "few_labels.ipynb"
FEW_LABELS = cells("few_labels")
FILES = sorted((ROOT / "params").glob("*/few_labels.yaml"))
PROFILES = [path.parent.name for path in FILES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    tiny_data(root / "data")
    return root


def numbered(classes=5, each=39):
    """Every image is its own number, so that it is known again."""
    count = classes * each
    images = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 4, 1, 1)
    train = ImageSet(images, np.arange(count) // 3 % classes)
    test = ImageSet(images[:classes], np.arange(classes))
    return Dataset("numbered", train, test, tuple("abcde"[:classes]))


def drawn(data, anomaly, number=None, trial=0):
    """The numbers of the images that are trained on."""
    images = datasets.hold_out(data, anomaly, number, trial).train.images
    return images.reshape(len(images), 4).view(np.uint32).ravel()


# --- which images


def test_so_many_of_each_class_and_none_of_the_anomaly_in_the_data_sets_order():
    data = numbered()
    index = drawn(data, "b", 7, trial=3)
    assert np.bincount(data.train.labels[index], minlength=5).tolist() == [7, 0, 7, 7, 7]
    assert (np.diff(index) > 0).all()
    split = datasets.hold_out(data, "b", 7, trial=3)
    np.testing.assert_array_equal(split.kept[split.train.labels], data.train.labels[index])
    assert len(split.test) == len(data.test) and split.is_anomaly.sum() == 1


def test_trials_and_held_out_classes_have_images_of_their_own():
    data = numbered()
    of_a = []
    for anomaly, trial in itertools.product(("b", "c", None), range(3)):
        index = drawn(data, anomaly, 7, trial)
        of_a.append(frozenset(index[data.train.labels[index] == 0]))
    assert len({*of_a}) == len(of_a)
    common = [len(one & other) for one, other in itertools.combinations(of_a, 2)]
    assert np.mean(common) < 3  # 7 of 39: by chance 1.3
    np.testing.assert_array_equal(drawn(data, "b", 7, 1), drawn(data, "b", 7, 1))


def test_a_larger_number_includes_a_smaller_ones_images_and_all_are_all():
    data = numbered()
    few, more, every = (drawn(data, "b", n, 1) for n in (3, 30, 39))
    assert {*few} < {*more} < {*every}
    np.testing.assert_array_equal(every, drawn(data, "b"))
    np.testing.assert_array_equal(every, np.flatnonzero(data.train.labels != 1))


def test_each_image_is_drawn_equally_often_and_the_same_ones_everywhere():
    """Known indices: another version of NumPy or another system may not draw others."""
    data = numbered(classes=3, each=21)
    counts = sum(np.bincount(drawn(data, "a", 5, t), minlength=63) for t in range(400))
    others = counts[data.train.labels != 0]  # each 400 * 5 / 21 = 95 on average
    assert scipy.stats.chisquare(others).pvalue > 1e-4 and others.sum() == 400 * 10
    assert drawn(numbered(), "b", 2, trial=1).tolist() == [0, 12, 29, 38, 82, 106, 114, 191]


@pytest.mark.parametrize("anomaly", ["a", None])
def test_more_than_there_are_is_one_line_that_says_how_many_there_are(anomaly):
    data = numbered()
    labels = np.where((data.train.labels == 2) & (np.arange(195) % 2 == 0), 3, data.train.labels)
    there = int((labels == 2).sum())
    data = Dataset(data.name, ImageSet(data.train.images, labels), data.test, data.classes)
    said = f"train_per_class: {there + 1} is more than numbered has of c: {there}$"
    with pytest.raises(DataError, match=said):
        datasets.hold_out(data, anomaly, there + 1)
    assert len(drawn(data, anomaly, there))


def test_before_a_run_begins_too_much_is_refused_and_a_batch_must_fit(folder):
    data = runs.load(tiny(folder))
    said = r"train_per_class: 65 is more than tiny has of \w+: 64"
    with pytest.raises((ConfigError, DataError), match=said):
        runs.check_data(tiny(folder, train_per_class=65), data)
    said = "batch_size: 64 is more than 60; tiny has 60 images to train on with train_per_class 20"
    with pytest.raises(ConfigError, match=said):
        runs.check_data(tiny(folder, train_per_class=20), data)


def test_a_training_of_one_step_on_one_cycle_is_refused_and_of_few_warned_of(folder):
    """The learning rate of one_cycle's first step is 0."""
    data = prepared.load("tiny", folder / "data")

    def check(schedule, epochs):
        runs.check_data(tiny(folder, schedule=schedule, epochs=epochs, batch_size=192), data)

    made = "with batch_size 192 and 192 images make"
    todo = "choose more epochs or a smaller batch_size"
    said = f"epochs: 1 {made} 1 training step, and the learning rate of .* is 0; {todo}"
    with pytest.raises(ConfigError, match=said):
        check("one_cycle", 1)
    with pytest.warns(UserWarning, match=f"epochs: 1 {made} 1 training step, too few .*; {todo}"):
        check("step", 1)
    with pytest.warns(UserWarning, match=f"epochs: 2 {made} 2 training steps, too few"):
        check("one_cycle", 2)
    with warnings.catch_warnings(action="error"):
        runs.check_data(tiny(folder, schedule="one_cycle"), data)


# --- what is trained


def test_all_methods_of_a_trial_train_on_the_same_images(folder):
    """Told by the mean of the pixels, which the network keeps."""
    how = {"train_per_class": 30, "trials": 2, "epochs": 1, "scores": ["msp", "knn"]}
    experiment = tiny(folder, **how, methods=["classification", "rotation"])
    records = runs.complete(experiment)
    data = runs.load(experiment)
    assert len(records) == 4
    for one in records:
        images = datasets.hold_out(data, "one", 30, one.trial).train.images / 255
        net = runs.network(one, data)
        expected = [images.mean(), images.std()]
        assert [net.mean.item(), net.std.item()] == pytest.approx(expected, rel=1e-5)
    assert set(results.frame([(experiment, records)]).images) == {30}


def test_the_number_is_in_the_address_and_absent_where_all_are_used():
    def address(**changes):
        return plan.Run(create({"precision": "float32"} | changes), "cat", "rotation", 0).address

    assert len({address(), address(train_per_class=500), address(train_per_class=100)}) == 3
    assert address(train_per_class=None) == address() == address(train_per_class="none")


# --- parameters


WRONG = [{500: 1, "500": 2}, {"all": 1, None: 2}, {}, {0: 3}, {"few": 3}, {500: 0}, {500: None}]


@pytest.mark.parametrize("labels", [*WRONG, [500], 500, {True: 3}, {1.5: 2}])
def test_labels_that_are_none_are_one_line(labels):
    with pytest.raises(ConfigError, match=r"^epochs_by_labels: [^\n]+$"):
        several({"epochs_by_labels": labels})
    with pytest.raises(ConfigError, match="epochs: epochs_by_labels has epochs"):
        several({"epochs_by_labels": {500: 100}, "epochs": 3})


@pytest.mark.parametrize("path", FILES, ids=PROFILES)
def test_every_number_of_labels_has_as_many_steps_and_ten_evaluations(path):
    given, made = notebooks.parameters(NOTEBOOK, [path], [])
    assert all(isinstance(key, str) for key in given["epochs_by_labels"])  # Papermill sorts them
    whole = 50000 if made[0].dataset == "cifar10" else len(prepared.load("digits").train)
    steps = [e.epochs * int((e.train_per_class or whole / 10) * 9 // e.batch_size) for e in made]
    assert max(steps) <= 1.01 * min(steps) and len(made) >= 2
    for e in made:
        passed = [epoch // e.evaluate_every for epoch in range(e.epochs + 1)]
        points = {k for k in range(1, e.epochs + 1) if passed[k] > passed[k - 1]}
        assert len(points | {e.epochs}) == 10
    assert {e.precision for e in made} == {"bfloat16" if path.parent.name == "fast" else "float32"}
    if made[0].dataset == "cifar10":
        assert set(made[0].scores) == set(SCORES) and made[0].train_per_class == 500


# --- tables and figures

CLASSES = [str(k) for k in range(8)]


def measured(gain, trials=2, seed=0, missing=(), **changes):
    """(experiment, records) whose rotation is above classification by about gain[class] points.

    upright numbers are higher by 10 points, and their gain is twice as large.
    """
    rng = np.random.default_rng(seed)
    how = {"dataset": "digits", "profile": "few", "trials": trials, "hold_out": CLASSES}
    experiment = create(how | changes)
    fields = {"train_images": 800, "classes": tuple(CLASSES)}
    records = []
    for trial, name, method in itertools.product(range(trials), CLASSES, experiment.methods):
        plus = gain[int(name)] / 100 if method == "rotation" else 0
        metrics = {}
        for key in ("msp", "odin", "accuracy"):
            value = rng.uniform(0.2, 0.5)
            metrics |= {key: value + plus, f"{key}@upright": value + 2 * plus + 0.1}
        if (name, method) not in missing:
            records.append(record(name, method, trial, metrics=metrics, **fields))
    return experiment, records


def msp(table, statistics="mixed"):
    return table[(table.statistics == statistics) & (table.measure == "msp")]


def test_gains_are_those_of_a_paired_t_test_and_of_wilcoxons():
    experiment, records = measured([3, 1, 4, 1, 5, 9, 2, 6], train_per_class=20)
    long = results.frame([(experiment, records)]).query("statistics == 'mixed'")
    means = long[long.measure == "msp"].groupby(["method", "hold_out"]).value.mean()
    plain = means["classification"]
    turned = means["rotation"]
    table = stats.gains([(experiment, records)])
    row = msp(table).iloc[0]
    interval = scipy.stats.ttest_rel(turned, plain).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    expected = [plain.mean(), turned.mean(), (turned - plain).mean()]
    assert row[["plain", "with", "gain"]].tolist() == pytest.approx(expected)
    assert row.p == pytest.approx(scipy.stats.wilcoxon(turned, plain).pvalue)
    assert (row.above, row.classes, row.images) == ((turned > plain).sum(), 8, 20)
    text = show.text(table).loc[("20", "mixed", "Rotation-augmented", "MSP")]
    numbers = [f"{row.plain:.2f}", f"{row['with']:.2f}", f"{row.gain:+.2f}"]
    numbers += [f"{row.low:+.2f} to {row.high:+.2f}", f"{row.above} of 8", f"{row.p:.3f}"]
    assert text.tolist() == numbers


def test_gains_of_both_statistics_and_of_nothing():
    found = measured([2] * 8, train_per_class=20)
    nothing, _ = measured([2] * 8, train_per_class=40)
    table = stats.gains([found, (nothing, [])])
    every = itertools.product((20, 40), ("mixed", "upright"), ("msp", "odin", "accuracy"))
    assert {*zip(table.images, table.statistics, table.measure, strict=True)} == {*every}
    here = table[table.images == 20]
    assert msp(here, "upright").plain.item() == pytest.approx(msp(here).plain.item() + 10)
    assert table[table.images == 40].gain.isna().all()
    text = show.text(table)
    assert (text.loc["40", "Gain (points)"] == "-").all()
    assert "nan" not in text.to_string().lower()
    for method in nothing.methods:
        alone = nothing.model_copy(update={"methods": (method,)})
        table = stats.gains([(alone, [])])
        assert table.empty and {"images", "statistics", "measure"} <= {*table}
        assert "nothing to compare" in show.text(table).to_string()


def test_where_a_class_lacks_a_method_no_gain_is_shown():
    experiment, records = measured([2] * 8, missing={("3", "rotation"), ("4", "classification")})
    table = stats.gains([(experiment, records)])
    assert set(table.classes) == {6}
    text = show.text(table)
    assert set(text["Gain (points)"]) == {"-"} and text["Above in"].str.endswith("of 6").all()


def test_headings_and_remarks_say_how_many_and_the_paper_is_beside_all_images_alone():
    few, whole = (tables.by_class(create({"train_per_class": n}), []) for n in (500, None))
    assert "paper" not in few.columns.unique("statistic")
    assert "paper" in whole.columns.unique("statistic")
    assert show.differences(few).iloc[0, 0].startswith("the paper has no numbers")
    experiment, records = measured([1] * 8, train_per_class=20)
    assert "20 training images a class" in show.heading(experiment)
    said = "Trained on 20 images of each class, drawn anew for each "
    assert f"{said}trial and" in show.summary(experiment, records)
    alike = experiment.model_copy(update={"subset_seed": 0})
    assert f"{said}held-out class, the same for each trial" in show.summary(alike, records)
    whole = create({"dataset": "digits"})
    assert "a class" not in show.heading(whole) + show.summary(whole, [])
    said = "averages are of Classification-only, Rotation-augmented in trial 0."
    assert said in show.summary(experiment, records[:-1])
    for same in (records[:-2], records):
        assert "averages" not in show.summary(experiment, same)


def lines(figure):
    return [axis for axis in figure.axes if axis.get_xlabel().startswith("training images")]


def test_the_figure_shows_each_class_the_mean_and_its_interval():
    """In each measure's panel, whatever order the runs are in, of the statistics asked for."""
    sizes = {20: [4] * 8, None: [1] * 8, 400: range(8)}  # None: all, which are 100 a class
    found = []
    for k, (number, gain) in enumerate(sizes.items()):
        found.append(measured(gain, seed=k, train_per_class=number, statistics="upright"))
    figure = FEW_LABELS.gain_by_labels(found[::-1])
    for axis, measure in zip(lines(figure), ("msp", "odin", "accuracy"), strict=True):
        ticks = [tick.get_text() for tick in axis.get_xticklabels()]
        assert ticks == ["20\n2 trials", "100\n2 trials", "400\n2 trials"]
        every = [stats.gain(tables.by_class(*one), "rotation", measure) for one in found]
        thin = {tuple(line.get_ydata()) for line in axis.lines}
        assert {*map(tuple, np.transpose(every))} <= thin
        (bars,) = axis.containers
        rows = stats.gains(found).query("statistics == 'upright' and measure == @measure")
        points = np.transpose([[20, 100, 400], rows.gain])
        np.testing.assert_allclose(bars.lines[0].get_xydata(), points)
        ends = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, rows[["low", "high"]])


def test_a_mean_of_some_of_the_classes_is_not_drawn_beside_those_of_all():
    few = measured([4] * 8, train_per_class=20)
    experiment, records = measured([1] * 8, train_per_class=40)
    part = [one for one in records if one.hold_out in CLASSES[:3]]
    axis = lines(FEW_LABELS.gain_by_labels([few, (experiment, part)]))[0]
    ticks = [tick.get_text() for tick in axis.get_xticklabels()]
    assert ticks == ["20\n2 trials", "40\n3 of 8 run"]
    assert axis.containers[0].lines[0].get_xdata().tolist() == [20]


@pytest.mark.parametrize("numbers", [(20, 40), (20, None)])
def test_what_is_not_run_says_so_and_the_figure_renders(numbers, tmp_path):
    few, other = (measured([4] * 8, train_per_class=n) for n in numbers)
    for those in ([few, (other[0], [])], [(few[0], []), (other[0], [])]):
        figure = FEW_LABELS.gain_by_labels(those)
        figure.canvas.draw()
        texts = []
        for axis in figure.axes:
            texts += [text.get_text() for text in (*axis.get_xticklabels(), *axis.texts)]
        said = any("none of 8 run" in text for text in texts)
        assert said == (numbers[1] is not None or not those[0][1]), texts
        plots.save(figure, tmp_path / "figure.png", those)
    assert (tmp_path / "figure.png").exists()
    assert (tmp_path / "figure.unfinished.png").exists()  # the second shows less
