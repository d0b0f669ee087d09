"""The long table, and tables made from it, against numbers worked out by hand."""

import csv
import inspect
import itertools
import json
import re
import statistics
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import MADE_UP, ROOT, cells, environment, made_up
from scipy.stats import ttest_1samp, wilcoxon

from semlib import auxiliary
from workbench import results
from workbench.experiment import ConfigError, create, read_parameters, several, with_file
from workbench.results import names, plots, show, stats, tables
from workbench.results.inspector.selection import Results
from workbench.runs import plan, store
from workbench.runs.store import Record

FIGURE1 = cells("figure1_learning_curves")
SEARCH = cells("lambda_search")
TABLE2 = cells("table2_generalization")
TABLE3 = tables.published("table3_cifar10")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")
FIXED = {
    "recipe": plan.RECIPE,
    "sources": {},
    "address": "f" * 64,
    "settings": {},
    "classes": DIGITS,
}
FIXED |= {"scores_sha256": {}, "skew": 0.1, "precision": "float32", "threads": 1, "versions": {}}
FIXED |= {"commit": None, "finished": "", "seconds": 60.0, "device": "abacus"}


@pytest.fixture(autouse=True)
def without_files(monkeypatch):
    """Records are made here that no file lies behind."""
    facts = {"images": 100, "tied": [], "below": []}
    monkeypatch.setattr(Record, "check", lambda record: facts)


def experiment(**changes):
    return create({"dataset": "digits", "hold_out": ["1", "2"]} | changes)


def record(hold_out, method, trial, msp=0, odin=0, accuracy=0, dataset="digits", data=None, **more):
    data = data or plan.current_digests(experiment())
    fields = {"dataset": dataset, "hold_out": hold_out, "method": method, "trial": trial}
    fields |= {"metrics": {"accuracy": accuracy, "msp": msp, "odin": odin}}
    fields |= {"scoring": plan.how_scored(experiment()), "train_digest": data.train}
    return Record(**FIXED | fields | {"test_digest": data.test} | more)


def cifar10(hold_out, method, trial, **numbers):
    data = {"data": tables.PAPERS_DATA["cifar10"]} | numbers
    return record(hold_out, method, trial, dataset="cifar10", **data)


# (class, trial): msp, odin, accuracy of the classifier; trial 2 lacks class 2
CLASSIFICATION = {
    ("1", 0): (0.10, 0.40, 0.90),
    ("2", 0): (0.30, 0.42, 0.94),
    ("1", 1): (0.20, 0.44, 0.91),
    ("2", 1): (0.60, 0.48, 0.97),
    ("1", 2): (0.90, 0.60, 0.50),
}
RECORDS = [record(c, "classification", t, *values) for (c, t), values in CLASSIFICATION.items()]
RECORDS += [record("1", "rotation", 0, 0.5, 0.6, 0.98)]


def both_statistics(records):
    """The records with upright numbers too, half of the mixed ones."""
    both = []
    for one in records:
        upright = {f"{name}@upright": value / 2 for name, value in one.metrics.items()}
        both.append(one.model_copy(update={"metrics": one.metrics | upright}))
    return both


def of_table3(records, **changes):
    how = {"dataset": "cifar10", "hold_out": "all"} | changes
    return tables.by_class(experiment(**how), records)


# --- the long table


def test_the_frame_has_a_row_a_number_of_a_run():
    long = results.frame([(experiment(), both_statistics(RECORDS))])
    assert len(long) == 6 * 2 * 3
    key = ["hold_out", "method", "trial", "statistics", "measure"]
    values = long.set_index(key).value
    for (hold_out, trial), numbers in CLASSIFICATION.items():
        for measure, number in zip(("msp", "odin", "accuracy"), numbers, strict=True):
            run = (hold_out, "classification", trial)
            assert values[*run, "mixed", measure] == pytest.approx(100 * number)
            assert values[*run, "upright", measure] == pytest.approx(50 * number)
    assert set(long.device) == {"abacus"} and set(long.address) == {"f" * 8}
    assert long.images.isna().all() and set(long.profile) == {"paper"}
    other = results.frame([(experiment(epsilon=0.1), RECORDS)])  # these have no such ODIN
    assert set(other.measure) == {"msp", "accuracy"}


def test_the_frame_of_a_profile_has_all_its_scores_and_the_settings_that_differ(tmp_path):
    how = {"dataset": "digits", "hold_out": ["1", "7"], "trials": 1, "images": 60}
    for changes in ({"epochs": 3}, {"epochs": 5, "train_per_class": 20, "scores": ["energy"]}):
        made_up(tmp_path, **how | changes)
    long = results.frame("made_up", outputs=tmp_path)
    assert long[long.images == 20].measure.unique().tolist() == ["energy", "accuracy"]
    assert long.columns[-1] == "epochs" and set(long.epochs) == {3, 5}
    assert "architecture" not in long and long.address.nunique() == 8
    plain = long.query("measure == 'msp' and statistics == 'mixed'")
    assert plain.pivot(index="hold_out", columns="method", values="value").shape == (2, 2)
    with pytest.raises(ConfigError, match="cup has no finished runs; choose from made_up"):
        results.frame("cup", outputs=tmp_path)


# --- the hold-out table


def test_by_class_is_the_mean_within_a_trial_then_over_trials():
    table = tables.by_class(experiment(), RECORDS[:-1])
    assert list(table.index) == ["1", "2", "average"]
    for k, measure in enumerate(("msp", "odin", "accuracy")):
        one = [100 * CLASSIFICATION["1", t][k] for t in (0, 1, 2)]
        two = [100 * CLASSIFICATION["2", t][k] for t in (0, 1)]
        # trial 2 lacks a class: it isn't in the average
        within = [(one[t] + two[t]) / 2 for t in (0, 1)]
        found = table["classification", measure, "mean"], table["classification", measure, "std"]
        for row, values in (("1", one), ("2", two), ("average", within)):
            expected = statistics.mean(values), statistics.stdev(values)
            assert [column[row] for column in found] == pytest.approx(expected, abs=1e-9)
    assert table["classification", "msp", "mean"]["average"] == pytest.approx(30)  # of 20 and 40


def test_compared_rows_have_the_same_classes_and_trials_also_of_scores_and_imports(tmp_path):
    """Half of the rotation's runs, one lacking ODIN: nowhere a mean of more than it has."""
    runs = []
    for trial, name in itertools.product((0, 1), "123456"):
        value = int(name) / 100 + trial / 10
        runs.append(record(name, "classification", trial, value, value, 0.9))
        if trial == 0 or name in "12":
            runs.append(record(name, "rotation", trial, value + 0.3, value + 0.3, 0.95))
    which = experiment(hold_out=list("123456"))
    table = tables.by_class(which, runs)
    averages = table.loc["average"].xs("mean", level="statistic").drop("accuracy", level="measure")
    wanted = pd.Series({"classification": 3.5, "rotation": 33.5})
    for score in ("msp", "odin"):
        assert averages.xs(score, level="measure").to_dict() == pytest.approx(wanted.to_dict())
    means = {"1": 6, "2": 7, "3": 3, "4": 4, "5": 5, "6": 6, "average": 3.5}
    assert table["classification", "msp", "mean"].to_dict() == pytest.approx(means)
    (verdict,) = {*show.counts(table).query("index.str.contains('above Class')").here[:2]}
    assert verdict.startswith("6 of 6, +30.00")
    tables.save(table, tmp_path / "table.csv")
    lacks = pd.read_csv(tmp_path / "table.csv", index_col=0).lacks
    assert lacks["3"] == "rotation trial 1 (not run)" and lacks["average"] == "of trial 0"
    assert lacks.isna().tolist() == [True] * 2 + [False] * 5
    del runs[1].metrics["odin"]  # of rotation: class 1, trial 0
    table = tables.by_class(which, runs)
    averages = table.loc["average"].xs("mean", level="statistic")
    assert averages["rotation"].isna().all()
    assert averages["classification", "msp"] == pytest.approx(8.5)
    assert table.attrs["lacks"]["1"] == "rotation trial 0 (lacks a score)"
    part = [one for one in runs if one.hold_out != "6" or one.method == "classification"]
    counts = show.counts(tables.by_class(which, part)).here
    assert "no verdict from 5 of 6" in counts.to_list()
    few = which.model_copy(update={"train_per_class": 20})
    rows = stats.gains([(few, part)]).query("statistics == 'mixed'")
    assert rows[["plain", "with", "gain", "p"]].isna().all(axis=None)
    assert rows.classes.tolist() == [5, 5, 5]


def test_one_trial_has_no_deviation_and_no_trial_is_not_run():
    text = show.formatted(tables.by_class(experiment(), RECORDS))
    assert list(text.index) == ["1", "2", "Average"]
    plain = ["10.00", "45.00 ± 21.21", "30.00 ± 14.14"]  # of class 1 the trial that rotation has
    assert list(text["Classification-only", "MSP"]) == plain
    assert list(text["Rotation-augmented", "ODIN"]) == ["60.00", "not run", "not run"]
    nothing = show.formatted(tables.by_class(experiment(), []))
    assert set(nothing.to_numpy().ravel()) == {"not run"} and nothing.shape == (3, 6)
    assert "60.00" in show.formatted(tables.by_class(experiment(), RECORDS)).to_string()
    runs = [record(None, "classification", t, accuracy=a) for t, a in enumerate((0.9, 0.92))]
    table = tables.by_class(experiment(hold_out="none", methods="classification"), runs)
    assert table.loc["none"].to_list() == pytest.approx([91, 2**0.5])  # the one row, of accuracy


def test_paper_columns_are_the_published_numbers():
    table = of_table3([])
    assert list(table.index) == [*CIFAR10, "average"]
    for name in TABLE3:
        method, measure, *std = name.split("_")
        column = table[method, measure, "paper_std" if std else "paper"]
        pd.testing.assert_series_equal(column, TABLE3[name], check_names=False)
    text = show.formatted(table)
    assert {*text.columns.unique(2)} == {"paper"}  # without any run
    assert [*show.counts(table).columns] == ["in the paper"]
    assert text["Rotation-augmented", "ODIN", "paper"]["cat"] == "55.80 ± 0.76"
    assert text["Classification-only", "MSP", "paper"]["Average"] == "34.92 ± 0.41"


def test_the_papers_average_is_beside_that_of_all_classes_also_with_the_centre_masked():
    table = of_table3([], hold_out=["dog", "cat"])
    paper = table["rotation", "msp", "paper"]
    assert paper["dog"] == 32.11 and np.isnan(paper["average"])
    assert show.formatted(table)["Rotation-augmented", "MSP", "paper"]["Average"] == ""
    assert "paper" not in tables.by_class(experiment(), []).columns.unique("statistic")
    methods = ["center_mask", "rotation"]
    average = show.formatted(of_table3([], methods=methods)).loc["Average"]
    masked = average["Random-center-masked"].xs("paper", level=1)
    assert masked.to_dict() == {"MSP": "34.41 ± 0.74", "Accuracy": "96.27 ± 0.05"}  # Sec. 5.2
    part = of_table3([], methods=methods, hold_out=["cat", "dog"])
    assert ("center_mask", "msp", "paper") not in part


def test_saved_csv_has_each_mean_directly_before_its_std(tmp_path):
    runs = [cifar10("cat", "rotation", t, msp=m, odin=0.5) for t, m in enumerate((0.5, 0.52))]
    table = of_table3(runs, hold_out=["dog", "cat"], methods="rotation")
    tables.save(table, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        head, dog, cat, average = csv.reader(file)
    ends = ("", "_std", "_paper", "_paper_std")
    measures = itertools.product(("msp", "odin", "accuracy"), ends)
    assert head == ["hold_out", *(f"rotation_{m}{end}" for m, end in measures)]
    assert cat[:5] == ["cat", "51.00", "1.41", "53.12", "0.92"]
    assert dog[:5] == ["dog", "", "", "32.11", "0.82"] and average == ["average", *[""] * 12]


def test_a_table_of_less_does_not_replace_one_of_more(tmp_path, capsys):
    path = tmp_path / "table.csv"
    rest = tmp_path / "table.unfinished.csv"
    which = itertools.product(("1", "2"), ("classification", "rotation"))
    whole = [record(c, m, 0, 0.5, 0.6, 0.9) for c, m in which]
    for runs in (whole[:2], whole, [], whole[:3], whole[1:]):
        tables.save(tables.by_class(experiment(), runs), path)
    assert path.read_text().count("50.00") == 6 and rest.exists()
    assert capsys.readouterr().out.count("table.csv stays") == 3
    metrics = {"metrics": {"accuracy": 0.8, "msp": 0.4, "odin": 0.4}}
    other = [one.model_copy(update=metrics) for one in whole]
    tables.save(tables.by_class(experiment(), other), path)  # other settings, as complete
    assert path.read_text().count("40.00") == 12 and not rest.exists()
    trials = itertools.product(whole, (0, 1, 2))
    three = [one.model_copy(update={"trial": trial}) for one, trial in trials]
    for runs in (three, whole):  # one trial, without deviations, is whole too
        tables.save(tables.by_class(experiment(), runs), path)
    assert path.read_text().count("50.00") == 6 and not capsys.readouterr().out


def test_upright_statistics_are_the_tables_and_the_headings():
    both = both_statistics(RECORDS)
    found = [tables.by_class(experiment(statistics=name), both) for name in ("mixed", "upright")]
    mixed, upright = (table.xs("mean", axis=1, level="statistic") for table in found)
    assert np.allclose(mixed / 2, upright, equal_nan=True)
    for name in ("upright", "mixed"):
        assert f"{name} batch-norm statistics" in show.heading(experiment(statistics=name))


# --- beside the paper


def test_differences_to_the_paper_are_marked_beyond_two_deviations_of_the_two_together():
    runs = [cifar10("cat", "rotation", t, msp=m, accuracy=0.9) for t, m in enumerate((0.56, 0.58))]
    runs += [cifar10("dog", "rotation", 0, msp=0.5)]
    text = show.differences(of_table3(runs, methods="rotation"))["Rotation-augmented"]
    # 57.00 - 53.12 = 3.88, two deviations are 2 sqrt(1.41^2 + 0.92^2) = 3.37; 90 - 97.46
    assert text.loc["cat", ["MSP", "Accuracy"]].tolist() == ["+3.88 *", "-7.46 *"]
    assert text["MSP"][["dog", "bird"]].tolist() == ["+17.89 ?", ""]
    for one in runs[:2]:
        one.metrics["msp"] -= 0.01  # 2.88: more than two of these runs' own deviations alone, 2.83
    text = show.differences(of_table3(runs, methods="rotation"))
    assert text["Rotation-augmented", "MSP"]["cat"] == "+2.88"


def test_wins_are_counted_here_and_in_the_paper():
    odin = {"cat": 0.4, "dog": 0.2, "ship": 0.3}
    runs = [cifar10(c, "rotation", 0, msp=0.3, odin=value) for c, value in odin.items()]
    counts = show.counts(of_table3(runs))
    detector = counts.loc["Rotation-augmented: ODIN above MSP"]
    gain = counts.loc["Rotation-augmented: ODIN above Classification-only"]
    assert detector["here"] == "no verdict from 3 of 10" and gain["here"] == "not run"
    assert detector["in the paper"].startswith("7 of 10, ")  # not automobile, horse, ship
    gains = (TABLE3.rotation_odin - TABLE3.classification_odin).drop("average")
    p = wilcoxon(gains).pvalue
    low, high = ttest_1samp(gains, 0).confidence_interval()
    said = f"{gains.mean():+.2f} ({low:+.2f} to {high:+.2f})"
    assert gain["in the paper"] == f"8 of 10, {said}, p = {p:.3f}"
    alone = experiment(methods=["classification"], scores=["msp"])
    assert "nothing is compared" in show.counts(tables.by_class(alone, [])).to_string()


def test_equal_gains_have_equal_ranks_whatever_floats_make_of_them():
    signs = [1, -1, 1, 1, 1, 1, 1, 1]
    runs = []
    for k, sign in enumerate(signs):
        runs.append(record(str(k), "classification", 0, 0.1 + k / 30))
        runs.append(record(str(k), "rotation", 0, 0.1 + k / 30 + sign / 100))
    counts = show.counts(tables.by_class(experiment(hold_out=list("01234567")), runs))
    said = counts.loc["Rotation-augmented: MSP above Classification-only", "here"]
    low, high = ttest_1samp(signs, 0).confidence_interval()
    points = f"+0.75 ({low:+.2f} to {high:+.2f})"
    assert said == f"7 of 8, {points}, p = {wilcoxon(signs).pvalue:.3f}"


def fungi(**changes):
    """One trial of the fungi: class k with an average precision and an accuracy of its own."""
    classes = tables.published("appendix_b_imagenet_fungus").index[:-1]
    runs = []
    for k, name in enumerate(classes):
        for method, msp in (("classification", 0.2), ("rotation", 0.3)):
            numbers = {"msp": msp + k / 100, "odin": 0.5, "accuracy": 0.9 - k / 50}
            runs.append(record(name, method, 0, **numbers, dataset="imagenet_fungus"))
    how = experiment(dataset="imagenet_fungus", **{"hold_out": "all"} | changes)
    return tables.by_class(how, runs), runs


def test_a_subset_is_its_average_row_beside_the_papers_with_skew():
    table, runs = fungi()
    assert table["rotation", "msp", "paper"]["bolete"] == 49.43  # Appendix B
    cpc, _ = fungi(architecture="wrn-imagenet-cpc")
    assert cpc["classification", "msp", "paper"]["bolete"] == 46.73  # Appendix C
    paper = tables.published("table5_imagenet_rotation")
    summary = tables.by_subset({"imagenet_fungus": table}, paper)
    msp = summary.loc["fungus", ("rotation", "msp", slice(None))].droplevel([0, 1])
    assert msp[["mean", "paper", "paper_std"]].tolist() == pytest.approx([32.5, 44.19, 1.86])
    text = show.with_skew(summary, [(experiment(), runs[:2])])
    assert text.iloc[0, 0] == "10.00"
    assert text["Rotation-augmented", "Accuracy", "here"]["fungus"] == "85.00"
    # ODIN 50, MSP 20 to 25; p = 2 / 2^6
    verdict = show.counts(tables.all_classes({"imagenet_fungus": table}))
    here, paper = verdict.loc["Classification-only: ODIN above MSP"]
    assert re.fullmatch(r"6 of 6, \+27.50 \(\+.* to \+.*\), p = 0.031", here)
    assert paper.startswith("5 of 6, ")


def test_the_papers_averages_of_subsets_are_of_all_classes_and_images():
    paper = tables.published("table5_imagenet_rotation")
    part, _ = fungi(hold_out=["bolete", "stinkhorn"])
    assert "paper" not in tables.by_subset({"imagenet_fungus": part}, paper).columns.unique(2)
    dog = tables.by_class(experiment(dataset="imagenet_dog", hold_out="all"), [])
    both = tables.by_subset({"imagenet_fungus": part, "imagenet_dog": dog}, paper)
    assert both["rotation", "msp", "paper"].notna().tolist() == [False, True]
    few, _ = fungi(train_per_class=100)
    assert "paper" not in tables.by_subset({"imagenet_fungus": few}, paper).columns.unique(2)


def test_generalisation_is_one_row_a_data_set_beside_table_2():
    runs = []
    for method, accuracy in (("classification", 0.9), ("rotation", 0.96)):
        runs += [cifar10(None, method, t, accuracy=accuracy) for t in (0, 1)]
    here = [(experiment(dataset="cifar10", hold_out="none"), runs)]
    table = TABLE2.generalization([*here, (experiment(dataset="stl10", hold_out="none"), [])])
    text = show.formatted(table)
    assert text["Rotation-augmented", "Accuracy", "here"].tolist() == ["96.00 ± 0.00", "not run"]
    for method, said in (("Rotation-augmented", "96.54 ± 0.08 88.98 ± 0.30"),
                         ("Classification-only", "95.87 ± 0.05 85.51 ± 0.17")):  # fmt: skip
        assert " ".join(text[method, "Accuracy", "paper"]) == said
    assert show.differences(table)["Rotation-augmented", "Accuracy"].tolist() == ["-0.54 *", ""]
    assert show.counts(table).iloc[0].tolist() == ["no verdict from 1 of 2", "2 of 2"]
    for changes in ({"dataset": "digits"}, {"dataset": "cifar10", "train_per_class": 500}):
        other = TABLE2.generalization([(experiment(hold_out="none", **changes), [])])
        assert "paper" not in other.columns.unique("statistic")


def test_rank_correlation_is_that_of_the_ranks_of_the_classes_that_have_both():
    """Accuracy falls from class to class while MSP rises; ODIN's are all equal."""
    table, _ = fungi()
    found = FIGURE1.rank_correlation(table)
    assert found["here"].xs("MSP", level=1).tolist() == [-1, -1]
    assert found["here"].xs("ODIN", level=1).isna().all()
    ranks = TABLE3.drop("average")[["classification_accuracy", "classification_msp"]].rank()
    rho = 1 - 6 * (ranks.diff(axis=1).iloc[:, 1] ** 2).sum() / (10**3 - 10)
    found = FIGURE1.rank_correlation(of_table3([])).loc[("Classification-only", "MSP")]
    assert np.isnan(found["here"])
    assert found["in the paper"] == pytest.approx(rho, abs=0.02)  # of equals
    how = experiment(hold_out="all", methods="classification")
    numbers = [(0.1, 0.6), (0.2, 0.5), (0.3, 0.7), (0.4, 0.9), (0.5, 0.1), (0.6, 0.8)]
    found = [record(str(k), "classification", 0, a, 0, b) for k, (a, b) in enumerate(numbers)]
    for one in found[4:]:
        del one.metrics["msp"]
    rho = FIGURE1.rank_correlation(tables.by_class(how, found))["here"]
    assert rho.isna().all()  # of four of the six classes nothing is said


def test_classes_of_another_data_set_are_passed_over_but_not_all():
    assert {r.hold_out for r in FIGURE1.of_classes(experiment(), RECORDS, [1, "cat"])} == {"1"}
    with pytest.raises(ConfigError, match="digits has none of cat; choose from 1, 2"):
        FIGURE1.of_classes(experiment(), RECORDS, ["cat"])


def test_the_weight_of_the_best_mean_is_chosen_once_all_are_run(tmp_path):
    search = {"dataset": "digits", "hold_out": "none", "trials": 2}
    experiments = several(search | {"auxiliary_weights": {"rotation": [0.1, 0.5, 2]}})
    accuracies = ((0.9, 0.9), (0.99, 0.2), (0.7, 0.7), (0.1, 0.95))
    runs = []
    for one, both in zip(experiments, accuracies, strict=True):
        numbers = enumerate(both)
        runs.append((one, [record(None, one.methods[0], t, accuracy=a) for t, a in numbers]))
    table = SEARCH.by_weight(runs)
    assert table.accuracy.tolist() == pytest.approx([90, 59.5, 70, 52.5])
    assert table["std"][3] == pytest.approx(85 / 2**0.5)
    assert table.chosen.tolist() == [False, False, True, False]  # plain has no weight
    text = SEARCH.as_text(table)
    assert text["For the params file"].tolist() == ["", "", "auxiliary_weight: 0.5", ""]
    SEARCH.save_chosen_weights(table, tmp_path)
    head, row = (tmp_path / SEARCH.CHOSEN_WEIGHTS).read_text().splitlines()
    assert head.startswith("dataset,method,auxiliary_weight,")
    assert row.startswith("digits,rotation,0.5,")
    other = table.assign(images=500, accuracy=80.123456789)  # another search
    for found in (other, table, other.assign(dataset="more"), other.assign(chosen=False)):
        SEARCH.save_chosen_weights(found, tmp_path)
    kept = pd.read_csv(tmp_path / SEARCH.CHOSEN_WEIGHTS)
    searches = [("digits", "500"), ("digits", "all"), ("more", "500")]
    assert [*zip(kept.dataset, kept.images, strict=True)] == searches
    assert kept.accuracy.tolist() == [80.123456789, table.accuracy[2], 80.123456789]
    for rest in (runs[-1][1][:1], []):  # one of two trials, or none
        unfinished = SEARCH.by_weight([*runs[:-1], (experiments[-1], rest)])
        assert not unfinished.chosen.any()
    assert "not run" in SEARCH.as_text(unfinished).to_string()
    both = [(one, both_statistics(records)) for one, records in runs]
    upright = [(one.model_copy(update={"statistics": "upright"}), r) for one, r in both]
    assert SEARCH.by_weight(upright).accuracy.tolist() == pytest.approx([45, 29.75, 35, 26.25])


# --- about the runs


def test_remarks_say_how_much_was_run_and_on_what():
    lines = show.remarks(experiment(), RECORDS)
    said = "6 of 12 runs are finished, trained in 6 min on abacus (6)."
    lacks = "Runs that a method lacks and another has: Rotation-augmented {} (not run). Rows "
    lacks += "compare the same classes and trials; averages are of Classification-only{} in {}."
    assert lines == [said, lacks.format(4, "", "trials 0, 1")]
    other = record("2", "rotation", 0, 0.5, 0.6, 0.98, data=MADE_UP)
    _, line, warning = show.remarks(experiment(), [*RECORDS, other])
    assert line == lacks.format(3, ", Rotation-augmented", "trial 0")
    assert warning.startswith("NOT COMPARABLE")
    assert f"{plan.current_digests(experiment())} (6), dddddddd-eeeeeeee (1)" in warning
    assert "0 of 12 runs" in show.summary(experiment(), [])
    said = ["119 s", "2 min", "75 min", "2.0 h", "3.1 h"]
    assert list(map(show.duration, (119, 120, 4500, 7200, 11160))) == said


def opening(profile, **changes):
    given = {"profile": profile, "missing": "skip"} | changes
    return show.opening("paper/table3_cifar10", *several(with_file(given, "paper/table3_cifar10")))


def test_the_top_of_a_notebook_says_where_values_are_from_and_what_is_not_run():
    """In a fresh clone: of Table 3 the runs in outputs/cpu are committed, and no image is there."""
    nothing = str(ROOT / "tests")
    text = opening("paper", data_root=nothing)
    assert "The settings are those of `params/paper/table3_cifar10.yaml`." in text
    assert inspect.getsource(auxiliary.rotation) in text and "times 0.5" in text
    assert "Not run: none of the 60 runs is in `outputs/paper/`" in text
    assert "`python -m semlib grid params/paper/table3_cifar10.yaml` trains them." in text
    assert 'Finished here: `profile = "cpu"` (20 of 40 runs)' in text
    text = opening("cpu", data_root=nothing, trials=1)
    assert "those of `params/cpu/table3_cifar10.yaml`, but for `trials = 1`." in text
    assert "missing" not in text  # none is
    few = several(with_file({"profile": "fast", "epochs_by_labels": {500: 100}}, "cpu/few_labels"))
    text = show.opening("cpu/few_labels", *few)
    assert "The settings are a part of those of `params/fast/few_labels.yaml`." in text
    named = "params/cpu/table3_cifar10.yaml"
    given = {"profile": "paper", "settings": [named], "missing": "skip"}
    made = several(with_file(given, "paper/table2_generalization"))
    text = show.opening("paper/table2_generalization", *made, settings=[named])
    assert f"Settings: those of `{named}`, which the cell names." in text
    over = "of `params/paper/table2_generalization.yaml`: `hold_out = ('none',)`, `trials = 3`."
    assert f"Over them go, {over} Results are those of `profile = 'paper'`." in text
    text = opening("mine", hold_out=["cat", "dog"], train_per_class=20)
    assert "`params/paper/table3_cifar10.yaml` (params/mine/ has no such file), but for" in text
    words = 'params/paper/table3_cifar10.yaml -p hold_out "[cat, dog]" -p train_per_class 20 -p '
    assert f"`python -m semlib grid {words}profile mine` trains them." in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "bfloat16"}, "Different precision: float32 (6), bfloat16 (1)."),
        ({"versions": {"torch": "2.9.1"}}, "Different torch: 2.6 (6), 2.9 (1)."),
        ({"device": "slate"}, "Different devices: abacus (6), slate (1)."),
        ({"versions": {"torch": "2.6.9"}}, None),
    ],
)
def test_a_table_that_mixes_says_so(change, said, monkeypatch, capsys):
    same = [one.model_copy(update={"versions": {"torch": "2.6.0+cu124"}}) for one in RECORDS]
    records = [*same, same[0].model_copy(update={"trial": 3} | change)]
    assert show.unlike(records) == ([said] if said else [])
    other = cifar10("cat", "rotation", 0, data=MADE_UP, versions={"torch": "2.6.1"})
    cifar = experiment(dataset="cifar10", hold_out="all")
    rows = show.summaries([(experiment(), records), (cifar, [other])])
    # that the data of several data sets differ goes without saying
    assert rows.split("\n\n")[-1] == (said or "").replace("(6)", "(7)")
    assert show.summaries([(experiment(), records)]).count(said or "Different") == bool(said)
    monkeypatch.setattr(store, "finished", lambda experiment: records)
    show.print_all([experiment()])
    assert not said or said in capsys.readouterr().out


def test_settings_unlike_the_papers_are_a_table():
    same = show.unlike_paper("table3_cifar10", create({"precision": "bfloat16"}))
    assert same.iloc[0, 0] == "every setting is that of params/paper/table3_cifar10.yaml"
    unlike = {"epochs": 3, "flip": False, "threads": 1, "precision": "bfloat16"}
    table = show.unlike_paper("table3_cifar10", create(unlike | {"statistics": "upright"}))
    rows = {"epochs": ["3", "200"], "flip": ["False", "True"], "statistics": ["upright", "mixed"]}
    assert table.loc["cifar10"].T.to_dict("list") == rows
    how = read_parameters("params/paper/table6_imagenet_cpc.yaml") | {"dataset": "imagenet_dog"}
    cpc = create(how | {"auxiliary_weight": 5, "epsilon": 0.1})
    table = show.unlike_paper("table6_imagenet_cpc", cpc)
    assert {"auxiliary_weight", "epsilon"} <= {*table.loc["imagenet_dog"].index}
    digits = show.unlike_paper("table4_stl10", experiment())
    assert digits.loc[("digits", "dataset")].tolist() == ["digits", "stl10"]
    assert "demonstration" in show.heading(experiment(profile="demo"))
    assert "demo" not in show.heading(experiment())


@pytest.mark.slow
def test_640_runs_are_listed_and_their_table_built_in_a_gigabyte(tmp_path):
    """In a process of its own, for its memory; every array is compared with its SHA-256."""
    code = "import json, sys\nsys.path += ['benchmarks', 'tests']\nimport pathlib\n"
    code += "import tables_640 as bench\n"
    code += "print(json.dumps(bench.measure(bench.make(pathlib.Path(sys.argv[1])))))"
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["runs"] == 640 and found["peak_gb"] < 1


# --- names


@pytest.fixture
def namesakes(tmp_path, monkeypatch):
    """Finished runs of two modules' tasks and scores of one name, one of them called like MSP."""
    monkeypatch.syspath_prepend(tmp_path)
    code = "def task(net, images):\n    return net(images).mean()\n\n\n"
    code += "def energy(logits):\n    return logits[:, 0]\n\n\n"
    code += "def MSP(logits):\n    return logits[:, 1]\n"
    for name in ("name_a", "name_b"):
        (tmp_path / f"{name}.py").write_text(f'"""{name}"""\n\n\n{code}')
    own = {"methods": ["classification", "name_a:task", "name_b:task"], "trials": 1}
    own |= {"scores": ["msp", "name_a:energy", "name_b:energy", "name_a:MSP", "energy"]}
    yield made_up(tmp_path, dataset="digits", hold_out=["1", "7"], **own)
    for name in ("name_a", "name_b"):
        sys.modules.pop(name, None)


def test_functions_of_one_name_are_shown_with_their_modules(namesakes):
    records = store.finished(namesakes)
    table = tables.by_class(namesakes, records)
    text = show.formatted(table)
    assert text.columns.is_unique
    methods = ["Classification-only", "task (name_a)", "task (name_b)"]
    scores = ["MSP", "energy (name_a)", "energy (name_b)", "MSP (name_a)", "Energy"]
    assert text.columns.unique(0).tolist() == methods
    assert text.columns.unique(1).tolist() == [*scores, "Accuracy"]
    for (method, score), part in tables.parts(table).items():
        shown = names.label(method, namesakes.methods), names.label(score, namesakes.scores)
        assert text[shown]["1"] == f"{part['mean']['1']:.2f}"
    assert len(show.counts(table)) == 2 * 6
    assert show.text(stats.gains([(namesakes, records)])).index.is_unique
    assert names.label("name_a:task", ["classification", "name_a:task"]) == "task"
    figure = plots.precision_recall(namesakes, records, curves=100)
    labels = [one.get_text() for one in figure.legends[0].get_texts()]
    assert len({*labels}) == 3 * 5 + 1 and "task (name_b), energy (name_a)" in labels
    assert {*Results(records).scores} == {*scores}


@pytest.mark.parametrize("table", [show.formatted, show.counts, show.differences])
def test_any_table_is_markdown(table):
    shown = table(of_table3(RECORDS))
    lines = show.markdown(shown).splitlines()
    assert len(lines) == 2 + len(shown) and len({line.count("|") for line in lines}) == 1
    assert all(str(value) in lines[2 + k] for k, value in enumerate(shown.iloc[:, 0]))
