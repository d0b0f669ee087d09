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
def test_the_area_under_each_curve_is_the_average_precision_of_its_run(tmp_path, statistics):
    experiment, records = runs(tmp_path, statistics=statistics)
    end, first = plan.STATISTICS[statistics], []
    figure = plots.precision_recall(experiment, records)
    assert [axis.get_title() for axis in figure.axes] == ["1", "7"]
    for axis in figure.axes:
        *curves, skew = axis.lines
        members = [r for r in records if r.hold_out == axis.get_title()]
        each = [(r, score) for r in members for score in experiment.scores]
        label = {(c.get_color(), c.get_linestyle()): c.get_label() for c in curves if not c.get_label().startswith("_")}
        areas = sorted((label[c.get_color(), c.get_linestyle()].split(":")[0], auc(*drawn(c))) for c in curves)
        aps = sorted((f"{names.label(r.method)} {names.label(score)}", r.metrics[score + end]) for r, score in each)
        assert [name for name, _ in areas] == [name for name, _ in aps]
        assert [area for _, area in areas] == pytest.approx([ap for _, ap in aps])
        odin = pd.Series([100 * r.metrics["odin" + end] for r in members if r.method == "rotation"])
        assert f"Rotation-augmented ODIN: {odin.mean():.2f} ± {odin.std():.2f}" in label.values()
        is_anomaly = members[0].scores()["is_anomaly"]
        assert set(skew.get_ydata()) == {is_anomaly.mean()} and f"{100 * is_anomaly.mean():.2f}" in skew.get_label()
        values = [r.scores()[score + end] for r, score in each]
        highest = sorted(is_anomaly[v == v.max()].mean() for v in values)  # precision of the highest threshold
        assert sorted(drawn(c)[1][-1] for c in curves) == highest  # at recall 0: not up to (0, 1)
        first += highest
    assert min(first) < 1


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
