"""Measures of unseen images against mistakes, from their definitions and from a library."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny, tiny_data

from workbench import runs
from workbench.results import failure


@pytest.fixture(params=["distinct", "tied"])
def ranked(request):
    rng = np.random.default_rng(0)
    anomaly = rng.random(400) < 0.2
    right = rng.random(400) < 0.7
    scores = rng.normal(size=400) + anomaly + ~right
    return right, anomaly, scores if request.param == "distinct" else scores.round()


def above(higher, lower):
    pairs = higher[:, None] - lower[None]
    return 100 * ((pairs > 0) + 0.5 * (pairs == 0)).mean()


def test_unseen_images_against_right_and_mistaken_ones_by_pairs(ranked):
    right, anomaly, scores = ranked
    found = failure.measures(right, anomaly, scores)
    unseen = scores[anomaly]
    assert found["auroc_right"] == pytest.approx(above(unseen, scores[~anomaly & right]))
    assert found["auroc_mistaken"] == pytest.approx(above(unseen, scores[~anomaly & ~right]))


def test_oscr_is_the_area_under_correct_classification_over_false_positives(ranked):
    right, anomaly, scores = ranked
    known = ~anomaly
    rates = [(0.0, 0.0)]
    for threshold in np.unique(scores):
        accepted = scores <= threshold
        correct = (accepted & known & right).sum() / known.sum()
        rates.append(((accepted & anomaly).sum() / anomaly.sum(), correct))
    false_positives, correct = np.array(rates).T
    area = 100 * np.trapezoid(correct, false_positives)
    assert failure.measures(*ranked)["oscr"] == pytest.approx(area)


def test_risks_are_means_over_coverages_and_over_the_orders_of_tied_images(ranked):
    right, anomaly, scores = ranked
    mistaken = ~right[~anomaly]
    scores = scores[~anomaly]
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(300):
        mistakes = np.cumsum(mistaken[np.lexsort((rng.random(len(scores)), scores))])
        accepted = np.arange(1, len(scores) + 1)
        drawn.append([(mistakes / accepted).mean(), (mistakes / len(scores)).mean()])
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    difference = np.abs(np.array(failure.risks(mistaken, scores)) / 100 - np.mean(drawn, axis=0))
    assert (difference <= 4 * error + 1e-12).all()


def test_a_network_without_mistakes_has_nothing_to_be_compared_with():
    scores = np.arange(4.0)
    found = failure.measures([True] * 4, [False, False, False, True], scores)
    assert np.isnan(found["auroc_mistaken"])
    assert found["aurc"] == found["augrc"] == 0
    assert found["auroc_right"] == found["oscr"] == 100


def test_oscr_and_auroc_are_pytorch_oods(ranked):
    reason = "compared where it is installed: pip install pytorch-ood"
    functional = pytest.importorskip("pytorch_ood.metrics.functional", reason=reason)
    right, anomaly, scores = map(torch.from_numpy, ranked)
    found = failure.measures(*ranked)
    labels = torch.where(anomaly, -1, 0)
    theirs = functional.oscr_score(scores, torch.where(right, 0, 1), labels)
    assert found["oscr"] == pytest.approx(100 * theirs, rel=1e-6)
    for name, known in (("auroc_right", right), ("auroc_mistaken", ~right)):
        some = anomaly | known
        theirs = float(functional.auroc(scores[some], labels[some]))
        assert found[name] == pytest.approx(100 * theirs, rel=1e-6)


def test_risks_are_torch_uncertaintys_but_for_the_ends(ranked):
    """Its areas are of straight lines from coverage 1/n to 1, over 1 - 1/n; ours are means."""
    reason = "compared where it is installed: pip install torch-uncertainty"
    theirs = pytest.importorskip("torch_uncertainty.metrics.classification", reason=reason)
    right, anomaly, scores = ranked
    mistaken = ~right[~anomaly]
    scores = scores[~anomaly]
    if len(np.unique(scores)) < len(scores):
        pytest.skip("it has tied images in the order in which they are given")
    n = len(scores)
    sure = torch.from_numpy(1 / (1 + np.exp(np.tanh(scores) - 1.1)))  # above 1/2, falls with scores
    mistakes = np.cumsum(mistaken[np.argsort(scores)])
    ours = failure.risks(mistaken, scores)
    for metric, rates, value in (
        (theirs.AURC(), mistakes / np.arange(1, n + 1), ours[0]),
        (theirs.AUGRC(), mistakes / n, ours[1]),
    ):
        metric.update(torch.stack([sure, 1 - sure], dim=1), torch.from_numpy(mistaken).long())
        ends = (rates[0] + rates[-1]) / (2 * n)
        area = float(metric.compute()) * (1 - 1 / n) + ends
        assert value == pytest.approx(100 * area, rel=1e-5)


def test_a_table_has_the_measures_of_records_means_over_trials_then_classes(tmp_path):
    experiment = tiny(tmp_path, methods="classification", trials=2, scores="msp")
    tiny_data(tmp_path / "data")
    records = runs.complete(experiment)
    expected = []
    for hold_out in dict.fromkeys(record.hold_out for record in records):
        of_class = []
        for record in records:
            if record.hold_out == hold_out:
                arrays = record.scores()
                right = arrays["label"] == arrays["predicted"]
                of_class.append(failure.measures(right, arrays["is_anomaly"], arrays["msp"]))
        expected.append(pd.DataFrame(of_class).mean())
    found = failure.table([(experiment, records)]).loc["classification", "msp"]
    assert found.to_dict() == pytest.approx(pd.concat(expected, axis=1).mean(axis=1).to_dict())
