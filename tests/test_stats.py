"""Measures, intervals and contrasts against scikit-learn, SciPy, literal slow versions, and
simulations of their coverage.
"""

import itertools
import time
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from helpers import MADE_UP, finish, made_up
from scipy.optimize import brentq
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from workbench.experiment import ConfigError, create
from workbench.results import plots, show, stats
from workbench.runs import plan, store

Z = 1.959964


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


SCORES = ["msp", "odin", "energy", "knn"]


def scored(seed, images=300, ties=True):
    """Labels and scores, half of them tied."""
    rng = np.random.default_rng(seed)
    anomaly = rng.random(images) < 0.2
    scores = rng.normal(anomaly * 1.0)
    return anomaly, np.where(rng.random(images) < 0.5, scores.round(), scores) if ties else scores


# --- one ranking


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["floats", "ranks", "constant", "infinite"])
def test_measures_are_scikit_learns(seed, kind):
    anomaly, scores = scored(seed)
    if kind == "constant":
        scores = np.zeros(len(anomaly))
    elif kind == "ranks":
        scores = np.unique(scores, return_inverse=True)[1].astype(np.uint16)
    elif kind == "infinite":
        scores = np.where(scores > 2, np.inf, scores)
    finite = np.minimum(scores, 1e6)
    ranking = stats.Ranking(anomaly, scores)
    assert ranking.average_precision() == pytest.approx(average_precision_score(anomaly, finite))
    assert ranking.auroc() == pytest.approx(roc_auc_score(anomaly, finite))
    fpr, tpr, _ = roc_curve(anomaly, finite, drop_intermediate=False)
    assert ranking.fpr95() == pytest.approx(fpr[tpr >= 0.95][0])
    precision, recall, _ = precision_recall_curve(anomaly, finite)
    assert ranking.trapezoid() == pytest.approx(auc(recall, precision))
    for share in (0.001, 0.1, 0.5, anomaly.mean()):
        weight = np.where(anomaly, 1, (1 - share) / share * anomaly.sum() / (~anomaly).sum())
        expected = average_precision_score(anomaly, finite, sample_weight=weight)
        assert ranking.average_precision(share) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_the_bounds_are_those_of_all_orders_that_ties_leave(seed):
    rng = np.random.default_rng(seed)
    anomaly, scores = np.r_[True, False, rng.random(5) < 0.5], rng.integers(0, 3, 7)
    orders = [o for o in itertools.permutations(range(7)) if (np.diff(scores[list(o)]) <= 0).all()]
    every = [average_precision_score(anomaly[list(o)], -np.arange(7)) for o in orders]
    assert stats.Ranking(anomaly, scores).bounds() == pytest.approx((min(every), max(every)))


def test_an_audit_is_of_each_score_of_a_file_with_either_statistics(tmp_path):
    anomaly, scores = scored(0)
    arrays = {
        "label": anomaly * 1,
        "predicted": anomaly * 1,
        "is_anomaly": anomaly,
        "mine": scores,
        "mine@upright": -scores,
    }
    np.savez(tmp_path / "scores.npz", **arrays)
    with np.load(tmp_path / "scores.npz") as file:
        row = stats.audit(file).loc["mine"]
        assert stats.audit(file, "upright").average_precision.tolist() == pytest.approx(
            [100 * average_precision_score(anomaly, -scores)]
        )
    with pytest.raises(ValueError, match="need is_anomaly"):
        stats.audit({"mine": scores})
    ranking = stats.Ranking(anomaly, scores)
    assert row.tolist()[:2] == pytest.approx(
        [100 * ranking.average_precision(), 100 * ranking.trapezoid()]
    )
    assert tuple(row[["lowest", "highest"]] / 100) == pytest.approx(ranking.bounds())
    assert row.tied == pytest.approx(100 * np.mean([(scores == s).sum() > 1 for s in scores]))
    text = show.audit(stats.audit(arrays))
    ties = ["Lowest order of ties", "Highest order of ties"]
    assert text.columns.tolist() == [
        "Average precision",
        "By trapezoids",
        *ties,
        "Images that share a score",
    ]
    assert text.loc["mine"].tolist() == [f"{value:.2f}" for value in row]


@pytest.mark.parametrize(
    ("anomaly", "scores", "said"),
    [
        ([0, 1], [1.0, 2.0, 3.0], "should be"),
        ([[0, 1]], [[1.0, 2.0]], "should be"),
        ([0, 0], [1.0, 2.0], "both"),
        ([1, 1], [1.0, 2.0], "both"),
        ([0, 2], [1.0, 2.0], "both"),
        ([0, 1], [1.0, np.nan], "1 of 2 scores are NaN"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(anomaly, scores, said):
    with pytest.raises(ValueError, match=said):
        stats.Ranking(anomaly, scores)
    with pytest.raises(ValueError, match=said):
        stats.interval(anomaly, scores)


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_a_prevalence_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.Ranking([0, 1], [0.0, 1.0]).average_precision(share)


# --- intervals


def test_a_resample_is_the_average_precision_of_the_images_that_it_draws():
    anomaly, scores = scored(1)
    counts = stats.draws(anomaly, 20, seed=3)
    expected = [average_precision_score(anomaly.repeat(c), scores.repeat(c)) for c in counts.T]
    np.testing.assert_allclose(stats.Ranking(anomaly, scores).resampled(counts), expected)


def test_draws_keep_each_strata_and_are_a_bootstraps():
    strata = np.arange(90) % 3 + (np.arange(90) < 40)
    counts = stats.draws(strata, 4000, seed=1)
    for stratum in np.unique(strata):
        of = counts[strata == stratum]
        assert (of.sum(0) == len(of)).all()
        assert of.var() == pytest.approx(1 - 1 / len(of), rel=0.02)  # a binomial's
    np.testing.assert_allclose(counts.mean(1), 1, atol=0.08)
    np.testing.assert_array_equal(counts, stats.draws(strata, 4000, seed=1))


def literal_bootstrap(anomaly, scores, count):
    """Stratified, an image at a time; (count, len(scores)) average precisions."""
    rng, parts = np.random.default_rng(9), [np.flatnonzero(anomaly), np.flatnonzero(~anomaly)]
    drawn = [np.concatenate([rng.choice(part, len(part)) for part in parts]) for _ in range(count)]
    return np.array([[average_precision_score(anomaly[d], s[d]) for s in scores] for d in drawn])


def test_intervals_of_many_are_a_bootstraps_on_the_logit_scale_and_of_differences_paired():
    rng = np.random.default_rng(2)
    anomaly = np.arange(2000) < stats.MANY
    one = rng.normal(anomaly * 1.0)
    other = one + rng.normal(0, 0.5, 2000)
    slow = literal_bootstrap(anomaly, [one, other], 600)
    logit = scipy.special.logit
    value, low, high = stats.interval(anomaly, one)
    assert value == pytest.approx(average_precision_score(anomaly, one))
    assert logit([low, high]).mean() == pytest.approx(logit(value))
    assert (logit(high) - logit(low)) / 2 == pytest.approx(
        1.96 * logit(slow[:, 0]).std(ddof=1), rel=0.1
    )
    value, low, high = stats.difference_interval(anomaly, one, other)
    assert value == pytest.approx(
        average_precision_score(anomaly, one) - average_precision_score(anomaly, other)
    )
    assert (low + high) / 2 == pytest.approx(value)
    assert (high - low) / 2 == pytest.approx(1.96 * (slow[:, 0] - slow[:, 1]).std(ddof=1), rel=0.1)
    assert np.allclose(stats.difference_interval(anomaly, other, one), (-value, -high, -low))
    assert stats.difference_interval(anomaly, one, 2 * one) == (0, 0, 0)


def test_the_interval_of_tens_is_the_logits():
    anomaly = np.arange(400) < 40
    scores = np.random.default_rng(0).normal(anomaly * 1.0)
    value, low, high = stats.interval(anomaly, scores)
    half = 1.959964 / np.sqrt(40 * value * (1 - value))
    np.testing.assert_allclose(
        [low, high], scipy.special.expit(scipy.special.logit(value) + np.array([-half, half]))
    )


@pytest.mark.parametrize("images", [10, 100, 4000])
def test_of_perfect_scores_the_interval_ends_at_1_and_begins_below(images):
    anomaly = np.arange(images) < images // 4
    value, low, high = stats.interval(anomaly, anomaly * 1.0)
    assert value == high == 1 and 0 < low < 1
    assert (
        stats.interval(np.arange(images) < 1, np.arange(images))[1] > 0
    )  # one anomaly, found last


def test_a_bootstrap_of_10_000_images_and_1_000_resamples_takes_less_than_2_s():
    anomaly = np.arange(10_000) < 1000
    scores = np.random.default_rng(0).normal(anomaly * 1.0)
    began = time.process_time()
    stats.interval(anomaly, scores, resamples=1000)
    assert time.process_time() - began < 2


def population(distance, prevalence=0.1):
    """Average precision of normal images' N(0, 1) and anomalies' N(distance, 1), of endlessly many."""
    at = np.linspace(-9, 9 + distance, 100_001)
    recall, fallout = scipy.stats.norm.sf(at - distance), scipy.stats.norm.sf(at)
    precision = prevalence * recall / (prevalence * recall + (1 - prevalence) * fallout)
    return float(-(np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def distance_of(value):
    return brentq(lambda distance: population(distance) - value, 0.01, 4)


@pytest.fixture
def draws_once(monkeypatch):
    """A simulation resamples the same positions again and again: an image's score is random anyway."""
    real = cache(lambda stratum, count, seed: draw(np.frombuffer(stratum, bool), count, seed))
    draw = stats.draws
    monkeypatch.setattr(
        stats, "draws", lambda strata, count, seed=0: real(strata.tobytes(), count, seed)
    )


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.13, 0.23, 0.48])
def test_coverage_of_the_interval(value, draws_once):
    """Of a nominal 95 %: at least 94 with tens of anomalies, 93 to 97 with a thousand."""
    rng, distance = np.random.default_rng(4), distance_of(value)
    for anomalies, times in ((20, 2000), (50, 2000), (150, 2000), (stats.MANY, 1500), (1000, 1500)):
        anomaly, covered = np.arange(10 * anomalies) < anomalies, 0
        for _ in range(times):
            _, low, high = stats.interval(anomaly, rng.normal(anomaly * distance), resamples=200)
            covered += low <= value <= high
        # three standard errors of the simulation beside what is claimed
        assert covered / times > (0.94 if anomalies < stats.MANY else 0.93) - 0.01, (
            value,
            anomalies,
            covered / times,
        )
        assert anomalies < 1000 or covered / times < 0.97, (value, anomalies, covered / times)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.13, 0.23, 0.48])
def test_coverage_of_the_interval_of_a_difference(value, draws_once):
    rng, distance = np.random.default_rng(5), distance_of(value)
    true = value - population(
        distance / np.sqrt(1.25)
    )  # the other score has noise of its own, of deviation 0.5
    for anomalies, times in ((50, 1500), (1000, 800)):
        anomaly, covered = np.arange(10 * anomalies) < anomalies, 0
        for _ in range(times):
            one = rng.normal(anomaly * distance)
            _, low, high = stats.difference_interval(
                anomaly, one, one + rng.normal(0, 0.5, len(one)), resamples=200
            )
            covered += low <= true <= high
        assert covered / times > 0.93, (
            value,
            anomalies,
            covered / times,
        )  # 99 % near the share of anomalies


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.13, 0.23, 0.48])
def test_coverage_of_the_interval_of_a_mean_over_held_out_classes(value):
    """Of what other test sets of this size give on average."""
    rng, distance, label = (
        np.random.default_rng(2),
        distance_of(value),
        np.repeat(np.arange(10), 36),
    )
    counts, means, halves = stats.draws(label, 200, seed=1), [], []
    for _ in range(600):
        every = [stats.Ranking(label == k, rng.normal((label == k) * distance)) for k in range(10)]
        means.append(np.mean([ranking.average_precision() for ranking in every]))
        halves.append(
            Z * np.mean([ranking.resampled(counts) for ranking in every], axis=0).std(ddof=1)
        )
    covered = np.mean(np.abs(np.array(means) - np.mean(means)) < halves)
    assert 0.92 < covered < 0.98, (value, covered)


# --- tables over held-out classes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Ten held-out digits, two methods, two trials, four scores; upright scores are the mixed ones
    negated.
    """
    experiment = made_up(
        tmp_path_factory.mktemp("runs"), images=150, dataset="digits", trials=2, scores=SCORES
    )
    return [(experiment, store.collect(experiment.folder))]


@pytest.fixture(scope="module")
def found(runs):
    return stats.measured(runs, resamples=40)


def literal(runs, measure=lambda a, s: 100 * average_precision_score(a, s)):
    """The measure of each run and score, long form."""
    rows = [
        (
            r.dataset,
            r.hold_out,
            r.method,
            r.trial,
            s,
            measure(r.scores()["is_anomaly"], r.scores()[s]),
        )
        for _, records in runs
        for r in records
        for s in SCORES
    ]
    return pd.DataFrame(rows, columns=["dataset", "hold_out", "method", "trial", "score", "value"])


def test_the_leaderboard_is_of_means_with_three_sources_of_uncertainty_apart(runs, found):
    board, long = stats.leaderboard(found), literal(runs)
    others = {
        "auroc": literal(runs, lambda a, s: 100 * roc_auc_score(a, s)),
        "fpr95": literal(runs, lambda a, s: 100 * stats.Ranking(a, s).fpr95()),
    }
    assert sorted(board.index) == sorted(itertools.product(("classification", "rotation"), SCORES))
    for (method, score), row in board.iterrows():
        values = long[(long.method == method) & (long.score == score)].value
        trials = long[(long.method == method) & (long.score == score)].groupby("trial").value.mean()
        classes = (
            long[(long.method == method) & (long.score == score)].groupby("hold_out").value.mean()
        )
        assert row.average_precision == pytest.approx(
            values.mean()
        ) and row.trial_std == pytest.approx(trials.std())
        over = scipy.stats.ttest_1samp(classes, 0).confidence_interval()
        assert (row.class_low, row.class_high) == pytest.approx((over.low, over.high))
        half = Z * found.resampled[method, score].std()
        assert (row.images_low, row.images_high) == pytest.approx(
            (values.mean() - half, values.mean() + half)
        )
        for name, other in others.items():
            assert row[name] == pytest.approx(
                other[(other.method == method) & (other.score == score)].value.mean()
            )
    for _, part in board.groupby(level="method"):
        assert part.average_precision.is_monotonic_decreasing
    text = show.leaderboard(board)
    about = ["95 % over test images", "Std over trials", "95 % over held-out classes"]
    assert text.columns.tolist() == [
        "Average precision (%)",
        *about,
        "AUROC (%)",
        "FPR at 95 % recall (%)",
    ]
    row = board.iloc[0]
    texts = [f"{row.images_low:.2f} to {row.images_high:.2f}", f"{row.trial_std:.2f}"]
    texts += [
        f"{row.class_low:.2f} to {row.class_high:.2f}",
        f"{row.auroc:.2f}",
        f"{row.fpr95:.2f}",
    ]
    assert text.iloc[0].tolist() == [f"{row.average_precision:.2f}", *texts]
    assert (
        text.index.get_level_values("Detector")[board.index.get_level_values("score") == "odin"][0]
        == "ODIN (the paper's)"
    )
    assert "The paper" not in text


@pytest.mark.slow
def test_test_images_are_drawn_once_for_all_runs_and_each_class_apart(runs, found):
    label = runs[0][1][0].scores()["label"]
    counts = stats.draws(label, 40, seed=0)
    assert all((counts[label == k].sum(0) == (label == k).sum()).all() for k in range(10))
    for method, score in (("rotation", "odin"), ("classification", "msp")):
        for b in (0, 39):
            long = literal(
                runs,
                lambda a, s, b=b: 100 * average_precision_score(a, s, sample_weight=counts[:, b]),
            )
            mean = long[(long.method == method) & (long.score == score)].value.mean()
            assert found.resampled[method, score][b] == pytest.approx(mean)


def test_the_two_families_and_no_other_contrast_is_tested(runs, found):
    table, long = stats.contrasts(found), literal(runs)
    named = [("detectors", "classification", s, "msp") for s in SCORES[1:]]
    named += [("methods", "rotation", s, "classification") for s in ("msp", "odin")]
    columns = table[["family", "method", "score", "against"]]
    assert sorted(columns.itertuples(index=False, name=None)) == sorted(named)
    means = long.groupby(["hold_out", "method", "score"]).value.mean().unstack(["method", "score"])
    for row in table.itertuples():
        worse = ("classification", "msp" if row.family == "detectors" else row.score)
        gain = means[row.method, row.score] - means[worse]
        over = scipy.stats.ttest_1samp(gain, 0).confidence_interval()
        assert (row.difference, row.low, row.high) == pytest.approx(
            (gain.mean(), over.low, over.high)
        )
        assert row.p == pytest.approx(scipy.stats.wilcoxon(gain).pvalue) and (
            row.above,
            row.classes,
        ) == ((gain > 0).sum(), 10)
        spread = (found.resampled[row.method, row.score] - found.resampled[worse]).std()
        assert (row.images_low, row.images_high) == pytest.approx(
            (gain.mean() - Z * spread, gain.mean() + Z * spread)
        )
    for _, part in table.groupby("family"):
        np.testing.assert_allclose(part.holm, literal_holm(part.p.tolist()))
    text = show.contrasts(table)
    assert list(text.columns[:3]) == [
        "Difference (points)",
        "95 % over held-out classes",
        "95 % over test images",
    ]
    assert list(text.columns[-2:]) == ["p", "p by Holm"]  # last
    row = table.iloc[0]
    texts = [
        f"{row.difference:+.2f}",
        f"{row.low:+.2f} to {row.high:+.2f}",
        f"{row.images_low:+.2f} to {row.images_high:+.2f}",
    ]
    texts += [
        f"{row.above} of 10",
        *(show.p_value(p).removeprefix("= ") for p in (row.p, row.holm)),
    ]
    assert text.iloc[0].tolist() == texts
    every = stats.effects(found, "msp"), stats.effects(found, "classification")
    assert [len(e) for e in every] == [6, 4] and not any(
        {"p", "holm"} & set(e.columns) for e in every
    )
    both = every[1].merge(table, on=["method", "score", "against"])
    assert len(both) == 2 and (both.low_x == both.low_y).all()


def literal_holm(p):
    corrected = {}
    least = 0.0
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - k) * p[i]))
        corrected[i] = least
    return [corrected[i] for i in range(len(p))]


def test_holm_against_a_literal_version():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 15):
        p = rng.random(n) ** 3
        np.testing.assert_allclose(stats.holm(p), literal_holm(p.tolist()))
    np.testing.assert_allclose(stats.holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(
        stats.holm(np.array([np.nan, 0.02])), [np.nan, 0.04]
    )  # what can't be tested counts


def test_what_can_be_significant_at_all_is_said_as_it_is(found):
    """Fifteen contrasts over ten classes: only a win in all ten. Told from SciPy's test itself."""
    wins = np.arange(1.0, 11)
    assert (
        15 * scipy.stats.wilcoxon(wins).pvalue
        < 0.05
        <= 15 * scipy.stats.wilcoxon(np.r_[-1, wins[1:]]).pvalue
    )
    table = pd.DataFrame({"family": "detectors", "classes": 10}, index=range(15))
    assert "15 contrasts over 10 classes" in show.possible(
        table
    ) and "only by a win in every class" in show.possible(table)
    assert "nothing can be significant" in show.possible(table.assign(classes=8))
    assert 15 * scipy.stats.wilcoxon(wins[:8]).pvalue > 0.05
    two = pd.DataFrame({"family": "methods", "classes": 10}, index=range(2))
    assert "p = 0.004" in show.possible(two) and 2 * scipy.stats.wilcoxon(
        wins
    ).pvalue == pytest.approx(0.0039, abs=1e-4)


def test_a_class_that_lacks_a_run_is_left_out_and_data_sets_are_pooled(runs, tmp_path):
    experiment, records = runs[0]
    fewer = [r for r in records if not (r.hold_out == "3" and r.method == "rotation")]
    part = stats.measured([(experiment, fewer)], resamples=3)
    assert [name for _, name in part.classes.index] == [str(k) for k in range(10) if k != 3]
    assert stats.contrasts(part).classes.eq(9).all()
    without = stats.measured([(experiment, [r for r in records if r.hold_out != "3"])], resamples=3)
    pd.testing.assert_frame_equal(
        stats.leaderboard(part), stats.leaderboard(without)
    )  # in no column is anything of it
    short = [r for r in records if (r.hold_out, r.method, r.trial) != ("3", "rotation", 1)]
    board = stats.leaderboard(stats.measured([(experiment, short)], resamples=3))
    assert (
        board.trial_std["rotation"].isna().all() and board.trial_std["classification"].notna().all()
    )  # of whole trials
    other = made_up(tmp_path, images=150, dataset="cifar10", trials=1, scores=SCORES)
    pairs = [(experiment, records), (other, store.collect(other.folder))]
    both, *each = (stats.measured(those, resamples=3) for those in (pairs, pairs[:1], pairs[1:]))
    assert len(both.classes) == 20 and stats.contrasts(both).classes.eq(20).all()
    expected = pd.concat([part.classes for part in each]).mean()
    np.testing.assert_allclose(both.classes.mean(), expected[both.classes.columns])
    with pytest.raises(ConfigError, match=r"labels: .*digits has 2"):
        stats.measured([(experiment, records)] * 2)


def test_the_papers_numbers_stand_beside_those_of_its_data_set_alone(tmp_path):
    experiment = made_up(tmp_path, images=60, dataset="cifar10", trials=1, scores=SCORES)
    board = stats.leaderboard(
        stats.measured([(experiment, store.collect(experiment.folder))], resamples=2)
    )
    assert board.paper["classification", "msp"] == pytest.approx(34.92, abs=0.005)
    assert board.paper["rotation", "odin"] == pytest.approx(41.56, abs=0.005) and np.isnan(
        board.paper["rotation", "knn"]
    )
    assert show.leaderboard(board)["The paper"].str.len().gt(0).sum() == 4


def test_one_method_has_no_gain_and_one_trial_no_deviation(runs):
    experiment, records = runs[0]
    alone = [r for r in records if r.method == "classification" and r.trial == 0]
    found = stats.measured([(experiment, alone)], resamples=2)
    tested, gained = stats.contrasts(found), stats.effects(found, "classification")
    assert set(tested.family) == {"detectors"} and gained.empty
    assert show.answer(tested, gained, gained, experiment, alone) == ""
    assert (show.leaderboard(stats.leaderboard(found))["Std over trials"] == "-").all()
    (axis,) = plots.forest(found, stats.effects(found, "msp"), "Above MSP", tested).axes
    assert len([line for line in axis.lines if line.get_marker() == "D"]) == 3


def test_where_no_class_has_all_methods_it_is_said_so(runs):
    experiment, records = runs[0]
    apart = [r for r in records if (r.method == "rotation") == (r.hold_out in "01234")]
    found = stats.measured([(experiment, apart)], resamples=2)
    board, tested, gained = (
        stats.leaderboard(found),
        stats.contrasts(found),
        stats.effects(found, "classification"),
    )
    shown = [
        show.leaderboard(board),
        show.contrasts(tested),
        show.prevalences(stats.by_prevalence(found)),
    ]
    assert (
        "nan" not in " ".join(table.to_string() for table in shown)
        and "not run" in shown[0].to_string()
    )
    assert show.answer(
        tested, gained, gained, experiment, apart
    ) == "" and "over 0 classes" in show.possible(tested)
    assert "not run" in plots.forest(found, gained, "Above").axes[0].texts[0].get_text()


def test_without_runs_all_tables_and_figures_say_so(runs):
    experiment, records = runs[0][0], []
    found = stats.measured([(experiment, records)], resamples=2)
    board, tested, gained = (
        stats.leaderboard(found),
        stats.contrasts(found),
        stats.effects(found, "classification"),
    )
    assert (
        board.empty
        and tested.empty
        and show.answer(tested, gained, gained, experiment, records) == ""
    )
    for table in (
        show.leaderboard(board),
        show.contrasts(tested),
        show.reversals(stats.reversals(board)),
    ):
        assert table.empty
    curves, empty = (
        stats.by_prevalence(found),
        pd.DataFrame(columns=pd.MultiIndex.from_product([["p"], ["average_precision"]])),
    )
    alike = stats.correlations(found, empty)
    assert (
        show.prevalences(curves).empty
        and show.correlations(alike).empty
        and show.possible(tested) == ""
    )
    for figure in (
        plots.forest(found, gained, "Above"),
        plots.prevalence(curves, board),
        plots.probes(found, empty, alike),
    ):
        assert "not" in figure.axes[0].texts[0].get_text()


def test_pairs_that_others_rank_otherwise(found):
    board = stats.leaderboard(found)
    table = stats.reversals(board)
    expected = set()
    for method in ("classification", "rotation"):
        for a, b in itertools.permutations(SCORES, 2):
            x, y = board.loc[(method, a)], board.loc[(method, b)]
            if x.average_precision > y.average_precision and (
                x.auroc < y.auroc or x.fpr95 > y.fpr95
            ):
                expected.add((method, a, b))
    assert {(r.method, r.better, r.worse) for r in table.itertuples()} == expected and expected
    assert (table.average_precision > 0).all() and (table[["auroc", "fpr95"]] < 0).any(axis=1).all()
    (largest,) = show.reversals(table, most=1).itertuples(index=False)
    row = table.loc[table.average_precision.idxmax()]
    assert [*largest] == [f"{row[name]:+.2f}" for name in ("average_precision", "auroc", "fpr95")]


def test_by_prevalence_is_the_mean_of_the_runs(runs, found):
    table = stats.by_prevalence(found, (0.01, 0.5))
    for share in (0.01, 0.5):

        def at(anomaly, scores, share=share):
            weight = np.where(anomaly, 1, (1 - share) / share * anomaly.sum() / (~anomaly).sum())
            return 100 * average_precision_score(anomaly, scores, sample_weight=weight)

        mean = literal(runs, at).groupby(["method", "score"]).value.mean()
        for pair in table.columns:
            assert table.loc[share, pair] == pytest.approx(mean[pair])
    text = show.prevalences(table)
    assert text.columns.tolist() == ["1.0%", "50.0%"]
    assert text.loc[("Rotation-augmented", "KNN")].tolist() == [
        f"{value:.2f}" for value in table["rotation", "knn"]
    ]


def probed(found, seed=0):
    values = np.random.default_rng(seed).random((len(found.classes), 2)) * 20
    columns = pd.MultiIndex.from_product(
        [["Gaussian", "edges"], ["average_precision", "low", "high"]]
    )
    return pd.DataFrame(np.repeat(values, 3, 1) + [0, -1, 2] * 2, found.classes.index, columns)


def test_correlations_are_spearmans_over_classes(found):
    table = probed(found)
    alike = stats.correlations(found, table)
    assert len(alike) == 2 * 8 and alike.rho.min() < 0 < alike.rho.max()
    for row in alike.itertuples():
        known = scipy.stats.spearmanr(
            found.classes[row.method, row.score], table[row.probe, "average_precision"]
        )
        assert row.rho == pytest.approx(known.statistic) and -1 <= row.low < row.rho < row.high <= 1
        half = 1.959964 * np.sqrt((1 + row.rho**2 / 2) / 7)
        assert np.arctanh([row.low, row.high]) == pytest.approx(
            np.arctanh(row.rho) + half * np.array([-1, 1])
        )
        at = ["MSP (the paper's)", "ODIN (the paper's)", "Energy", "KNN"][SCORES.index(row.score)]
        text = show.correlations(alike).loc[(show.label(row.method), at), row.probe]
        assert text == f"{row.rho:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
    same = table.copy()
    same["Gaussian", "average_precision"] = 1.0
    assert stats.correlations(found, same).query("probe == 'Gaussian'").rho.isna().all()
    assert "undefined" in show.correlations(stats.correlations(found, same)).to_string()


# --- figures


def test_the_forest_has_a_row_a_score_the_classes_as_dots_and_both_intervals(found):
    table, tested = stats.effects(found, "msp"), stats.contrasts(found)
    tested["holm"] = np.linspace(0.1, 0.9, len(tested))  # a p of its own for each row
    (axis,) = plots.forest(found, table, "Above MSP", tested[tested.family == "detectors"]).axes
    shown = [text.get_text() for text in axis.get_yticklabels()]
    rising = (
        table[table.method == "classification"].set_index("score").difference.sort_values().index
    )
    assert shown == [show.label(s) + " *" * (s == "odin") for s in rising]
    lines = {tuple(line.get_xdata()): line for line in axis.lines}
    for row in table.itertuples():
        gain = found.classes[row.method, row.score] - found.classes[row.method, "msp"]
        dots, thin, thick, mean = (
            lines[k]
            for k in (
                tuple(gain),
                (row.low, row.high),
                (row.images_low, row.images_high),
                (row.difference,),
            )
        )
        assert thin.get_linewidth() < thick.get_linewidth()
        assert len({line.get_ydata()[0] for line in (dots, thin, thick, mean)}) == 1
        assert len({line.get_color() for line in (dots, thin, thick, mean)}) == 1
    colours = {line.get_color() for line in axis.lines if line.get_marker() == "D"}
    assert (
        len(colours) == 2
        and "over held-out classes" in axis.get_xlabel()
        and "over test images" in axis.get_xlabel()
    )
    p = tested[tested.family == "detectors"].set_index("score").holm
    assert sorted((text.xy[1], text.get_text()) for text in axis.texts) == [
        (k, f"p {show.p_value(p[s])}") for k, s in enumerate(rising)
    ]
    legend = {
        text: line.get_color() for line, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    methods = ("classification", "rotation")
    assert legend == {show.label(m): plots.colours(methods)[m] for m in methods}


def test_no_more_than_six_curves_are_drawn_in_a_panel_unless_asked(runs, found):
    experiment, records = runs[0]
    one = experiment.model_copy(update={"hold_out": ("7",)})
    of_one = [r for r in records if r.hold_out == "7"]
    for most, scores in ((plots.CURVES, 3), (4, 2), (100, 4)):
        (axis,) = (figure := plots.precision_recall(one, of_one, curves=most)).axes
        assert len(axis.lines) - 1 == 2 * scores == len(figure.legends[0].texts) - 1  # and chance
        assert (f"first {scores} of 4 scores" in figure.get_suptitle()) == (scores < 4)
    assert plots.CURVES == 6 and len(plots.precision_recall(one, of_one).axes[0].lines) == 7
    curves, board = stats.by_prevalence(found), stats.leaderboard(found)
    figure = plots.prevalence(curves, board, curves=3)
    best = next(s for m, s in board.index if m == "classification" and s not in ("msp", "odin"))
    for axis, method in zip(figure.axes, ("classification", "rotation"), strict=True):
        assert axis.get_legend_handles_labels()[1] == ["MSP", "ODIN", show.label(best)]
        np.testing.assert_allclose(
            axis.lines[0].get_ydata(), curves[method, "msp"] / 100 / curves.index
        )


def test_the_probes_figure_shows_each_class_where_it_lies(found):
    table = probed(found)
    alike = stats.correlations(found, table)
    figure, alike = (
        plots.probes(found, table, alike, "odin"),
        alike[alike.score == "odin"].set_index(["method", "probe"]),
    )
    for axis, probe in zip(figure.axes, ("Gaussian", "edges"), strict=True):
        x = table[probe, "average_precision"]
        points = [tuple(map(tuple, c.lines[0].get_xydata())) for c in axis.containers]
        expected = [
            tuple(zip(x, found.classes[m, "odin"], strict=True))
            for m in ("classification", "rotation")
        ]
        np.testing.assert_allclose(points, expected)
        for bars, method in zip(axis.containers, ("classification", "rotation"), strict=True):
            assert (
                f"{show.label(method)}: rank correlation {show.correlation(alike.loc[(method, probe)])},"
                in bars.get_label()
            )
            ends = [segment[:, 0] for segment in bars.lines[2][0].get_segments()]
            np.testing.assert_allclose(ends, table[probe][["low", "high"]])
        assert [text.get_text() for text in axis.texts] == [name for _, name in found.classes.index]


def test_the_answer_names_the_best_detector_and_what_is_certain(tmp_path):
    """Energy is above MSP in every class, with rotation everything is better: made so."""
    experiment = create({"outputs": str(tmp_path), "data_root": str(tmp_path), "profile": "x", "dataset": "digits"}
                               | {"trials": 1, "scores": ["msp", "odin", "energy"]})  # fmt: skip
    rng, label = np.random.default_rng(0), np.arange(400) % 10
    for run in plan.planned(experiment):
        anomaly, better = label == int(run.hold_out), 0.6 * (run.method == "rotation")
        noise = rng.normal(size=400)
        arrays = {"msp": noise + anomaly * (0.5 + better), "odin": noise - anomaly * (1 - better)}
        arrays |= {"energy": noise + anomaly * (2 + better)}
        arrays |= {f"{name}@upright": values for name, values in arrays.items()}
        fixed = {
            "label": label,
            "predicted": label,
            "predicted@upright": label,
            "is_anomaly": anomaly,
        }
        finish(
            plan.Run(experiment, run.hold_out, run.method, 0, run.data or MADE_UP),
            tuple("0123456789"),
            fixed | arrays,
            plan.scoring(experiment),
        )
    records = store.collect(experiment.folder)
    found = stats.measured([(experiment, records)])
    gained = stats.effects(found, "classification")
    text = show.answer(stats.contrasts(found), gained, gained, experiment, records)
    assert text.startswith(
        "On digits 1 of 2 detectors are above MSP for the plain classifier, Energy highest: +"
    )
    sure = "Energy is significantly above MSP (Energy: p = 0.004, above in 10 of 10 classes); significantly below: ODIN."
    assert sure in text
    assert (
        "Rotation's gain survives with Energy: +" in text
        and "one trial" in text
        and "with 3 of 3 scores, its interval with 3." in text
    )
    assert text.count(". ") == 2
    tested, other = stats.contrasts(found), gained.assign(difference=-1.0, low=-2.0, high=0.5)
    best = tested[tested.score == "energy"].iloc[0]
    intervals = f"{best.low:+.2f} to {best.high:+.2f}, over test images {best.images_low:+.2f} to {best.images_high:+.2f}"
    assert f"(95 % over 10 held-out classes {intervals}; mixed statistics, one trial)" in text
    text = show.answer(
        tested.assign(holm=0.06), gained.assign(low=-1.0), other, experiment, records
    )
    assert "none is significantly above MSP" in text and "significantly below: none." in text
    assert (
        "gain stays, but less certainly, with" in text
        and "upright statistics: -1.00, -2.00 to +0.50)" in text
    )
    assert "gain does not survive with" in show.answer(tested, other, gained, experiment, records)
