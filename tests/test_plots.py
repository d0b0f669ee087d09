"""Figures of records against literal computations of what they draw, and which images they show."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from helpers import cells, made_up
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image
from scipy.stats import t as students_t
from sklearn.metrics import auc, average_precision_score

from semlib.datasets import Dataset, ImageSet
from workbench.images import prepared
from workbench.results import names, plots, stats, tables
from workbench.runs import plan, store

# 10 images of class 1, 9 of class 7
UNEVEN = {"images": 95, "dataset": "digits", "hold_out": ["1", "7"], "trials": 2}
DETECTORS = cells("detectors")


def runs(folder, **changes):
    """An experiment with its records, whose upright scores are the mixed ones negated."""
    experiment = made_up(folder, **UNEVEN | changes)
    for record in store.collect(experiment.folder):
        arrays = record.scores()
        aps = {}
        for name in record.scoring:
            arrays[f"{name}@upright"] = -arrays[name]
            ap = average_precision_score(arrays["is_anomaly"], -arrays[name])
            aps[f"{name}@upright"] = ap
        sha256 = store.write_scores(record.home / "scores.npz", arrays)
        fields = record.model_dump() | {"metrics": record.metrics | aps, "scores_sha256": sha256}
        store.write_record(record.home, **fields)
    return experiment, store.collect(experiment.folder)


# --- precision and recall


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_the_area_under_each_curve_is_the_mean_average_precision_of_its_runs(tmp_path, statistics):
    experiment, records = runs(tmp_path, statistics=statistics)
    end = plan.STATISTICS[statistics]
    colour = plots.colours(experiment.methods)
    figure = plots.precision_recall(experiment, records)
    assert [axis.get_title() for axis in figure.axes] == ["1", "7"]
    pairs = [*itertools.product(experiment.methods, experiment.scores)]
    for axis in figure.axes:
        *curves, skew = axis.lines
        members = [r for r in records if r.hold_out == axis.get_title()]
        is_anomaly = members[0].scores()["is_anomaly"]
        assert set(skew.get_ydata()) == {is_anomaly.mean()}
        texts = axis.get_legend().get_texts()
        drawn = zip(pairs, curves, axis.collections, texts, strict=True)
        for (method, score), curve, band, text in drawn:
            assert curve.get_color() == colour[method] == text.get_color()
            of_method = [r for r in members if r.method == method]
            aps = 100 * pd.Series([r.metrics[score + end] for r in of_method])
            x, y = STEP_LOOKUP_MAP[curve.get_drawstyle()](*curve.get_data())
            assert 100 * auc(x, y) == pytest.approx(aps.mean())
            assert text.get_text() == f"{names.label(score)} {aps.mean():.2f} ± {aps.std():.2f}"
            scores = [r.scores()[score + end] for r in of_method]
            literal = np.array([literal_precisions(is_anomaly, values) for values in scores])
            np.testing.assert_allclose(curve.get_ydata()[1:], literal.mean(0))
            box = band.get_datalim(axis.transData)
            half = literal.std(0, ddof=1)
            assert box.y0 == pytest.approx((literal.mean(0) - half).min())
            assert box.y1 == pytest.approx((literal.mean(0) + half).max())
    labels = [text.get_text() for text in figure.legends[0].texts]
    shown = [f"{names.label(method)}, {names.label(score)}" for method, score in pairs]
    assert labels == [*shown, "share of anomalies"]


def literal_precisions(is_anomaly, values):
    """The precision at the highest threshold that finds k anomalies, for each k; ties together."""
    cuts = np.sort(values[is_anomaly])[::-1]  # the k-th flags k anomalies or more
    return [is_anomaly[values >= cut].mean() for cut in cuts]


@pytest.mark.parametrize(("curves", "scores"), [(6, 3), (4, 2), (100, 4)])
def test_of_many_scores_as_many_are_drawn_as_curves_allow(tmp_path, curves, scores):
    experiment, records = runs(tmp_path, hold_out="7", scores=["msp", "odin", "energy", "knn"])
    figure = plots.precision_recall(experiment, records, curves)
    assert len(figure.legends[0].texts) == 2 * scores + 1  # two methods, and chance
    assert (f"first {scores} of 4 scores" in figure.get_suptitle()) == (scores < 4)


def test_of_many_classes_those_are_drawn_whose_methods_differ_most(tmp_path, monkeypatch):
    experiment, records = runs(tmp_path, hold_out=[str(k) for k in range(10)], images=200)
    changed = []
    for record in records:
        differs = record.hold_out in {"3", "5", "8"} and record.method == "rotation"
        metrics = record.metrics | {"msp": 0.9 if differs else 0.1}
        changed.append(record.model_copy(update={"metrics": metrics}))
    monkeypatch.setattr(plots, "PANELS", 3)
    figure = plots.precision_recall(experiment, changed)
    assert [axis.get_title() for axis in figure.axes] == ["3", "5", "8"]
    assert "3 of 10, where methods differ most" in figure.get_suptitle()


# --- gains over plain classification


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_each_class_and_the_mean_have_their_gain_and_its_interval(tmp_path, trials):
    experiment, records = runs(tmp_path, hold_out=["1", "7", "8"], trials=trials)
    table = stats.gains_by_class(experiment, records, resamples=40)
    counts = stats.draws(records[0].scores()["label"], 40)
    for score in experiment.scores:
        rows = table[table.score == score].set_index("hold_out")
        for hold_out in experiment.hold_out:
            members = [r for r in records if r.hold_out == hold_out]
            value, half = literal_gain(members, score, counts)
            interval = [value, value - half, value + half]
            found = rows.loc[hold_out, ["difference", "low", "high"]].tolist()
            assert found == pytest.approx(interval, nan_ok=True)
            assert np.isnan(half) == (trials == 1)
        values = rows.difference[:-1]
        half = students_t.ppf(0.975, 2) * values.std() / 3**0.5
        mean = [values.mean(), values.mean() - half, values.mean() + half]
        assert rows.loc["average", ["difference", "low", "high"]].tolist() == pytest.approx(mean)
    part = stats.gains_by_class(experiment, [r for r in records if r is not records[-1]])
    missing = part.query("hold_out == 'average'").difference
    assert missing.isna().all() == (trials == 1)
    said = ["one trial", "nothing is claimed of a class"]
    if trials > 1:
        said = [f"mean of {trials} trials", "over test images and trainings"]
    title = plots.gain_by_class(experiment, records).get_suptitle()
    assert all(text in title for text in said)


def literal_gain(records, score, counts):
    """Rotation minus classification in points, and half its interval, NaN of one trial."""
    found = {"rotation": [], "classification": []}
    for record in records:
        arrays = record.scores()
        weights = [np.ones(len(counts)), *counts.T]
        ranked = arrays["is_anomaly"], arrays[score]
        aps = [100 * average_precision_score(*ranked, sample_weight=w) for w in weights]
        found[record.method].append(aps)
    trials = np.array(found["rotation"]) - found["classification"]  # (trials, 1 + resamples)
    value, *resampled = trials.mean(axis=0)
    if len(trials) == 1:
        return value, np.nan
    images = 1.959964 * np.std(resampled, ddof=1)
    deviation = np.std(trials[:, 0], ddof=1) / len(trials) ** 0.5
    return value, np.hypot(images, students_t.ppf(0.975, len(trials) - 1) * deviation)


@pytest.mark.parametrize(("trials", "images"), [(2, 0.5), (2, 1), (3, 0.2), (3, 1), (5, 1)])
def test_an_interval_over_images_and_trainings_covers_as_often_as_it_says(trials, images):
    """Of a true 0: the images' deviation is known, that of a training, 1, is not."""
    draws = np.random.default_rng(0)
    columns = range(4000)
    shared = images * draws.normal(size=4000)  # all trials are scored on the same images
    index = pd.MultiIndex.from_product([["cat"], range(trials)], names=["hold_out", "trial"])
    each = pd.DataFrame(shared + draws.normal(size=(trials, 4000)), index, columns)
    deviation = pd.DataFrame(images, ["cat"], columns)
    half = stats.both_sources(deviation, each).loc["cat"]
    covered = (each.mean().abs() <= half).mean()
    assert 0.94 < covered < 0.995
    of_images = (each.mean().abs() <= 1.96 * images).mean()
    assert of_images < 0.93  # why it must be about both


def test_the_figure_draws_every_gain_of_the_table_in_its_methods_colour(tmp_path):
    methods = ("classification", "rotation", "cpc", "center_mask")
    experiment, records = runs(tmp_path, methods=methods, scores=["msp", "odin", "energy", "knn"])
    figure = plots.gain_by_class(experiment, records)
    table = stats.gains_by_class(experiment, records)
    each = stats.gains_by_trial(experiment, records)
    colour = plots.colours(methods)
    assert "the first 3 of 4 scores" in figure.get_suptitle()
    assert [axis.get_title() for axis in figure.axes] == ["MSP", "ODIN", "Energy"]
    for axis, score in zip(figure.axes, experiment.scores, strict=False):
        heights = set()
        for k, method in enumerate(methods[1:]):
            rows = table[(table.score == score) & (table.method == method)]
            *trials, dots, mean = axis.lines[4 * k : 4 * k + 4]  # two trials
            drawn = np.concatenate([line.get_xdata()[:-1] for line in trials]).tolist()
            assert sorted(drawn) == sorted(each[method, score].dropna())
            assert [*dots.get_xdata(), *mean.get_xdata()] == rows.difference.tolist()
            ends = [bar[:, 0] for bar in axis.collections[k].get_segments()]
            np.testing.assert_allclose(ends, rows[["low", "high"]])
            assert trials[0].get_color() == dots.get_color() == mean.get_color() == colour[method]
            heights |= {*dots.get_ydata(), *mean.get_ydata()}
        assert len(heights) == 3 * 3  # methods, and two classes and the mean
    legend = {text.get_text() for text in figure.legends[0].texts}
    assert legend == {names.label(method) for method in methods[1:]}


def test_the_papers_gains_are_hollow_and_only_beside_those_of_all_its_images(tmp_path):
    experiment = made_up(tmp_path, dataset="cifar10", images=60, trials=1)
    records = store.collect(experiment.folder)
    paper = tables.published("table3_cifar10")

    def hollow(records, experiment=experiment):
        figure = plots.gain_by_class(experiment, records)
        rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        lines = [line for line in figure.axes[0].lines if line.get_fillstyle() == "none"]
        found = {}
        for line in lines:
            found |= dict(zip(rows, line.get_xdata(), strict=True))
        return found

    gains = paper.rotation_msp - paper.classification_msp
    assert hollow(records) == pytest.approx(gains.rename({"average": "mean"}).to_dict())
    without = [r for r in records if (r.hold_out, r.method) != ("cat", "rotation")]
    assert hollow(without)["cat"] == gains["cat"]
    assert np.isnan(hollow(without)["mean"])
    rows = stats.gains_by_class(experiment, without).query("score == 'msp'").set_index("hold_out")
    assert np.isnan(rows.difference["cat"])
    assert np.isnan(rows.difference["average"])
    assert not hollow(records, experiment.model_copy(update={"train_per_class": 500}))


def test_of_many_classes_those_with_the_largest_gains_are_drawn_and_of_none_a_note(tmp_path):
    experiment, records = runs(tmp_path, hold_out="all", images=200)
    every = stats.gains_by_class(experiment, records)
    largest = every[every.hold_out != "average"].groupby("hold_out").difference
    chosen = largest.agg(lambda gains: gains.abs().max()).nlargest(3).index.sort_values()
    figure = plots.gain_by_class(experiment, records, most=3)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == [*chosen, "mean"] and "3 of 10" in figure.get_suptitle()
    mean = stats.gains_by_class(experiment, records, 3).query("hold_out == 'average'").difference
    assert mean.tolist() == every.query("hold_out == 'average'").difference.tolist()
    plain = experiment.model_copy(update={"methods": ("classification",)})
    rotation = [record for record in records if record.method == "rotation"]
    for one, those in ((experiment, []), (plain, records), (experiment, rotation)):
        (axis,) = plots.gain_by_class(one, those).axes
        assert "not run with both" in axis.texts[0].get_text() and not axis.lines


# --- names and colours

ODD = ("$5_note", "US$5 - US$10", "_background_", r"a\nb", "$x^$")


def test_names_are_shown_as_they_are_in_every_figure(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    part = ImageSet(images, np.arange(100) % len(ODD))
    data = Dataset("own", part, part, ODD)
    prepared.write(tmp_path / "own.npz", data)
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    experiment = made_up(tmp_path / "outputs", 100, dataset="own", data_root=None, trials=2)
    records = store.finished(experiment)
    history = pd.DataFrame({"epoch": [1, 2], "loss": 1.0, "accuracy": 0.5, "msp": 0.1})
    for record in records:
        history.to_csv(record.home / "history.csv", index=False)
    columns = pd.MultiIndex.from_product([["edges"], ["average_precision", "low", "high"]])
    rows = pd.MultiIndex.from_product([["own"], ODD])
    probe = pd.DataFrame([[k, k - 1, k + 1] for k in range(len(ODD))], rows, columns)
    found = stats.measured([(experiment, records)], resamples=2)
    files = pd.DataFrame({"file": ODD, "predicted": ODD, "msp": 0.5, "msp_percentile": 1.0})
    three = [record for record in records if record.hold_out in ODD[:3]]
    figures = {
        plots.precision_recall(experiment, records): ODD,
        plots.gain_by_class(experiment, records): ODD,
        DETECTORS.probes(found, probe): ODD,
        plots.learning_curves(experiment, three): ODD[:3],
        plots.samples(dict.fromkeys(ODD, data.test.images[:2]), "$a$ title"): ODD,
        plots.most_anomalous(files, data.test.images): [f"{k}\n{k}, 1.0" for k in ODD],
        plots.ranked_images(records[0], data): (),
    }
    for figure, expected in figures.items():
        figure.savefig(tmp_path / "figure.png", dpi=30)  # fails for a text that is no formula
        texts = [text for text in figure.findobj(Text) if text.get_visible()]
        assert not any(text.get_parse_math() for text in texts if "$" in text.get_text())
        assert {*expected} <= {text.get_text().strip(" ") for text in texts}


@pytest.mark.parametrize("others", [1, 2, 7, 12])
def test_methods_and_scores_each_have_a_look_of_their_own(others):
    """Methods differ in lightness too, as a grey print shows them, up to seven of a user's."""
    many = [f"my:task_{k}" for k in range(others)]
    found = plots.colours(("rotation", *many, "classification"))
    assert len({*found.values()}) == len({*plots.KNOWN, *many})
    for method in plots.KNOWN:  # in every figure
        assert found[method] == plots.colours(plots.KNOWN)[method]
    assert len(set(plots.STYLES)) >= plots.CURVES
    linear = [np.power((np.array(rgb) + 0.055) / 1.055, 2.4) for rgb in found.values()]
    # CIE L*, of white 100
    lightness = sorted(116 * np.cbrt(rgb @ [0.2126, 0.7152, 0.0722]) - 16 for rgb in linear)
    assert others > 7 or (np.diff(lightness).min() > 3 and lightness[-1] < 90)


# --- training


@pytest.mark.parametrize("classes", [["1", "7"], ["0", "1", "2", "7"]])
def test_learning_curves_are_means_with_a_band_of_one_deviation(tmp_path, classes):
    """Over trials of each of up to three classes; of more, over classes and trials."""
    experiment, records = runs(tmp_path, images=20, hold_out=classes)
    rng = np.random.default_rng(0)
    parts = []
    for record in records:
        history = pd.DataFrame(rng.random((3, 3)), columns=["loss", "accuracy", "msp"])
        history.insert(0, "epoch", [1, 2, 3])
        history.to_csv(record.home / "history.csv", index=False)
        parts.append(history.assign(method=record.method, hold_out=record.hold_out))
    figure = plots.learning_curves(experiment, records)
    few = len(classes) <= 3
    said = "1, 7 held out" if few else "mean of 4 classes held out"
    assert said in figure.get_suptitle()
    keys = ["hold_out", "method"] if few else ["method"]
    groups = pd.concat(parts).groupby([*keys, "epoch"])
    for axis, name in zip(figure.axes, ("loss", "accuracy", "msp"), strict=True):
        unit = 1 if name == "loss" else 100
        means = unit * groups[name].mean().unstack()
        stds = unit * groups[name].std().unstack()
        lines = [line for line in axis.lines if len(line.get_ydata()) == 3]
        np.testing.assert_allclose([line.get_ydata() for line in lines], means)
        boxes = [band.get_datalim(axis.transData) for band in axis.collections]
        np.testing.assert_allclose([box.y0 for box in boxes], (means - stds).min(axis=1))
        np.testing.assert_allclose([box.y1 for box in boxes], (means + stds).max(axis=1))
        if not few:
            colour = plots.colours(experiment.methods)
            drawn = [to_hex(line.get_color()) for line in lines]
            assert drawn == [to_hex(colour[method]) for method in means.index]


def test_learning_curves_end_in_the_numbers_of_the_table(tmp_path):
    experiment, records = runs(tmp_path, images=20, hold_out=["1", "7"], statistics="upright")
    for k, record in enumerate(records):
        history = pd.DataFrame({"epoch": [1, 2], "loss": 1.0, "accuracy": 0.5, "msp": 0.5})
        ends = {"accuracy@upright": [np.nan, k / 20], "msp@upright": [np.nan, (k + 1) / 20]}
        history.assign(**ends).to_csv(record.home / "history.csv", index=False)
    for j, axis in enumerate(plots.learning_curves(experiment, records).axes[1:]):
        means = {}
        for k, record in enumerate(records):
            means.setdefault(record.hold_out, []).append(100 * (k + j) / 20)
        points = axis.collections[-1].get_offsets()
        expected = [[2, np.mean(numbers)] for numbers in means.values()]
        np.testing.assert_allclose(sorted(map(list, points)), sorted(expected))
        assert "diamonds: upright" in axis.get_ylabel()


# --- images


def numbered(count=95):
    """Test images each of which is its own number in grey."""
    images = np.arange(count, dtype=np.uint8).repeat(4).reshape(count, 1, 2, 2)
    test = ImageSet(images, np.arange(count) % 10)
    return Dataset("digits", test, test, prepared.classes("digits"))


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_ranked_images_are_the_most_and_least_anomalous_of_either_kind(tmp_path, statistics):
    data = numbered()
    end = plan.STATISTICS[statistics]
    _, records = runs(tmp_path, data=prepared.digests_of(data))
    record = next(r for r in records if (r.hold_out, r.method) == ("7", "rotation"))
    figure = plots.ranked_images(record, data, "odin", count=4, statistics=statistics)
    about = f"ODIN ({statistics} statistics), Rotation-augmented, 7 held out"
    assert figure.get_suptitle().startswith(about)
    arrays = record.scores()
    scores = arrays[f"odin{end}"]
    anomaly = arrays["is_anomaly"]
    ends = itertools.product((True, False), repeat=2)
    for (is_anomaly, most), axis in zip(ends, figure.axes, strict=True):
        kind = "anomalies" if is_anomaly else "normal"
        which = "most" if most else "least"
        assert axis.get_ylabel() == f"{kind},\n{which} anomalous"
        shown = [int(image.get_array()[0, 0]) for image in axis.images]
        ranked = sorted(scores[anomaly == is_anomaly], reverse=most)
        assert scores[shown].tolist() == ranked[:4] and len({*shown}) == 4
        assert (anomaly[shown] == is_anomaly).all()
        for text, k in zip(axis.texts, shown, strict=True):
            pair = [record.classes[arrays[name][k]] for name in ("label", f"predicted{end}")]
            assert text.get_text() == f"{' → '.join(pair)}\n{scores[k]:.4g}"


def test_no_ranked_image_is_in_two_rows_and_other_images_are_not_shown(tmp_path):
    data = numbered()
    _, (record, *_) = runs(tmp_path, data=prepared.digests_of(data))
    figure = plots.ranked_images(record, data, count=len(data.test))
    drawn = itertools.chain(*(axis.images for axis in figure.axes))
    shown = [int(image.get_array()[0, 0]) for image in drawn]
    assert sorted(shown) == [*range(len(data.test))]
    with pytest.raises(ValueError, match="'knn' is not a score of this run; choose from msp, odin"):
        plots.ranked_images(record, data, "knn")
    turned = ImageSet(data.test.images[::-1].copy(), data.test.labels)
    (axis,) = plots.ranked_images(record, Dataset("digits", turned, turned, data.classes)).axes
    assert "not those that were scored" in axis.texts[0].get_text() and not axis.images


def test_captions_and_images_of_any_shape_stay_in_their_places():
    images = np.zeros((3, 1, 20, 60), np.uint8)
    long = {"file": ["f" * 90] * 3, "predicted": ["c" * 90] * 3}
    table = pd.DataFrame(long | {"msp": 0.5, "msp_percentile": 100.0})
    figure = plots.most_anomalous(table, images, columns=3)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    for image, text in zip(axis.images, axis.texts, strict=True):
        left, right, bottom, top = image.get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(3) and right - left < 1
        assert text.get_position() == ((left + right) / 2, top)  # right above the image
    rows = plots.samples({"a": images, "b": images[:0]}, "letters").axes
    assert [axis.get_ylabel() for axis in rows] == ["a", "b\n(not here)"]
    image = np.arange(24).reshape(4, 2, 3)
    np.testing.assert_array_equal(plots.pixels(image), np.dstack(image[:3]))


def test_a_file_is_replaced_by_a_figure_of_as_many_runs_and_one_of_fewer_lies_beside(tmp_path):
    experiment, records = runs(tmp_path / "outputs")
    path = tmp_path / "figure.png"
    beside = tmp_path / "figure.unfinished.png"
    figure = plots.precision_recall(experiment, records)
    path.write_bytes(b"damaged")
    plots.save(figure, path, [(experiment, records)])
    plots.save(figure, path, [(experiment, records[:1])])
    assert Image.open(path).info[plots.SHARE] == "1.0" and beside.exists()
    plots.save(figure, path, [(experiment, records)])
    assert not beside.exists()


# --- for a paper, and on a screen

MEASURED = {"hold_out": [str(k) for k in range(8)], "images": 200}
FIGURES = {
    "precision_recall": plots.precision_recall,
    "gain_by_class": plots.gain_by_class,
    "learning_curves": plots.learning_curves,
    "gain_by_labels": lambda *run: cells("few_labels").gain_by_labels([run]),
    "forest": lambda *run: forest(stats.measured([run])),
    "prevalence": lambda *run: DETECTORS.prevalence(stats.measured([run])),
}


def forest(found):
    return DETECTORS.forest(found, stats.contrasts(found).query("against == 'msp'"))


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """An experiment with eight held-out classes and its records."""
    return runs(tmp_path_factory.mktemp("eight"), **MEASURED)


@pytest.mark.parametrize("name", FIGURES)
def test_text_can_be_read_on_a_screen_and_in_print(eight, name, tmp_path, monkeypatch):
    """Of 1280 pixels a notebook leaves 1000 to a figure; in print 7 points, inside the figure."""
    history = {"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.5, 0.9], "msp": [0.2, 0.3]}
    monkeypatch.setattr(store.Record, "history", lambda record: pd.DataFrame(history))
    figure = FIGURES[name](*eight)
    colours = line_colours(figure)
    pixels = min(figure.dpi, 1000 / figure.get_figwidth()) / 72
    assert min(written(figure).values()) * pixels >= 9
    for width, inches in plots.WIDTHS.items():
        figure = FIGURES[name](*eight)
        title = figure.get_suptitle()
        assert plots.save_for_paper(figure, tmp_path / width, width) == title
        pdf = (tmp_path / f"{width}.pdf").read_bytes()
        assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf
        box = [float(number) for number in re.search(rb"MediaBox \[([^]]*)\]", pdf)[1].split()]
        assert box[2] == pytest.approx(72 * inches, abs=1)
        svg = (tmp_path / f"{width}.svg").read_text()
        assert "<text" in svg and "DejaVu Sans" in svg
        assert min(written(figure).values()) >= 7
        inside = figure.bbox.padded(3)
        for text in written(figure):
            ends = text.get_window_extent()
            assert inside.contains(*ends.min) and inside.contains(*ends.max), text
        assert line_colours(figure) == colours
    with pytest.raises(ValueError, match="column, page"):
        plots.save_for_paper(figure, tmp_path / "x", "poster")


def line_colours(figure) -> set[str]:
    lines = itertools.chain.from_iterable(axis.lines for axis in figure.axes)
    return {to_hex(line.get_color()) for line in lines}


def written(figure) -> dict[Text, float]:
    """The figure's texts that can be seen, and their sizes in points."""
    figure.canvas.draw()
    beyond = set()  # labels of ticks outside the view are not drawn
    for axis in [*(p.xaxis for p in figure.axes), *(p.yaxis for p in figure.axes)]:
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        beyond |= {tick.label1 for tick in ticks if not low <= tick.get_loc() <= high}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text not in beyond]
    return {text: text.get_fontsize() for text in shown if text.get_window_extent().width > 0}
