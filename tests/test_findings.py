"""Each finding against a literal version in numpy, on the committed records that it is of."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, cells
from sklearn.metrics import average_precision_score

from workbench import results
from workbench.experiment import read_parameters, several
from workbench.results import tables
from workbench.runs import store

findings = cells("claims")
LABELLED = {"": "mixed", "@upright": "upright"}
OF_500 = ("cpu", 500)


@pytest.fixture(scope="module")
def runs():
    """Every experiment of params/cpu and params/fast/few_labels.yaml with its committed records."""
    found = []
    for profile in ("cpu", "fast"):
        given = read_parameters(ROOT / f"params/{profile}/few_labels.yaml")
        for experiment in several(given | {"outputs": str(ROOT / "outputs")}):
            records = store.finished(experiment)
            found += [(experiment, records)] if records else []
    return found


@pytest.fixture(scope="module")
def frame(runs):
    return results.frame(runs)


@pytest.fixture(scope="module")
def first(runs):
    """The 40 records of 500 labels a class, by method, held-out class and trial."""
    return {(r.method, r.hold_out, r.trial): r for r in runs[0][1]}


@pytest.fixture(scope="module")
def paper():
    return tables.published("table3_cifar10").drop(index="average")


def rank_correlation(one, other):
    """Spearman's, of values without ties, from the squared differences of ranks."""
    n = len(one)
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (n * (n**2 - 1))


def values(first, method, measure, classes):
    """Percent: a row a class, a column a trial."""
    metrics = [[first[method, name, k].metrics[measure] for k in (0, 1)] for name in classes]
    return 100 * np.array(metrics)


def gains(first, measure, classes):
    plain, turned = (values(first, m, measure, classes) for m in ("classification", "rotation"))
    return turned - plain


def test_the_order_of_the_classes_is_the_papers(first, frame, paper):
    found = findings.order(frame)
    for method, end in itertools.product(("classification", "rotation"), LABELLED):
        ours = values(first, method, f"msp{end}", paper.index).mean(1)
        rho = rank_correlation(ours, paper[f"{method}_msp"])
        assert found[*OF_500, method, LABELLED[end], "msp"] == pytest.approx(rho)
    assert round(found[*OF_500, "classification", "mixed", "msp"], 2) == 0.95
    assert found["cpu", math.inf, "rotation", "mixed", "msp"] == pytest.approx(1)


def test_the_scatter_of_an_unseen_class_over_the_known_ones_tells_how_msp_finds_it(runs, first):
    table = findings.scatter(runs)
    shown = table.loc[*OF_500, "rotation", "upright"]
    classes = list(shown.index)
    for name in classes:
        entropies = []
        shares = []
        precisions = []
        for record in (first["rotation", name, k] for k in (0, 1)):
            arrays = record.scores("predicted@upright", "is_anomaly", "msp@upright")
            predicted = arrays["predicted@upright"][arrays["is_anomaly"]]
            share = [float((predicted == k).mean()) for k in range(10)]
            entropies.append(-sum(p * math.log2(p) for p in share if p))
            shares.append(100 * max(share))
            precision = average_precision_score(arrays["is_anomaly"], arrays["msp@upright"])
            precisions.append(100 * precision)
        assert shown.entropy[name] == pytest.approx(np.mean(entropies))
        assert shown["first"][name] == pytest.approx(np.mean(shares))
        assert shown.msp[name] == pytest.approx(np.mean(precisions))
        assert shown.taken_for[name] == classes[int(np.argmax(share))]
    found = findings.scatter_tells(table)
    literal = rank_correlation(shown.entropy.to_numpy(), shown.msp.to_numpy())
    assert found[*OF_500, "rotation", "upright"] == pytest.approx(literal)
    assert len(found) == 20 and round(found.min(), 2) == 0.81
    assert round(found[*OF_500, "classification", "mixed"], 2) == 0.98


def test_whether_class_gains_repeat(first, frame, paper):
    found = findings.repeats(frame).loc[OF_500]
    for measure, end in itertools.product(("msp", "odin"), LABELLED):
        gained = gains(first, f"{measure}{end}", paper.index)
        row = found.loc[LABELLED[end], measure]
        assert row.r == pytest.approx(np.corrcoef(gained.T)[0, 1])
        assert row.rho == pytest.approx(rank_correlation(*gained.T))
        published = paper[f"rotation_{measure}"] - paper[f"classification_{measure}"]
        assert row.paper == pytest.approx(rank_correlation(gained.mean(1), published))
    assert found.r.round(2)["mixed", "odin"] == 0.84 and found.r.round(2)["upright", "odin"] == 0.03
    assert found.paper.round(2)["mixed", "msp"] == 0.78


def test_unseen_images_against_the_networks_own_mistakes(runs, first):
    experiment, records = runs[0]
    some = [record for record in records if record.hold_out == "truck"]
    found = findings.against_mistakes([(experiment, some)])
    for score in ("msp", "react"):
        literal = {"all": [], "right": [], "mistaken": [], "precision": []}
        for record in (first["classification", "truck", k] for k in (0, 1)):
            arrays = record.scores()
            known = arrays["label"] != record.classes.index("truck")
            right = arrays["label"] == arrays["predicted"]
            scores = arrays[score].astype(float)
            unseen = scores[~known][:, None]
            kinds = {"all": known, "right": known & right, "mistaken": known & ~right}
            for key, of in kinds.items():
                won = (unseen > scores[of]).mean() + (unseen == scores[of]).mean() / 2
                literal[key].append(100 * won)
            both = ~known | right
            weight = np.where(known, known.sum() / right.sum(), 1)[both]
            precision = average_precision_score(~known[both], scores[both], sample_weight=weight)
            literal["precision"].append(100 * precision)
        row = found.loc[*OF_500, "classification", "mixed", score]
        assert row.to_dict() == pytest.approx({name: np.mean(of) for name, of in literal.items()})


@pytest.mark.slow
def test_no_detector_ranks_unseen_images_above_mistakes(runs):
    found = findings.against_mistakes(runs[:1]).loc[*OF_500, :, "mixed"].mistaken
    assert round(found["classification", "msp"], 1) == 39.6 and round(found.max(), 1) == 50.0


def test_which_score_finds_the_twins(first, frame):
    found = findings.of_classes(frame, ["truck", "automobile"])
    shown = found.loc[*OF_500, "classification", "mixed"]
    classes = sorted({name for _, name, _ in first})
    for score in ("msp", "rmd", "react"):
        means = pd.Series(values(first, "classification", score, classes).mean(1), classes)
        literal = [means.truck, means.automobile, means.mean()]
        assert [*shown.loc[score, ["truck", "automobile", "mean"]]] == pytest.approx(literal)
    assert shown.index[0] == "rmd" and len(shown) == 16
    assert [*shown.loc["rmd", ["truck", "automobile"]].round(1)] == [27.9, 23.3]


def test_deviation_between_trainings_and_the_power_that_it_leaves(first, frame, paper):
    found = findings.between_trainings(frame)
    for method, end in itertools.product(("classification", "rotation"), LABELLED):
        trials = values(first, method, f"msp{end}", paper.index)
        literal = np.sqrt(((trials[:, 0] - trials[:, 1]) ** 2 / 2).mean())
        assert found[*OF_500, method, LABELLED[end], "msp"] == pytest.approx(literal)
    shown = found.loc[*OF_500, :, "mixed", "msp"].round(2)
    assert [shown["classification"], shown["rotation"]] == [0.53, 1.15]

    power = findings.power(frame)
    rng = np.random.default_rng(0)
    for end, percent in {"": 54, "@upright": 94}.items():
        deviation = gains(first, f"msp{end}", paper.index).mean(1).std(ddof=1)
        drawn = rng.normal(1, deviation, (20_000, 10))
        t = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(10))
        significant = (abs(t) > 2.2622).mean()  # of nine degrees of freedom
        chance = power[*OF_500, LABELLED[end], "msp"]
        assert chance == pytest.approx(significant, abs=0.01) and round(100 * chance) == percent


def test_edges_as_a_detector_and_average_precision_at_matched_edges(runs, first):
    """Of made-up edge energies with few values, so that quantiles and ties matter."""
    experiment, records = runs[0]
    energy = np.random.default_rng(1).normal(size=10_000).round(2)
    plain = [r for r in records if (r.hold_out, r.method) == ("cat", "classification")]
    row = findings.edges([(experiment, plain)], energy).loc["classification", "cat"]
    arrays = [record.scores("is_anomaly", "msp") for record in plain]
    unseen = arrays[0]["is_anomaly"]
    assert row.fewer == pytest.approx(100 * average_precision_score(unseen, energy))
    assert row.more == pytest.approx(100 * average_precision_score(unseen, -energy))
    pairs = energy[unseen][:, None] - energy[~unseen]
    assert row["apart"] == pytest.approx(abs(100 * ((pairs > 0) + (pairs == 0) / 2).mean() - 50))
    ranks = pd.Series(energy[unseen]).rank()
    within = [ranks.corr(pd.Series(of["msp"][unseen]).rank()) for of in arrays]
    assert row.within == pytest.approx(np.mean(within))
    found = []
    for of in arrays:
        limits = np.quantile(energy[unseen], np.arange(1, 10) / 10)
        weight = np.ones(len(energy))
        for low, high in itertools.pairwise([-math.inf, *limits, math.inf]):
            inside = (energy > low) & (energy <= high)
            share = (inside & unseen).sum() / unseen.sum()
            weight[inside & ~unseen] = share / ((inside & ~unseen).sum() / (~unseen).sum())
        found.append(100 * average_precision_score(unseen, of["msp"], sample_weight=weight))
    assert row.matched == pytest.approx(np.mean(found))
