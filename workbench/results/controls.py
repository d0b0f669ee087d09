"""Arms of a table side by side, paired over held-out classes: what a gain is made of.

An arm is an experiment with other settings, and docs/registered.md says what was fixed before any
was run. A trial of an arm counts only if it has every held-out class.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from workbench.experiment import Experiment
from workbench.results import plots, stats
from workbench.results.frame import COLUMNS, frame
from workbench.runs import plan
from workbench.runs.store import Record

Arms = Mapping[str, tuple[Experiment, Sequence[Record]]]
TWO_NETWORKS = "(e) two networks"
SMALLEST = 0.5  # points of MSP's average precision: the smallest difference that matters
KIND = ["statistics", "measure"]
MEASURES = ["accuracy", "msp"]
EFFECT = ["difference", "low", "high", "above", "classes", "p"]


def measured(arms: Arms) -> pd.DataFrame:
    """Every arm's numbers, as of results.frame, with its name in `arm`.

    whole: whether this trial has every held-out class. An experiment with a subset_seed is a second
    network on the labels of plain's trial of that number: the two are one arm, TWO_NETWORKS.
    """
    parts = []
    for arm, (experiment, records) in arms.items():
        if experiment.subset_seed is None:
            rows = frame([(experiment, records)])[COLUMNS].assign(arm=arm)
        else:
            plain = arms["plain"][1]
            pairs = ensembles(plain, experiment.subset_seed, records, experiment.scores)
            rows = pd.DataFrame(list(pairs)).assign(arm=TWO_NETWORKS)
        parts.append(rows.assign(planned=len(plan.held_out(experiment))))
    table = pd.concat([rows for rows in parts if len(rows)] or parts[:1], ignore_index=True)
    classes = table.groupby(["arm", "trial"]).hold_out.transform("nunique")
    return table.assign(whole=classes == table.planned)


def ensembles(
    plain: Sequence[Record], trial: int, seconds: Sequence[Record], scores: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Average precision of the mean rank of plain's network in this trial and a second one.

    For each class that has both. Such a pair has no predicted class, and so no accuracy.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import average_precision_score

    first = {record.hold_out: record for record in plain if record.trial == trial}
    for second in seconds:
        both = [first[second.hold_out], second] if second.hold_out in first else []
        for statistics, end in plan.STATISTICS.items() if both else ():
            for score in scores:
                ranks = [rankdata(record.scores(score + end)[score + end]) for record in both]
                is_anomaly = second.scores("is_anomaly")["is_anomaly"]
                value = 100 * average_precision_score(is_anomaly, np.mean(ranks, axis=0))
                row = {"hold_out": second.hold_out, "trial": trial, "statistics": statistics}
                yield row | {"measure": score, "value": value}


# --- contrasts


def shared(
    table: pd.DataFrame, *arms: str, among: Iterable[int] | None = None
) -> tuple[list[int], str]:
    """The trials in which all these arms have every class; and these in words, or why none is."""
    rows = table[table.arm.isin(arms) & table.trial.isin(table.trial if among is None else among)]
    whole = rows[rows.whole].groupby("trial").arm.nunique() == len(arms)
    trials = sorted(whole.index[whole])
    if trials:
        return trials, ", ".join(map(str, trials))
    both = rows.groupby(["trial", "hold_out"]).arm.nunique() == len(arms)
    classes = both.groupby(level="trial").sum().max() if len(both) else 0
    return [], f"{classes} of {table.planned.max():.0f} classes: nothing is claimed"


def contrasts(table: pd.DataFrame, pairs: Sequence[tuple]) -> pd.DataFrame:
    """Differences in points between arms, means over shared trials, paired over held-out classes.

    pairs: (number, arm, against), or with the trials it is limited to. Columns as of stats.paired;
    holm: p corrected for the two statistics. trials: those used, or in words why none could be.
    """
    from statsmodels.stats.multitest import multipletests

    rows = []
    for number, arm, against, *only in pairs:
        trials, said = shared(table, arm, against, among=only[0] if only else None)
        what = {"contrast": number, "arm": arm, "against": against, "trials": said}
        means = table[table.trial.isin(trials)].pivot_table("value", [*KIND, "hold_out"], "arm")
        means = means.reindex(columns=[arm, against])
        gained = (means[arm] - means[against]).dropna()
        none = [((statistics, "msp"), gained) for statistics in plan.STATISTICS]
        for kind, values in gained.groupby(level=KIND) if len(gained) else none:
            rows.append(what | dict(zip(KIND, kind, strict=True)) | stats.paired(values))
    found = pd.DataFrame(rows, columns=["contrast", "arm", "against", "trials", *KIND, *EFFECT])
    each = found.p.fillna(1).groupby([found.contrast, found.arm, found.against, found.measure])
    holm = each.transform(lambda p: multipletests(p, method="holm")[1])
    return found.assign(holm=holm.where(found.p.notna()))


def decisions(found: pd.DataFrame) -> pd.DataFrame:
    """The contrasts of MSP with the registered decision; "" where none is registered, or can be."""
    table = found[found.measure == "msp"].drop(columns="measure")
    accuracy = found[found.measure == "accuracy"].set_index(["contrast", "statistics"])
    decided = []
    for row in table.itertuples():
        decision = ""
        if row.classes and row.contrast in ("1", "2", "3", "5"):
            decision = against_control(row)
        elif row.classes and row.contrast == "4":
            decision = masking(row, accuracy.loc[row.contrast, row.statistics])
        elif row.classes and row.contrast == "6":
            decision = replication(table[table.contrast == "6"])
        decided.append(decision)
    return table.assign(decision=decided)


def against_control(row: Any) -> str:
    """Contrasts 1, 2, 3 and 5; more than one can hold."""
    significant = row.holm < 0.05
    holds = {"more than the control": significant and row.difference > 0}
    holds["no more than the control"] = row.high < SMALLEST
    holds["less than the control"] = significant and row.difference < 0
    return ", ".join(name for name in holds if holds[name]) or "undecided"


def masking(msp: Any, accuracy: Any) -> str:
    """Contrast 4, the paper's sentence: better accuracy, worse average precision."""
    if msp.low > 0:
        return "contradicted"
    halves = int(msp.high < 0) + int(accuracy.low > 0)
    return ["undecided", "half of the sentence", "reproduced"][halves]


def replication(rows: pd.DataFrame) -> str:
    """Contrast 6, over both statistics."""
    if not (rows.difference > 0).all():
        return "not reproduced"
    return "reproduced" if (rows.holm < 0.05).all() else "direction only"


# --- the gain that remains at equal accuracy


def at_equal_accuracy(
    arms: Arms, table: pd.DataFrame, against: str, curve: Sequence[str] = ()
) -> pd.DataFrame:
    """How far rotation's MSP is above another arm's at equal accuracy, in points.

    way "images": as of `images_gain`, for that arm's mean share of mistakes. "history", "epoch": as
    of `history_gain`, with mixed statistics. "labels": above a `curve` of arms.
    """
    trials, said = shared(table, "rotation", against)
    used = [record for record in arms[against][1] if record.trial in trials]
    first = {(record.hold_out, record.trial): record for record in arms["rotation"][1]}
    pairs = [(first[record.hold_out, record.trial], record) for record in used]
    gained = {}
    for statistics, end in plan.STATISTICS.items():
        mistakes = [1 - record.metrics[f"accuracy{end}"] for record in used]
        share = sum(mistakes) / max(1, len(mistakes))
        gained["images", statistics] = _by_class(pairs, images_gain, share, end)
    for way in ("history", "epoch"):
        gained[way, "mixed"] = _by_class(pairs, history_gain, way == "history")
    for statistics in plan.STATISTICS if curve else ():
        gained["labels", statistics] = above_curve(table, curve, statistics)
    what = {"arm": "rotation", "against": against, "trials": said}
    rows = [
        what | dict(zip(["way", "statistics"], key, strict=True)) | stats.paired(values)
        for key, values in gained.items()
    ]
    return pd.DataFrame(rows)


def _by_class(pairs: Sequence[tuple], gain: Callable[..., float], *how: object) -> pd.Series:
    """gain(record, other, *how), means over trials by held-out class."""
    classes = [record.hold_out for record, _ in pairs]
    values = [gain(*pair, *how) for pair in pairs]
    return pd.Series(values, classes, dtype=float).groupby(level=0).mean()


def images_gain(record: Record, other: Record, share: float, end: str = "") -> float:
    """The difference where known test images are weighted so that this share of them is mistaken.

    Right and mistaken images are weighted apart, and all known ones together as before.
    """
    return weighted(record, share, end) - weighted(other, share, end)


def weighted(record: Record, share: float, end: str = "") -> float:
    """MSP's average precision (%) with this share of mistakes; NaN if all are right, or none."""
    from sklearn.metrics import average_precision_score

    names = ("is_anomaly", "label", f"predicted{end}", f"msp{end}")
    is_anomaly, label, predicted, msp = record.scores(*names).values()
    wrong = label != predicted
    mistakes = wrong[~is_anomaly].mean()
    if mistakes in (0, 1):
        return math.nan
    weight = np.where(wrong, share / mistakes, (1 - share) / (1 - mistakes))
    weight[is_anomaly] = 1
    return 100 * average_precision_score(is_anomaly, msp, sample_weight=weight)


def history_gain(record: Record, other: Record, between: bool) -> float:
    """The difference to the other's end where a run's history first reaches its accuracy.

    between: on the line between two evaluated epochs, and at the last if it is never reached; else
    at the first evaluated epoch that has reached it, NaN if none has.
    """
    history = record.history()
    last = other.history().iloc[-1]
    if between:
        msp = np.interp(last.accuracy, history.accuracy.cummax(), history.msp)
    else:
        msp = next(iter(history.msp[history.accuracy >= last.accuracy]), math.nan)
    return 100 * (msp - last.msp)


def above_curve(table: pd.DataFrame, curve: Sequence[str], statistics: str) -> pd.Series:
    """How far rotation is above a curve of average precision against accuracy, by held-out class.

    curve: arms with more and less accuracy. Between them the average precision's logit is linear
    in accuracy, beyond them it is that of the last. Points.
    """
    from scipy.special import expit, logit

    rows = table[table.whole & (table.statistics == statistics)]
    means = rows.pivot_table("value", "hold_out", ["measure", "arm"])
    gained = {}
    for name, row in means.iterrows() if {*curve, "rotation"} <= {*rows.arm} else ():
        known = row.accuracy[[*curve]].sort_values()
        logits = logit(np.clip(row.msp[known.index] / 100, 1e-6, 1 - 1e-6))
        read = expit(np.interp(row.accuracy["rotation"], known, logits))
        gained[name] = row.msp["rotation"] - 100 * read
    return pd.Series(gained, dtype=float)


@plots.styled
def accuracy_and_precision(arms: Arms, table: pd.DataFrame, statistics: str = "mixed") -> Figure:
    """MSP's average precision against accuracy, means over held-out classes and trials.

    Left each arm's path over training, with mixed statistics, and its end; the arms whose names end
    in "labels" are joined by a dotted line through plain. Right the same around the ends of the
    others, and the straight line that fits these best without rotation.
    """
    import seaborn as sns

    rows = table[table.whole & (table.statistics == statistics) & table.measure.isin(MEASURES)]
    ends = rows.pivot_table("value", "arm", "measure").reindex(columns=MEASURES).dropna()
    is_other = ends.index.str.endswith("labels")
    near = ends[~is_other]
    figure, axes = plots._panels((1, 2), 11, 4.9)
    controls = near.drop(index="rotation", errors="ignore")
    if len(controls) > 2:
        fit = np.polynomial.Polynomial.fit(controls.accuracy, controls.msp, 1)
        axes[1].plot(near.accuracy, fit(near.accuracy), "--", c="0.4", label="fits the others best")
    for axis in axes:
        line = ends[is_other | (ends.index == "plain")].sort_values("accuracy")
        axis.plot(
            line.accuracy, line.msp, "o:", c="0.6", ms=4, label="plain, other numbers of labels"
        )
        for arm, colour in zip(near.index, sns.color_palette("colorblind"), strict=False):
            trials = rows.trial[rows.arm == arm].unique()
            histories = [r.history() for r in arms[arm][1] if r.trial in trials]
            path = 100 * pd.concat(histories).groupby("epoch")[MEASURES].mean()
            axis.plot(path.accuracy, path.msp, lw=1, alpha=0.6, c=colour)
            axis.plot(*near.loc[arm], "D" if arm == "rotation" else "o", ms=8, c=colour, label=arm)
        axis.set(xlabel="accuracy (%)", ylabel="MSP's average precision (%)")
    for limits, values in ((axes[1].set_xlim, near.accuracy), (axes[1].set_ylim, near.msp)):
        if len(near):
            limits(values.min() - 0.6, values.max() + 0.6)
    plots._legend(figure, ncols=4)
    about = f"{statistics} statistics; paths over training: mixed ones"
    figure.suptitle(f"Average precision against accuracy, means over held-out classes ({about})")
    return figure
