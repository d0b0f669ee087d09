"""Figures of records, read back from what matplotlib draws: curves, bands, and which images stand
in which row.
"""

import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import made_up
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.colors import to_hex
from matplotlib.text import Text
from scipy.stats import t as students_t
from sklearn.metrics import auc, average_precision_score

from semlib import datasets
from semlib.datasets import Dataset, ImageSet
from workbench.images import prepared
from workbench.results import names, plots, stats, tables
from workbench.runs import plan, store

UNEVEN = {
    "images": 95,
    "dataset": "digits",
    "hold_out": ["1", "7"],
    "trials": 2,
}  # 10 images of class 1, 9 of class 7


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def runs(folder, **changes):
    """An experiment with its records, whose upright scores are the mixed ones negated."""
    experiment = made_up(folder, **UNEVEN | changes)
    for record in store.collect(experiment.folder):
        arrays = record.scores()
        arrays |= {f"{name}@upright": -arrays[name] for name in record.scoring}
        aps = {
            f"{s}@upright": average_precision_score(arrays["is_anomaly"], -arrays[s])
            for s in record.scoring
        }
        fields = {
            "scores_sha256": store.write_scores(record.home / "scores.npz", arrays),
            "metrics": record.metrics | aps,
        }
        store.write_record(record.home, **record.model_dump() | fields)
    return experiment, store.collect(experiment.folder)


def drawn(line):
    """(x, y) of the corners of a line as it is drawn, its steps included."""
    return STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_data())


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_the_area_under_each_curve_is_the_mean_average_precision_of_its_runs(tmp_path, statistics):
    experiment, records = runs(tmp_path, statistics=statistics)
    end, colour = plan.STATISTICS[statistics], plots.colours(experiment.methods)
    figure = plots.precision_recall(experiment, records)
    assert [axis.get_title() for axis in figure.axes] == ["1", "7"]
    for axis in figure.axes:
        *curves, skew = axis.lines
        members = [r for r in records if r.hold_out == axis.get_title()]
        is_anomaly = members[0].scores()["is_anomaly"]
        assert set(skew.get_ydata()) == {is_anomaly.mean()}
        pairs = [(method, score) for method in experiment.methods for score in experiment.scores]
        for (method, score), curve, band, text in zip(
            pairs, curves, axis.collections, axis.texts, strict=True
        ):
            assert curve.get_color() == colour[method] and text.get_color() == colour[method]
            aps = pd.Series([r.metrics[score + end] for r in members if r.method == method])
            assert auc(*drawn(curve)) == pytest.approx(aps.mean()) and len(aps) == 2
            said = f"{names.label(score)} {100 * aps.mean():.2f} ± {100 * aps.std():.2f}"
            assert text.get_text() == said
            each = [r.scores()[score + end] for r in members if r.method == method]
            literal = np.array(
                [literal_precisions(is_anomaly, values) for values in each]
            )  # (trials, positives)
            np.testing.assert_allclose(curve.get_ydata()[1:], literal.mean(0))
            x, y = curve.get_data()
            corners = band.get_paths()[0].vertices
            for k in (1, len(x) - 1):
                at = corners[np.isclose(corners[:, 0], x[k])][:, 1]
                half = literal[:, k - 1].std(ddof=1)
                assert np.isclose(at, y[k] - half).any() and np.isclose(at, y[k] + half).any()
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [f"{names.label(m)}, {names.label(s)}" for m, s in pairs] + [
        "share of anomalies"
    ]


def literal_precisions(is_anomaly, values):
    """At each k-th anomaly found, the precision of the threshold that reaches it, ties together."""
    found = []
    for k in range(1, is_anomaly.sum() + 1):
        threshold = max(t for t in values if (is_anomaly & (values >= t)).sum() >= k)
        found.append(is_anomaly[values >= threshold].mean())
    return found


def test_of_many_classes_those_are_drawn_whose_methods_differ_most(tmp_path):
    experiment, records = runs(tmp_path, hold_out=[str(k) for k in range(10)], images=200)
    few = {"3", "5", "8"}
    changed = []
    for record in records:
        ap = 0.9 if record.hold_out in few and record.method == "rotation" else 0.1
        changed.append(record.model_copy(update={"metrics": record.metrics | {"msp": ap}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "PANELS", 3)
        figure = plots.precision_recall(experiment, changed)
    assert [axis.get_title() for axis in figure.axes] == ["3", "5", "8"]
    assert "3 of 10, where methods differ most" in figure.get_suptitle()


# --- by class, how far a method is above plain classification


def marks(figure, panel=0):
    """By row the points of the filled and of the hollow mark, and the ends of the bar, as drawn in
    a panel.
    """
    first, axis = figure.axes[0], figure.axes[panel]
    rows = dict(
        zip(first.get_yticks(), (text.get_text() for text in first.get_yticklabels()), strict=True)
    )
    found = {"filled": {}, "hollow": {}, "bar": {}}
    for line in (
        line
        for line in axis.lines
        if line.get_ydata()[0] in rows and line.get_xdata()[0] == line.get_xdata()[0]
    ):
        kind = (
            "bar"
            if len(line.get_xdata()) == 2
            else "hollow"
            if line.get_fillstyle() == "none"
            else "filled"
        )
        found[kind][rows[line.get_ydata()[0]]] = (
            tuple(line.get_xdata()) if kind == "bar" else line.get_xdata()[0]
        )
    return found


@pytest.mark.parametrize("trials", [1, 2])
def test_each_class_and_the_mean_have_their_difference_and_its_interval(
    tmp_path, trials, monkeypatch
):
    monkeypatch.setattr(stats, "WORK", 1)  # few resamples, for the literal one is slow
    experiment, records = runs(tmp_path, hold_out=["1", "7", "8"], trials=trials)
    figure = plots.gain_by_class(experiment, records)
    assert [axis.get_title() for axis in figure.axes] == ["MSP", "ODIN"]
    for k, (axis, score) in enumerate(zip(figure.axes, experiment.scores, strict=True)):
        drawn, differences = marks(figure, k), {}
        counts = stats.draws(records[0].scores()["label"], stats.FEWEST_RESAMPLES)
        for hold_out in experiment.hold_out:
            value, deviation = literal_difference(
                [r for r in records if r.hold_out == hold_out], score, counts
            )
            differences[hold_out] = value
            half = 1.959964 * deviation
            assert drawn["filled"][hold_out] == pytest.approx(value)
            assert drawn["bar"][hold_out] == pytest.approx((value - half, value + half))
        values = np.array([*differences.values()])
        half = students_t.ppf(0.975, 2) * values.std(ddof=1) / 3**0.5
        assert drawn["filled"]["mean"] == pytest.approx(values.mean())
        assert drawn["bar"]["mean"] == pytest.approx((values.mean() - half, values.mean() + half))
        assert (
            not drawn["hollow"]
            and "over test images" in axis.get_xlabel()
            and "over other held-out" in axis.get_xlabel()
        )
    assert ("one trial" if trials == 1 else "mean of 2 trials") in figure.get_suptitle()
    for those, whole in (
        (records, True),
        (records[:-1], False),
    ):  # of two trials each class is still there
        assert set(stats.gains_by_class(experiment, those).whole) == {whole}


def literal_difference(records, score, counts):
    """Rotation minus classification, means over trials in percent, and its deviation when the test
    images are drawn anew.
    """
    drawn = {"rotation": [], "classification": []}
    for record in records:
        arrays = record.scores()
        weights = [np.ones(len(counts)), *counts.T]
        drawn[record.method].append([average_precision_score(arrays["is_anomaly"], arrays[score], sample_weight=w)
                                     for w in weights])  # fmt: skip
    value, *resampled = 100 * (
        np.mean(drawn["rotation"], axis=0) - np.mean(drawn["classification"], axis=0)
    )
    return value, np.std(resampled, ddof=1)


def test_the_papers_differences_are_hollow_and_what_was_not_run_has_no_mark(tmp_path):
    experiment = made_up(tmp_path, dataset="cifar10", images=60, trials=1)
    records = store.collect(experiment.folder)
    table = tables.published("table3_cifar10").rename(index={"average": "mean"})
    figure = plots.gain_by_class(experiment, records)
    for panel, score in enumerate(experiment.scores):
        hollow = marks(figure, panel)["hollow"]
        assert hollow == pytest.approx(
            (table[f"rotation_{score}"] - table[f"classification_{score}"]).to_dict()
        )
    hollow = marks(figure)["hollow"]
    without = [r for r in records if (r.hold_out, r.method) != ("cat", "rotation")]
    drawn = marks(plots.gain_by_class(experiment, without))
    assert (
        "cat" not in drawn["filled"]
        and "cat" not in drawn["bar"]
        and drawn["hollow"]["cat"] == hollow["cat"]
    )
    assert "mean of those run" in drawn["filled"] and "mean of those run" not in drawn["hollow"]
    nine = pd.Series(drawn["filled"]).drop("mean of those run")
    half = students_t.ppf(0.975, 8) * nine.std() / 9**0.5
    assert drawn["bar"]["mean of those run"] == pytest.approx(
        (nine.mean() - half, nine.mean() + half)
    )
    assert (
        "mean of those run" in marks(plots.gain_by_class(experiment, without, most=3))["filled"]
    )  # the cat isn't drawn
    few = experiment.model_copy(update={"train_per_class": 500})  # of which the paper has nothing
    assert not marks(plots.gain_by_class(few, records))["hollow"]


def test_nothing_to_compare_is_a_note(tmp_path):
    experiment, records = runs(tmp_path)
    plain = experiment.model_copy(update={"methods": ("classification",)})
    for one, those in (
        (experiment, []),
        (plain, records),
        (experiment, [r for r in records if r.method == "rotation"]),
    ):
        (axis,) = plots.gain_by_class(one, those).axes
        assert "not run with both" in axis.texts[0].get_text() and not axis.lines


def test_each_method_has_its_colour_and_place_and_of_many_scores_the_first_are_drawn(tmp_path):
    methods = ("classification", "rotation", "cpc", "center_mask")
    experiment, records = runs(tmp_path, methods=methods, scores=["msp", "odin", "energy", "knn"])
    figure = plots.gain_by_class(experiment, records)
    assert len(figure.axes) == 3 and "the first 3 of 4 scores" in figure.get_suptitle()
    colours, table = (
        plots.colours(methods),
        stats.gains_by_class(experiment, records).query("hold_out != 'average'"),
    )
    assert [text.get_text() for text in figure.legends[0].texts] == [
        names.label(method) for method in methods[1:]
    ]
    patches = figure.legends[0].get_patches()
    assert [patch.get_facecolor()[:3] for patch in patches] == [
        colours[method] for method in methods[1:]
    ]
    for axis, score in zip(figure.axes, experiment.scores, strict=False):
        points = [
            line
            for line in axis.lines
            if line.get_marker() == "o" and line.get_fillstyle() == "full"
        ]
        assert len(points) == 2 * 3 == len({line.get_ydata()[0] for line in points})
        rows = table[table.score == score].itertuples()
        assert {(line.get_color(), line.get_xdata()[0]) for line in points} == {
            (colours[r.method], r.difference) for r in rows
        }


def test_of_many_classes_those_with_the_largest_differences_are_drawn_and_the_mean_is_of_all(
    tmp_path, monkeypatch
):
    experiment, records = runs(tmp_path, hold_out="all", images=200)
    every = marks(plots.gain_by_class(experiment, records))["filled"]
    figure = plots.gain_by_class(
        experiment.model_copy(update={"scores": ("msp",)}), records, most=3
    )
    drawn = marks(figure)["filled"]
    largest = sorted(set(every) - {"mean"}, key=lambda name: -abs(every[name]))[:3]
    assert (
        drawn == {name: every[name] for name in (*sorted(largest), "mean")}
        and "3 of 10" in figure.get_suptitle()
    )
    asked = []
    monkeypatch.setattr(
        stats, "_resampled", lambda rankings, resamples, seed: asked.append(resamples) or {}
    )
    for work, resamples in (
        (10**9, 200),
        (40 * 2 * 200 * 60, 60),
        (1, stats.FEWEST_RESAMPLES),
    ):  # runs, scores, images
        monkeypatch.setattr(stats, "WORK", work)
        plots.gain_by_class(experiment, records)
        assert asked.pop() == resamples
    full, part = (
        stats.gains_by_class(experiment, records, most).query("hold_out != 'average'")
        for most in (10, 3)
    )
    assert {*part.hold_out} == {
        *full.difference.abs().groupby(full.hold_out).max().nlargest(3).index
    }  # by either score


# --- names and their letters

ODD = ("$5_note", "US$5 - US$10", "_background_", r"a\nb", "$x^$")


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """(experiment, records, data) of classes with odd names."""
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    part = ImageSet(images, np.arange(100) % len(ODD))
    data = Dataset("own", part, part, ODD)
    datasets.loading.write(tmp_path / "own.npz", data)
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    experiment = made_up(tmp_path / "outputs", 100, dataset="own", data_root=None, trials=2)
    records = store.finished(experiment)
    history = pd.DataFrame(
        {"epoch": [1, 2], "loss": [2, 1.0], "accuracy": [0.5, 0.6], "msp": [0.1, 0.2]}
    )
    for record in records:
        history.to_csv(record.home / "history.csv", index=False)
    return experiment, records, data


def test_names_are_shown_as_they_are_in_every_figure(odd, tmp_path):
    experiment, records, data = odd
    columns = pd.MultiIndex.from_product([["edges"], ["average_precision", "low", "high"]])
    probe = pd.DataFrame(
        [[k, k - 1, k + 1] for k in range(len(ODD))],
        pd.MultiIndex.from_product([["own"], ODD]),
        columns,
    )
    found, three = (
        stats.measured([(experiment, records)], resamples=2),
        experiment.model_copy(update={"hold_out": ODD[:3]}),
    )
    files = pd.DataFrame({"file": ODD, "predicted": ODD, "msp": 0.5, "msp_percentile": 1.0})
    figures = {
        "precision_recall": plots.precision_recall(experiment, records),
        "gain_by_class": plots.gain_by_class(experiment, records),
        "probes": plots.probes(found, probe, stats.correlations(found, probe)),
        "learning_curves": plots.learning_curves(
            three, [r for r in records if r.hold_out in ODD[:3]]
        ),
        "samples": plots.samples(dict.fromkeys(ODD, data.test.images[:2]), "$a$ title"),
        "most_anomalous": plots.most_anomalous(files, data.test.images),
    }
    for name, figure in figures.items():
        figure.savefig(
            tmp_path / f"{name}.png", dpi=30
        )  # a text that is read as a formula, and is none, fails
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert not any(text.get_parse_math() for text in texts if "$" in text.get_text()), name
        shown = {text.get_text().strip(" ") for text in texts if text.get_visible()}
        expected = (
            ODD[:3]
            if name == "learning_curves"
            else [f"{k}\n{k}, 1.0" for k in ODD]
            if name == "most_anomalous"
            else ODD
        )
        assert {*expected} <= shown, (name, shown)
    ranked = plots.ranked_images(records[0], data)
    ranked.savefig(tmp_path / "ranked.png", dpi=30)
    captions = [text for axis in ranked.axes for text in axis.texts]
    assert any("$5_note" in text.get_text() for text in captions) and not any(
        text.get_parse_math() for text in captions
    )


def test_a_script_that_no_font_has_is_named_once(monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "_said", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            figure = plots.samples(
                {"\U0001b170\U0001b171": np.zeros((1, 1, 4, 4), np.uint8), "é": np.zeros((0,))},
                "Nüshu",
            )
            figure.savefig(tmp_path / "figure.png")
    (said,) = [str(warning.message) for warning in caught]
    assert "NUSHU (" in said and "font.family" in said and "LATIN" not in said


def test_characters_that_the_font_lacks_come_from_an_installed_one(monkeypatch, tmp_path):
    plots._fallback.cache_clear()
    monkeypatch.setattr(plots.font_manager, "findSystemFonts", list)
    with plt.rc_context({"font.family": ["cmss10"]}), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.fonts("plain") == ["cmss10"]
        figure = plots.samples({"Жук": np.zeros((1, 1, 4, 4), np.uint8)}, "Cyrillic")
        figure.savefig(tmp_path / "figure.png")
    used = figure.axes[0].yaxis.label.get_family()
    font = plots.font_manager.get_font(plots.font_manager.findfont(used[-1]))
    assert used[0] == "cmss10" and {ord(c) for c in "Жук"} <= set(font.get_charmap())


# --- what is drawn how


def test_methods_and_scores_each_have_a_look_of_their_own():
    many = ("rotation", *(f"my:task_{k}" for k in range(12)), "classification")
    assert len(set(plots.colours(many).values())) == len({*many, *plots.KNOWN})
    for method in plots.KNOWN:  # on every page
        assert plots.colours(("my:task", method))[method] == plots.colours(plots.KNOWN)[method]
    assert len(set(plots.STYLES)) >= plots.CURVES


@pytest.mark.parametrize("others", [1, 2, 7])
def test_methods_differ_in_lightness_too_as_a_grey_print_shows_them(others):
    found = plots.colours((*plots.KNOWN, *(f"my:task_{k}" for k in range(others))))
    linear = [np.power((np.array(rgb) + 0.055) / 1.055, 2.4) for rgb in found.values()]
    lightness = sorted(
        116 * np.cbrt(rgb @ [0.2126, 0.7152, 0.0722]) - 16 for rgb in linear
    )  # CIE L*
    assert (
        len(lightness) == 4 + others and np.diff(lightness).min() > 3 and lightness[-1] < 90
    )  # white is 100


@pytest.mark.parametrize("classes", [["1", "7"], ["0", "1", "2", "7"]])
def test_learning_curves_are_means_with_a_band_of_one_deviation(tmp_path, classes):
    """Of up to three classes a line each, whose band is over trials; of more the mean over classes
    and trials.
    """
    experiment, records = runs(tmp_path, images=20, hold_out=classes)
    rng = np.random.default_rng(0)
    histories = [
        pd.DataFrame(rng.random((3, 3)), columns=["loss", "accuracy", "msp"]) for _ in records
    ]
    for record, history in zip(records, histories, strict=True):
        history.assign(epoch=[1, 2, 3]).to_csv(record.home / "history.csv", index=False)
    figure = plots.learning_curves(experiment, records)
    said = "1, 7 held out" if len(classes) <= 3 else "mean of 4 classes held out"
    assert said in figure.get_suptitle()
    kinds = {"loss": "cost", "accuracy": "test accuracy (%)", "msp": "average precision, MSP (%)"}
    for axis, name, unit in zip(figure.axes, kinds, (1, 100, 100), strict=True):
        assert axis.get_ylabel().startswith(kinds[name])
        groups = {}
        for record, history in zip(records, histories, strict=True):
            groups.setdefault(
                (record.method, record.hold_out if len(classes) <= 3 else ""), []
            ).append(unit * history[name])
        means, stds = (
            sorted(np.array([f(g, axis=0) for g in groups.values()]).tolist())
            for f in (np.mean, deviation)
        )
        lines = [line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 3]
        np.testing.assert_allclose(sorted(map(list, lines)), means)
        if len(classes) > 3:
            coloured = {
                to_hex(line.get_color()): line.get_ydata()
                for line in axis.lines
                if len(line.get_ydata()) == 3
            }
            for method in experiment.methods:
                colour = to_hex(plots.colours(experiment.methods)[method])
                np.testing.assert_allclose(coloured[colour], np.mean(groups[method, ""], axis=0))
        corners = [band.get_paths()[0].vertices for band in axis.collections]
        widths = [[np.ptp(c[c[:, 0] == epoch][:, 1]) / 2 for epoch in (1, 2, 3)] for c in corners]
        np.testing.assert_allclose(sorted(widths), stds)


def deviation(values, axis):
    return np.std(values, axis=axis, ddof=1)


def numbered(count=95):
    """Test images each of which is its own number in grey."""
    images = np.arange(count, dtype=np.uint8).repeat(4).reshape(count, 1, 2, 2)
    test = ImageSet(images, np.arange(count) % 10)
    return Dataset("digits", test, test, prepared.classes("digits"))


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_ranked_images_are_the_highest_and_lowest_of_the_anomalies_and_of_the_others(
    tmp_path, statistics
):
    data = numbered()
    _, records = runs(tmp_path, data=prepared.digests_of(data))
    record = next(r for r in records if (r.hold_out, r.method) == ("7", "rotation"))
    figure = plots.ranked_images(record, data, "odin", count=4, statistics=statistics)
    assert figure.get_suptitle().startswith(
        f"ODIN ({statistics} statistics), Rotation-augmented, 7 held out"
    )
    arrays, end = record.scores(), plan.STATISTICS[statistics]
    scores, anomaly = arrays["odin" + end], arrays["is_anomaly"]
    rows = {f"{kind},\n{end} anomalous": (kind == "anomalies", sign) for kind in ("anomalies", "normal")
            for end, sign in (("most", -1), ("least", 1))}  # fmt: skip
    for (said, (is_anomaly, rising)), axis in zip(rows.items(), figure.axes, strict=True):
        assert axis.get_ylabel().startswith(said)
        shown = [int(image.get_array()[0, 0]) for image in axis.images]
        assert len(set(shown)) == 4 and all(anomaly[k] == is_anomaly for k in shown)
        assert (
            scores[shown].tolist() == sorted(scores[anomaly == is_anomaly], reverse=rising < 0)[:4]
        )
        for text, image, k in zip(axis.texts, axis.images, shown, strict=True):
            names = (record.classes[arrays[which][k]] for which in ("label", f"predicted{end}"))
            assert text.get_text() == f"{' → '.join(names)}\n{scores[k]:.4g}"
            left, right, bottom, top = (
                image.get_extent()
            )  # the caption stands right above its image, which stands upright
            assert (
                text.get_position() == ((left + right) / 2, top)
                and bottom > top
                and axis.yaxis_inverted()
            )


def test_captions_and_images_of_any_shape_stay_in_their_places(tmp_path):
    images = np.zeros((3, 1, 20, 60), np.uint8)
    names = pd.DataFrame(
        {"file": ["f" * 90] * 3, "predicted": ["c" * 90] * 3, "msp": 0.5, "msp_percentile": 100.0}
    )
    figure = plots.most_anomalous(names, images, columns=3)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    for image in axis.images:
        left, right, bottom, top = image.get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(3) and right - left < 1
    rows = plots.samples({"a": images, "b": images[:0]}, "letters").axes
    assert [axis.get_ylabel() for axis in rows] == ["a", "b\n(not here)"]
    image = np.arange(24).reshape(4, 2, 3)
    np.testing.assert_array_equal(plots.pixels(image), np.dstack([image[0], image[1], image[2]]))


def test_no_ranked_image_is_in_two_rows(tmp_path):
    data = numbered()
    _, (record, *_) = runs(tmp_path, data=prepared.digests_of(data))
    figure = plots.ranked_images(record, data, count=len(data.test))
    shown = [int(image.get_array()[0, 0]) for axis in figure.axes for image in axis.images]
    assert len(shown) == len(set(shown)) == len(data.test)


def test_images_that_were_not_scored_are_not_shown(tmp_path):
    data = numbered()
    _, records = runs(tmp_path, data=prepared.digests_of(data))
    other = Dataset(
        data.name,
        data.train,
        ImageSet(data.test.images[::-1].copy(), data.test.labels),
        data.classes,
    )
    figure = plots.ranked_images(records[0], other)
    assert (
        "not those that were scored" in figure.axes[0].texts[0].get_text()
        and not figure.axes[0].images
    )
