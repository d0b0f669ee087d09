"""Tables against numbers worked out by hand from made-up records."""

import csv
import itertools
import json
import math
import statistics
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import MADE_UP, ROOT, environment, made_up
from scipy.stats import wilcoxon

from workbench.experiment import CHOSEN_WEIGHTS, ConfigError, create, read_parameters, several
from workbench.results import names, plots, show, stats, tables
from workbench.results.inspector.selection import Results
from workbench.runs import plan, store
from workbench.runs.store import Record

PUBLISHED = pd.read_csv(
    ROOT / "semlib" / "results" / "published" / "table3_cifar10.csv", index_col="hold_out"
)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def experiment(**changes):
    return create({"dataset": "digits", "hold_out": ["1", "2"]} | changes)


def record(
    hold_out,
    method,
    trial,
    msp,
    odin,
    accuracy,
    dataset="digits",
    seconds=60.0,
    data=None,
    **changes,
):
    data = data or plan.here(experiment())
    how = plan.scoring(experiment())
    fields = {
        "dataset": dataset,
        "hold_out": hold_out,
        "method": method,
        "trial": trial,
        "seconds": seconds,
        "scoring": how,
    }
    fields |= {"metrics": {"accuracy": accuracy, "msp": msp, "odin": odin}, "device": "abacus"}
    fields |= {
        "recipe": plan.RECIPE,
        "sources": {},
        "train_digest": data.train,
        "test_digest": data.test,
    }
    fields |= {
        "address": "f",
        "settings": {},
        "classes": (),
        "scores_sha256": {},
        "skew": 0.1,
        "precision": "float32",
    }
    return Record(
        **fields | {"threads": 1, "versions": {}, "commit": None, "finished": ""} | changes
    )


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


def test_by_class_is_the_mean_within_a_trial_then_over_trials():
    table = tables.by_class(experiment(), RECORDS)
    assert list(table.index) == ["1", "2", "average"]
    for k, measure in enumerate(("msp", "odin", "accuracy")):
        one = [100 * CLASSIFICATION["1", t][k] for t in (0, 1, 2)]
        two = [100 * CLASSIFICATION["2", t][k] for t in (0, 1)]
        within = [
            (one[t] + two[t]) / 2 for t in (0, 1)
        ]  # trial 2 lacks a class: it isn't in the average
        for row, values in (("1", one), ("2", two), ("average", within)):
            assert table["classification", measure, "mean"][row] == pytest.approx(
                statistics.mean(values), abs=1e-9
            )
            assert table["classification", measure, "std"][row] == pytest.approx(
                statistics.stdev(values), abs=1e-9
            )
    assert table["classification", "msp", "mean"]["average"] == pytest.approx(30)  # of 20 and 40
    assert table["classification", "msp", "std"]["average"] == pytest.approx(14.142136)


def test_one_trial_has_a_dash_and_no_trial_is_not_run():
    text = show.formatted(tables.by_class(experiment(), RECORDS))
    assert list(text.index) == ["1", "2", "Average"]
    assert list(text["Classification-only", "MSP"]) == [
        "40.00 ± 43.59",
        "45.00 ± 21.21",
        "30.00 ± 14.14",
    ]
    assert list(text["Rotation-augmented", "ODIN"]) == ["60.00", "not run", "not run"]
    nothing = show.formatted(tables.by_class(experiment(), []))
    assert set(nothing.to_numpy().ravel()) == {"not run"} and nothing.shape == (3, 6)
    assert "60.00" in show.as_text(tables.by_class(experiment(), RECORDS))


def test_no_held_out_class_is_a_row_of_accuracies():
    runs = [
        record(None, "classification", t, 0, 0, accuracy) for t, accuracy in enumerate((0.9, 0.92))
    ]
    for r in runs:
        del r.metrics["msp"], r.metrics["odin"]
    table = tables.by_class(experiment(hold_out="none", methods="classification"), runs)
    assert table["classification", "accuracy", "mean"]["none"] == pytest.approx(91)
    assert table["classification", "accuracy", "std"]["none"] == pytest.approx(2**0.5)
    assert set(table.columns.get_level_values("measure")) == {"accuracy"}


def test_paper_columns_are_the_published_numbers():
    table = tables.by_class(experiment(dataset="cifar10", hold_out="all"), [])
    assert list(table.index) == [*CIFAR10, "average"]
    for hold_out, row in PUBLISHED.iterrows():
        for name, value in row.items():
            method, measure, *std = name.split("_")
            assert table[method, measure, "paper_std" if std else "paper"][hold_out] == value
    text = show.formatted(table)
    assert text["Rotation-augmented", "ODIN", "paper"]["cat"] == "55.80 ± 0.76"
    assert text["Classification-only", "MSP", "paper"]["Average"] == "34.92 ± 0.41"


def test_a_subset_of_classes_has_no_average_of_the_paper():
    table = tables.by_class(experiment(dataset="cifar10", hold_out=["dog", "cat"]), [])
    assert (
        table["rotation", "msp", "paper"].isna()["average"]
        and table["rotation", "msp", "paper"]["dog"] == 32.11
    )
    assert show.formatted(table)["Rotation-augmented", "MSP", "paper"]["Average"] == ""
    assert "paper" not in tables.by_class(experiment(), []).columns.get_level_values("statistic")


def test_saved_csv_has_each_mean_directly_before_its_std(tmp_path):
    runs = [
        record("cat", "rotation", t, msp, 0.5, 0.9, "cifar10") for t, msp in enumerate((0.5, 0.52))
    ]
    how = experiment(dataset="cifar10", hold_out=["dog", "cat"], methods="rotation")
    tables.save(tables.by_class(how, runs), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        head, dog, cat, average = csv.reader(file)
    ends = ("", "_std", "_paper", "_paper_std")
    assert head == [
        "hold_out",
        *(f"rotation_{m}{end}" for m in ("msp", "odin", "accuracy") for end in ends),
    ]
    assert cat[:5] == ["cat", "51.00", "1.41", "53.12", "0.92"]
    assert dog[:5] == ["dog", "", "", "32.11", "0.82"] and average == ["average", *[""] * 12]


def test_remarks_say_how_much_was_run_and_on_what():
    lines = show.remarks(experiment(), RECORDS)
    assert "6 of 12 runs" in lines[0] and "abacus (6)" in lines[0] and "6 min" in lines[0]
    assert lines[1:] == [
        "Averages are of the trials that have every class: 2 with Classification-only."
    ]
    other = record("2", "rotation", 0, 0.5, 0.6, 0.98, data=MADE_UP)
    _, averages, warning = show.remarks(experiment(), [*RECORDS, other])
    assert averages.endswith("every class: 2 with Classification-only, 1 with Rotation-augmented.")
    here = plan.here(experiment())
    assert (
        "NOT COMPARABLE" in warning
        and f"{here} (6)" in warning
        and "dddddddd-eeeeeeee (1)" in warning
    )
    assert "0 of 12 runs" in show.summary(experiment(), [])


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
    same = [r.model_copy(update={"versions": {"torch": "2.6.0+cu124"}}) for r in RECORDS]
    records = [*same, same[0].model_copy(update={"trial": 3} | change)]
    assert show.unlike(records) == ([said] if said else [])
    other = record(
        "cat", "rotation", 0, 0.5, 0.5, 0.9, "cifar10", data=MADE_UP, versions={"torch": "2.6.1"}
    )
    rows = [(experiment(), records), (experiment(dataset="cifar10"), [other])]
    assert show.between(rows) == (said or "").replace(
        "(6)", "(7)"
    )  # that the data differ goes without saying
    monkeypatch.setattr(store, "finished", lambda experiment: records)
    show.print_all([experiment()])
    assert not said or said in capsys.readouterr().out


def test_measurements_take_the_score_of_the_asked_settings():
    other = record("1", "classification", 0, 0.1, 0.2, 0.9)
    assert tables.measurements(experiment(epsilon=0.1), [other]).odin.isna().all()
    assert list(tables.measurements(experiment(), [other]).odin) == [20.0]
    assert set(plan.scoring(experiment())) == {"msp", "odin"}


def test_differences_to_the_paper_are_marked_beyond_two_deviations_of_the_two_together():
    runs = [
        record("cat", "rotation", t, msp, 0.5, 0.9, "cifar10") for t, msp in enumerate((0.56, 0.58))
    ]
    runs += [record("dog", "rotation", 0, 0.5, 0.5, 0.9, "cifar10")]
    text = show.differences(
        tables.by_class(experiment(dataset="cifar10", hold_out="all", methods="rotation"), runs)
    )
    # cat: 57.00 - 53.12 = 3.88, and two deviations are 2 sqrt(1.41^2 + 0.92^2) = 3.37; accuracy: 90
    # - 97.46
    assert (
        text["Rotation-augmented", "MSP"]["cat"] == "+3.88 *"
        and text["Rotation-augmented", "Accuracy"]["cat"] == "-7.46 *"
    )
    assert (
        text["Rotation-augmented", "MSP"]["dog"] == "+17.89 ?"
        and text["Rotation-augmented", "MSP"]["bird"] == ""
    )
    for r in runs[:2]:
        r.metrics["msp"] -= (
            0.01  # 2.88: more than one deviation, and than two of these runs' own alone, 2.83
        )
    text = show.differences(
        tables.by_class(experiment(dataset="cifar10", hold_out="all", methods="rotation"), runs)
    )
    assert text["Rotation-augmented", "MSP"]["cat"] == "+2.88"


def test_wins_are_counted_here_and_in_the_paper():
    runs = [
        record(c, "rotation", 0, 0.3, odin, 0.9, "cifar10")
        for c, odin in (("cat", 0.4), ("dog", 0.2), ("ship", 0.3))
    ]
    table = tables.by_class(experiment(dataset="cifar10", hold_out="all"), runs)
    counts = show.counts(table)
    odin, gain = (
        "Rotation-augmented: ODIN above MSP",
        "Rotation-augmented: ODIN above Classification-only",
    )
    assert counts.loc[odin, "here"] == "1 of 3" and counts.loc[gain, "here"] == "not run"
    assert counts.loc[odin, "in the paper"].startswith("7 of 10, ")  # not automobile, horse, ship
    gains = (table["rotation", "odin", "paper"] - table["classification", "odin", "paper"]).drop(
        "average"
    )
    assert (
        counts.loc[gain, "in the paper"]
        == f"8 of 10, {gains.mean():+.2f} points, p = {signed_rank_p(gains):.3f}"
    )


def signed_rank_p(gains):
    """Wilcoxon's two-sided test, all sign patterns counted."""
    ranks = gains.abs().rank().to_numpy()
    far = abs(ranks @ np.sign(gains) / 2)
    sums = [
        sum(r * s for r, s in zip(ranks, signs, strict=True)) / 2
        for signs in itertools.product((-1, 1), repeat=len(ranks))
    ]
    return np.mean([abs(total) >= far - 1e-9 for total in sums])


def test_equal_gains_have_equal_ranks_whatever_floats_make_of_them():
    signs, plain = [1, -1, 1, 1, 1, 1, 1, 1], [0.1 + k / 30 for k in range(8)]
    runs = [record(str(k), "classification", 0, msp, 0.5, 0.9) for k, msp in enumerate(plain)]
    runs += [
        record(str(k), "rotation", 0, plain[k] + sign / 100, 0.5, 0.9)
        for k, sign in enumerate(signs)
    ]
    counts = show.counts(tables.by_class(experiment(hold_out=list("01234567")), runs))
    said = counts.loc["Rotation-augmented: MSP above Classification-only", "here"]
    assert said == f"7 of 8, +0.75 points, p = {wilcoxon(signs).pvalue:.3f}"


def subset_runs(values):
    """One trial of the fungi, class k with an average precision and an accuracy of its own, for two
    methods.
    """
    names = tables.published("appendix_b_imagenet_fungus").index[:-1]
    return [
        record(c, m, 0, values[m] + k / 100, 0.5, 0.9 - k / 50, "imagenet_fungus")
        for k, c in enumerate(names)
        for m in values
    ]


def fungi(records, **changes):
    how = experiment(dataset="imagenet_fungus", hold_out="all", **changes)
    return tables.by_class(how, records)


def test_a_subset_is_its_average_row_beside_the_papers_with_skew():
    table = fungi(subset_runs({"classification": 0.2, "rotation": 0.3}))
    assert table["rotation", "msp", "paper"]["bolete"] == 49.43  # Appendix B
    assert (
        fungi([], architecture="wrn-imagenet-cpc")["classification", "msp", "paper"]["bolete"]
        == 46.73
    )  # Appendix C
    summary = tables.by_subset(
        {"imagenet_fungus": table}, tables.published("table5_imagenet_rotation")
    )
    assert summary["rotation", "msp", "mean"]["fungus"] == pytest.approx(32.5)  # 30 to 35
    assert (
        summary["rotation", "msp", "paper"]["fungus"] == 44.19
        and summary["rotation", "msp", "paper_std"]["fungus"] == 1.86
    )
    runs = [
        r.model_copy(update={"skew": skew})
        for r, skew in zip(RECORDS, (0.1, 0.2, 0.3, 0.1, 0.1, 0.1), strict=True)
    ]
    text = show.with_skew(summary, [(experiment(), runs)])
    html = text._repr_html_()
    assert "<b>32.50</b>" in html and "<b>15.00</b>" not in html and "<b>22.50</b>" not in html
    assert (
        text.iloc[0, 0] == "15.00"
        and text["Rotation-augmented", "Accuracy", "here"]["fungus"] == "85.00"
    )
    here, paper = show.counts(tables.all_classes({"imagenet_fungus": table})).iloc[0]
    assert here == "6 of 6, +27.50 points, p = 0.031" and paper.startswith(
        "5 of 6, "
    )  # ODIN 50, MSP 20 to 25; 2 / 2^6


def test_the_papers_averages_are_of_all_classes(tmp_path):
    """Of a part of the classes there is an average, but nothing of the paper's beside it, nor a
    difference to it.
    """
    how = experiment(dataset="imagenet_fungus", hold_out=["bolete", "stinkhorn"])
    runs = [
        record(c, m, 0, 0.2, 0.5, 0.8, "imagenet_fungus", skew=1 / 6)
        for c in how.hold_out
        for m in how.methods
    ]
    part = tables.by_class(how, runs)
    summary = tables.by_subset(
        {"imagenet_fungus": part}, tables.published("table5_imagenet_rotation")
    )
    assert summary["rotation", "msp", "mean"]["fungus"] == pytest.approx(20)
    assert "paper" not in summary.columns.get_level_values("statistic")
    assert show.with_skew(summary, [(how, runs)]).iloc[0, 0] == "16.67"  # not a half
    dog = tables.by_class(experiment(dataset="imagenet_dog", hold_out="all"), [])
    both = tables.by_subset(
        {"imagenet_fungus": part, "imagenet_dog": dog}, tables.published("table5_imagenet_rotation")
    )
    assert both["rotation", "msp", "paper"].notna().tolist() == [False, True]
    for classes, beside in (("all", True), (["cat", "dog"], False)):
        masked = experiment(
            dataset="cifar10", hold_out=classes, methods=["classification", "center_mask"]
        )
        text = show.masking(tables.by_class(masked, []))
        assert ("paper" in text.columns.get_level_values(1)) == beside


def test_the_masking_table_is_accuracy_and_msp_over_the_hold_outs():
    here = show.masking(tables.by_class(experiment(), RECORDS)).loc["Classification-only"]
    assert here.to_dict() == {
        ("Accuracy", "here"): "93.00 ± 1.41",
        ("Av. Prec. with MSP", "here"): "30.00 ± 14.14",
    }
    named = (
        tables.by_class(experiment(), RECORDS)
        .rename(index={"average": "average / all"})
        .rename(index={"1": "average"})
    )
    assert (
        show.masking(named).loc["Classification-only"].to_dict() == here.to_dict()
    )  # whatever a class is called
    methods = ["rotation", "center_mask"]
    text = show.masking(
        tables.by_class(experiment(dataset="cifar10", hold_out="all", methods=methods), [])
    )
    masked = text.loc["Random-center-masked"].xs("paper", level=1)
    assert masked.to_dict() == {
        "Accuracy": "96.27 ± 0.05",
        "Av. Prec. with MSP": "34.41 ± 0.74",
    }  # Sec. 5.2


def test_a_table_of_less_does_not_replace_one_of_more(tmp_path, capsys):
    path = tmp_path / "table.csv"
    whole = [
        record(c, m, 0, 0.5, 0.6, 0.9) for c in ("1", "2") for m in ("classification", "rotation")
    ]
    for runs in (whole[:2], whole, [], whole[:3], whole[1:]):
        tables.save(tables.by_class(experiment(), runs), path)
    assert (
        path.read_text().count("50.00") == 6
        and capsys.readouterr().out.count("table.csv stays") == 3
    )
    assert (tmp_path / "table.unfinished.csv").exists()
    other = [
        r.model_copy(update={"metrics": {"accuracy": 0.8, "msp": 0.4, "odin": 0.4}}) for r in whole
    ]
    tables.save(tables.by_class(experiment(), other), path)  # other settings, as complete
    assert (
        path.read_text().count("40.00") == 12 and not (tmp_path / "table.unfinished.csv").exists()
    )
    three = [r.model_copy(update={"trial": t}) for r in whole for t in (0, 1, 2)]
    tables.save(tables.by_class(experiment(), three), path)
    tables.save(
        tables.by_class(experiment(), whole), path
    )  # one trial, without deviations, is whole too
    assert path.read_text().count("50.00") == 6 and not capsys.readouterr().out


def test_upright_statistics_are_the_tables_and_the_headings():
    both = [
        r.model_copy(
            update={"metrics": r.metrics | {f"{k}@upright": v / 2 for k, v in r.metrics.items()}}
        )
        for r in RECORDS
    ]
    mixed, upright = (
        tables.by_class(experiment(statistics=name), both) for name in ("mixed", "upright")
    )
    means = [table.xs("mean", axis=1, level="statistic") for table in (mixed, upright)]
    assert np.allclose(means[0] / 2, means[1], equal_nan=True)
    assert "upright batch-norm statistics" in show.heading(experiment(statistics="upright"))
    assert "mixed batch-norm statistics" in show.heading(experiment())


def test_generalisation_is_one_row_a_data_set_beside_table_2():
    runs = [
        record(None, m, t, 0, 0, a, "cifar10")
        for m, a in (("classification", 0.9), ("rotation", 0.96))
        for t in (0, 1)
    ]
    for r in runs:
        del r.metrics["msp"], r.metrics["odin"]
    here = [
        (experiment(dataset=n, hold_out="none"), runs if n == "cifar10" else [])
        for n in ("cifar10", "stl10")
    ]
    table = tables.generalization(here)
    text = show.formatted(table)
    assert text["Rotation-augmented", "Accuracy", "here"].tolist() == ["96.00 ± 0.00", "not run"]
    assert text["Rotation-augmented", "Accuracy", "paper"].tolist() == [
        "96.54 ± 0.08",
        "88.98 ± 0.30",
    ]
    assert text["Classification-only", "Accuracy", "paper"].tolist() == [
        "95.87 ± 0.05",
        "85.51 ± 0.17",
    ]
    assert show.differences(table)["Rotation-augmented", "Accuracy"].tolist() == ["-0.54 *", ""]
    assert show.counts(table).iloc[0].tolist() == ["1 of 1", "2 of 2"]
    own = tables.generalization([(experiment(hold_out="none"), [])])
    assert "paper" not in own.columns.get_level_values(
        "statistic"
    )  # another data set is not beside the paper's


def test_rank_correlation_is_that_of_the_ranks():
    """Accuracy falls from class to class while average precision rises, but for two neighbours; the
    paper's from its CSV.
    """
    values = {"classification": 0.2, "rotation": 0.3}
    runs = subset_runs(values)
    assert (
        show.rank_correlation(fungi(runs))["here"].iloc[0].startswith("-1.00 (p = 0.00, 6 classes)")
    )
    last = next(r for r in runs if r.hold_out == "coral fungus" and r.method == "rotation")
    last.metrics["msp"] = 0.99  # the highest as before
    assert (
        show.rank_correlation(fungi(runs))
        .loc["Rotation-augmented: accuracy and MSP", "here"]
        .startswith("-1.00 ")
    )
    first, second = (
        next(r for r in runs if r.hold_out == c and r.method == "rotation")
        for c in ("stinkhorn", "bolete")
    )
    first.metrics["msp"], second.metrics["msp"] = second.metrics["msp"], first.metrics["msp"]
    text = show.rank_correlation(fungi(runs)).loc["Rotation-augmented: accuracy and MSP"]
    assert text["here"].startswith(
        "-0.94 "
    )  # 1 - 6 * sum of d^2 / (n^3 - n), d^2 = 25 + 9 + 1 + 1 + 9 + 25 less 2 of the swap
    ranks = PUBLISHED.drop("average")[["classification_accuracy", "classification_msp"]].rank()
    rho = 1 - 6 * (ranks.diff(axis=1).iloc[:, 1] ** 2).sum() / (10**3 - 10)
    text = show.rank_correlation(tables.by_class(experiment(dataset="cifar10", hold_out="all"), []))
    said = text.loc["Classification-only: accuracy and MSP"]
    assert (
        show.rank_correlation(fungi(runs))
        .loc["Rotation-augmented: accuracy and ODIN", "here"]
        .startswith("undefined")
    )
    assert said["here"] == "not run" and float(said["in the paper"].split()[0]) == pytest.approx(
        rho, abs=0.02
    )  # of equals


def test_classes_of_another_data_set_are_passed_over_but_not_all():
    assert {r.hold_out for r in tables.of_classes(experiment(), RECORDS, [1, "cat"])} == {"1"}
    with pytest.raises(ConfigError, match="digits has none of cat; choose from 1, 2"):
        tables.of_classes(experiment(), RECORDS, ["cat"])


def test_the_weight_of_the_best_mean_is_chosen_once_all_are_run_and_kept_beside_others(tmp_path):
    search = {
        "dataset": "digits",
        "hold_out": "none",
        "trials": 2,
        "auxiliary_weights": {"rotation": [0.1, 0.5, 2]},
    }
    experiments, accuracies = several(search), ((0.9, 0.9), (0.99, 0.2), (0.7, 0.7), (0.1, 0.95))
    runs = [(e, [record(None, e.methods[0], t, 0, 0, a) for t, a in enumerate(both)])
            for e, both in zip(experiments, accuracies, strict=True)]  # fmt: skip
    table = tables.by_weight(runs)
    assert table.accuracy.tolist() == pytest.approx([90, 59.5, 70, 52.5]) and table["std"][
        3
    ] == pytest.approx(85 / 2**0.5)
    assert table.chosen.tolist() == [
        False,
        False,
        True,
        False,
    ]  # the plain classifier is not a weight
    assert show.weights(table)["Chosen"].tolist() == ["", "", "chosen", ""]
    before = (
        "dataset,method,auxiliary_weight,accuracy",
        "digits,rotation,9,1",
        "birds,rotation,7,1",
        "",
    )
    (tmp_path / CHOSEN_WEIGHTS).write_text("\n".join(before))
    tables.save_chosen_weights(table, tmp_path)
    with (tmp_path / CHOSEN_WEIGHTS).open(newline="") as file:
        chosen = {
            (row["dataset"], row["method"]): float(row["auxiliary_weight"])
            for row in csv.DictReader(file)
        }
    assert chosen == {("digits", "rotation"): 0.5, ("birds", "rotation"): 7.0}
    unfinished = tables.by_weight([*runs[:-1], (experiments[-1], [])])
    assert (
        not unfinished.chosen.any()
        and "not run" in show.weights(unfinished)["Validation accuracy"].tolist()
    )
    assert not tables.by_weight(
        [*runs[:-1], (experiments[-1], runs[-1][1][:1])]
    ).chosen.any()  # one of two trials
    upright = [(e.model_copy(update={"statistics": "upright"}), records) for e, records in runs]
    for r in (r for _, records in runs for r in records):
        r.metrics["accuracy@upright"] = 0.5
    assert tables.by_weight(upright).accuracy.eq(50).all()
    papers = {
        ("cifar10", "rotation"): "0.5",
        ("stl10", "rotation"): "1.0",
        ("imagenet_dog", "cpc"): "10.0",
    }
    papers |= {("imagenet_dog", "rotation"): "0.5 or 1.0", ("cifar10", "classification"): ""}
    shown = pd.concat([table[:1].assign(dataset=d, method=m) for d, m in papers])
    assert show.weights(shown)["In the paper"].tolist() == [*papers.values()]


def test_durations_are_in_the_unit_that_fits():
    assert list(map(show.duration, (40, 119, 120, 4500, 7200, 11160))) == [
        "40 s",
        "119 s",
        "2 min",
        "75 min",
        "2.0 h",
        "3.1 h",
    ]


def test_settings_unlike_the_papers_are_said():
    computes = " Training computes in {}, of which the paper says nothing."
    said = show.unlike_paper(create({"precision": "bfloat16"}), "table3_cifar10")
    assert said == "All settings are the paper's, as we read them." + computes.format("bfloat16")
    unlike = {
        "epochs": 3,
        "flip": False,
        "threads": 1,
        "precision": "float32",
        "statistics": "upright",
    }
    said = show.unlike_paper(create(unlike), "table3_cifar10")
    unlike = "epochs 3 (paper: 200), flip False (paper: True), statistics upright (paper: mixed)."
    assert said == f"Settings unlike the paper's: {unlike}" + computes.format("float32")
    assert show.unlike_paper(create({"dataset": "stl10"}), "figure1_learning_curves").startswith(
        "Settings unlike"
    )
    how = read_parameters("params/paper/table6_imagenet_cpc.yaml") | {"dataset": "imagenet_dog"}
    cpc = {weight: create(how | {"auxiliary_weight": weight, "epsilon": 0.1}) for weight in (10, 5)}
    cpc[10] = cpc[10].model_copy(update={"cpc_negatives": "batch"})
    said = {
        weight: show.unlike_paper(e, "table6_imagenet_cpc")
        .removeprefix("Settings unlike the paper's: ")
        .partition(" Tr")[0]
        for weight, e in cpc.items()
    }
    assert said[10] == "cpc_negatives batch (paper: image), epsilon 0.1 (paper: 5e-05)."
    assert said[5] == "auxiliary_weight 5.0 (paper: 10.0), epsilon 0.1 (paper: 5e-05)."
    rotation = read_parameters("params/paper/table5_imagenet_rotation.yaml") | {
        "dataset": "imagenet_dog"
    }
    for weight, printed in (
        (0.5, "All settings"),
        (1.0, "All settings"),
        (2.0, "weight 2.0 (paper: 0.5 or 1.0)"),
    ):
        assert printed in show.unlike_paper(
            create(rotation | {"auxiliary_weight": weight}), "table5_imagenet_rotation"
        )
    assert "digits is not the paper's data set" in show.unlike_paper(experiment(), "table4_stl10")
    assert "demonstration" in show.heading(
        experiment(profile="demo")
    ) and "demo" not in show.heading(experiment())


def test_a_notebook_shows_the_better_method_in_bold_and_what_was_found():
    rows = {"1": (0.2, 0.5), "2": (0.9, 0.3)}  # MSP of the classifier and with rotation
    runs = [
        record(c, m, 0, rows[c][k], 0.5, 0.9)
        for c in rows
        for k, m in enumerate(("classification", "rotation"))
    ]
    html = show.formatted(tables.by_class(experiment(), runs))._repr_html_()
    assert (
        "<b>50.00</b>" in html and "<td>20.00</td>" in html
    )  # class 1: rotation's MSP is the better
    assert "<b>90.00</b>" in html and "<td>30.00</td>" in html
    assert (
        "Rotation-augmented is above Classification-only in so many classes: by MSP in 1 of 2; by ODIN in 0 of 2"
        in html
    )
    assert "With one trial nothing can be claimed from it." in html
    assert (
        "<b>"
        not in show.formatted(
            tables.by_class(experiment(methods="classification"), runs)
        )._repr_html_()
    )
    assert show.finding(tables.by_class(experiment(), [])) == ""
    names = experiment(dataset="cifar10", hold_out="all")
    runs = [
        record("cat", m, t, 0.5 + t / 10, 0.5, 0.9, "cifar10")
        for m in names.methods
        for t in (0, 1)
    ]
    assert "by ODIN in 0 of 1 (the paper: 8 of 10, " in show.finding(tables.by_class(names, runs))
    assert "one trial" not in show.finding(tables.by_class(names, runs))


@pytest.mark.slow
def test_640_runs_are_listed_in_a_second_and_their_table_built_in_five(tmp_path):
    """In a process of its own, for its memory: 10,000 test images a run, every array compared with
    its SHA-256.
    """
    code = "import json, sys\nsys.path += ['benchmarks', 'tests']\nimport pathlib, tables_640 as bench\n"
    code += "print(json.dumps(bench.measure(bench.make(pathlib.Path(sys.argv[1])))))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (
        found["runs"] == 640
        and found["list_s"] < 1
        and found["table_s"] < 5
        and found["peak_gb"] < 1
    )


# --- names


@pytest.fixture
def namesakes(tmp_path, monkeypatch):
    """Finished runs of two modules' tasks and scores of one name, and of a score that is called
    like MSP.
    """
    monkeypatch.syspath_prepend(tmp_path)
    task = "def task(net, images):\n    return net(images).mean()\n\n\n"
    for name in ("name_a", "name_b"):
        scores = "def energy(logits):\n    return logits[:, 0]\n\n\ndef MSP(logits):\n    return logits[:, 1]\n"
        (tmp_path / f"{name}.py").write_text(f'"""{name}"""\n\n\n{task}{scores}')
    own = {"methods": ["classification", "name_a:task", "name_b:task"]}
    own |= {"scores": ["msp", "name_a:energy", "name_b:energy", "name_a:MSP", "energy"]}
    yield made_up(tmp_path, dataset="digits", hold_out=["1", "7"], trials=1, **own)
    for name in ("name_a", "name_b"):
        sys.modules.pop(name, None)


def test_functions_of_one_name_are_as_many_columns_with_their_modules(namesakes):
    records = store.finished(namesakes)
    table = tables.by_class(namesakes, records)
    text = show.formatted(table)
    assert text.columns.is_unique and text.columns.unique(0).tolist() == [
        "Classification-only",
        "task (name_a)",
        "task (name_b)",
    ]
    measures = ["MSP", "energy (name_a)", "energy (name_b)", "MSP (name_a)", "Energy", "Accuracy"]
    assert text.columns.unique(1).tolist() == measures
    for method in namesakes.methods:
        for measure in namesakes.scores:
            shown = names.label(method, namesakes.methods), names.label(measure, namesakes.scores)
            assert text[shown]["1"] == show.mean_std(table[method, measure, "mean"]["1"], math.nan)
    assert show.finding(table).count("is above") == 2 and "task (name_b) is above" in show.finding(
        table
    )
    assert (
        len(show.counts(table)) == 2 * len(measures) and len(show.rank_correlation(table)) == 3 * 5
    )
    assert show.gains(stats.gains([(namesakes, records)])).index.is_unique
    assert (
        names.label("name_a:task", ["classification", "name_a:task"]) == "task"
    )  # alone it needs no module


def test_functions_of_one_name_are_as_many_lines_of_a_figure_and_of_the_inspector(namesakes):
    records = store.finished(namesakes)
    figure = plots.precision_recall(namesakes, records, curves=100)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels)) == 3 * 5 + 1 and "task (name_b), energy (name_a)" in labels
    shown = Results(records)
    assert {"task (name_a)", "task (name_b)"} < {method for _, method, _ in shown.runs}
    assert {"energy (name_a)", "energy (name_b)", "MSP", "MSP (name_a)", "Energy"} == set(
        shown.scores
    )


@pytest.mark.parametrize("name", ["007", "2024", "NA", "1e5", "None", "true", "a,b", ' "q" '])
def test_a_chosen_weight_is_of_the_data_set_of_that_name_and_the_newest(tmp_path, name):
    row = {
        "dataset": name,
        "train_per_class": "",
        "method": "rotation",
        "accuracy": 90.0,
        "chosen": True,
    }
    for weight in (0.25, 4.0, 0.5):
        tables.save_chosen_weights(pd.DataFrame([row | {"weight": weight}]), tmp_path / "p")
    tables.save_chosen_weights(
        pd.DataFrame([row | {"dataset": "7", "weight": 2.0}]), tmp_path / "p"
    )
    how = {"dataset": name, "profile": "p", "outputs": str(tmp_path), "auxiliary_weight": None}
    assert [e.auxiliary_weight for e in several(how)] == [0.5]
    with (tmp_path / "p" / "auxiliary_weights.csv").open(newline="") as file:
        assert [line["dataset"] for line in csv.DictReader(file)] == [name, "7"]
