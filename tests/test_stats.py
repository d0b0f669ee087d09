"""Measures, intervals and contrasts against scikit-learn, SciPy and literal slow versions.

The coverage of the intervals is simulated.
"""

import itertools
from collections import defaultdict
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from helpers import cells, made_up
from scipy.optimize import brentq
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from workbench.experiment import ConfigError
from workbench.results import ranking, show, stats
from workbench.runs import store

Z = 1.959964
SCORES = ["msp", "odin", "energy", "knn"]
DETECTORS = cells("detectors")


def scored(seed, images=300):
    """Labels and scores, half of them tied."""
    rng = np.random.default_rng(seed)
    anomaly = rng.random(images) < 0.2
    scores = rng.normal(anomaly * 1.0)
    return anomaly, np.where(rng.random(images) < 0.5, scores.round(), scores)


def at_prevalence(anomaly, scores, share):
    weight = np.where(anomaly, 1, (1 - share) / share * anomaly.sum() / (~anomaly).sum())
    return average_precision_score(anomaly, scores, sample_weight=weight)


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
    ranked = stats.Ranking(anomaly, scores)
    assert ranked.average_precision() == pytest.approx(average_precision_score(anomaly, finite))
    assert ranked.auroc() == pytest.approx(roc_auc_score(anomaly, finite))
    fpr, tpr, _ = roc_curve(anomaly, finite, drop_intermediate=False)
    assert ranked.fpr95() == pytest.approx(fpr[tpr >= 0.95][0])
    precision, recall, _ = precision_recall_curve(anomaly, finite)
    assert ranked.trapezoid() == pytest.approx(auc(recall, precision))
    for share in (0.001, 0.1, 0.5, anomaly.mean()):
        expected = at_prevalence(anomaly, finite, share)
        assert ranked.average_precision(share) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_the_bounds_are_those_of_all_orders_that_ties_leave(seed):
    rng = np.random.default_rng(seed)
    anomaly = np.r_[True, False, rng.random(5) < 0.5]
    scores = rng.integers(0, 3, 7)
    every = []
    for order in map(list, itertools.permutations(range(7))):
        if (np.diff(scores[order]) <= 0).all():
            every.append(average_precision_score(anomaly[order], -np.arange(7)))
    assert stats.Ranking(anomaly, scores).bounds() == pytest.approx((min(every), max(every)))


def test_an_audit_is_of_each_score_of_a_file_with_either_statistics(tmp_path):
    anomaly, scores = scored(0)
    arrays = {"label": anomaly * 1, "predicted": anomaly * 1, "is_anomaly": anomaly}
    np.savez(tmp_path / "scores.npz", **arrays, **{"mine": scores, "mine@upright": -scores})
    with np.load(tmp_path / "scores.npz") as file:
        table = stats.audit(file)
        upright = stats.audit(file, "upright")
    expected = [100 * average_precision_score(anomaly, -scores)]
    assert upright.average_precision.tolist() == pytest.approx(expected)
    ranked = stats.Ranking(anomaly, scores)
    tied = np.mean([(scores == one).sum() > 1 for one in scores])
    rules = [ranked.average_precision(), ranked.trapezoid(), *ranked.bounds(), tied]
    assert table.loc["mine"].tolist() == pytest.approx(100 * np.array(rules))
    with pytest.raises(ValueError, match="is_anomaly should be beside the scores"):
        stats.audit({"mine": scores})


WRONG = [([0, 1], [1.0, 2.0, 3.0], "should be"), ([[0, 1]], [[1.0, 2.0]], "should be")]
WRONG += [(labels, [1.0, 2.0], "both") for labels in ([0, 0], [1, 1], [0, 2])]
WRONG += [([0, 1], [1.0, np.nan], "1 of 2 scores are NaN")]


@pytest.mark.parametrize(("anomaly", "scores", "said"), WRONG)
def test_what_cannot_be_ranked_and_no_prevalence_is_one_line(anomaly, scores, said):
    with pytest.raises(ValueError, match=said):
        stats.interval(anomaly, scores)
    for share in (0, 1, -0.1, 2):
        with pytest.raises(ValueError, match="between 0 and 1"):
            stats.Ranking([0, 1], [0.0, 1.0]).average_precision(share)


# --- intervals


def test_a_resample_is_the_average_precision_of_the_images_that_it_draws():
    anomaly, scores = scored(1)
    counts = stats.draws(anomaly, 20, seed=3)
    expected = [average_precision_score(anomaly.repeat(c), scores.repeat(c)) for c in counts.T]
    np.testing.assert_allclose(stats.Ranking(anomaly, scores).resampled(counts), expected)


def test_draws_keep_each_stratum_and_are_a_bootstraps():
    strata = np.arange(90) % 3 + (np.arange(90) < 40)
    counts = stats.draws(strata, 4000, seed=1)
    for stratum in np.unique(strata):
        of = counts[strata == stratum]
        assert (of.sum(0) == len(of)).all()
        assert of.var() == pytest.approx(1 - 1 / len(of), rel=0.02)  # a binomial's
    np.testing.assert_allclose(counts.mean(1), 1, atol=0.08)
    np.testing.assert_array_equal(counts, stats.draws(strata, 4000, seed=1))


def test_the_interval_of_many_is_a_stratified_bootstraps_on_the_logit_scale():
    rng = np.random.default_rng(2)
    anomaly = np.arange(2000) < ranking.MANY
    scores = rng.normal(anomaly * 1.0)
    parts = [np.flatnonzero(anomaly), np.flatnonzero(~anomaly)]
    slow = []
    for _ in range(600):
        drawn = np.concatenate([rng.choice(part, len(part)) for part in parts])
        slow.append(average_precision_score(anomaly[drawn], scores[drawn]))
    logit = scipy.special.logit
    value, low, high = stats.interval(anomaly, scores)
    assert value == pytest.approx(average_precision_score(anomaly, scores))
    assert logit([low, high]).mean() == pytest.approx(logit(value))
    half = 1.96 * logit(slow).std(ddof=1)
    assert (logit(high) - logit(low)) / 2 == pytest.approx(half, rel=0.1)


def test_the_interval_of_tens_is_the_logits_and_that_of_perfect_scores_ends_at_1():
    anomaly = np.arange(400) < 40
    value, *ends = stats.interval(anomaly, np.random.default_rng(0).normal(anomaly * 1.0))
    half = Z / np.sqrt(40 * value * (1 - value))
    expected = scipy.special.expit(scipy.special.logit(value) + np.array([-half, half]))
    np.testing.assert_allclose(ends, expected)
    for images in (10, 100, 4000):
        anomaly = np.arange(images) < images // 4
        value, low, high = stats.interval(anomaly, anomaly * 1.0)
        assert value == high == 1 and 0 < low < 1
        last = stats.interval(np.arange(images) < 1, np.arange(images))  # one anomaly, found last
        assert last[1] > 0


def average_precision_of(distance, prevalence=0.1):
    """Of endlessly many normal images' N(0, 1) and anomalies' N(distance, 1)."""
    at = np.linspace(-9, 9 + distance, 100_001)
    recall = scipy.stats.norm.sf(at - distance)
    false = (1 - prevalence) * scipy.stats.norm.sf(at)
    precision = prevalence * recall / (prevalence * recall + false)
    return float(-(np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def distance_of(value):
    return brentq(lambda distance: average_precision_of(distance) - value, 0.01, 4)


@pytest.fixture
def draws_once(monkeypatch):
    """A simulation resamples the same positions again and again: scores are random anyway."""
    draw = ranking.draws
    once = cache(lambda strata, count, seed: draw(np.frombuffer(strata, bool), count, seed))

    def draws(strata, count, seed=0):
        return once(strata.tobytes(), count, seed)

    monkeypatch.setattr(ranking, "draws", draws)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.13, 0.23, 0.48])
def test_coverage_of_the_interval(value, draws_once):
    """Of a nominal 95 %: at least 94 with tens of anomalies, 93 to 97 with a thousand."""
    rng = np.random.default_rng(4)
    distance = distance_of(value)
    many = ranking.MANY
    for anomalies, times in ((20, 2000), (50, 2000), (150, 2000), (many, 1500), (1000, 1500)):
        anomaly = np.arange(10 * anomalies) < anomalies
        hits = 0
        for _ in range(times):
            _, low, high = stats.interval(anomaly, rng.normal(anomaly * distance), resamples=200)
            hits += low <= value <= high
        covered = hits / times
        # three standard errors of the simulation beside what is claimed
        least = (0.94 if anomalies < many else 0.93) - 0.01
        assert least < covered < (1 if anomalies < 1000 else 0.97), (value, anomalies, covered)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.13, 0.23, 0.48])
def test_coverage_of_the_interval_of_a_mean_over_held_out_classes(value):
    """Of the mean that other test sets of this size give on average."""
    rng = np.random.default_rng(2)
    distance = distance_of(value)
    label = np.repeat(np.arange(10), 36)
    counts = stats.draws(label, 200, seed=1)
    means = []
    halves = []
    for _ in range(600):
        every = [stats.Ranking(label == k, rng.normal((label == k) * distance)) for k in range(10)]
        means.append(np.mean([ranked.average_precision() for ranked in every]))
        resampled = np.mean([ranked.resampled(counts) for ranked in every], axis=0)
        halves.append(Z * resampled.std(ddof=1))
    covered = np.mean(np.abs(np.array(means) - np.mean(means)) < halves)
    assert 0.92 < covered < 0.98, (value, covered)


# --- tables over held-out classes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Ten held-out digits, two methods, two trials, four scores."""
    folder = tmp_path_factory.mktemp("runs")
    experiment = made_up(folder, images=150, dataset="digits", trials=2, scores=SCORES)
    return [(experiment, store.collect(experiment.folder))]


@pytest.fixture(scope="module")
def found(runs):
    return stats.measured(runs, resamples=40)


def literal(runs, measure):
    """The measure of each run and score in percent, by hold_out, method, trial and score."""
    values = {}
    for record in runs[0][1]:
        arrays = record.scores()
        for score in SCORES:
            key = (record.hold_out, record.method, record.trial, score)
            values[key] = 100 * measure(arrays["is_anomaly"], arrays[score])
    return pd.Series(values).rename_axis(["hold_out", "method", "trial", "score"])


def of_pair(long, method, score, by):
    return long.xs((method, score), level=("method", "score")).groupby(level=by).mean()


def test_the_leaderboard_is_of_means_with_three_sources_of_uncertainty_apart(runs, found):
    board = stats.leaderboard(found)
    long = literal(runs, average_precision_score)
    others = {"auroc": literal(runs, roc_auc_score)}
    others["fpr95"] = literal(runs, lambda a, s: stats.Ranking(a, s).fpr95())
    assert sorted(board.index) == sorted(itertools.product(("classification", "rotation"), SCORES))
    for pair, row in board.iterrows():
        classes = of_pair(long, *pair, "hold_out")
        over = scipy.stats.ttest_1samp(classes, 0).confidence_interval()
        half = Z * found.resampled[pair].std()
        mean = classes.mean()
        expected = {"average_precision": mean, "images_low": mean - half, "class_low": over.low}
        expected |= {"images_high": mean + half, "class_high": over.high}
        expected["trial_std"] = of_pair(long, *pair, "trial").std()
        for name, other in others.items():
            expected[name] = of_pair(other, *pair, "hold_out").mean()
        assert row[[*expected]].to_dict() == pytest.approx(expected)
    for _, part in board.groupby(level="method"):
        assert part.average_precision.is_monotonic_decreasing
    text = show.text(board).iloc[0]
    row = board.iloc[0]
    assert text["95 % over test images"] == f"{row.images_low:.2f} to {row.images_high:.2f}"
    assert text["95 % over held-out classes"] == f"{row.class_low:.2f} to {row.class_high:.2f}"
    assert text["Std over trials"] == f"{row.trial_std:.2f}" and "The paper" not in text


def test_test_images_are_drawn_once_for_all_runs_and_each_class_apart(runs, found):
    label = runs[0][1][0].scores()["label"]
    counts = stats.draws(label, 40, seed=0)
    assert all((counts[label == k].sum(0) == (label == k).sum()).all() for k in range(10))
    for b in (0, 39):
        weight = {"sample_weight": counts[:, b]}
        long = literal(runs, lambda a, s, weight=weight: average_precision_score(a, s, **weight))
        for pair in (("rotation", "odin"), ("classification", "msp")):
            expected = of_pair(long, *pair, "hold_out").mean()
            assert found.resampled[pair][b] == pytest.approx(expected)


def test_the_two_families_and_no_other_contrast_is_tested(runs, found):
    every = stats.contrasts(found)
    table = every.dropna(subset="family")
    named = [("detectors", "classification", score, "msp") for score in SCORES[1:]]
    named += [("methods", "rotation", score, "classification") for score in ("msp", "odin")]
    columns = table[["family", "method", "score", "against"]]
    assert sorted(columns.itertuples(index=False, name=None)) == sorted(named)
    long = literal(runs, average_precision_score)
    gains = defaultdict(list)
    for row in table.itertuples():
        worse = ("classification", "msp" if row.family == "detectors" else row.score)
        gain = of_pair(long, row.method, row.score, "hold_out") - of_pair(long, *worse, "hold_out")
        gains[row.family].append(gain)
        over = scipy.stats.ttest_1samp(gain, 0).confidence_interval()
        spread = (found.resampled[row.method, row.score] - found.resampled[worse]).std()
        expected = [gain.mean(), over.low, over.high, gain.mean() - Z * spread]
        expected += [gain.mean() + Z * spread, (gain > 0).sum(), 10, scipy.stats.wilcoxon(gain)[1]]
        numbers = [row.difference, row.low, row.high, row.images_low, row.images_high]
        assert [*numbers, row.above, row.classes, row.p] == pytest.approx(expected)
    for family, part in table.groupby("family"):
        np.testing.assert_allclose(part.holm, literal_holm(part.p.tolist()))
        np.testing.assert_allclose(part.max_t, literal_max_t(gains[family]))
    text = show.text(table)
    # last, differences come first
    assert text.columns[-3:].tolist() == ["p", "p by Holm", "p by max-t"]
    row = table.iloc[0]
    shown = [f"{row.difference:+.2f}", f"{row.low:+.2f} to {row.high:+.2f}"]
    assert text.iloc[0].tolist()[:2] == shown
    assert every.against.value_counts().to_dict() == {"msp": 6, "classification": 4}
    others = every[every.family.isna()]
    assert others[["p", "holm", "max_t"]].isna().all(axis=None) and others.low.notna().all()


def literal_holm(p):
    corrected = {}
    least = 0.0
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - k) * p[i]))
        corrected[i] = least
    return [corrected[i] for i in range(len(p))]


def literal_max_t(gains):
    """Each of the 2^classes flips of the signs in turn."""
    largest = []
    for signs in itertools.product((1, -1), repeat=len(gains[0])):
        flipped = [gain * np.array(signs) for gain in gains]
        largest.append(max(abs(one.mean() / one.std()) for one in flipped))
    own = [abs(gain.mean() / gain.std()) for gain in gains]
    return [np.mean(np.array(largest) >= t * (1 - 1e-9)) for t in own]


def test_max_t_of_one_contrast_is_the_sign_flip_test_and_a_sample_comes_close(monkeypatch):
    rng = np.random.default_rng(0)
    gained = pd.DataFrame(rng.normal(0.5, 1, (12, 3)) + rng.normal(0, 1, (12, 1)))
    one = stats.max_t(gained[[0]]).item()
    how = {"permutation_type": "samples", "n_resamples": np.inf}
    exact = scipy.stats.permutation_test([gained[0]], np.mean, **how).pvalue
    assert one == pytest.approx(exact)
    every = stats.max_t(gained)
    assert every[0] >= one
    monkeypatch.setattr(stats, "EXACT", 11)
    np.testing.assert_allclose(stats.max_t(gained), every, atol=0.03)


def test_fifteen_contrasts_over_ten_classes_are_significant_only_by_a_win_in_all():
    """As detectors.ipynb says. A contrast that can't be tested counts in the correction."""
    wins = np.arange(1.0, 11)
    assert 15 * scipy.stats.wilcoxon(wins).pvalue < 0.05
    assert 15 * scipy.stats.wilcoxon(np.r_[-1, wins[1:]]).pvalue >= 0.05
    assert 15 * scipy.stats.wilcoxon(wins[:8]).pvalue > 0.05
    index = pd.MultiIndex.from_product([["digits"], range(10)])
    plain = pd.Series(range(10), index, dtype=float)
    values = {"msp": plain, "odin": plain + np.arange(1, 11), "knn": plain}  # knn: all are equal
    classes = pd.DataFrame({("classification", name): column for name, column in values.items()})
    table = stats.contrasts(stats.Measured([], pd.DataFrame(), classes, classes)).set_index("score")
    assert table.holm["odin"] == pytest.approx(2 * scipy.stats.wilcoxon(wins).pvalue)
    assert table[["holm", "max_t"]].loc["knn"].isna().all()


def test_compared_rows_are_of_all_classes_and_the_same_trials_and_data_sets_are_pooled(
    runs, tmp_path
):
    """A method that lacks a class is left out, and so is a trial that it lacks: it is said."""
    experiment, records = runs[0]
    for lacking, kept in (
        ([r for r in records if (r.hold_out, r.method) == ("3", "rotation")], "method"),
        ([r for r in records if (r.hold_out, r.method, r.trial) == ("3", "rotation", 1)], "trial"),
    ):
        fewer = [r for r in records if r not in lacking]
        part = stats.measured([(experiment, fewer)], resamples=3)
        whole = [r for r in records if getattr(r, kept) in ("classification", 0)]
        board = stats.leaderboard(part)
        expected = stats.leaderboard(stats.measured([(experiment, whole)], resamples=3))
        shown = board.dropna(how="all", subset=stats.BOARD)[stats.BOARD]
        pd.testing.assert_frame_equal(shown, expected)
        assert board.lacks["rotation"].eq(f"runs: {len(lacking)} (not run)").all()
        assert board.lacks["classification"].eq("").all() and len(board) == 2 * len(SCORES)
        assert stats.contrasts(part).classes.eq(10).all()
    other = made_up(tmp_path, images=150, dataset="cifar10", trials=1, scores=SCORES)
    pairs = [(experiment, records), (other, store.collect(other.folder))]
    both, *each = (stats.measured(those, resamples=3) for those in (pairs, pairs[:1], pairs[1:]))
    assert len(both.classes) == 20 and stats.contrasts(both).classes.eq(20).all()
    expected = pd.concat([one.classes for one in each]).mean()
    np.testing.assert_allclose(both.classes.mean(), expected[both.classes.columns])
    with pytest.raises(ConfigError, match=r"labels: .*digits has 2"):
        stats.measured([(experiment, records)] * 2)


def test_the_papers_numbers_stand_beside_those_of_its_data_set_alone(tmp_path):
    experiment = made_up(tmp_path, images=60, dataset="cifar10", trials=1, scores=SCORES)
    pairs = [(experiment, store.collect(experiment.folder))]
    board = stats.leaderboard(stats.measured(pairs, resamples=2))
    assert board.paper["classification", "msp"] == pytest.approx(34.92, abs=0.005)
    assert board.paper["rotation", "odin"] == pytest.approx(41.56, abs=0.005)
    assert (show.text(board)["The paper"] != "-").sum() == 4  # MSP and ODIN of two methods


def test_where_no_method_has_all_classes_nothing_is_shown_as_a_number(runs):
    experiment, records = runs[0]
    apart = [r for r in records if (r.method == "rotation") == (r.hold_out in "01234")]
    found = stats.measured([(experiment, apart)], resamples=2)
    gained = stats.contrasts(found)
    sentence = show.text(pd.DataFrame())
    for table in (stats.leaderboard(found), gained):
        text = show.text(table).drop(columns=["Above in", "Lacks"], errors="ignore")
        assert set(text.to_numpy().ravel()) <= {"-", "", sentence.iloc[0, 0]}
    assert "not run" in DETECTORS.forest(found, gained).axes[0].texts[0].get_text()
    nothing = stats.measured([(experiment, [])], resamples=2)
    probes = pd.DataFrame(columns=pd.MultiIndex.from_product([["p"], ["average_precision"]]))
    tables = [stats.leaderboard(nothing), stats.contrasts(nothing)]
    assert all(table.empty and show.text(table).equals(sentence) for table in tables)
    assert stats.correlations(nothing, probes).empty and stats.by_prevalence(nothing).T.empty
    figures = [DETECTORS.forest(nothing, tables[1]), DETECTORS.prevalence(nothing)]
    for figure in (*figures, DETECTORS.probes(nothing, probes)):
        assert "not" in figure.axes[0].texts[0].get_text()


def test_by_prevalence_is_the_mean_of_the_runs(runs, found):
    table = stats.by_prevalence(found)
    for share in (0.01, 0.5):
        long = literal(runs, lambda a, s, share=share: at_prevalence(a, s, share))
        mean = long.groupby(level=["method", "score"]).mean()
        np.testing.assert_allclose(table.loc[share], mean[table.columns])


def test_correlations_are_spearmans_over_classes(found):
    values = np.random.default_rng(0).random((len(found.classes), 2)) * 20
    columns = pd.MultiIndex.from_product([["Gaussian", "edges"], ["average_precision"]])
    probes = pd.DataFrame(values, found.classes.index, columns)
    alike = stats.correlations(found, probes)
    assert len(alike) == 2 * 8
    for row in alike.itertuples():
        pair = [found.classes[row.method, row.score], probes[row.probe, "average_precision"]]
        assert row.rho == pytest.approx(scipy.stats.spearmanr(*pair).statistic)
        half = Z * np.sqrt((1 + row.rho**2 / 2) / 7)
        ends = np.arctanh(row.rho) + half * np.array([-1, 1])
        assert np.arctanh([row.low, row.high]) == pytest.approx(ends)
        assert show.correlation(row) == f"{row.rho:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
    probes["Gaussian", "average_precision"] = 1.0
    same = stats.correlations(found, probes).query("probe == 'Gaussian'")
    assert same.rho.isna().all() and show.correlation(same.iloc[0]) == "undefined"


# --- figures


def test_the_forest_has_a_row_a_score_the_classes_as_dots_and_both_intervals(found):
    table = stats.contrasts(found).query("against == 'msp'")
    tested = table.family == "detectors"
    table.loc[tested, "holm"] = np.linspace(0.1, 0.9, tested.sum())  # a p of its own for each row
    (axis,) = DETECTORS.forest(found, table).axes
    assert axis.get_title().startswith("Above MSP\ndigits, profile made_up")
    shown = [one.get_text() for one in axis.get_yticklabels()]
    plain = table[table.method == "classification"].set_index("score").difference.sort_values()
    assert [name.removesuffix(" *") for name in shown] == [show.label(s) for s in plain.index]
    drawn = {tuple(line.get_xdata()) for line in axis.lines}
    for row in table.itertuples():
        gain = found.classes[row.method, row.score] - found.classes[row.method, "msp"]
        bars = {(row.low, row.high), (row.images_low, row.images_high)}
        assert {tuple(gain), (row.difference,)} | bars <= drawn
    assert "over held-out classes" in axis.get_xlabel()
    assert "over test images" in axis.get_xlabel()
    p = table[tested].set_index("score").holm[plain.index]
    texts = sorted(axis.texts, key=lambda one: one.xy[1])
    assert [one.get_text() for one in texts] == [f"p {show.p_value(value)}" for value in p]
