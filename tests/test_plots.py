"""Figures of records, read back from what matplotlib draws: curves, bands, and which images stand in which row."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import made_up
from matplotlib.cbook import STEP_LOOKUP_MAP
from sklearn.metrics import auc, average_precision_score

from semlib import datasets
from semlib.datasets import Dataset, ImageSet
from semlib.results import names, plots
from semlib.runs import plan, store

UNEVEN = {"images": 95, "dataset": "digits", "hold_out": ["1", "7"], "trials": 2}  # 10 images of class 1, 9 of class 7


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
        aps = {f"{s}@upright": average_precision_score(arrays["is_anomaly"], -arrays[s]) for s in record.scoring}
        fields = {"scores_sha256": store.write_scores(record.home / "scores.npz", arrays), "metrics": record.metrics | aps}
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
        for (method, score), curve, band, text in zip(pairs, curves, axis.collections, axis.texts, strict=True):
            assert curve.get_color() == colour[method] and text.get_color() == colour[method]
            aps = pd.Series([r.metrics[score + end] for r in members if r.method == method])
            assert auc(*drawn(curve)) == pytest.approx(aps.mean()) and len(aps) == 2
            said = f"{names.label(score)} {100 * aps.mean():.2f} ± {100 * aps.std():.2f}"
            assert text.get_text() == said
            each = [r.scores()[score + end] for r in members if r.method == method]
            literal = np.array([literal_precisions(is_anomaly, values) for values in each])  # (trials, positives)
            np.testing.assert_allclose(curve.get_ydata()[1:], literal.mean(0))
            x, y = curve.get_data()
            corners = band.get_paths()[0].vertices
            for k in (1, len(x) - 1):
                at = corners[np.isclose(corners[:, 0], x[k])][:, 1]
                half = literal[:, k - 1].std(ddof=1)
                assert np.isclose(at, y[k] - half).any() and np.isclose(at, y[k] + half).any()
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [f"{names.label(m)}, {names.label(s)}" for m, s in pairs] + ["share of anomalies"]


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


def test_methods_and_scores_each_have_a_look_of_their_own():
    many = ("rotation", *(f"my:task_{k}" for k in range(12)), "classification")
    assert len(set(plots.colours(many).values())) == len({*many, *plots.KNOWN})
    for method in plots.KNOWN:  # on every page
        assert plots.colours(("my:task", method))[method] == plots.colours(plots.KNOWN)[method]
    assert len(set(plots.STYLES)) >= plots.CURVES


@pytest.mark.parametrize("classes", [["1", "7"], ["0", "1", "2", "7"]])
def test_learning_curves_are_means_with_a_band_of_one_deviation(tmp_path, classes):
    """Of up to three classes a line each, whose band is over trials; of more the mean over classes and trials."""
    experiment, records = runs(tmp_path, images=20, hold_out=classes)
    rng = np.random.default_rng(0)
    histories = [pd.DataFrame(rng.random((3, 3)), columns=["loss", "accuracy", "msp"]) for _ in records]
    for record, history in zip(records, histories, strict=True):
        history.assign(epoch=[1, 2, 3]).to_csv(record.home / "history.csv", index=False)
    figure = plots.learning_curves(experiment, records)
    for axis, name, unit in zip(figure.axes, ("loss", "accuracy", "msp"), (1, 100, 100), strict=True):
        groups = {}
        for record, history in zip(records, histories, strict=True):
            groups.setdefault((record.method, record.hold_out if len(classes) <= 3 else ""), []).append(unit * history[name])
        means, stds = (sorted(np.array([f(g, axis=0) for g in groups.values()]).tolist()) for f in (np.mean, deviation))
        lines = [line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 3]
        np.testing.assert_allclose(sorted(map(list, lines)), means)
        corners = [band.get_paths()[0].vertices for band in axis.collections]
        widths = [[np.ptp(c[c[:, 0] == epoch][:, 1]) / 2 for epoch in (1, 2, 3)] for c in corners]
        np.testing.assert_allclose(sorted(widths), stds)


def deviation(values, axis):
    return np.std(values, axis=axis, ddof=1)


def numbered(count=95):
    """Test images each of which is its own number in grey."""
    images = np.arange(count, dtype=np.uint8).repeat(4).reshape(count, 1, 2, 2)
    test = ImageSet(images, np.arange(count) % 10)
    return Dataset("digits", test, test, datasets.classes("digits"))


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_ranked_images_are_the_highest_and_lowest_of_the_anomalies_and_of_the_others(tmp_path, statistics):
    data = numbered()
    _, records = runs(tmp_path, data=data.digests)
    record = next(r for r in records if (r.hold_out, r.method) == ("7", "rotation"))
    figure = plots.ranked_images(record, data, "odin", count=4, statistics=statistics)
    arrays, end = record.scores(), plan.STATISTICS[statistics]
    scores, anomaly = arrays["odin" + end], arrays["is_anomaly"]
    rows = {"anomalies found": (True, -1), "anomalies missed": (True, 1), "normal, flagged": (False, -1)}
    rows |= {"normal, passed": (False, 1)}
    for (said, (is_anomaly, rising)), axes in zip(rows.items(), np.reshape(figure.axes, (4, 4)), strict=True):
        assert axes[0].get_ylabel().startswith(said)
        shown = [int(axis.images[0].get_array()[0, 0]) for axis in axes]
        assert len(set(shown)) == 4 and all(anomaly[k] == is_anomaly for k in shown)
        assert scores[shown].tolist() == sorted(scores[anomaly == is_anomaly], reverse=rising < 0)[:4]
        for axis, k in zip(axes, shown, strict=True):
            names = (record.classes[arrays[which][k]] for which in ("label", f"predicted{end}"))
            assert axis.get_title() == f"{' → '.join(names)}\n{scores[k]:.4g}"


def test_images_that_were_not_scored_are_not_shown(tmp_path):
    data = numbered()
    _, records = runs(tmp_path, data=data.digests)
    other = Dataset(data.name, data.train, ImageSet(data.test.images[::-1].copy(), data.test.labels), data.classes)
    figure = plots.ranked_images(records[0], other)
    assert "not those that were scored" in figure.axes[0].texts[0].get_text() and not figure.axes[0].images
