"""Measures of unseen images against mistakes, from their definitions and from a library."""

import numpy as np
import pytest

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
    mistaken, scores = ~right[~anomaly], scores[~anomaly]
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
