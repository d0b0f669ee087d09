"""Controls: arms of a table, subsets and groups of classes, and gains at equal accuracy."""

import numpy as np
import pytest
from helpers import MADE_UP, ROOT, tiny, tiny_data
from sklearn.metrics import average_precision_score

from semlib import datasets
from workbench import results, runs
from workbench.experiment import ConfigError, create
from workbench.results import plots, stats, tables
from workbench.results.inspector import selection
from workbench.runs import plan, store


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
    plain, named = (
        plan.planned(create(given | more), MADE_UP)[0].address
        for more in ({}, {"subset_seed": None})
    )
    seeded = plan.planned(create(given | {"subset_seed": 0}), MADE_UP)[0].address
    assert plain == named != seeded
    for record in store.collect(ROOT / "outputs" / "cpu")[::40]:
        assert record.place == record.trained.relative_to(ROOT / "outputs" / "cpu" / "runs")
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
