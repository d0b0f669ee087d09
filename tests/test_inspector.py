"""The inspector without a browser: curves, counts and tables against scikit-learn and literal
counting, then the controls.
"""

import base64
import io
import itertools
import json
import re
import shlex
import shutil
import warnings
from contextlib import nullcontext
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from helpers import ROOT, finish, made_up, pets, tiny, tiny_data
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from test_plots import literal_precisions

from semlib import metrics
from workbench import runs
from workbench.experiment import ConfigError, create, from_yaml
from workbench.images import prepared
from workbench.images.digests import Digests
from workbench.results import image_map, plots, tables
from workbench.results.inspector import Inspector
from workbench.results.inspector.page import UNSEEN, Page
from workbench.results.inspector.selection import POINTS, Choice, Results, grouped, steps
from workbench.results.ranking import Ranking
from workbench.runs import execute, plan, store

PLAIN = "Classification-only"
ROTATION = "Rotation-augmented"
METHODS = {PLAIN: "classification", ROTATION: "rotation"}
SCORES = {"MSP": "msp", "ODIN": "odin"}
SMALL = {"dataset": "digits", "hold_out": ["1", "4"], "trials": 2}
UNEVEN = {"images": 95, "dataset": "digits", "hold_out": ["1", "7"]}  # 10 ones, 9 sevens
cases = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40).filter(
    lambda case: len({anomaly for anomaly, _ in case}) == 2
)


def read(experiment) -> Results:
    (records,) = grouped(store.collect(experiment.folder), experiment).values()
    return Results(records)


def everything(results, **changes) -> Choice:
    choice = Choice(results.classes, results.methods, results.scores, results.trials)
    return choice._replace(**changes)


def record_of(experiment, hold_out, method, trial):
    for record in store.finished(experiment):
        if (record.hold_out, record.method, record.trial) == (hold_out, method, trial):
            return record


def arrays_of(experiment, hold_out, method, trial):
    return record_of(experiment, hold_out, METHODS.get(method, method), trial).scores()


@given(cases)
def test_a_curve_is_scikit_learns_and_a_threshold_does_what_counting_says(case):
    is_anomaly = np.array([anomaly for anomaly, _ in case])
    scores = np.array([score for _, score in case], float)
    ranking = Ranking(is_anomaly, scores)
    precision, recall, thresholds = precision_recall_curve(is_anomaly, scores)
    assert np.array_equal(ranking.thresholds, thresholds[::-1])
    assert np.allclose(ranking.found / ranking.flagged, precision[-2::-1])
    assert np.allclose(ranking.tpr, recall[-2::-1])
    seven = Ranking(np.arange(100) > 90, np.arange(100.0))  # 0.07 * 100 is more than 7 in floats
    assert seven.flagging(0.07).flagged.item() == 7
    for share in (0.01, 0.1, 0.5, 1):
        (point,) = ranking.flagging(share).itertuples()
        assert point.threshold == max(t for t in scores if (scores >= t).mean() >= share)
        flagged = scores >= point.threshold
        assert (point.flagged, point.missed) == (flagged.sum(), (is_anomaly & ~flagged).sum())
        assert point.recall == pytest.approx(is_anomaly[flagged].sum() / is_anomaly.sum())
        assert point.precision == pytest.approx(is_anomaly[flagged].mean())
    area = ranking.finding(np.arange(1, is_anomaly.sum() + 1)).precision.mean()
    assert area == pytest.approx(average_precision_score(is_anomaly, scores))


# --- one table


def test_long_curves_are_thinned_average_precision_is_not_and_axes_fit_the_curves(tmp_path):
    """And the numbers at a threshold are those of each row's own run and score."""
    experiment = made_up(tmp_path, images=4000, **SMALL)
    results = read(experiment)
    choice = everything(results)
    points = steps(results.curves(choice).iloc[-2:])  # of both trials
    assert set(points.groupby("trial").size()) == {POINTS} and points.index.max() == 1
    for recall, row in points.iloc[::17].iterrows():
        arrays = arrays_of(experiment, "4", ROTATION, row.trial)
        above = arrays["odin"] >= row.threshold
        assert arrays["is_anomaly"][above].sum() >= round(recall * 400)
        assert row.precision == pytest.approx(arrays["is_anomaly"][above].mean())
    rows = results.selection(choice, 0.05)
    assert len(rows) == 2 * 2 * 2 * 2
    for row in rows.itertuples():
        arrays = arrays_of(experiment, row.hold_out, row.method, row.trial)
        values = arrays[SCORES[row.score]]
        anomaly = arrays["is_anomaly"]
        flagged = values >= row.threshold
        assert 200 <= flagged.sum() == row.flagged < 260 and row.skew == pytest.approx(10)
        assert row.missed == (anomaly & ~flagged).sum() and row.anomalies == 400
        exact = 100 * average_precision_score(anomaly, values)
        assert row.average_precision == pytest.approx(exact, abs=1e-9)
        assert row.auroc == pytest.approx(100 * roc_auc_score(anomaly, values))
    curves = results.curves(choice)
    highest = max(ranked.points.loc[0.05:].precision.max() for ranked in curves.ranking)
    for whole, top in ((False, min(1.02, 1.15 * highest)), (True, 1.02)):
        layout = Page(results).panels(choice, 0.1, whole)["layout"]
        assert layout["yaxis1"]["range"] == layout["yaxis2"]["range"] == [0, pytest.approx(top)]
        assert (layout["xaxis2"]["matches"], layout["yaxis2"]["matches"]) == ("x", "y")


def test_the_table_is_the_mean_within_a_trial_first_with_the_difference_and_the_papers(tmp_path):
    results = read(made_up(tmp_path, dataset="cifar10", hold_out="all", trials=3))
    choice = everything(results, scores=("MSP",), trials=(0, 2))
    table = results.average_precisions(choice)["MSP"]
    ap = {run: 100 * record.metrics["msp"] for run, record in results.runs.items()}
    two = [ap["cat", ROTATION, trial] for trial in (0, 2)]
    assert table[ROTATION, "mean"]["cat"] == pytest.approx(np.mean(two))
    within = [np.mean([ap[name, PLAIN, t] for name in results.classes]) for t in (0, 2)]
    assert table[PLAIN, "mean"]["average"] == pytest.approx(np.mean(within))
    assert table[PLAIN, "std"]["average"] == pytest.approx(np.std(within, ddof=1))
    curves = results.curves(choice).query(f"hold_out == 'cat' and method == '{PLAIN}'")
    assert table[PLAIN, "FPR95"]["cat"] == pytest.approx(curves.fpr95.mean())
    assert table[PLAIN, "AUROC"]["cat"] == pytest.approx(curves.auroc.mean())
    for methods in ((PLAIN, ROTATION), (ROTATION, PLAIN)):
        turned = results.average_precisions(choice._replace(methods=methods))["MSP"]
        difference = turned[ROTATION, "mean"] - turned[PLAIN, "mean"]
        assert np.allclose(turned[ROTATION, "difference"], difference)
        assert (PLAIN, "difference") not in turned
    assert table[ROTATION, "paper"]["cat"] == 53.12 and table[PLAIN, "paper"]["average"] == 34.92
    part = results.average_precisions(choice._replace(classes=("cat", "dog")))["MSP"]
    assert np.isnan(part[PLAIN, "paper"]["average"])  # the paper's is over ten classes


def test_the_papers_numbers_are_those_of_the_class_the_method_and_the_score(tmp_path):
    """In the table and in the saved selection; not beside ODIN of other settings."""
    few = {"images": 50, "dataset": "cifar10", "hold_out": ["cat", "dog"], "trials": 1}
    results = read(made_up(tmp_path, **few))
    published = tables.published("table3_cifar10")
    table = results.average_precisions(everything(results))
    saved = results.selection(everything(results), 0.1)
    assert len(saved) == 2 * 2 * 2
    for row in saved.itertuples():
        column = f"{METHODS[row.method]}_{SCORES[row.score]}"
        pair = published.loc[row.hold_out, [column, f"{column}_std"]].tolist()
        assert [row.paper, row.paper_std] == pair
        assert table[row.score, row.method, "paper"][row.hold_out] == pair[0]
    other = read(made_up(tmp_path / "other", **few, epsilon=0.01))
    assert other.published("cat", PLAIN, "MSP") == (38.06, 1.31)
    assert np.isnan(other.published("cat", PLAIN, "ODIN")).all()
    records = [*results.runs.values()]
    mine = [record.model_copy(update={"dataset": "mine"}) for record in records]
    both = Results(records, beside=mine, title="mine")
    assert both.published("cat", PLAIN, "MSP")[0] == 38.06
    assert np.isnan(both.published("cat", f"{PLAIN} [mine]", "MSP")[0])


def test_the_examples_are_the_images_behind_the_threshold_the_worst_first(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    arrays = arrays_of(experiment, "4", ROTATION, 1)
    scores = arrays["odin"]
    anomaly = arrays["is_anomaly"]
    ranking = read(experiment).ranking("4", ROTATION, "ODIN", 1)
    found, missed, flagged, most, least = ranking.examples(0.2).values()
    nearest = [*ranking.examples(0.2, worst=False).values()]
    for first, last in zip(nearest[:3], (found, missed, flagged), strict=True):
        assert scores[first].tolist() == scores[last][::-1].tolist()
    threshold = sorted(scores)[-40]  # a fifth of 200
    assert set(found) == set(np.flatnonzero(anomaly & (scores >= threshold)))
    assert set(missed) == set(np.flatnonzero(anomaly & (scores < threshold)))
    assert set(flagged) == set(np.flatnonzero(~anomaly & (scores >= threshold)))
    for row, rising in ((found, -1), (missed, 1), (flagged, -1), (most, -1), (least, 1)):
        assert np.all(np.diff(scores[row]) * rising >= 0) and len(row)
    assert len(most) == len(least) == 200


# --- what is drawn


def precisions(experiment, hold_out, method, score):
    """(trials, anomalies): the precision at the highest threshold that finds k anomalies."""
    every = [arrays_of(experiment, hold_out, method, t) for t in range(experiment.trials)]
    return np.array([literal_precisions(a["is_anomaly"], a[SCORES[score]]) for a in every])


def drawn(trace):
    """(x, y) of the corners of a plotly trace as it is drawn; vh: vertical first."""
    x = np.array(trace["x"])
    y = np.array(trace["y"])
    return (x.repeat(2)[:-1], y.repeat(2)[1:]) if trace["line"].get("shape") == "vh" else (x, y)


@pytest.mark.parametrize("trials", [1, 3])
def test_each_panel_shows_its_own_classs_steps_band_trials_and_skew(tmp_path, trials):
    """Between two recalls a curve is at the mean precision."""
    experiment = made_up(tmp_path, **UNEVEN, trials=trials)
    page = Page(read(experiment))
    usual = plots.colours(("classification", "rotation"))
    assert page.colours == {name: to_hex(usual[method]) for name, method in METHODS.items()}
    choice = everything(page.results)
    figure = page.panels(choice, 0.1)
    for k, name in enumerate("17"):
        traces = [trace for trace in figure["data"] if trace["xaxis"] == f"x{k + 1}"]
        title = [name]
        for score, method in itertools.product(choice.scores, choice.methods):
            each = precisions(experiment, name, method, score)
            mean = each.mean(0)
            between = (np.arange(each.shape[1]) + 0.5) / each.shape[1]
            own = [t for t in traces if t.get("meta") == [name, method, score]]
            bands = [trace for trace in own if trace.get("fill") == "toself"]
            single = [trace for trace in own if trace.get("opacity", 1) < 1]
            (thick,) = [trace for trace in own if trace["line"].get("width") == 2]
            assert thick["name"] == f"{method}, {score}"
            assert thick["line"]["color"] == page.colours[method]
            assert np.interp(between, *drawn(thick)) == pytest.approx(mean)
            for trace, precision in zip(single, each, strict=True):  # from the first anomaly on
                assert np.interp(between[1:], *drawn(trace)) == pytest.approx(precision[1:])
            aps = pd.Series(100 * each.mean(1))
            numbers = f"{aps.mean():.2f}" + (f" ± {aps.std():.2f}" if trials > 1 else "")
            title += [f"{score}  {numbers}"] if method == PLAIN else []
            title[-1] += f"  {numbers}" if method == ROTATION else ""
            assert len(bands) == (trials > 1)
            for band in bands:  # high from left to right, then low back
                std = each.std(0, ddof=1)
                edges = [(mean + std).clip(max=1), (mean - std).clip(min=0)[::-1]]
                assert band["y"][::2] == pytest.approx(np.concatenate(edges))
        note = figure["layout"]["annotations"][k]["text"]
        assert [re.sub("<.*?>", "", line) for line in note.split("<br>")] == title
        assert re.findall(r"color:(#\w+)", note) == [page.colours[m] for m in choice.methods] * 2
        skew = arrays_of(experiment, name, ROTATION, 0)["is_anomaly"].mean()
        assert [t["y"] for t in traces if "skew" in t["name"]] == [[skew] * 2]


def test_the_saved_figure_has_the_curves_of_the_choice_and_its_points(tmp_path):
    """Drawn by the function that tests/test_plots.py checks."""
    page = Page(read(made_up(tmp_path, **UNEVEN, trials=3)))
    choice = everything(page.results, scores=("ODIN",))
    points = page.results.selection(choice, 0.1)
    table = page.results.average_precisions(choice)["ODIN"]
    for axis, name in zip(page.figure(choice, 0.1).axes, "17", strict=True):
        plain, rotation, _, *dots = axis.lines  # the third: the share of anomalies
        assert [plain.get_color(), rotation.get_color()] == [*page.colours.values()]
        for line, text in zip((plain, rotation), axis.get_legend().get_texts(), strict=True):
            method = line.get_label().removesuffix(", ODIN")
            mean, std = table.loc[name, [(method, "mean"), (method, "std")]]
            assert line.get_ydata()[1:].mean() == pytest.approx(mean / 100)
            assert text.get_text() == f"ODIN {mean:.2f} ± {std:.2f}"
        rows = points[points.hold_out == name]
        marked = [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots]
        assert marked == [*zip(rows.recall, rows.precision, strict=True)]


def test_histograms_and_confusions_count_images(tmp_path):
    experiment = made_up(tmp_path, **UNEVEN, trials=1)
    page = Page(read(experiment))
    sides = [(PLAIN, "MSP", 0), (ROTATION, "ODIN", 0)]
    figure = page.histograms("7", sides, 0.2)
    confusions = page.confusions(everything(page.results)).data
    assert len(figure["data"]) == 4 and confusions.columns.tolist() == [*"0123456789"]
    assert confusions.index.tolist() == [*itertools.product("17", METHODS)]
    for k, (method, score, _) in enumerate(sides):
        arrays = arrays_of(experiment, "7", method, 0)
        scores = arrays[SCORES[score]]
        anomaly = arrays["is_anomaly"]
        traces = [trace for trace in figure["data"] if trace["xaxis"] == f"x{k + 1}"]
        looks = [(trace["name"], trace["marker"]["color"]) for trace in traces]
        assert looks == [("normal", "#888888"), ("7, unseen", UNSEEN)]
        for trace, chosen in zip(traces, (~anomaly, anomaly), strict=True):
            assert sorted(trace["x"]) == sorted(scores[chosen])
            assert (trace["histnorm"], trace["bingroup"]) == ("percent", trace["xaxis"])
        assert figure["layout"]["annotations"][k]["text"] == f"{method}, {score}, trial 0"
        assert figure["layout"]["shapes"][k]["x0"] == np.sort(scores)[-19]  # a fifth of 95
        assert figure["layout"]["meta"]["lines"][k] == ["7", method, score, 0]
        counts = np.bincount(arrays["predicted"][anomaly], minlength=10)
        assert confusions.loc["7", method].tolist() == pytest.approx(100 * counts / 9)


# --- which runs are shown together


def test_runs_of_other_settings_and_other_data_are_tables_of_their_own(tmp_path):
    small = SMALL | {"trials": 1}
    made_up(tmp_path, **small)
    made_up(tmp_path, **small, epochs=7)
    made_up(tmp_path, **small | {"methods": "rotation"}, auxiliary_weight=0)
    other = Digests("1" * 64, "2" * 64)
    experiment = made_up(tmp_path, **small, epochs=9, data=other)
    folder = tmp_path / "made_up"
    settings = {"outputs": str(tmp_path), "profile": "made_up", "dataset": "digits"}
    none = plan.Run(create(settings), None, "rotation", 0)
    one = store.collect(folder)[0].scores()
    here = plan.current_digests(experiment)
    finish(replace(none, data=here), prepared.classes("digits"), one, {})
    groups = grouped(store.collect(folder), experiment)
    titles = [f"digits (epochs {n}, data {here})" for n in (200, 7)]
    titles += [f"digits (epochs 9, data {other}), on other data ({other}) than is here ({here})"]
    assert set(groups) == set(titles) and list(groups)[-1] == titles[-1]
    results = Results(groups[titles[0]])
    weights = [f"{ROTATION} (auxiliary_weight {weight})" for weight in (0.5, 0.0)]
    assert results.methods == (PLAIN, *weights)
    colours = Page(results).colours
    assert len({*colours.values()}) == 3
    assert colours[weights[0]] == to_hex(plots.colours(["rotation"])["rotation"])  # the usual one
    table = results.average_precisions(everything(results, classes=("1",)))["MSP"]
    assert [method for method, kind in table if kind == "difference"] == weights


def test_versions_of_a_users_code_stand_apart_and_older_records_do_not(tmp_path):
    experiment = made_up(tmp_path, **SMALL | {"trials": 1})
    for record in store.finished(experiment):
        fields = record.model_dump()
        assert fields["settings"].pop("fold") is None  # as if it were introduced later
        store.write_record(record.home, **fields)
        if record.method == "rotation":
            fields |= {"sources": {"rotation": "1" * 16}, "trial": 5}
            run = plan.Run(experiment, record.hold_out, "rotation", 5, record.data)
            address = plan.address(run, fields["settings"], fields["sources"], record.train_digest)
            home = experiment.folder / "runs" / plan.place(run, address)
            shutil.copytree(record.home, home)
            store.write_record(home, **fields | {"address": address})
    versions = {f"{ROTATION} (source {digest})" for digest in (None, "1" * 16)}
    assert set(read(experiment).methods) == {PLAIN} | versions


def test_damaged_and_foreign_records_are_named_and_the_rest_is_shown(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    homes = [run.home for run in plan.planned(experiment)]
    (homes[0] / "record.json").write_text("{")
    (homes[1] / "scores.npz").write_bytes(b"PK")
    shutil.copytree(homes[2], homes[2].with_name("trial_9-copied"))
    with pytest.warns(UserWarning) as caught:
        results = read(experiment)
    said = sorted(str(warning.message) for warning in caught)
    assert len(said) == 3 and len(results.runs) == 6
    for part in (str(homes[0] / "record.json"), str(homes[1] / "scores.npz"), "trial_9-copied"):
        assert sum(part in text for text in said) == 1, part
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inspector = Inspector(experiment)
    assert homes[0].name in inspector.warning.value and homes[1].name in inspector.warning.value
    assert titles_of(inspector) == ["1", "4"]
    for home in homes[2:]:
        (home / "scores.npz").unlink()
    inspector.lists[2].value = inspector.lists[2].options[1:]
    assert "scores.npz can" in inspector.said.value and "alert" in inspector.said.value


def test_what_lacks_is_said_and_compared_methods_have_the_same_classes_and_trials(tmp_path):
    """Rotation lacks 4 in trial 1, then 4 wholly: neither mean is over runs that it lacks."""
    experiment = made_up(tmp_path, **SMALL)
    shutil.rmtree(record_of(experiment, "4", "rotation", 1).home)
    lacking = [("14", (0,), "4 (trial 1)"), ("1", (0, 1), "4 (trial 0), 4 (tr")]
    for classes, trials, lacks in lacking:
        page = Page(read(experiment))
        choice = everything(page.results, scores=("MSP",))
        said = page.summary(choice, 0.1)
        numbers = ", ".join(map(str, trials))
        same = f"{len(classes)} of 2 classes, {len(trials)} of 2 trials ({numbers})."
        assert f"{same} Not run: {ROTATION}, MSP: {lacks}" in said
        for name, method in METHODS.items():
            precisions = []
            for hold_out, trial in itertools.product(classes, trials):
                arrays = arrays_of(experiment, hold_out, method, trial)
                flagged = arrays["msp"] >= np.sort(arrays["msp"])[-20]
                precisions.append(arrays["is_anomaly"][flagged].mean())
            assert f"{name}, MSP</b> precision {np.mean(precisions):.2%}" in said
        table = page.results.average_precisions(choice)["MSP"]
        ap = [100 * record_of(experiment, c, "classification", 0).metrics["msp"] for c in "14"]
        if trials == (0,):
            assert table[PLAIN, "mean"]["average"] == pytest.approx(np.mean(ap))
        else:
            assert np.isnan(table[ROTATION, "mean"]["average"])
        assert "Not run" in page.average_precisions(choice, "class", True).to_html()
        names = [trace["name"] for trace in page.panels(choice, 0.1)["data"] if trace["showlegend"]]
        assert sorted(names) == sorted({f"{m}, MSP" for m in METHODS} | {"guessing (the skew)"})
        if trials == (0,):
            shutil.rmtree(record_of(experiment, "4", "rotation", 0).home)
    first = page.panels(choice._replace(classes=("4", "1")), 0.1)  # rotation lacks the first
    assert sum(trace["showlegend"] for trace in first["data"]) == 3


def test_runs_that_lie_behind_a_link_are_found(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    elsewhere = tmp_path / "big disk"
    shutil.move(experiment.folder / "runs" / "digits", elsewhere)
    (experiment.folder / "runs" / "digits").symlink_to(elsewhere)
    assert len(store.collect(experiment.folder)) == len(read(experiment).runs) == 8


# --- the controls


def view(inspector, name):
    inspector.view.value = name
    return inspector.html.value


def cells(html):
    """The rows of a table as text."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", html.split("<tbody>")[-1], flags=re.S)
    found = [re.findall(r"<t[hd].*?>.*?</t[hd]>", row, flags=re.S) for row in rows]
    return [[re.sub(r"<.*?>", "", cell).strip() for cell in row] for row in found]


def shown(plot):
    return json.loads(plot.figure)


def marks(inspector):
    """(x, y) of every trial's point at the threshold, by panel."""
    points = []
    for trace in shown(inspector.panels)["data"]:
        if trace["mode"] == "markers":
            points += [(trace["xaxis"], *xy) for xy in zip(trace["x"], trace["y"], strict=True)]
    return points


def stars_of(inspector):
    traces = shown(inspector.panels)["data"]
    return [trace for trace in traces if trace.get("marker", {}).get("symbol") == "star"]


def titles_of(inspector):
    notes = shown(inspector.panels)["layout"]["annotations"]
    return [re.search("<b>(.*?)</b>", note["text"])[1] for note in notes]


def test_each_control_changes_what_it_should(tmp_path):
    inspector = Inspector(made_up(tmp_path, **SMALL))
    assert inspector.table.value == "made_up: digits" and inspector.threshold.value == 10
    assert inspector.choice == Choice(("1", "4"), (PLAIN, ROTATION), ("MSP",), (0, 1))
    assert titles_of(inspector) == ["1", "4"] and len(marks(inspector)) == 2 * 2 * 2
    before = marks(inspector)
    drawn = shown(inspector.panels)
    inspector.threshold.value = 40
    after = shown(inspector.panels)
    assert all(a != b for a, b in zip(marks(inspector), before, strict=True))
    lines = [[t for t in figure["data"] if t["mode"] == "lines"] for figure in (drawn, after)]
    assert lines[0] == lines[1] and drawn["layout"] == after["layout"]
    assert "40 %" in inspector.said.value
    inspector.lists[1].value = [ROTATION]
    assert inspector.choice.methods == (ROTATION,) and len(marks(inspector)) == 2 * 2
    names = {trace["name"] for trace in shown(inspector.panels)["data"]}
    assert names == {f"{ROTATION}, MSP", "guessing (the skew)"}
    inspector.lists[2].value = ["MSP", "ODIN"]
    rows = cells(view(inspector, "At the threshold"))
    assert [row[-7] for row in rows] == ["MSP", "ODIN"] * 2
    layout = shown(inspector.panels)["layout"]
    assert layout["uirevision"] == drawn["layout"]["uirevision"]  # a zoom stays
    inspector.lists[0].value = ["4"]
    assert titles_of(inspector) == ["4"] and inspector.held_out.value == "4"
    assert shown(inspector.panels)["layout"]["uirevision"] != layout["uirevision"]
    inspector.lists[0].value = []
    assert "Choose at least one class" in inspector.said.value
    assert Inspector(inspector.experiment).box.children[0] is inspector.box.children[0]  # plotly.js


def test_what_was_not_run_is_said_and_the_rest_is_shown(tmp_path):
    experiment = made_up(tmp_path, **SMALL)
    for method in ("classification", "rotation"):
        shutil.rmtree(record_of(experiment, "4", method, 1).home)
    inspector = Inspector(experiment)
    inspector.lists[3].value = [1]
    assert titles_of(inspector) == ["1", "4"] and {mark[0] for mark in marks(inspector)} == {"x1"}
    for name in inspector.view.options:
        assert view(inspector, name)
    inspector.lists[0].value = ["4"]
    assert "Choose at least one class" in inspector.said.value
    assert inspector.panels.layout.display == inspector.below.layout.display == "none"
    inspector.save(".pdf")
    assert "Choose at least one class" in inspector.saved.value
    inspector.lists[3].value = [0]
    assert titles_of(inspector) == ["4"] and "Flagging" in inspector.said.value
    assert inspector.panels.layout.display is inspector.below.layout.display is None
    record = record_of(experiment, "4", "rotation", 0)
    metrics = {name: value for name, value in record.metrics.items() if name != "msp"}
    store.write_record(record.home, **record.model_dump() | {"metrics": metrics})
    again = Inspector(experiment)  # a mean over the last epochs, one of which lacked MSP
    assert len(marks(again)) == 4 + 1 and "Flagging" in again.said.value
    results = inspector.page.results
    choice = Choice(results.classes, (PLAIN,), ("MSP",), (1,))
    lacking = results.average_precisions(choice)["MSP", PLAIN]
    assert lacking.loc["average"].isna().all() and lacking["mean"].notna().tolist() == [1, 0, 0]


def test_a_click_puts_the_threshold_there_in_all_panels_and_opens_the_run_below(tmp_path):
    inspector = Inspector(made_up(tmp_path, images=600, **SMALL | {"trials": 3}))
    view(inspector, "Histograms")
    panel = [t for t in shown(inspector.panels)["data"] if t["xaxis"] == "x2"]
    trace = next(t for t in panel if t.get("opacity", 1) < 1)
    for point in (0, 17, 50):
        threshold, flagged, _, trial = trace["customdata"][point]
        message = ["point", *trace["meta"], trial, threshold, True]  # as the browser sends it
        inspector.panels._handle_custom_msg(message, [])
        assert (inspector.held_out.value, inspector.sides[0].value) == ("4", (PLAIN, "MSP", trial))
        ranking = inspector.page.results.ranking("4", PLAIN, "MSP", trial)
        (there,) = ranking.flagging(inspector.share).itertuples()
        assert (there.threshold, there.flagged) == (threshold, flagged)
        assert ("x2", trace["x"][point], trace["y"][point]) in marks(inspector)
        assert shown(inspector.histograms)["layout"]["shapes"][0]["x0"] == threshold
    left = inspector.sides[0].value
    inspector.sides[1].value = (ROTATION, "MSP", 0)
    line = shown(inspector.histograms)["layout"]["meta"]["lines"][1]
    inspector.histograms._handle_custom_msg(["point", *line, 0.5, False], [])
    scores = inspector.page.results.ranking("4", ROTATION, "MSP", 0).scores
    lowest = scores[scores >= 0.5].min()  # the threshold that flags the same images
    assert shown(inspector.histograms)["layout"]["shapes"][1]["x0"] == lowest
    assert inspector.sides[0].value == left


def test_another_table_stands_beside_with_its_methods(tmp_path):
    """Of another profile and of other settings in the same; none of other classes is offered."""
    made_up(tmp_path, **SMALL, profile="other", seed=1)
    made_up(tmp_path, **SMALL, epochs=7, seed=2)
    made_up(tmp_path, dataset="cifar10", hold_out="cat", trials=1)
    inspector = Inspector(made_up(tmp_path, **SMALL))
    inspector.table.value = "made_up: digits (epochs 200)"
    titles = inspector.beside.options[1:]
    assert set(titles) == {"made_up: digits (epochs 7)", "other: digits"}
    for title in titles:
        inspector.beside.value = title
        methods = (PLAIN, ROTATION, f"{PLAIN} [{title}]", f"{ROTATION} [{title}]")
        assert inspector.choice.methods == methods and len(marks(inspector)) == 2 * 4 * 2
        for record in inspector.tables[title]:
            name = methods[2 + (record.method == "rotation")]
            ranking = inspector.page.results.ranking(record.hold_out, name, "MSP", record.trial)
            assert np.array_equal(ranking.scores, record.scores()["msp"])
        table = inspector.page.results.average_precisions(inspector.choice)["MSP"]
        change = table[methods[2], "mean"] - table[PLAIN, "mean"]
        assert np.allclose(table[methods[2], "difference"], change) and change.abs().max() > 0
    sizes = [label.rpartition(", ")[2] for label, _ in inspector.table.options]
    # the most runs first, within a profile
    assert sizes == ["runs: 8", "runs: 8", "runs: 2", "runs: 8"]


def test_predictions_and_the_files_name_are_of_the_statistics_that_are_shown(tmp_path):
    experiment = made_up(tmp_path, **SMALL | {"trials": 1}, statistics="upright")
    for record in store.finished(experiment):
        arrays = record.scores()
        predicted = (arrays["predicted"] + 1) % 10
        arrays |= {"predicted@upright": predicted}
        accuracy = metrics.accuracy(arrays["label"], predicted, arrays["is_anomaly"])
        fields = record.model_dump()
        fields["metrics"] |= {"accuracy@upright": accuracy}
        fields["scores_sha256"] = store.write_scores(record.home / "scores.npz", arrays)
        store.write_record(record.home, **fields)
    inspector = Inspector(experiment)
    arrays = arrays_of(experiment, "1", PLAIN, 0)
    for statistics, name in (("upright", "predicted@upright"), ("mixed", "predicted")):
        inspector.statistics.value = statistics
        assert inspector.name.value.endswith(f"-{statistics}")
        html = view(inspector, "Images").split("</table>")[0]
        found = re.findall(r'alt="test image (\d+): ., predicted (.),', html)
        assert found and all(arrays[name][int(k)] == int(p) for k, p in found)
        row = inspector.page.confusions(inspector.choice).data.loc["1", PLAIN]
        counts = np.bincount(arrays[name][arrays["is_anomaly"]], minlength=10)
        assert row.tolist() == pytest.approx(100 * counts / counts.sum())


def test_the_table_sorts_by_any_column_and_marks_the_better_method(tmp_path):
    inspector = Inspector(made_up(tmp_path, **SMALL | {"hold_out": "all"}))
    for k, name in enumerate(inspector.sort.options[1:], 1):
        for falling in (True, False):
            inspector.sort.value = name
            inspector.falling.value = falling
            rows = cells(view(inspector, "Average precision"))
            values = [float(row[k]) for row in rows[:-1]]
            assert values == sorted(values, reverse=falling) and rows[-1][0] == "average"
    inspector.lists[2].value = ["MSP", "ODIN"]
    html = view(inspector, "Average precision")
    selectors = re.search(r"(#[^{}]*){[^}]*bold", html)[1]
    bold = {tuple(map(int, cell)) for cell in re.findall(r"row(\d+)_col(\d+)\b", selectors)}
    columns = list(inspector.sort.options[1:])
    for row, line in enumerate(cells(html)):
        better = set()
        for score in ("MSP", "ODIN"):
            pair = [columns.index(f"{score} {method} mean") for method in METHODS]
            better.add(max(pair, key=lambda column: float(line[column + 1])))
        assert {column for at, column in bold if at == row} == better
        assert line[columns.index(f"MSP {ROTATION} difference") + 1][0] in "+-"


def test_saving_writes_what_is_shown_and_says_where(tmp_path):
    inspector = Inspector(made_up(tmp_path, **SMALL))
    inspector.lists[0].value = ["4"]
    inspector.name.value = "../my curves"
    for ending, head in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".csv", b"hold_out,")):
        inspector.save(ending)
        path = tmp_path / "made_up" / f".._my_curves{ending}"
        assert path.read_bytes().startswith(head) and path.name in inspector.saved.value
    saved = pd.read_csv(path, dtype={"hold_out": str})
    assert set(saved.hold_out) == {"4"} and len(saved) == 2 * 2
    selected = inspector.page.results.selection(inspector.choice, inspector.share)
    pd.testing.assert_frame_equal(saved, selected)


def test_images_are_absent_in_a_sentence_and_present_with_class_prediction_and_score(tmp_path):
    inspector = Inspector(made_up(tmp_path / "a", **SMALL, data=Digests("1" * 64, "2" * 64)))
    html = view(inspector, "Images")
    assert "not those that were scored" in html and "<img" not in html
    digits = prepared.load("digits")
    how = SMALL | {"images": 600, "data": prepared.digests_of(digits)}
    inspector = Inspector(made_up(tmp_path / "b", **how))
    inspector.held_out.value = "4"
    inspector.sides[0].value = (ROTATION, "MSP", 1)
    html = view(inspector, "Images").split("</table>")[0]
    told = r'alt="test image (\d+): (.), predicted (.), score (\S+)"[^>]*base64,([^"]*)"'
    found = re.findall(told, html)
    arrays = arrays_of(inspector.experiment, "4", ROTATION, 1)
    for index, label, predicted, score, png in found:
        k = int(index)
        assert (arrays["label"][k], arrays["predicted"][k]) == (int(label), int(predicted))
        assert float(score) == pytest.approx(arrays["msp"][k], rel=1e-3)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        assert np.array_equal(pixels, digits.test.images[k].squeeze())
    assert len(found) == html.count("<img") > 30 and found[0][1] == "4"
    assert f"{ROTATION}, MSP, trial 1, 4 held out" in html


def test_the_names_of_own_images_are_those_of_their_files(tmp_path):
    own = pets(tmp_path, seed=0)
    where = {"data_root": str(tmp_path / "data")}
    digest = prepared.digests_of(prepared.load(str(own), tmp_path / "data"))
    how = {"images": 12, "hold_out": "bee", "trials": 1, "data": digest}
    inspector = Inspector(made_up(tmp_path / "outputs", dataset=str(own), **how, **where))
    label = record_of(inspector.experiment, "bee", "rotation", 0).scores("label")["label"]
    html = view(inspector, "Images")
    names = ("ant", "bee", "cow")
    for k in map(int, re.findall('data-image="(\\d+)"', html)):  # made-up labels are in turn
        assert f'alt="{names[k // 4]}/{k % 4}.png: {names[label[k]]}' in html
    other = Inspector(inspector.experiment.model_copy(update={"dataset": "digits"}))
    assert "write its path into `dataset`" in view(other, "Images")
    said = view(Inspector(made_up(tmp_path, dataset="stl10", hold_out="cat", trials=1)), "Images")
    assert "stl10 is not prepared here: python -m semlib data prepare stl10" in said


def test_a_profile_without_runs_is_said_and_classes_are_chosen_all_or_none(tmp_path):
    made_up(tmp_path, **SMALL | {"trials": 1})
    which = {"outputs": str(tmp_path), "profile": "made", "dataset": "digits"}
    inspector = Inspector(create(which))
    assert "made/ has no finished runs; profiles that have some: made_up" in inspector.warning.value
    for which, classes in (("none", ()), ("all", ("1", "4"))):
        inspector._choose_classes(which)
        assert inspector.lists[0].value == classes
    own = inspector.experiment.model_copy(update={"profile": "made_up"})
    assert not Inspector(own).warning.value


# --- the map


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on the tiny data set with its images, and a folder of outputs."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_data(folder / "data")
    how = {"methods": ["classification", "rotation"], "scores": ["msp", "energy"]}
    experiment = tiny(folder, **how, epochs=1)
    return experiment, runs.complete(experiment), plan.load(experiment)


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_points_are_the_first_two_principal_components_of_the_features(trained, statistics):
    _, (record, _), data = trained
    net = execute.network(record, data)
    train = record.run.split(data).train.images
    with metrics.upright(net, train) if statistics == "upright" else nullcontext():
        features = metrics.features(net, data.test.images).features
    centred = features - features.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    places = image_map.places_of(record, data, "PCA", statistics)
    assert np.abs(places) == pytest.approx(np.abs(u[:, :2] * s[:2]), abs=1e-3)
    (kept,) = record.home.glob(f"map-PCA-{statistics}-{record.weights_sha256[:8]}.npy")
    kept.write_bytes(b"damaged")
    assert np.array_equal(image_map.places_of(record, data, "PCA", statistics), places)
    assert image_map.places_of(record, data, "t-SNE", statistics).shape == (100, 2)


def test_a_map_tells_what_either_run_finds_and_the_rank_of_every_image(trained, tmp_path):
    _, records, data = trained
    how = {"share": 0.3, "score": "energy"}
    assert "(mixed statistics)" in plots.image_map(records[0], data, **how).about  # its table's
    page = plots.image_map(records[0], data, records[1], **how, statistics="upright")
    upright = [record.scores() for record in records]
    found = [a["energy@upright"] >= np.sort(a["energy@upright"])[-30] for a in upright]
    is_anomaly = records[0].scores()["is_anomaly"]
    expected = {"normal": ~is_anomaly}
    expected["held out, found by both"] = is_anomaly & found[0] & found[1]
    expected["held out, found by left and missed by right"] = is_anomaly & found[0] & ~found[1]
    expected["held out, found by right only"] = is_anomaly & ~found[0] & found[1]
    expected["held out, found by neither"] = is_anomaly & ~found[0] & ~found[1]
    seen = {trace["name"].rpartition(" (")[0]: trace for trace in page.figure["data"]}
    assert {*seen} == {name for name, members in expected.items() if members.any()}
    for name, trace in seen.items():
        assert trace["customdata"].tolist() == np.flatnonzero(expected[name]).tolist()
        for k, text in zip(trace["customdata"], trace["text"], strict=True):
            ranks = [1 + (a["msp@upright"] > a["msp@upright"][k]).sum() for a in upright]
            assert [int(n) for n in re.findall(r"MSP (\d+)", text)] == ranks
    sheet = np.asarray(Image.open(io.BytesIO(page.sheet)).convert("L"), float)
    across, side = page.figure["layout"]["meta"]["map"].values()
    k = 57
    tile = sheet[k // across * side :, k % across * side :][:side, :side]
    assert np.abs(tile[4::8, 4::8] - data.test.images[k, 0]).mean() < 8
    html = page.save(tmp_path / "map.html").read_text()
    assert len(html) < 6e6 and 'src="http' not in html and page._repr_html_().startswith("<iframe")


def test_no_name_is_html_on_a_map(trained):
    _, (record, _), data = trained
    nasty = '</script><img src=x onerror="alert(1)">'
    fields = {"classes": (nasty, *record.classes[1:]), "dataset": nasty}
    changed = record.model_copy(update=fields)  # which a file could not have: it would be refused
    names = [f"{nasty}{k}" for k in range(100)]
    html = plots.image_map(changed, data, names=np.array(names)).html()
    assert "<img src=x" not in html and "onerror" in html


def test_missing_weights_are_said_with_a_command_that_trains_the_same_run(trained, tmp_path):
    experiment, (record, _), data = trained
    bare = store.rewrite(record, tmp_path / "bare")
    shutil.copy(record.home / "scores.npz", bare.home)
    with pytest.raises(ConfigError, match=r"weights\.pt is not in") as caught:
        plots.image_map(bare, data)
    command = shlex.split(str(caught.value).partition("python -m semlib run ")[2])
    pairs = {command[k + 1]: from_yaml(command[k + 2]) for k in range(1, len(command), 3)}
    same = create(pairs | {"data_root": experiment.data_root})
    (run,) = plan.planned(same)
    assert run.address_for(record.train_digest) == record.address
    with pytest.raises(ConfigError, match="choose from PCA, t-SNE"):
        plots.image_map(record, data, plane="UMAP")
    with pytest.raises(ConfigError, match="choose from msp, energy"):
        plots.image_map(record, data, score="odin")
    with pytest.raises(ConfigError, match="share: should be a fraction"):
        plots.image_map(record, data, share=5)
    inspector = Inspector(made_up(tmp_path, **SMALL, images=600))
    said = view(inspector, "Map")
    assert "python -m semlib run notebooks/holdout.ipynb" in said and "weights: none" in said
    record = record_of(inspector.experiment, "1", "rotation", 1)
    (record.home / "weights.pt").touch()
    inspector.plane.value = "t-SNE"
    assert f"with weights: {ROTATION}, MSP, trial 1. " in inspector.html.value


def test_lasso_and_clicks_on_the_map_select_and_mark(tmp_path):
    inspector = Inspector(made_up(tmp_path, images=600, **SMALL))
    for record in store.finished(inspector.experiment):
        places = np.random.default_rng(record.trial).normal(size=(600, 2))
        np.save(record.home / "map-PCA-mixed-none.npy", places.astype(np.float32))
    view(inspector, "Map")
    inspector.held_out.value = "4"
    inspector.map._handle_custom_msg(["images", 3, 14, 500], [])
    assert inspector.selected.index.tolist() == [3, 14, 500]
    arrays = arrays_of(inspector.experiment, "4", PLAIN, 0)
    ranks = inspector.selected[f"{PLAIN}, MSP, trial 0: MSP rank"]
    assert ranks.tolist() == [1 + (arrays["msp"] > arrays["msp"][k]).sum() for k in (3, 14, 500)]
    assert inspector.html.value.count("<img") == 3
    inspector.save("-lasso.csv")
    saved = pd.read_csv(next(tmp_path.glob("made_up/*-lasso.csv")), dtype={"class": str})
    assert saved["image"].tolist() == [f"test image {k}" for k in (3, 14, 500)]
    inspector.map._handle_custom_msg(["image", 14], [])
    assert "<b>test image 14</b>, 4<br>" in inspector.large.value  # 14 % 10
    stars = stars_of(inspector)
    assert len(stars) == 4 and {star["xaxis"] for star in stars} == {"x2"}
    sides = itertools.product(METHODS.values(), (0, 1))
    for star, (method, trial) in zip(stars, sides, strict=True):
        arrays = arrays_of(inspector.experiment, "4", method, trial)
        above = arrays["msp"] >= arrays["msp"][14]
        assert star["x"] == [pytest.approx(arrays["is_anomaly"][above].sum() / 60)]
        assert star["y"] == [pytest.approx(arrays["is_anomaly"][above].mean())]
    rings = shown(inspector.map)["data"][-1]
    assert rings["customdata"] == [14] and rings["name"] == "chosen"
    view(inspector, "Histograms")
    notes = shown(inspector.histograms)["layout"]["annotations"]
    assert [note["text"] for note in notes[2:]] == ["test image 14"] * 2


def test_an_image_is_marked_and_listed_only_where_it_was_scored(tmp_path):
    """Runs of the same classes on other test images can stand beside."""
    other = {"data": Digests("1" * 64, "2" * 64), "profile": "other", "images": 205}
    made_up(tmp_path, **SMALL, **other)
    inspector = Inspector(made_up(tmp_path, images=600, **SMALL))
    inspector.beside.value = inspector.beside.options[1]
    here = list(METHODS.values())
    inspector.held_out.value = "4"
    there = next(side for _, side in inspector.sides[1].options if "[other" in side[0])
    inspector.sides[1].value = there
    inspector.html._handle_custom_msg(["image", 514], [])
    inspector.map._handle_custom_msg(["images", 514, 3, 514], [])  # a marked one has two points
    assert inspector.selected.index.tolist() == [514, 3]
    assert {*inspector.selected.group} <= {"normal", "found", "missed"}
    stars = stars_of(inspector)
    assert len(stars) == len(here) * 2 and not [t for t in stars if "[other" in t["meta"][1]]
    for name in inspector.view.options:
        view(inspector, name)
        assert "alert" not in inspector.said.value
    inspector.threshold.value = 100
    assert "missed" not in {*inspector.selected.group}
    curves = inspector.page.results.curves(inspector.choice).query("hold_out == '4'")
    skew = curves.groupby("method")["skew"].first()
    assert (skew[PLAIN], skew[there[0]]) == pytest.approx((10, 100 * 21 / 205))
    assert inspector.page.results.skew["4"] == 0.1
    inspector.sides[0].value = there  # of its own images none was clicked
    assert "<b>test image" not in inspector.large.value and inspector.selected.empty


def test_a_page_that_is_no_more_is_the_last_one_and_an_empty_lasso_is_not_saved(tmp_path):
    digits = prepared.digests_of(prepared.load("digits"))
    inspector = Inspector(made_up(tmp_path, images=600, **SMALL, data=digits))
    assert "<img" in view(inspector, "Images")
    last = inspector.number.max
    inspector.number.value = last
    inspector.number.max = last + 9  # as of a table with more images
    inspector.number.value = last + 9
    assert inspector.number.max == inspector.number.value == last
    assert "<img" in inspector.html.value
    inspector.save("-lasso.csv")
    assert "Select images" in inspector.saved.value and not [*tmp_path.glob("*/*-lasso.csv")]


def test_runs_without_the_chosen_statistics_are_no_error(tmp_path):
    experiment = made_up(tmp_path, **SMALL | {"trials": 1}, statistics="upright")
    for record in store.finished(experiment):
        fields = record.model_dump()
        kept = {name: value for name, value in fields["metrics"].items() if "@" not in name}
        store.write_record(record.home, **fields | {"metrics": kept})
    page = Inspector(experiment)._repr_mimebundle_()["text/html"]
    assert "Choose at least one class" in page and "<img" not in page


@pytest.mark.notebook
@pytest.mark.parametrize("has_runs", [True, False])
def test_papermill_executes_the_notebook_and_leaves_a_page(tmp_path, has_runs):
    if has_runs:
        made_up(tmp_path / "outputs", **SMALL)
    out = tmp_path / "out.ipynb"
    where = {"outputs": str(tmp_path / "outputs"), "profile": "made_up"}
    notebook = ROOT / "notebooks" / "inspect_pr_curves.ipynb"
    papermill.execute_notebook(notebook, out, where, progress_bar=False, execution_timeout=120)
    cells = nbformat.read(out, 4).cells
    outputs = [*itertools.chain(*(cell.get("outputs", ()) for cell in cells))]
    assert [o.output_type for o in outputs] == ["execute_result"]
    page = outputs[0].data["text/html"]
    for part in ("data:image/png", "Average precision in %") if has_runs else ("make demo",):
        assert part in page
