"""The inspector without a browser: curves, counts and tables against scikit-learn and literal counting, then the controls."""

import base64
import csv
import io
import json
import re
import shutil
import time
import warnings
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from helpers import ROOT, finish, made_up
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import STEP_LOOKUP_MAP
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve

from semlib import config, datasets
from semlib.datasets import Digests
from semlib.results.inspector import Inspector
from semlib.results.inspector.page import Page
from semlib.results.inspector.results import POINTS, Choice, Curve, Results, grouped, images_of
from semlib.runs import plan, store

PLAIN, ROTATION = "Classification-only", "Rotation-augmented"
SMALL = {"dataset": "digits", "hold_out": ["1", "4"], "trials": 2}
cases = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40).filter(lambda c: any(a for a, _ in c))


def read(experiment) -> Results:
    (records,) = grouped(store.collect(experiment.folder), experiment).values()
    return Results(records)


def arrays_of(experiment, hold_out, method, trial):
    return record_of(experiment, hold_out, method, trial).scores()


def record_of(experiment, hold_out, method, trial):
    which = (hold_out, method, trial)
    return next(record for record in store.finished(experiment) if (record.hold_out, record.method, record.trial) == which)


@given(cases)
def test_a_curve_is_scikit_learns_and_a_threshold_does_what_counting_says(case):
    is_anomaly, scores = np.array([a for a, _ in case]), np.array([s for _, s in case], float)
    curve = Curve.of(is_anomaly, scores)
    precision, recall, thresholds = precision_recall_curve(is_anomaly, scores)
    assert np.array_equal(curve.thresholds, thresholds[::-1])
    assert np.allclose(curve.found / curve.flagged, precision[-2::-1])
    assert np.allclose(curve.found / is_anomaly.sum(), recall[-2::-1])
    for threshold in (-4, scores.min(), scores.mean(), scores.max()):
        point, flagged = curve.at(threshold), scores >= threshold
        assert (point.flagged, point.missed) == (flagged.sum(), (is_anomaly & ~flagged).sum())
        assert point.recall == pytest.approx(is_anomaly[flagged].sum() / is_anomaly.sum())
        assert point.precision == pytest.approx(is_anomaly[flagged].mean())
    assert np.isnan(curve.at(4).precision) and curve.at(4).recall == 0
    for share in (0.01, 0.1, 0.5, 1):
        enough = [t for t in set(scores) if (scores >= t).mean() >= share]
        assert curve.threshold(share) == max(enough)


def test_seven_percent_of_a_hundred_images_are_seven():
    """Though in floats they are a little more."""
    curve = Curve.of(np.arange(100) > 90, np.arange(100.0))
    assert 0.07 * 100 > 7 and curve.at(curve.threshold(0.07)).flagged == 7


@given(cases)
def test_the_steps_of_a_curve_have_scikit_learns_average_precision_as_their_area(case):
    is_anomaly, scores = np.array([a for a, _ in case]), np.array([s for _, s in case], float)
    each = np.arange(1, is_anomaly.sum() + 1)
    assert Curve.of(is_anomaly, scores).precision(each).mean() == pytest.approx(average_precision_score(is_anomaly, scores))


def test_a_mean_curve_is_the_mean_over_trials_at_each_recall_and_is_thinned(tmp_path):
    experiment = made_up(tmp_path, images=4000, **SMALL | {"trials": 3})
    mean = read(experiment).mean("4", ROTATION, "ODIN", (0, 1, 2))
    assert len(mean.recall) == POINTS < 400 and mean.recall[-1] == 1
    for k in range(0, POINTS, 17):
        found = round(mean.recall[k] * 400)
        precisions = []
        for trial in range(3):
            arrays = arrays_of(experiment, "4", "rotation", trial)
            enough = [t for t in np.unique(arrays["odin"]) if arrays["is_anomaly"][arrays["odin"] >= t].sum() >= found]
            precisions.append(arrays["is_anomaly"][arrays["odin"] >= max(enough)].mean())
        assert mean.precision[k] == pytest.approx(np.mean(precisions))
        assert mean.std[k] == pytest.approx(np.std(precisions, ddof=1))
    assert read(experiment).mean("4", ROTATION, "ODIN", (1,)).std is None


def test_the_selection_is_what_counting_says_and_its_average_precision_is_not_thinned(tmp_path):
    experiment = made_up(tmp_path, images=4000, **SMALL)
    results = read(experiment)
    choice = Choice(results.classes, results.methods, results.scores, results.trials)
    rows = results.selection(choice, 0.05)
    assert len(rows) == 2 * 2 * 2 * 2
    methods, scores = {PLAIN: "classification", ROTATION: "rotation"}, {"MSP": "msp", "ODIN": "odin"}
    for row in rows.itertuples():
        arrays = arrays_of(experiment, row.hold_out, methods[row.method], row.trial)
        values, anomaly = arrays[scores[row.score]], arrays["is_anomaly"]
        assert row.average_precision == pytest.approx(100 * average_precision_score(anomaly, values), abs=1e-9)
        flagged = values >= row.threshold
        assert 200 <= flagged.sum() == row.flagged < 260 and row.skew == pytest.approx(10)
        assert row.missed == (anomaly & ~flagged).sum() and row.anomalies == 400
        assert (row.precision, row.recall) == pytest.approx((anomaly[flagged].mean(), flagged[anomaly].mean()))


def test_the_table_is_the_mean_within_a_trial_first_with_the_difference_and_the_papers(tmp_path):
    results = read(made_up(tmp_path, dataset="cifar10", hold_out="all", trials=3))
    choice = Choice(results.classes, results.methods, ("MSP",), (0, 2))
    table = results.average_precisions(choice)
    ap = {key: 100 * record.metrics["msp"] for key, record in results.runs.items()}
    assert table["MSP", ROTATION, "mean"]["cat"] == pytest.approx((ap["cat", ROTATION, 0] + ap["cat", ROTATION, 2]) / 2)
    within = [np.mean([ap[name, PLAIN, t] for name in results.classes]) for t in (0, 2)]
    assert table["MSP", PLAIN, "mean"]["average"] == pytest.approx(np.mean(within))
    assert table["MSP", PLAIN, "std"]["average"] == pytest.approx(np.std(within, ddof=1))
    difference = table["MSP", ROTATION, "mean"] - table["MSP", PLAIN, "mean"]
    assert np.allclose(table["MSP", ROTATION, "difference"], difference) and ("MSP", PLAIN, "difference") not in table
    assert table["MSP", ROTATION, "paper"]["cat"] == 53.12 and table["MSP", ROTATION, "paper_std"]["cat"] == 0.92
    assert table["MSP", PLAIN, "paper"]["average"] == 34.92
    part = results.average_precisions(choice._replace(classes=("cat", "dog")))
    assert np.isnan(part["MSP", PLAIN, "paper"]["average"])  # the paper's is over ten classes


def test_other_settings_of_odin_are_not_beside_the_papers(tmp_path):
    results = read(made_up(tmp_path, dataset="cifar10", hold_out="cat", trials=1, epsilon=0.01))
    assert results.published("cat", PLAIN, "MSP") == (38.06, 1.31)
    assert np.isnan(results.published("cat", PLAIN, "ODIN")).all()


def test_shares_of_predictions_and_ranked_images_are_what_counting_says(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    results = read(experiment)
    shares = results.taken_for("4", results.methods, (0, 1))
    assert np.allclose(shares.sum(), 1) and "4" not in shares.index
    both = [arrays_of(experiment, "4", "rotation", t) for t in (0, 1)]
    for k, name in enumerate(results.known):
        literal = np.mean([np.mean(a["predicted"][a["label"] == 4] == k) for a in both])
        assert shares[ROTATION].get(name, 0) == pytest.approx(literal)
    scores, anomaly = both[1]["odin"], both[1]["is_anomaly"]
    rows = results.ranked("4", ROTATION, "ODIN", 1, 0.2)
    threshold = sorted(scores)[-40]  # a fifth of 200
    names = ("Anomalies missed", "Normal images flagged", "Most anomalous", "Least anomalous")
    missed, flagged, most, least = (rows[name] for name in names)
    assert set(missed) == set(np.flatnonzero(anomaly & (scores < threshold)))
    assert set(flagged) == set(np.flatnonzero(~anomaly & (scores >= threshold)))
    for row, rising in ((missed, 1), (flagged, -1), (most, -1), (least, 1)):
        assert np.all(np.diff(scores[row]) * rising >= 0) and len(row)
    assert len(most) == len(least) == 200


# --- what is drawn

UNEVEN = {"images": 95, "dataset": "digits", "hold_out": ["1", "7"]}  # 10 images of class 1, 9 of class 7


def precisions(experiment, hold_out, method, score):
    """(trials, anomalies): the precision at the highest threshold that finds so many anomalies, each trial counted out."""
    found = []
    for trial in range(experiment.trials):
        arrays = arrays_of(experiment, hold_out, method, trial)
        anomaly, scores = arrays["is_anomaly"], arrays[score]
        cuts = [np.sort(scores[anomaly])[-k] for k in range(1, anomaly.sum() + 1)]  # the k-th highest anomaly is flagged
        found.append([anomaly[scores >= cut].mean() for cut in cuts])
    return np.array(found)


def path(d, svg):
    """The corners (N, 2) of an SVG path of M, H, V and Z, in recall and precision as the grid lines of the panel say."""
    lines = re.findall(r'd="M([\d.]+) ([\d.]+)V[\d.]+M[\d.]+ ([\d.]+)H', svg)  # at 0, a quarter, ... 1
    (x0, _, y0), (x1, _, y1) = (map(float, line) for line in (lines[0], lines[-1]))
    corners = []
    for letter, x, y in re.findall(r"([A-Z])([\d.]*) ?([\d.]*)", d):
        assert letter in "MHVZ"
        if letter != "Z":
            last = corners[-1] if corners else None
            corners.append({"M": (x, y), "H": (x, last and last[1]), "V": (last and last[0], x)}[letter])
    x, y = np.array(corners, float).T
    return np.column_stack([(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)])


def area(corners):
    """Of a polygon (N, 2)."""
    x, y = corners.T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


@pytest.mark.parametrize("trials", [1, 3])
def test_each_panel_shows_its_own_classs_steps_band_and_skew(tmp_path, trials):
    """Between two recalls the line is at the mean precision, the band from one deviation below to one above, and in 0 to 1."""
    experiment = made_up(tmp_path, **UNEVEN, trials=trials)
    page = Page(read(experiment))
    choice = Choice(("1", "7"), (PLAIN, ROTATION), ("MSP", "ODIN"), tuple(range(trials)))
    panels = re.findall(r"<section><h4>(.)</h4>(<svg.*?</svg>)", page.panels(choice, 0.1))
    axes = page.figure(choice, 0.1).axes
    for (name, svg), axis in zip(panels, axes, strict=True):
        assert axis.get_title() == name
        lines = re.findall(r'<path d="([^"]*)" stroke="([^"]*)" *(?:stroke-dasharray="[^"]*")? stroke-width="1.7"', svg)
        bands = re.findall(r'<path d="([^"]*)" fill="([^"]*)" opacity', svg)
        plotted = [line for line in axis.lines if line.get_drawstyle() != "default"]
        pairs = [(m, s) for m in ("classification", "rotation") for s in ("msp", "odin")]
        assert len(lines) == len(plotted) == 4 and len(bands) == len(axis.collections) == 4 * (trials > 1)
        for k, (method, score) in enumerate(pairs):
            each = precisions(experiment, name, method, score)
            mean, n = each.mean(0), each.shape[1]
            between = (np.arange(n) + 0.5) / n
            assert np.interp(between, *path(lines[k][0], svg).T) == pytest.approx(mean, abs=2e-3)
            corners = STEP_LOOKUP_MAP[plotted[k].get_drawstyle()](*plotted[k].get_data())
            assert np.interp(between, *corners) == pytest.approx(mean)
            if trials > 1:
                std = each.std(0, ddof=1)
                widths = (mean + std).clip(max=1) - (mean - std).clip(min=0)
                assert area(path(bands[k][0], svg)) == pytest.approx(widths.mean(), abs=2e-3)
                assert area(axis.collections[k].get_paths()[0].vertices) == pytest.approx(widths.mean())
        skew = arrays_of(experiment, name, "rotation", 0)["is_anomaly"].mean()
        (guess,) = re.findall(r'<path d="(M[^"]*)" stroke="#777"', svg)
        assert path(guess, svg)[:, 1] == pytest.approx(skew, abs=2e-3)
        assert set(axis.lines[-1].get_ydata()) == {skew}


def test_the_page_says_what_the_threshold_does_and_what_is_taken_for_what(tmp_path):
    experiment = made_up(tmp_path, **UNEVEN, trials=1)
    page, choice = Page(read(experiment)), Choice(("7",), (PLAIN,), ("MSP",), (0,))
    arrays = arrays_of(experiment, "7", "classification", 0)
    anomaly, flagged = arrays["is_anomaly"], arrays["msp"] >= np.sort(arrays["msp"])[-19]  # a fifth of 95
    precision, recall = 100 * anomaly[flagged].mean(), 100 * flagged[anomaly].mean()
    missed = (anomaly & ~flagged).sum()
    (row,) = cells(page.at_threshold(choice, 0.2))
    assert row[1:5] == [f"{precision:.2f}", f"{recall:.2f}", f"{flagged.sum()}", f"{missed} of 9"] and 0 < missed != 9 - missed
    said = f"precision {precision:.1f} %, recall {recall:.1f} %, {flagged.sum()} flagged, {missed} missed"
    assert said in re.sub("<.*?>", "", page.summary(choice, 0.2)) and f"trial 0: {said}" in page.panels(choice, 0.2)
    shares = re.findall(r"<div>(\d)</div>.*?([\d.]+) %</div>", page.taken_for(choice))
    counts = np.bincount(arrays["predicted"][anomaly], minlength=10)
    assert dict(shares) == {str(k): f"{100 * n / 9:.1f}" for k, n in enumerate(counts) if n}
    assert Inspector(experiment).threshold.value == 10.5  # opened at the first class's skew, 10 of 95


def test_the_papers_numbers_are_those_of_the_class_the_method_and_the_score(tmp_path):
    """In the legends, in the saved figure and in the saved selection."""
    page = Page(read(made_up(tmp_path, images=50, dataset="cifar10", hold_out=["cat", "dog"], trials=1)))
    choice = Choice(("cat", "dog"), (PLAIN, ROTATION), ("MSP", "ODIN"), (0,))
    with (ROOT / "semlib" / "results" / "published" / "table3_cifar10.csv").open(newline="") as file:
        rows = {row["hold_out"]: row for row in csv.DictReader(file)}
    columns = [f"{method}_{score}" for method in ("classification", "rotation") for score in ("msp", "odin")]
    wanted = {name: [f"{rows[name][c]} ± {rows[name][f'{c}_std']}" for c in columns] for name in choice.classes}
    panels = re.findall(r"<section><h4>(.*?)</h4>.*?(<table>.*?</table>)", page.panels(choice, 0.1))
    assert {name: [row[-1] for row in cells(table)[:-1]] for name, table in panels} == wanted
    labels = {axis.get_title(): axis.get_legend_handles_labels()[1][:-1] for axis in page.figure(choice, 0.1).axes}
    assert {name: [text.split("paper: ")[1][:-1] for text in texts] for name, texts in labels.items()} == wanted
    saved = page.results.selection(choice, 0.1).groupby("hold_out")
    assert {name: [f"{r.paper:.2f} ± {r.paper_std:.2f}" for r in part.itertuples()] for name, part in saved} == wanted


def test_runs_of_other_settings_and_other_data_are_tables_of_their_own(tmp_path):
    small = SMALL | {"trials": 1}
    made_up(tmp_path, **small)
    made_up(tmp_path, **small, epochs=7)
    made_up(tmp_path, **small | {"methods": "rotation"}, auxiliary_weight=2)
    other = Digests("1" * 64, "2" * 64)
    experiment = made_up(tmp_path, **small, epochs=9, data=other)
    folder = tmp_path / "made_up"
    none = plan.Run(config.create({"outputs": str(tmp_path), "profile": "made_up", "dataset": "digits"}), None, "rotation", 0)
    one = store.collect(folder)[0].scores()
    here = plan.here(experiment)
    finish(replace(none, data=here), datasets.classes("digits"), one, {})
    groups = grouped(store.collect(folder), experiment)
    titles = [f"digits (epochs {n}, data {here})" for n in (200, 7)]
    titles += [f"digits (epochs 9, data {other}), on other data ({other}) than is here ({here})"]
    assert set(groups) == set(titles) and list(groups)[-1] == titles[-1]
    results = Results(groups[titles[0]])
    assert results.methods == (PLAIN, f"{ROTATION} (auxiliary_weight 0.5)", f"{ROTATION} (auxiliary_weight 2.0)")
    columns = results.average_precisions(Choice(("1",), results.methods, ("MSP",), (0,))).columns
    assert [method for _, method, kind in columns if kind == "difference"] == list(results.methods[1:])


def test_a_record_without_a_younger_setting_is_of_the_same_table(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    path = record_of(experiment, "1", "rotation", 0).home / "record.json"
    record = json.loads(path.read_text())
    assert record["settings"].pop("mask_fill", None) is None and record["settings"].pop("fold") is None
    path.write_text(json.dumps(record))
    assert len(read(experiment).runs) == 8


def test_unreadable_and_foreign_records_are_named_and_passed_over(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    homes = [run.home for run in plan.planned(experiment)]
    (homes[0] / "record.json").write_text("{")
    (homes[1] / "scores.npz").write_bytes(b"PK")
    shutil.copytree(homes[2], tmp_path / "made_up" / "runs" / "digits" / "1" / "rotation" / "trial_9-copied")
    with pytest.warns(UserWarning) as caught:
        results = read(experiment)
    said = sorted(str(warning.message) for warning in caught)
    assert len(said) == 3 and len(results.runs) == 6
    for part in (str(homes[0] / "record.json"), str(homes[1] / "scores.npz"), "trial_9-copied"):
        assert sum(part in text for text in said) == 1, part


def test_versions_of_a_users_code_stand_apart(tmp_path):
    """A method's are two methods, a network's two tables."""
    experiment = made_up(tmp_path, **SMALL | {"methods": ["classification", "rotation"], "trials": 1})
    for record in store.finished(experiment):
        fields = (
            record.model_dump() | {"sources": {"rotation": "1" * 16}} | ({"trial": 5} if record.method == "rotation" else {})
        )
        if record.method == "rotation":
            run = plan.Run(experiment, record.hold_out, "rotation", 5, record.data)
            address = plan.address(run, fields["settings"], fields["sources"], record.train_digest)
            home = experiment.folder / "runs" / plan.place(run, address)
            shutil.copytree(record.home, home)
            store.write_record(home, **fields | {"address": address})
    assert set(read(experiment).methods) == {PLAIN, f"{ROTATION} (source None)", f"{ROTATION} (source {'1' * 16})"}


def test_predictions_and_headings_are_of_the_statistics_that_are_shown(tmp_path):
    experiment = made_up(tmp_path, **SMALL | {"trials": 1}, statistics="upright")
    for record in store.finished(experiment):
        arrays = record.scores() | {"predicted@upright": (record.scores()["predicted"] + 1) % 10}
        sha256 = store.write_scores(record.home / "scores.npz", arrays)
        store.write_record(record.home, **record.model_dump() | {"scores_sha256": sha256})
    inspector = Inspector(experiment)
    assert "upright statistics" in inspector.about.value and inspector.name.value.endswith("-upright")
    shown = {int(k): p for k, p in re.findall(r'alt="test image (\d+): ., predicted (.),', tab(inspector, 2))}
    arrays = record_of(experiment, "1", "classification", 0).scores()
    assert shown and all(arrays["predicted@upright"][k] == int(p) for k, p in shown.items())
    inspector.statistics.value = "mixed"
    assert "mixed statistics" in inspector.about.value
    shown = {int(k): p for k, p in re.findall(r'alt="test image (\d+): ., predicted (.),', tab(inspector, 2))}
    assert all(arrays["predicted"][k] == int(p) for k, p in shown.items())


def test_images_are_shown_only_if_they_are_those_that_were_scored(tmp_path):
    digits = datasets.load("digits")
    experiment = made_up(tmp_path, **SMALL, data=digits.digests)
    (record, *_) = store.collect(experiment.folder)
    assert np.array_equal(images_of(record, experiment).images, digits.test.images)
    assert "not those that were scored" in images_of(record.model_copy(update={"test_digest": "0"}), experiment)
    assert "stl10 is not prepared" in images_of(record.model_copy(update={"dataset": "stl10"}), experiment)


# --- the controls


def tab(inspector, k):
    inspector.tab.selected_index = k
    return inspector.tab.children[k].children[1].value


def cells(html):
    """The rows of a table as text."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", html.split("<tbody>")[-1])
    return [[re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?>.*?</t[hd]>", row)] for row in rows]


def test_each_control_changes_what_it_should(tmp_path):
    inspector = Inspector(made_up(tmp_path, **SMALL))
    assert inspector.which == ("made_up", "digits") and inspector.choice == Choice(
        ("1", "4"), (PLAIN, ROTATION), ("MSP",), (0, 1)
    )
    assert inspector.curves.value.count("<h4>") == 2 and inspector.curves.value.count('class="at"') == 2 * 2 * 2
    before = inspector.curves.value
    inspector.threshold.value = 40
    assert (
        re.findall("<path.*?>", inspector.curves.value) == re.findall("<path.*?>", before) and inspector.curves.value != before
    )
    assert "40 %" in inspector.said.value
    inspector.ticks[1].set([ROTATION])
    assert inspector.choice.methods == (ROTATION,) and inspector.curves.value.count('class="at"') == 2 * 2
    inspector.ticks[2].set(["MSP", "ODIN"])
    assert [row[0] for row in cells(tab(inspector, 1))] == [f"{c}  {ROTATION}, {s}" for c in "14" for s in ("MSP", "ODIN")]
    inspector.ticks[0].set(["4"])
    assert inspector.curves.value.count("<h4>") == 1 and inspector.focus[0].value == "4"
    assert "4 is taken for" in tab(inspector, 3) and "1 is taken for" not in tab(inspector, 3)
    inspector.ticks[0].set([])
    assert "tick at least one of the classes" in inspector.curves.value


def test_the_table_sorts_by_any_column_and_marks_the_better_method(tmp_path):
    inspector = Inspector(made_up(tmp_path, **SMALL | {"hold_out": "all"}))
    for name in inspector.sort.options[1:]:
        for falling in (True, False):
            inspector.sort.value, inspector.falling.value = name, falling
            rows = cells(tab(inspector, 0))
            k = list(inspector.sort.options).index(name)
            values = [float(row[k].split(" ±")[0]) for row in rows[:-1]]
            assert values == sorted(values, reverse=falling) and rows[-1][0] == "average"
    found = re.findall(r"<td>(.*?)</td><td>(.*?)</td><td>.*?</td></tr>", tab(inspector, 0).split("<tbody>")[1])
    for plain, rotation in found:
        numbers = [float(text.removeprefix("<b>").split(" ")[0]) for text in (plain, rotation)]
        assert ("<b>" in plain, "<b>" in rotation) == (numbers[0] > numbers[1], numbers[1] > numbers[0])
    assert len(found) == 11


def test_saving_writes_what_is_shown_and_says_where(tmp_path):
    inspector = Inspector(made_up(tmp_path, **SMALL))
    inspector.ticks[0].set(["4"])
    inspector.name.value = "../my curves"
    for ending, head in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("csv", b"hold_out,")):
        inspector.save(ending)
        path = tmp_path / "made_up" / f".._my_curves.{ending}"
        assert path.read_bytes().startswith(head) and path.name in inspector.saved.value
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["hold_out"] for row in rows} == {"4"} and len(rows) == 2 * 2
    pd.testing.assert_frame_equal(
        pd.read_csv(path, dtype={"hold_out": str}), inspector.page.results.selection(inspector.choice, inspector.share)
    )


def test_images_are_absent_in_a_sentence_and_present_with_class_prediction_and_score(tmp_path):
    inspector = Inspector(made_up(tmp_path / "a", **SMALL, data=Digests("1" * 64, "2" * 64)))
    assert "not those that were scored" in tab(inspector, 2) and "<img" not in tab(inspector, 2)
    inspector = Inspector(made_up(tmp_path / "b", images=600, **SMALL, data=datasets.load("digits").digests))
    inspector.focus[0].value, inspector.focus[1].value, inspector.focus[3].value = "4", ROTATION, 1
    images = re.findall(r'alt="test image (\d+): (.), predicted (.), score (\S+)"', tab(inspector, 2))
    arrays = arrays_of(inspector.experiment, "4", "rotation", 1)
    for k, label, predicted, score in images:
        assert (arrays["label"][int(k)], arrays["predicted"][int(k)]) == (int(label), int(predicted))
        assert float(score) == pytest.approx(arrays["msp"][int(k)], rel=1e-3)
    assert len(images) > 50 and images[0][1] == "4"
    found = re.findall(r'test image (\d+):[^"]*" src="data:image/png;base64,([^"]*)"', tab(inspector, 2))
    for k, png in found:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        assert np.array_equal(pixels, datasets.load("digits").test.images[int(k)].squeeze())
    assert len(found) == len(images)


def test_damage_is_said_on_the_page_and_the_rest_is_shown(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    homes = [run.home for run in plan.planned(experiment)]
    (homes[0] / "record.json").write_text("{}")
    (homes[1] / "scores.npz").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inspector = Inspector(experiment)
    assert homes[0].name in inspector.warning.value and homes[1].name in inspector.warning.value
    assert inspector.curves.value.count("<h4>") == 2


def test_with_nothing_in_outputs_it_says_what_to_run(tmp_path):
    (tmp_path / "empty").mkdir()
    bundle = Inspector(config.create({"outputs": str(tmp_path)}))._repr_mimebundle_()
    assert "make demo" in bundle["text/html"] and "application/vnd.jupyter.widget-view+json" in bundle
    assert "make demo" in Inspector(config.create({"outputs": str(tmp_path / "absent")})).box.children[1].value


def test_every_interaction_is_redrawn_in_half_a_second(tmp_path):
    """10 classes x 2 methods x 3 trials of 10,000 scores, both scores shown; the best of three, as others use the processor."""
    inspector = Inspector(made_up(tmp_path, images=10_000, dataset="cifar10"))
    inspector.ticks[2].set(["MSP", "ODIN"])

    def threshold(k):
        inspector.threshold.value = 10 + k

    def one_class(k):
        inspector.ticks[0]._boxes["cat"].value = bool(k % 2)

    def method(k):
        inspector.ticks[1]._boxes[PLAIN].value = bool(k % 2)

    def trials(k):
        inspector.ticks[3].set([(0, 1), (1, 2), (0, 2)][k])

    for k in range(4):
        tab(inspector, k)
        for change in (threshold, one_class, method, trials):
            assert min(map(seconds, [change] * 3, range(3))) < 0.5, (change.__name__, k)


def seconds(call, *words):
    start = time.perf_counter()
    call(*words)
    return time.perf_counter() - start


@pytest.mark.notebook
@pytest.mark.parametrize("runs", [True, False])
def test_papermill_executes_the_notebook_and_leaves_a_page(tmp_path, runs):
    if runs:
        made_up(tmp_path / "outputs", **SMALL)
    out = tmp_path / "out.ipynb"
    where = {"outputs": str(tmp_path / "outputs"), "profile": "made_up"}
    papermill.execute_notebook(
        ROOT / "notebooks" / "inspect_pr_curves.ipynb", out, where, progress_bar=False, execution_timeout=120
    )
    outputs = [o for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", ())]
    assert [o.output_type for o in outputs] == ["execute_result"]
    page = outputs[0].data["text/html"]
    assert ("<svg" in page and "Average precision in %" in page) if runs else "make demo" in page
