"""Tables as text, and what a reader must know of them, as sentences."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from semlib.datasets import imagenet
from workbench.experiment import (
    PAPERS_SCORES,
    ConfigError,
    Experiment,
    Several,
    read_parameters,
    several,
)
from workbench.results import stats, tables
from workbench.results.names import DATASETS, average_of, label, rows_of, without_average
from workbench.results.tables import SUBSETS
from workbench.runs import machine, plan, store
from workbench.runs.store import Record

PAPERS_WEIGHTS = {
    "cifar10": "0.5",
    "stl10": "1.0",
    **dict.fromkeys((f"imagenet_{name}" for name in SUBSETS), "0.5 or 1.0"),
}
PAPERS_CPC_WEIGHT = "10.0"


def mean_std(mean: float, std: float, absent: str = "not run") -> str:
    """34.92 ± 0.41 as the paper prints it; of one trial the number alone."""
    if math.isnan(mean):
        return absent
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """A table of by_class as text to look at: "mean ± std" here and in the paper, "not run" where
    nothing was run.
    """
    columns, (in_method, in_measure) = {}, _labels(table)
    for method, measure in dict.fromkeys((m, s) for m, s, _ in table.columns):
        for where, mean, std, absent in (
            ("here", "mean", "std", "not run"),
            ("paper", "paper", "paper_std", ""),
        ):
            if (method, measure, mean) in table.columns:
                pairs = zip(table[method, measure, mean], table[method, measure, std], strict=True)
                columns[in_method(method), in_measure(measure), where] = [
                    mean_std(m, s, absent) for m, s in pairs
                ]
    text = pd.DataFrame(columns, index=rows_of(table))
    if not any(column[2] == "paper" for column in text.columns):
        text.columns = text.columns.droplevel(2)
    text = Shown(text.rename_axis(index=table.index.name or "Anomaly"))
    text.best, text.found = _best(table, text), finding(table)
    return text


def _labels(table: pd.DataFrame) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """How a table of by_class shows each of its methods and measures."""
    methods, measures = (list(table.columns.unique(level)) for level in ("method", "measure"))
    return partial(label, among=methods), partial(label, among=measures)


class Shown(pd.DataFrame):
    """A table as text; a notebook shows the best method's numbers in bold and, below, what was
    found.
    """

    _metadata: ClassVar = ["best", "found"]  # ty: ignore[incompatible-attribute-override]  # pandas has it as an instance's

    def _repr_html_(self) -> str:
        escaped = pd.DataFrame(self).map(escape).rename(index=escape)
        return f"{escaped.mask(self.best, '<b>' + escaped + '</b>').to_html(escape=False)}<p>{escape(self.found)}</p>"


def _best(table: pd.DataFrame, text: pd.DataFrame) -> pd.DataFrame:
    """Which cells of the text are a measure's highest mean in their row; none with a single method."""
    best, (in_method, in_measure) = pd.DataFrame(False, text.index, text.columns), _labels(table)
    for measure in table.columns.unique("measure"):
        means = table.xs(
            (measure, "mean"), axis=1, level=("measure", "statistic")
        )  # (rows, methods)
        for method in means if means.shape[1] > 1 else ():
            best[(in_method(method), in_measure(measure), "here")[: text.columns.nlevels]] = (
                means[method] == means.max(axis=1)
            ).to_numpy()
    return best


def finding(table: pd.DataFrame) -> str:
    """In how many classes each method is above plain classification, here and in the paper, as
    sentences.
    """
    classes, sentences, tested = without_average(table), [], False
    in_method, in_measure = _labels(table)
    what = "rows" if table.index.name else "classes"
    for method in table.columns.unique("method").drop("classification", errors="ignore"):
        parts = []
        for measure in table.columns.unique("measure"):
            here, paper = (
                _wins(classes, (method, measure), ("classification", measure), s)
                for s in ("mean", "paper")
            )
            tested |= " points, p " in here
            if "of" in here:
                parts.append(
                    f"by {in_measure(measure)} in {here}"
                    + (f" (the paper: {paper})" if "of" in paper else "")
                )
        if parts:
            sentences.append(
                f"{in_method(method)} is above {label('classification')} in so many {what}: {'; '.join(parts)}."
            )
    one = table.xs("std", axis=1, level="statistic").isna().all(axis=None)
    if tested:
        sentences.append(
            f"p: Wilcoxon's two-sided signed-rank test over the {what}, not corrected for several tests."
        )
    if sentences and one:
        sentences.append(
            f"With one trial nothing can be claimed {'about any single one' if tested else 'from it'}."
        )
    return " ".join(sentences)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Measured minus published in points, as text; starred where it is more than two standard
    deviations of the two together.

    Without a deviation of its own (one trial) a difference has no star, and "?" says so.
    """
    columns, (in_method, in_measure) = {}, _labels(table)
    for method, measure in dict.fromkeys(
        (m, s) for m, s, statistic in table.columns if statistic == "paper"
    ):
        mean, std, paper, paper_std = (
            table[method, measure, statistic] for statistic in ("mean", "std", "paper", "paper_std")
        )
        difference, limit = mean - paper, 2 * np.hypot(std, paper_std)
        mark = np.select([limit.isna(), difference.abs() > limit], [" ?", " *"], "")
        texts = [
            "" if math.isnan(d) else f"{d:+.2f}{m}" for d, m in zip(difference, mark, strict=True)
        ]
        columns[in_method(method), in_measure(measure)] = texts
    if not columns:
        return pd.DataFrame(
            {"Difference": ["the paper has no numbers of this data set"]}, index=["-"]
        )
    rows = pd.Index(rows_of(table), name=table.index.name or "Anomaly")
    return pd.DataFrame(columns, index=rows)


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """In how many classes ODIN beats MSP, and a method beats plain classification in each measure;
    here and in the paper.

    Where six classes or more differ, with the mean difference and the p of Wilcoxon's two-sided
    signed-rank test over the classes' means. The classes of a data set are not quite independent:
    their trainings share images.
    """
    classes = without_average(table)
    methods, measures = (list(table.columns.unique(level)) for level in ("method", "measure"))
    pairs = [((m, "odin"), (m, "msp")) for m in methods if {"odin", "msp"} <= set(measures)]
    pairs += [
        ((m, s), ("classification", s)) for m in methods if m != "classification" for s in measures
    ]
    rows, (in_method, in_measure) = {}, _labels(table)
    for better, worse in pairs:
        below = in_measure(worse[1]) if better[0] == worse[0] else in_method(worse[0])
        name = f"{in_method(better[0])}: {in_measure(better[1])} above {below}"
        rows[name] = [_wins(classes, better, worse, statistic) for statistic in ("mean", "paper")]
    wins = pd.DataFrame.from_dict(rows, orient="index", columns=["here", "in the paper"])
    return wins if wins["in the paper"].any() else wins[["here"]]


def masking(table: pd.DataFrame) -> pd.DataFrame:
    """Sec. 5.2's table from that of by_class: each method's accuracy and MSP average precision over
    the hold-outs, as text.

    The paper's stand beside those of all ten classes of CIFAR-10 only.
    """
    paper = tables.published("masking_ablation")
    average = table.loc[average_of(table)]
    whole = (
        "paper" in table.columns.unique("statistic")
        and average.xs("paper", level="statistic").any()
    )
    rows = {}
    for method in table.columns.unique("method"):
        here = [
            mean_std(*(average[method, measure, s] for s in ("mean", "std")))
            for measure in ("accuracy", "msp")
        ]
        row = paper.reindex([method]).iloc[0]
        printed = [mean_std(row[m], row[f"{m}_std"], absent="") for m in ("accuracy", "msp")]
        rows[_labels(table)[0](method)] = [here[0], printed[0], here[1], printed[1]]
    columns = pd.MultiIndex.from_product([["Accuracy", "Av. Prec. with MSP"], ["here", "paper"]])
    text = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis(index="Method")
    return text if whole else text.drop(columns="paper", level=1)


def with_skew(
    summary: pd.DataFrame, runs: Sequence[tuple[Experiment, Sequence[Record]]]
) -> pd.DataFrame:
    """A table of by_subset as text, with the skew, which a random detector's average precision is:
    the mean of its runs'.
    """
    text = formatted(summary)
    skews = [
        f"{100 * np.mean([r.skew for r in records]):.2f}" if records else "not run"
        for _, records in runs
    ]
    text.insert(0, ("Skew", *[""] * (text.columns.nlevels - 1)), skews)
    text.best = text.best.reindex(columns=text.columns, fill_value=False)
    return text


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.gains` as text."""
    images = ["all (not run)" if math.isnan(n) else f"{n:,.0f}" for n in table.images]
    text = pd.DataFrame({"Images a class": images, "Statistics": table.statistics})
    for name in ("method", "measure"):
        text[name.capitalize()] = table[name].map(partial(label, among=table[name].unique()))
    lacking = pd.Series([_not_run(row) for row in tables.rows(table)], table.index, dtype=str)
    for name, column in ((label("classification"), "plain"), ("With the method", "with")):
        text[name] = table[column].map("{:.2f}".format).where(lacking == "", lacking)
    text["Gain (95 % over held-out classes)"] = [_gain_text(row) for row in tables.rows(table)]
    text["Above in"] = [_above(row) for row in tables.rows(table)]
    text["p"] = [p_value(p).removeprefix("= ") for p in table.p]
    return text.set_index(["Images a class", "Statistics", "Method", "Measure"])


def _not_run(row: Any) -> str:
    """Why a mean over the classes isn't shown; "" if all were run."""
    return "" if row.classes == row.planned else "not all run" if row.classes else "not run"


def _above(row: Any) -> str:
    part = f" that were run, of {row.planned}" * (row.classes < row.planned)
    return f"{row.above} of {row.classes}{part}" if row.classes else ""


def _gain_text(row: Any) -> str:
    if lacking := _not_run(row):
        return lacking
    return f"{row.gain:+.2f}" + (
        "" if math.isnan(row.low) else f" ({row.low:+.2f} to {row.high:+.2f})"
    )


def primary(table: pd.DataFrame, experiment: Experiment, records: Sequence[Record]) -> str:
    """The result that was fixed before any run, as a sentence: MSP with mixed statistics, rotation
    against classification.
    """
    if (
        not {"classification", "rotation"} <= set(experiment.methods)
        or "msp" not in experiment.scores
    ):
        raise ConfigError(
            "the primary result needs the methods classification and rotation, and the score msp"
        )
    row = table[
        (table.statistics == "mixed") & (table.method == "rotation") & (table.measure == "msp")
    ].iloc[0]
    what = f"MSP's average precision, mixed statistics, {experiment.train_per_class or 'all'} training images a class"
    if math.isnan(row.gain):
        return f"**Primary result**: {what}: not run."
    done, planned = len(records), len(plan.planned(experiment))
    interval = f", 95 % interval over {row.classes} classes {row.low:+.2f} to {row.high:+.2f}" * (
        not math.isnan(row.low)
    )
    p = f", Wilcoxon's p {p_value(row.p)}" * (not math.isnan(row.p))
    so_far = f" So far {done} of {planned} runs are finished: not yet the result." * (
        done < planned
    )
    return (
        f"**Primary result**: {what}, rotation against classification: {row.gain:+.2f} points{interval}{p}; above in "
        f"{row.above} of {row.classes} classes; {averaged(records)}.{so_far}"
    )


def rank_correlation(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over classes of accuracy with each score's average precision, here and
    in the paper, as text.
    """
    classes, rows, (in_method, in_measure) = without_average(table), {}, _labels(table)
    for method, measure in dict.fromkeys((m, s) for m, s, _ in table.columns if s != "accuracy"):
        pairs = [
            [(method, name, statistic) for name in ("accuracy", measure)]
            for statistic in ("mean", "paper")
        ]
        rows[f"{in_method(method)}: accuracy and {in_measure(measure)}"] = [
            _spearman(classes, pair) for pair in pairs
        ]
    text = pd.DataFrame.from_dict(rows, orient="index", columns=["here", "in the paper"])
    return text if text["in the paper"].any() else text[["here"]]


def _spearman(classes: pd.DataFrame, columns: list[tuple[str, str, str]]) -> str:
    from scipy.stats import spearmanr  # takes longer to import than the rest of this module

    both = classes[columns].dropna() if set(columns) <= set(classes.columns) else pd.DataFrame()
    if len(both) < 3:
        return "not run" if columns[0][2] == "mean" else ""
    if (both.nunique() == 1).any():
        return "undefined: all are equal"
    found = spearmanr(*both.to_numpy().T)
    return f"{found.statistic:+.2f} (p = {found.pvalue:.2f}, {len(both)} classes)"


def weights(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `tables.by_weight` as text, the paper's choice beside."""
    text = pd.DataFrame({"Data set": table.dataset, "Images a class": table.train_per_class})
    text["Method"] = table.method.map(partial(label, among=table.method.unique()))
    plain = table.method == "classification"
    text["Auxiliary weight"] = np.where(plain, "", table.weight.map("{:g}".format))
    text["Validation accuracy"] = [
        mean_std(m, s) for m, s in zip(table.accuracy, table["std"], strict=True)
    ]
    text["Chosen"] = np.where(table.chosen, "chosen", "")
    papers = (
        table.dataset.map(PAPERS_WEIGHTS).fillna("").where(table.method != "cpc", PAPERS_CPC_WEIGHT)
    )
    text["In the paper"] = papers.where(
        table.method.isin(["rotation", "cpc"]) & (table.train_per_class == ""), ""
    )
    text = text.loc[:, text.any()]
    return text.set_index(
        [name for name in ("Data set", "Images a class", "Method") if name in text]
    )


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.leaderboard` as text; every column of uncertainty says what it is about."""
    text = pd.DataFrame(
        {
            "Method": [label(m) for m, _ in table.index],
            "Detector": [_detector(s) for _, s in table.index],
        }
    )
    text["Average precision (%)"] = [
        "not run" if math.isnan(value) else f"{value:.2f}" for value in table.average_precision
    ]
    text["95 % over test images"] = _range(table.images_low, table.images_high)
    text["Std over trials"] = [
        "-" if math.isnan(value) else f"{value:.2f}" for value in table.trial_std
    ]
    text["95 % over held-out classes"] = _range(table.class_low, table.class_high)
    for name, column in (("AUROC (%)", "auroc"), ("FPR at 95 % recall (%)", "fpr95")):
        text[name] = ["-" if math.isnan(value) else f"{value:.2f}" for value in table[column]]
    if table.paper.notna().any():
        text["The paper"] = ["" if math.isnan(value) else f"{value:.2f}" for value in table.paper]
    return text.set_index(["Method", "Detector"])


def _detector(score: str) -> str:
    return label(score) + " (the paper's)" * (score in PAPERS_SCORES)


def _range(low: Iterable[float], high: Iterable[float], sign: str = "") -> list[str]:
    return [
        "-" if math.isnan(a) else f"{a:{sign}.2f} to {b:{sign}.2f}"
        for a, b in zip(low, high, strict=True)
    ]


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.contrasts` or `stats.effects` as text: the difference and its intervals
    first, p last if it has one.
    """
    text = pd.DataFrame({"Method": table.method.map(label), "Score": table.score.map(label)})
    text["Against"] = table.against.map(label)
    text["Difference (points)"] = [
        "not run" if math.isnan(value) else f"{value:+.2f}" for value in table.difference
    ]
    text["95 % over held-out classes"] = _range(table.low, table.high, "+")
    text["95 % over test images"] = _range(table.images_low, table.images_high, "+")
    text["Above in"] = [f"{a} of {n}" for a, n in zip(table.above, table.classes, strict=True)]
    for name, column in (("p", "p"), ("p by Holm", "holm")):
        if column in table:
            text[name] = [p_value(p).removeprefix("= ") for p in table[column]]
    return text.set_index(["Method", "Score", "Against"])


def possible(table: pd.DataFrame) -> str:
    """What a table of `stats.contrasts` can show at all, a sentence for each family."""
    said = []
    for family, part in table.groupby("family", sort=False):
        count, classes = len(part), int(part.classes.max())
        what = {
            "detectors": "each score against MSP, plain classification",
            "methods": "each method against classification",
        }
        least = [
            min(1, count * 2 * k / 2**classes) for k in (1, 2)
        ]  # of a win in all, and of one lost by the least
        if least[0] >= 0.05:
            can = "nothing can be significant at 0.05, and p is of no use: read the intervals"
        elif least[1] >= 0.05:
            can = "the first can be significant at 0.05 only by a win in every class"
        else:
            can = f"a win in every class gives the first p {p_value(least[0])}"
        said.append(
            f"{what[str(family)]}: {count} contrasts over {classes} classes, corrected by Holm; {can}."
        )
    return "  \n".join(said)


def reversals(table: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """The pairs of `stats.reversals` with the largest differences in average precision, as text."""
    text = table.sort_values("average_precision", ascending=False)[:most]
    shown = pd.DataFrame(
        {
            "Method": text.method.map(label),
            "Better": text.better.map(label),
            "Worse": text.worse.map(label),
        }
    )
    names = {
        "average_precision": "Average precision",
        "auroc": "AUROC",
        "fpr95": "FPR at 95 % recall",
    }
    for column, name in names.items():
        shown[f"Ahead by {name} (points)"] = [f"{value:+.2f}" for value in text[column]]
    return shown.set_index(["Method", "Better", "Worse"])


def prevalences(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.by_prevalence` as text, a column for each share of anomalies."""
    text = table.T.map(lambda value: "-" if math.isnan(value) else f"{value:.2f}").rename(
        columns="{:.1%}".format
    )
    text.index = pd.MultiIndex.from_tuples(
        [(label(m), _detector(s)) for m, s in text.index], names=["Method", "Detector"]
    )
    return text.rename_axis(columns="Anomalies")


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.correlations` as text: a column a probe."""
    cells = map(correlation, tables.rows(table))
    text = table.assign(
        method=table.method.map(label), score=table.score.map(_detector), cell=list(cells)
    )
    shown = text.pivot(index=["method", "score"], columns="probe", values="cell")
    order = text[["method", "score"]].drop_duplicates().itertuples(index=False)
    shown = shown.loc[list(map(tuple, order)), table.probe.unique()]
    return shown.rename_axis(["Method", "Detector"], columns=None)


def correlation(row: Any) -> str:
    """A row of `stats.correlations`: the correlation and its interval."""
    return (
        "undefined"
        if math.isnan(row.rho)
        else f"{row.rho:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
    )


def audit(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.audit` as text, in percent."""
    names = {
        "average_precision": "Average precision",
        "trapezoid": "By trapezoids",
        "lowest": "Lowest order of ties",
    }
    names |= {"highest": "Highest order of ties", "tied": "Images that share a score"}
    return table.map("{:.2f}".format).rename(columns=names, index=_detector)


def answer(
    tested: pd.DataFrame,
    gained: pd.DataFrame,
    elsewise: pd.DataFrame,
    experiment: Experiment,
    records: Sequence[Record],
) -> str:
    """Which detectors are above MSP, how certain that is, and whether rotation's gain survives the
    best one: three sentences.

    tested: of `stats.contrasts`; gained: of `stats.effects` against classification; elsewise: the
    same with the other batch-norm statistics. "" where runs or scores are missing.
    """
    detectors = tested[tested.family == "detectors"]
    gains, others = (
        table[table.method == "rotation"].set_index("score") for table in (gained, elsewise)
    )
    if detectors.difference.isna().all() or "msp" not in gains.index:
        return ""
    best, data = (
        detectors.loc[detectors.difference.idxmax()],
        DATASETS.get(experiment.dataset_name, experiment.dataset_name),
    )
    few = f" with {experiment.train_per_class} labels a class" * bool(experiment.train_per_class)
    above, certain = (detectors.difference > 0).sum(), detectors[detectors.holm < 0.05]
    up, down = (
        ", ".join(map(label, certain.score[side]))
        for side in (certain.difference > 0, certain.difference < 0)
    )
    gain, msp, other = gains.loc[best.score], gains.loc["msp"], others.loc[best.score]
    (unlike,) = {*plan.STATISTICS} - {experiment.statistics}
    verdict = (
        "survives"
        if gain.low > 0
        else "stays, but less certainly,"
        if gain.difference > 0
        else "does not survive"
    )
    return (
        f"On {data}{few} {above} of {len(detectors)} detectors are above MSP for the plain classifier, {label(best.score)} "
        f"highest: {best.difference:+.2f} points of average precision (95 % over {best.classes} held-out classes "
        f"{best.low:+.2f} to {best.high:+.2f}, over test images {best.images_low:+.2f} to {best.images_high:+.2f}; "
        f"{experiment.statistics} statistics, {averaged(records)}). "
        f"Corrected by Holm for these {len(detectors)} contrasts, {up or 'none'} {'are' if ', ' in up else 'is'} significantly "
        f"above MSP ({label(best.score)}: p {p_value(best.holm)}, above in {best.above} of {best.classes} classes); "
        f"significantly below: {down or 'none'}. Rotation's gain {verdict} with {label(best.score)}: "
        f"{gain.difference:+.2f} points ({gain.low:+.2f} to {gain.high:+.2f} "
        f"over held-out classes; {unlike} statistics: {other.difference:+.2f}, {other.low:+.2f} to {other.high:+.2f}) beside "
        f"{msp.difference:+.2f} ({msp.low:+.2f} to {msp.high:+.2f}) with MSP; it is positive with "
        f"{(gains.difference > 0).sum()} of {len(gains)} scores, its interval with {(gains.low > 0).sum()}."
    )


def _wins(
    classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str
) -> str:
    if not {(*better, statistic), (*worse, statistic)} <= set(classes.columns):
        return ""
    gain = stats.difference(classes, better, worse, statistic)
    if gain.empty:
        return "not run"
    wins, p = f"{(gain > 0).sum()} of {len(gain)}", stats.wilcoxon(gain)
    return wins if math.isnan(p) else f"{wins}, {gain.mean():+.2f} points, p {p_value(p)}"


def averaged(records: Sequence[Record], how: str = "mean of ") -> str:
    """mean of 3 trials, of 1 or 2 where some runs are missing, or one trial; how: what stands
    before several.
    """
    counts = Counter(
        (record.dataset, record.hold_out, record.method) for record in records
    ).values()
    fewest, most = min(counts, default=0), max(counts, default=0)
    between = {most: "", most - 1: f"{fewest} or "}.get(fewest, f"{fewest} to ")
    return "one trial" if most == 1 else f"{how}{between}{most} trials"


def p_value(value: float) -> str:
    """= 0.014, or < 0.001; "" for NaN."""
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"= {value:.3f}"


def limits(experiment: Experiment) -> str:
    """What a table of this data set can't show, as Markdown for below it; "" where there is nothing
    to say.
    """
    if (experiment.dataset, experiment.profile) != ("digits", "demo"):
        return ""
    return (
        "In make demo's runs on digits rotation makes no difference that the trials can tell from chance, with upright "
        "statistics; with mixed ones it costs. The paper's claim is about photographs: notebooks/few_labels.ipynb, on CIFAR-10."
    )


def as_text(table: pd.DataFrame) -> str:
    """A table of by_class for a terminal."""
    return formatted(table).to_string(line_width=200)


def print_all(experiments: Iterable[Experiment]) -> None:
    """Each experiment's table on the terminal."""
    for experiment in experiments:
        records = store.finished(experiment)
        print(f"\n{title(experiment)}: average precision and accuracy, %")
        if records:
            print(as_text(tables.by_class(experiment, records)))
        print(*filter(None, [limits(experiment), *remarks(experiment, records)]), sep="\n")


def title(experiment: Experiment) -> str:
    """The experiment in a few words: data set, profile, and the auxiliary weight where a method has
    one.
    """
    plain = set(experiment.trained) <= {"classification", "center_mask"}
    weight = "" if plain else f", auxiliary weight {experiment.auxiliary_weight:g}"
    few = (
        f", {experiment.train_per_class} training images a class"
        if experiment.train_per_class
        else ""
    )
    name = f"{experiment.dataset_name}{few}"
    return f"{name}, profile {experiment.profile}{weight}, {experiment.statistics} batch-norm statistics"


def heading(experiment: Experiment) -> str:
    """The experiment in a line of Markdown, for a notebook's top."""
    e = experiment
    demo = (
        "**A demonstration in minutes, not the paper's experiment.** "
        if e.profile == "demo"
        else ""
    )
    training = f"{e.architecture}, {e.epochs} epochs of batches of {e.batch_size}, {e.schedule} schedule, {machine.precision(e)}"
    return f"{demo}**{title(e)}**: {training}, {e.trials} trial{'s' * (e.trials > 1)}."


def unlike_paper(experiment: Experiment, notebook: str) -> str:
    """Which settings differ from params/paper/<notebook>.yaml, as a sentence."""
    fields = {*Experiment.model_fields, *Several.model_fields}
    given = read_parameters(f"params/paper/{notebook}.yaml").items()
    known = {
        e.dataset: e for e in several({name: value for name, value in given if name in fields})
    }
    paper = known.get(experiment.dataset)
    if paper is None:
        return (
            f"{experiment.dataset_name} is not the paper's data set, which is {' or '.join(known)}."
        )
    mine, theirs = (
        _choices(e, experiment.trained or ("classification",)) for e in (experiment, paper)
    )
    if "auxiliary_weight" in mine:
        printed = (
            PAPERS_CPC_WEIGHT if "cpc" in experiment.methods else PAPERS_WEIGHTS[experiment.dataset]
        )
        weight = mine["auxiliary_weight"]
        theirs["auxiliary_weight"] = (
            weight if weight in map(float, printed.split(" or ")) else printed
        )
    computed = f"Training computes in {mine.pop('precision')}, of which the paper says nothing."
    unlike = [
        f"{name} {mine[name]} (paper: {theirs[name]})"
        for name in mine
        if mine[name] != theirs[name]
    ]
    said = (
        f"Settings unlike the paper's: {', '.join(unlike)}."
        if unlike
        else "All settings are the paper's, as we read them."
    )
    return f"{said} {computed}"


def _choices(experiment: Experiment, methods: Iterable[str]) -> dict[str, object]:
    """Every setting that an experiment with these methods depends on."""
    settings = {
        k: v
        for method in methods
        for k, v in plan.Run(experiment, None, method, 0).settings.items()
    }
    odin = (
        {"temperature": experiment.temperature, "epsilon": experiment.epsilon}
        if "odin" in experiment.scores
        else {}
    )
    return settings | odin | {"trials": experiment.trials, "statistics": experiment.statistics}


def remarks(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """What a reader must know of a table: how much was run, where, how long it took, what is
    unlike, and what is left out.
    """
    own = [record for record in records if not record.external]
    where = (
        f", trained in {duration(sum(r.seconds for r in own))} on {_counted(r.device for r in own)}"
        if own
        else ""
    )
    paper = imagenet.COUNTS.get(experiment.dataset, (0, 0))[0]
    fewer = sorted(
        {r.train_images for r in records if paper and r.train_images and r.train_images != paper}
    )
    lines = [f"{len(records)} of {len(plan.planned(experiment))} runs are finished{where}."]
    pairs, every = (
        {(record.method, record.trial) for record in records},
        set(plan.held_out(experiment)),
    )
    whole = Counter(
        method
        for method, trial in pairs
        if every <= {r.hold_out for r in records if (r.method, r.trial) == (method, trial)}
    )
    begun = Counter(method for method, _ in pairs if whole[method])
    if begun != whole or len(set(whole.values())) > 1:
        counts = ", ".join(
            f"{whole[method]} with {label(method)}"
            for method in experiment.methods
            if whole[method]
        )
        lines.append(f"Averages are of the trials that have every class: {counts}.")
    if outside := [record for record in records if record.external]:
        named = _counted(label(record.method) for record in outside)
        lines.append(f"Trained elsewhere, their scores imported, how is not known here: {named}.")
    if n := experiment.train_per_class:
        lines.append(
            f"Trained on {n} images of each class, drawn anew for each trial and held-out class, the same for each method."
        )
    lines += [
        f"The data set has {n} of the {paper} training images that it has in the paper."
        for n in fewer
    ]
    if records and plan.here(experiment) != records[0].data:
        lines.append(
            f"{experiment.dataset_name} is not here, or has changed: these runs used the version {records[0].data}."
        )
    wanted = plan.scoring(experiment)
    lacking = [f"{label(name, wanted)} ({record.hold_out or 'none'}, {record.method})" for record in records
               for name in store.lacking(record, wanted)]  # fmt: skip
    if lacking:
        more, how = (
            f" and {len(lacking) - 1} more" * (len(lacking) > 1),
            "missing: train computes them from kept weights",
        )
        lines.append(f"Not scored yet: {lacking[0]}{more}; {how}.")
    return lines + unlike(records) + store.unmatched([experiment])


def between(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> str:
    """What is unlike between the rows of a table about several experiments, besides their data; ""
    if nothing is.
    """
    return "  \n".join(
        unlike([record for _, records in runs for record in records], one_data_set=False)
    )


def unlike(records: Sequence[Record], one_data_set: bool = True) -> list[str]:
    """In what the runs of one table differ that its numbers may depend on, a line each."""
    own = [record for record in records if not record.external]
    aspects = {
        "data": [str(record.data) for record in records if one_data_set],
        "precision": [record.precision for record in own],
        "torch": [
            ".".join(record.versions.get("torch", "unknown").split(".")[:2]) for record in own
        ],
        "devices": [record.device for record in own],
    }
    said = {"data": "NOT COMPARABLE, runs on different data"}
    return [
        f"{said.get(name, f'Different {name}')}: {_counted(v)}."
        for name, v in aspects.items()
        if len(set(v)) > 1
    ]


def summary(experiment: Experiment, records: Sequence[Record]) -> str:
    """remarks as Markdown."""
    return "  \n".join(remarks(experiment, records))


def duration(seconds: float) -> str:
    """40 s, 75 min, 3.1 h."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())
