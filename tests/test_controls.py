"""Controls: arms of a table, subsets and groups of classes, and gains at equal accuracy."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from helpers import MADE_UP, ROOT, cells, tiny, tiny_data
from sklearn.metrics import average_precision_score

from semlib import datasets
from workbench import results, runs
from workbench.batch import notebooks
from workbench.experiment import ConfigError, create
from workbench.results import plots, show, stats, tables
from workbench.results.inspector import selection
from workbench.runs import plan, store

NOTEBOOK = ROOT / "notebooks" / "controls.ipynb"
controls = cells("controls")
CLASSES = [f"class {k}" for k in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("controls")
    tiny_data(root / "data")
    return root


# --- a subset's seed apart from the trial's


def test_two_trials_have_the_same_images_with_one_subset_seed_and_other_weights(folder):
    how = {"train_per_class": 30, "epochs": 1, "methods": "classification"}
    (first,) = runs.complete(tiny(folder, **how))
    (second,) = runs.complete(tiny(folder, **how, subset_seed=0, first_trial=7))
    (other,) = runs.complete(tiny(folder, **how, first_trial=7))
    assert first.drawn_sha256 == second.drawn_sha256 != other.drawn_sha256
    assert len({first.weights_sha256, second.weights_sha256, other.weights_sha256}) == 3
    data = runs.load(tiny(folder))
    index = datasets.training_indices(data, "one", 30, 0)
    np.testing.assert_array_equal(index, datasets.training_indices(data, *second.run.subset))


def test_the_subsets_seed_moves_no_address_by_its_default():
    """Known addresses, of records that are committed: outputs/cpu."""
    given = {"train_per_class": 30, "dataset": "digits", "hold_out": "8"}
    every = (given, given | {"subset_seed": None}, given | {"subset_seed": 0})
    runs_of = [plan.planned(create(settings), MADE_UP)[0] for settings in every]
    plain, named, seeded = (run.address for run in runs_of)
    assert plain == named != seeded
    for record in store.collect(ROOT / "outputs" / "cpu")[::40]:
        assert record.place == record.run_home.relative_to(ROOT / "outputs" / "cpu" / "runs")
        assert record.run.address_for(record.train_digest) == record.address


# --- classes held out together


def test_a_group_is_one_anomaly_whatever_its_order(folder):
    given = tiny(folder, hold_out=[["two", "one"], "three"], epochs=1)
    assert given.hold_out == ("one/two", "three") == create(given.model_dump()).hold_out
    assert given == tiny(folder, hold_out=["one/two", "three"], epochs=1)
    group, alone = (run for run in plan.planned(given) if run.method == "classification")
    assert group.home.parts[-3] == "one+two" and alone.home.parts[-3] == "three"
    assert given.output("benchmark", ".csv").parent == given.folder
    split = group.split(runs.load(given))
    assert split.classes == ("zero", "three") and split.is_anomaly.sum() == 50
    with pytest.raises(ConfigError, match="hold-out 'four' is not a class of tiny; choose from"):
        plan.held_out(tiny(folder, hold_out=[["one", "four"]]))


def test_a_groups_average_precision_has_its_own_skew_in_tables_figures_and_inspector(folder):
    experiment = tiny(folder, hold_out=[["two", "one"], "three"], epochs=2)
    records = runs.complete(experiment)
    record = next(record for record in records if record.hold_out == "one/two")
    arrays = record.scores()
    unseen = np.isin(arrays["label"], [1, 2])
    np.testing.assert_array_equal(arrays["is_anomaly"], unseen)
    assert record.skew == unseen.mean() == 0.5
    assert record.metrics["msp"] == average_precision_score(unseen, arrays["msp"])
    assert not {1, 2} & {*arrays["predicted"]}
    long = results.frame([(experiment, records)])
    assert {*long.hold_out} == {"one/two", "three"}
    table = tables.by_class(experiment, records)
    assert table.loc["one/two"].notna().any() and list(table.index[:2]) == ["one/two", "three"]
    found = stats.measured([(experiment, records)])
    assert ("tiny", "one/two") in found.classes.index
    for figure in (plots.gain_by_class, plots.precision_recall):
        assert figure(experiment, records).axes
    shown = selection.grouped(records, experiment)
    (title,) = (name for name in shown if "held_out_together True" in name)
    inspected = selection.Results(shown[title])
    choice = selection.Choice(inspected.classes, inspected.methods, ("MSP",), (0,))
    assert inspected.classes == ("one/two",) and len(shown) == 2
    assert set(inspected.curves(choice)["skew"]) == {50}
    assert store.collect(experiment.folder) and not store.missing(experiment)


# --- arms, from the committed records of trials 0 and 1 at 500 labels, and from made-up ones


@pytest.fixture(scope="module")
def arms():
    """Plain, rotation and plain with other numbers of labels, of params/cpu/controls.yaml."""
    given, experiments = notebooks.parameters(NOTEBOOK, [ROOT / "params/cpu/controls.yaml"], [])
    both = {"trials": 2, "outputs": str(ROOT / "outputs"), "missing": "skip"}
    made = {}
    for name, experiment in zip(given["arms"], experiments, strict=True):
        if name in ("plain", "rotation"):
            experiment = experiment.model_copy(update=both)
        if name in ("plain", "rotation") or name.endswith("labels"):
            made[name] = (experiment, store.finished(experiment))
    assert [len(records) for _, records in made.values()] == [20, 20, 10, 10, 10]
    return made


def made_up(**classes):
    """A table of arms, each with so many of ten classes in trials 0 and 1."""
    rows = []
    random = np.random.default_rng(0)
    for arm, counts in classes.items():
        for trial, count in enumerate(counts):
            aspects = (CLASSES[:count], plan.STATISTICS, ("accuracy", "msp"))
            for name, *kind in itertools.product(*aspects):
                row = {"arm": arm, "trial": trial, "hold_out": name, "planned": 10}
                row |= dict(zip(controls.KIND, kind, strict=True)) | {"whole": count == 10}
                rows.append(row | {"value": 10 * random.random()})
    return pd.DataFrame(rows)


def test_an_arm_is_an_experiment_with_other_settings_over_all_others():
    given, experiments = notebooks.parameters(NOTEBOOK, [ROOT / "params/cpu/controls.yaml"], [])
    arms = dict(zip(given["arms"], experiments, strict=True))
    assert {e.architecture for e in experiments} == {"wrn-10-2"}
    assert (arms["(a) weight 0"].auxiliary_weight, arms["rotation"].auxiliary_weight) == (0, 0.5)
    assert (arms["(c) twice the epochs"].epochs, arms["plain"].epochs) == (200, 100)
    groups = [e.hold_out for arm, e in arms.items() if arm.startswith("(g)")]
    assert groups == [("automobile/truck", "cat/dog"), ("automobile/cat", "dog/truck")]
    assert arms["all labels"].train_per_class is None
    with pytest.raises(ConfigError, match="unknown parameter 'epoch'"):
        notebooks.parameters(NOTEBOOK, [], [("arms", "{plain: {epoch: 3}}")])


def test_contrasts_are_paired_over_classes_in_the_trials_that_both_arms_have_whole():
    table = made_up(rotation=[10, 10], control=[10, 4])
    found = controls.contrasts(table, [("1", "rotation", "control")])
    assert {*found.trials} == {"0"}
    for row in found.itertuples():
        of = table[(table.trial == 0) & (table.statistics == row.statistics)]
        of = of[of.measure == row.measure].set_index(["arm", "hold_out"]).value
        gained = np.array([of["rotation", name] - of["control", name] for name in CLASSES])
        half = scipy.stats.t.ppf(0.975, 9) * gained.std(ddof=1) / math.sqrt(10)
        assert row.difference == pytest.approx(gained.mean())
        assert (row.low, row.high) == pytest.approx((gained.mean() - half, gained.mean() + half))
        assert row.p == pytest.approx(scipy.stats.wilcoxon(gained).pvalue)
    for _, rows in found.groupby("measure"):
        low, high = sorted(rows.p)
        holm = [min(1, 2 * low), max(min(1, 2 * low), high)]
        assert sorted(rows.holm) == pytest.approx(holm)


def test_from_fewer_than_ten_classes_nothing_is_claimed_and_the_page_says_so():
    table = made_up(rotation=[10, 10], control=[4])
    pairs = [("1", "rotation", "control"), ("2", "rotation", "absent")]
    pairs += [("6", "rotation", "control", [2])]
    decided = controls.decisions(controls.contrasts(table, pairs))
    assert decided.difference.isna().all() and not decided.decision.any()
    said = {row.contrast: row.trials for row in decided.itertuples()}
    assert said["1"] == "4 of 10 classes: nothing is claimed"
    assert said["2"] == said["6"] == "0 of 10 classes: nothing is claimed"
    assert "4 of 10 classes: nothing is claimed" in show.text(decided).to_html()


def test_the_registered_decisions():
    def row(difference, low, high, holm):
        return pd.Series({"difference": difference, "low": low, "high": high, "holm": holm})

    assert controls.against_control(row(1, 0.2, 1.8, 0.04)) == "more than the control"
    assert controls.against_control(row(0, -0.4, 0.4, 0.9)) == "no more than the control"
    both = "no more than the control, less than the control"
    assert controls.against_control(row(-1, -1.8, -0.2, 0.04)) == both
    both = "more than the control, no more than the control"
    assert controls.against_control(row(0.3, 0.2, 0.4, 0.01)) == both
    assert controls.against_control(row(1, -0.2, 2.2, 0.04 + 0.02)) == "undecided"
    worse = row(-1, -2, -0.1, 0.1)
    better = row(1, 0.1, 2, 0.1)
    same = row(0, -1, 1, 0.9)
    assert controls.masking(worse, better) == "reproduced"
    assert controls.masking(worse, same) == controls.masking(same, better) == "half of the sentence"
    assert controls.masking(better, better) == "contradicted"
    assert controls.masking(same, same) == "undecided"
    good = row(1, 0.1, 2, 0.04)
    weak = row(1, -0.1, 2, 0.06)
    assert controls.replication(pd.DataFrame([good, good])) == "reproduced"
    assert controls.replication(pd.DataFrame([good, weak])) == "direction only"
    assert controls.replication(pd.DataFrame([good, worse])) == "not reproduced"


def test_two_networks_on_the_same_labels_are_scored_by_the_mean_of_their_ranks(folder):
    how = {"train_per_class": 30, "epochs": 1, "methods": "classification"}
    plain = tiny(folder, **how)
    second = tiny(folder, **how, subset_seed=0, first_trial=7)
    both = {"plain": (plain, runs.complete(plain)), "(e) 0": (second, runs.complete(second))}
    table = controls.measured(both)
    rows = table[table.arm == controls.TWO_NETWORKS].set_index(["statistics", "measure"])
    arrays = [records[0].scores() for _, records in both.values()]
    for statistics, score in itertools.product(plan.STATISTICS, ("msp", "odin")):
        key = plan.array_name(score, statistics)
        ranks = 0  # the mean rank, by pairs
        for pairs in (a[key][:, None] - a[key] for a in arrays):
            ranks += (pairs > 0).sum(1) + (pairs == 0).sum(1) / 2
        value = 100 * average_precision_score(arrays[0]["is_anomaly"], ranks)
        assert rows.value[statistics, score] == pytest.approx(value)
    assert rows.whole.all() and set(rows.trial) == {0} and len(rows) == 4


def test_a_class_is_found_among_the_classes_that_both_networks_know(folder):
    """On the tiny data: one alone, and together with two."""
    how = {"epochs": 2, "methods": "classification"}
    groups = {"alone": {}, "together": {"hold_out": [["one", "two"]]}}
    arms = {arm: tiny(folder, **how, **group) for arm, group in groups.items()}
    arms = {arm: (experiment, runs.complete(experiment)) for arm, experiment in arms.items()}
    table = controls.together_and_alone(arms["alone"][1], {"(g)": arms["together"]})
    assert [*table["class"]] == ["one", "one"] and [*table.statistics] == [*plan.STATISTICS]
    for key, (_, records) in arms.items():
        arrays = records[0].scores()
        shown = arrays["label"] != 2
        is_one = arrays["label"][shown] == 1
        weight = np.where(is_one, 0.1 / is_one.sum(), 0.9 / (~is_one).sum())
        value = average_precision_score(is_one, arrays["msp"][shown], sample_weight=weight)
        assert table[key][0] == pytest.approx(100 * value)


# --- the gain at equal accuracy


def test_what_remains_of_the_gain_at_equal_accuracy_in_the_committed_records(arms):
    table = controls.measured(arms)
    curve = [name for name in arms if name != "rotation"]
    found = controls.at_equal_accuracy(arms, table, "plain", curve)
    found = found[found.statistics == "mixed"].set_index("way")
    printed = show.text(found.reset_index())
    shown = printed["Difference (points)"] + " (" + printed["95 % over held-out classes"] + ")"
    assert shown.droplevel([0, 1, 2]).to_dict() == {
        "images": "+1.00 (+0.05 to +1.95)",
        "history": "+0.63 (+0.04 to +1.21)",
        "epoch": "+1.26 (+0.15 to +2.36)",
        "labels": "+0.55 (-0.20 to +1.31)",
    }


def test_weighted_average_precision_is_that_of_the_definition(arms):
    record = arms["plain"][1][0]
    names = ("is_anomaly", "label", "predicted", "msp")
    is_anomaly, label, predicted, msp = record.scores(*names).values()
    wrong = [not a and k != p for a, k, p in zip(is_anomaly, label, predicted, strict=True)]
    normal = len(msp) - sum(is_anomaly)
    mistaken = 0.3 * normal / sum(wrong)
    right = 0.7 * normal / (normal - sum(wrong))
    known = [mistaken if w else right for w in wrong]
    weights = [1 if a else weight for a, weight in zip(is_anomaly, known, strict=True)]
    found = flagged = total = 0.0
    for k in np.argsort(-msp, kind="stable"):
        flagged += weights[k]
        if is_anomaly[k]:
            found += 1
            total += found / flagged
    assert len({*msp}) == len(msp)  # so every image is one step
    assert controls.weighted(record, 0.3) == pytest.approx(100 * total / sum(is_anomaly))


def test_a_historys_gain_is_read_where_its_accuracy_first_reaches_the_others_last(arms):
    other, record = (arms[name][1][0] for name in ("plain", "rotation"))
    last = other.history().iloc[-1]
    points = [(row.accuracy, row.msp) for row in record.history().itertuples()]
    k = next(k for k, (accuracy, _) in enumerate(points) if accuracy >= last.accuracy)
    assert k > 0 and max(accuracy for accuracy, _ in points[:k]) == points[k - 1][0]
    (before, low), (after, high) = points[k - 1 : k + 1]
    msp = low + (high - low) * (last.accuracy - before) / (after - before)
    assert controls.history_gain(record, other, True) == pytest.approx(100 * (msp - last.msp))
    assert controls.history_gain(record, other, False) == pytest.approx(100 * (high - last.msp))


def test_the_curve_over_labels_is_read_at_rotations_accuracy_class_by_class(arms):
    table = controls.measured(arms)
    curve = [name for name in arms if name != "rotation"]
    gained = controls.above_curve(table, curve, "upright")
    for name in ("cat", "truck"):
        mean = {}
        for arm, (_, records) in arms.items():
            of_class = [record.metrics for record in records if record.hold_out == name]
            for key in ("accuracy@upright", "msp@upright"):
                mean[arm, key[:3]] = sum(m[key] for m in of_class) / len(of_class)
        points = sorted((mean[arm, "acc"], mean[arm, "msp"]) for arm in curve)
        x = mean["rotation", "acc"]
        (before, low), (after, high) = next(p for p in itertools.pairwise(points) if p[1][0] >= x)
        logits = [math.log(msp / (1 - msp)) for msp in (low, high)]
        logit = logits[0] + (logits[1] - logits[0]) * (x - before) / (after - before)
        read = 1 / (1 + math.exp(-logit))
        assert gained[name] == pytest.approx(100 * (mean["rotation", "msp"] - read))


def test_the_figure_has_a_point_for_each_whole_arm_and_a_line_through_the_others(arms):
    table = controls.measured(arms)
    few = {"few": (arms["plain"][0], arms["plain"][1][:4])}
    figure = controls.accuracy_and_precision(arms | few, controls.measured(arms | few))
    _, names = figure.axes[1].get_legend_handles_labels()
    assert names == ["plain, other numbers of labels", "plain", "rotation"]
    copies = {f"({k})": arms["plain"] for k in "abc"}
    more = pd.concat([table, *(table[table.arm == "plain"].assign(arm=name) for name in copies)])
    figure = controls.accuracy_and_precision(arms | copies, more)
    _, names = figure.axes[1].get_legend_handles_labels()
    assert {"(a)", "(b)", "(c)", "fits the others best"} < {*names}
