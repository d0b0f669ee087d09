"""Records -> tables in percent, mean +- std over trials, beside the published numbers. Every number is read from a record."""

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pandas as pd

from semlib import config, machine, store
from semlib.config import Experiment
from semlib.datasets import imagenet
from semlib.files import one_line, save_atomically, short
from semlib.store import Record

PUBLISHED = {"cifar10": "table3_cifar10", "stl10": "table4_stl10"}  # the hold-out table of each data set
SUBSETS = ("dog", "car", "snake", "spider", "fungus")  # of ImageNet: Appendix B, with CPC's lighter network Appendix C
PAPERS_WEIGHTS = {"cifar10": "0.5", "stl10": "1.0", **dict.fromkeys((f"imagenet_{name}" for name in SUBSETS), "0.5 or 1.0")}
PAPERS_IMAGES = {500: "Table 4 (STL-10)", 1300: "Tables 5, 6 (ImageNet's subsets)", 5000: "Table 3 (CIFAR-10)"}  # a class
PAPERS_CPC_WEIGHT = "10.0"
FEWEST_TO_TEST = 6  # of five differences no result of Wilcoxon's signed-rank test is under p = 0.05
LABELS = {"msp": "MSP", "odin": "ODIN", "accuracy": "Accuracy", "classification": "Classification-only"}
LABELS |= {"rotation": "Rotation-augmented", "cpc": "CPC-augmented", "center_mask": "Random-center-masked"}
LABELS |= {"msp_t1000": "MSP (T = 1000)", "max_logit": "Max logit", "energy": "Energy", "entropy": "Entropy", "gen": "GEN"}
LABELS |= {"mahalanobis": "Mahalanobis", "rmd": "RMD", "knn": "KNN", "cosine": "Cosine", "vim": "ViM", "react": "ReAct"}
LABELS |= {"scale": "SCALE", "fdbd": "fDBD", "nnguide": "NNGuide"}
ROWS = {"average": "Average", "cifar10": "CIFAR-10", "stl10": "STL-10"}  # a class is called as its folder is


def label(name: str) -> str:
    """How a method or a measure is shown: the paper's words, or a user's function without its module."""
    return LABELS.get(name, name.rpartition(":")[2])


def published(table: str) -> pd.DataFrame:
    """The paper's numbers in semlib/published/<table>.csv, in percent; each mean is followed by its std."""
    return pd.read_csv(str(files("semlib") / "published" / f"{table}.csv"), index_col=0, dtype={"hold_out": str})


def paper(dataset: str, classes: Sequence[str], architecture: str = "", train_per_class: int | None = None) -> pd.DataFrame:
    """The paper's hold-out table of this data set; empty if it has none, as for a folder of that name with other classes.

    Of fewer training images than all there is none. The ImageNet subsets have two: Appendix C's with CPC's lighter network,
    Appendix B's with the other.
    """
    if train_per_class is not None:
        return pd.DataFrame()
    letter = "c" if architecture.endswith("-cpc") else "b"
    names = PUBLISHED | {f"imagenet_{name}": f"appendix_{letter}_imagenet_{name}" for name in SUBSETS}
    table = published(names[dataset]) if dataset in names else pd.DataFrame()
    return table if set(table.index) >= set(classes) else pd.DataFrame()


def measurements(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: hold_out, method, trial, and accuracy and each score's average precision, in percent.

    With the batch-norm statistics that the experiment's `statistics` names.
    """
    wanted, end = store.scoring(experiment), store.STATISTICS[experiment.statistics]
    rows = []
    for record in records:
        keys = {name: record.key(how) for name, how in wanted.items()}
        values = {name: record.metrics.get(key + end, math.nan) * 100 for name, key in keys.items() if key}
        row = {"hold_out": record.hold_out or "none", "method": record.method, "trial": record.trial}
        rows.append(row | values | {"accuracy": record.metrics["accuracy" + end] * 100})
    return pd.DataFrame(rows, columns=["hold_out", "method", "trial", *wanted, "accuracy"])


def by_class(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """The paper's hold-out table (Tables 3, 4, Appendix B, C): a row a class, then the average; NaN where nothing was run.

    Columns: (method, measure, statistic), the statistic one of mean, std, paper, paper_std. std is the sample standard
    deviation over trials, NaN for one trial. The average row is the mean over classes within a trial, then mean and std
    over the trials that have all classes. With no class held out there is only the accuracy.
    """
    runs = measurements(experiment, records)
    rows = [name or "none" for name in store.held_out(experiment)]
    paper, columns = _paper(experiment, rows), {}
    index = rows if rows == ["none"] else [*rows, "average"]
    for method in experiment.methods:
        for measure in ("accuracy",) if rows == ["none"] else (*experiment.scores, "accuracy"):
            trials = runs[runs.method == method].pivot(index="hold_out", columns="trial", values=measure).reindex(rows)
            trials.loc["average"] = trials.mean(skipna=False)
            trials = trials.loc[index]
            columns[method, measure, "mean"] = trials.mean(axis=1)
            columns[method, measure, "std"] = trials.std(axis=1, ddof=1)
            if f"{method}_{measure}" in paper:
                columns[method, measure, "paper"] = paper[f"{method}_{measure}"]
                columns[method, measure, "paper_std"] = paper[f"{method}_{measure}_std"]
    table = pd.DataFrame(columns, index=index)
    table.columns.names = ("method", "measure", "statistic")
    return table


def _paper(experiment: Experiment, rows: list[str]) -> pd.DataFrame:
    """The paper's table of this data set, if it has one; its average row only where all of its classes are asked for."""
    table = paper(experiment.dataset, rows, experiment.architecture, experiment.train_per_class)
    whole = set(table.index) == {*rows, "average"}
    return table.reindex([*rows, "average"] if whole else rows)


def mean_std(mean: float, std: float, absent: str = "not run") -> str:
    """34.92 ± 0.41 as the paper prints it; "-" for the std of one trial."""
    if math.isnan(mean):
        return absent
    return f"{mean:.2f} ± {'-' if math.isnan(std) else format(std, '.2f')}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of by_class as text to look at: "mean ± std" here and in the paper, "not run" where nothing was run."""
    columns = {}
    for method, measure in dict.fromkeys((m, s) for m, s, _ in table.columns):
        for where, mean, std, absent in (("here", "mean", "std", "not run"), ("paper", "paper", "paper_std", "")):
            if (method, measure, mean) in table.columns:
                pairs = zip(table[method, measure, mean], table[method, measure, std], strict=True)
                columns[label(method), label(measure), where] = [mean_std(m, s, absent) for m, s in pairs]
    text = pd.DataFrame(columns, index=[ROWS.get(name, name) for name in table.index])
    if not any(column[2] == "paper" for column in text.columns):
        text.columns = text.columns.droplevel(2)
    text = Shown(text.rename_axis(index=table.index.name or "Anomaly"))
    text.best, text.found = _best(table, text), finding(table)
    return text


class Shown(pd.DataFrame):
    """A table as text; a notebook shows the best method's numbers in bold and, below, what was found."""

    _metadata: ClassVar = ["best", "found"]

    def _repr_html_(self) -> str:
        escaped = pd.DataFrame(self).map(escape).rename(index=escape)
        return f"{escaped.mask(self.best, '<b>' + escaped + '</b>').to_html(escape=False)}<p>{escape(self.found)}</p>"


def _best(table: pd.DataFrame, text: pd.DataFrame) -> pd.DataFrame:
    """Which cells of `shown` are a measure's highest mean in their row; none with a single method."""
    best = pd.DataFrame(False, text.index, text.columns)
    for measure in table.columns.unique("measure"):
        means = table.xs((measure, "mean"), axis=1, level=("measure", "statistic"))  # (rows, methods)
        for method in means if means.shape[1] > 1 else ():
            best[(label(method), label(measure), "here")[: text.columns.nlevels]] = (
                means[method] == means.max(axis=1)
            ).to_numpy()
    return best


def finding(table: pd.DataFrame) -> str:
    """In how many classes each method is above plain classification, here and in the paper, as sentences."""
    classes, sentences, tested = table.drop(index="average", errors="ignore"), [], False
    what = "rows" if table.index.name else "classes"
    for method in table.columns.unique("method").drop("classification", errors="ignore"):
        parts = []
        for measure in table.columns.unique("measure"):
            here, paper = (_wins(classes, (method, measure), ("classification", measure), s) for s in ("mean", "paper"))
            tested |= " points, p " in here
            if "of" in here:
                parts.append(f"by {label(measure)} in {here}" + (f" (the paper: {paper})" if "of" in paper else ""))
        if parts:
            sentences.append(f"{label(method)} is above {label('classification')} in so many {what}: {'; '.join(parts)}.")
    one = table.xs("std", axis=1, level="statistic").isna().all(axis=None)
    if tested:
        sentences.append(f"p: Wilcoxon's two-sided signed-rank test over the {what}, not corrected for several tests.")
    if sentences and one:
        sentences.append(f"With one trial nothing can be claimed {'of a single one of them' if tested else 'from it'}.")
    return " ".join(sentences)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Measured minus published in points, as text; * where it is more than two standard deviations of the two together.

    Without a deviation of its own (one trial) a difference has no *, and "?" says so.
    """
    columns = {}
    for method, measure in dict.fromkeys((m, s) for m, s, statistic in table.columns if statistic == "paper"):
        mean, std, paper, paper_std = (table[method, measure, statistic] for statistic in ("mean", "std", "paper", "paper_std"))
        difference, limit = mean - paper, 2 * np.hypot(std, paper_std)
        mark = np.select([limit.isna(), difference.abs() > limit], [" ?", " *"], "")
        texts = ["" if math.isnan(d) else f"{d:+.2f}{m}" for d, m in zip(difference, mark, strict=True)]
        columns[label(method), label(measure)] = texts
    if not columns:
        return pd.DataFrame({"Difference": ["the paper has no numbers of this data set"]}, index=["-"])
    rows = pd.Index([ROWS.get(name, name) for name in table.index], name=table.index.name or "Anomaly")
    return pd.DataFrame(columns, index=rows)


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """In how many classes ODIN beats MSP, and a method beats plain classification in each measure; here and in the paper.

    Where six classes or more differ, with the mean difference and the p of Wilcoxon's two-sided signed-rank test over the
    classes' means. The classes of a data set are not quite independent: their trainings share images.
    """
    classes = table.drop(index="average", errors="ignore")
    methods = list(dict.fromkeys(table.columns.get_level_values("method")))
    measures = list(dict.fromkeys(table.columns.get_level_values("measure")))
    pairs = [((m, "odin"), (m, "msp")) for m in methods if {"odin", "msp"} <= set(measures)]
    pairs += [((m, s), ("classification", s)) for m in methods if m != "classification" for s in measures]
    rows = {}
    for better, worse in pairs:
        name = f"{label(better[0])}: {label(better[1])} above " + label(worse[1] if better[0] == worse[0] else worse[0])
        rows[name] = [_wins(classes, better, worse, statistic) for statistic in ("mean", "paper")]
    wins = pd.DataFrame.from_dict(rows, orient="index", columns=["here", "in the paper"])
    return wins if wins["in the paper"].any() else wins[["here"]]


def masking(table: pd.DataFrame) -> pd.DataFrame:
    """Sec. 5.2's table from that of by_class: each method's accuracy and MSP average precision over the hold-outs, as text.

    The paper's stand beside those of all ten classes of CIFAR-10 only.
    """
    paper = published("masking_ablation")
    whole = "paper" in table.columns.get_level_values("statistic") and table.loc["average"].xs("paper", level="statistic").any()
    rows = {}
    for method in dict.fromkeys(table.columns.get_level_values("method")):
        here = [mean_std(*(table[method, measure, s]["average"] for s in ("mean", "std"))) for measure in ("accuracy", "msp")]
        row = paper.reindex([method]).iloc[0]
        printed = [mean_std(row[m], row[f"{m}_std"], absent="") for m in ("accuracy", "msp")]
        rows[label(method)] = [here[0], printed[0], here[1], printed[1]]
    columns = pd.MultiIndex.from_product([["Accuracy", "Av. Prec. with MSP"], ["here", "paper"]])
    text = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis(index="Method")
    return text if whole else text.drop(columns="paper", level=1)


def by_subset(tables: Mapping[str, pd.DataFrame], paper: pd.DataFrame) -> pd.DataFrame:
    """Tables 5 and 6: the average row of each data set's table of by_class, beside the paper's; imagenet_dog's is "dog".

    The paper's is of all classes and training images, so it is left out where only some are held out or used.
    """
    rows = {name.removeprefix("imagenet_"): table.loc["average"] for name, table in tables.items()}
    whole = [name for name, row in rows.items() if row[row.index.get_level_values("statistic") == "paper"].notna().any()]
    paper = paper.reindex([name for name in whole if name in paper.index])
    return _stacked(rows, paper).rename_axis(index="Subset")


def all_classes(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The class rows of several data sets' tables of by_class under each other."""
    return pd.concat([table.drop(index="average") for table in tables.values()])


def with_skew(summary: pd.DataFrame, runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """A table of by_subset as text, with the skew, which a random detector's average precision is: the mean of its runs'."""
    text = shown(summary)
    skews = [f"{100 * np.mean([r.skew for r in records]):.2f}" if records else "not run" for _, records in runs]
    text.insert(0, ("Skew", *[""] * (text.columns.nlevels - 1)), skews)
    text.best = text.best.reindex(columns=text.columns, fill_value=False)
    return text


def generalization(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """Table 2: each data set's accuracies with no class held out, beside the paper's where all training images are used."""
    paper = published("table2_generalization")
    whole = {e.dataset_name for e, _ in runs if e.train_per_class is None} & set(PUBLISHED)
    columns = {f"{method}_accuracy{end}": {name: paper[f"{name}{end}"][method] for name in whole}
               for method in paper.index for end in ("", "_std")}  # fmt: skip
    rows = {e.dataset_name: by_class(e, records).loc["none"] for e, records in runs}
    return _stacked(rows, pd.DataFrame(columns)).rename_axis(index="Data set")


def _stacked(rows: Mapping[str, pd.Series], paper: pd.DataFrame) -> pd.DataFrame:
    """Rows of several tables of by_class as one table, the paper's columns from `paper` where it has such a row."""
    here = pd.DataFrame(rows).T
    columns = {}
    for method, measure in dict.fromkeys((m, s) for m, s, _ in here.columns):
        columns |= {(method, measure, statistic): here[method, measure, statistic] for statistic in ("mean", "std")}
        name = f"{method}_{measure}"
        if name in paper and set(here.index) & set(paper.index):
            columns[method, measure, "paper"] = paper[name].reindex(here.index)
            columns[method, measure, "paper_std"] = paper[f"{name}_std"].reindex(here.index)
    table = pd.DataFrame(columns, index=here.index)
    table.columns.names = ("method", "measure", "statistic")
    return table


def gains(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """How far each method is above plain classification, a row each for an experiment, statistics, method and measure.

    Points: plain and with, the means over held-out classes; gain, their difference, with its 95 % interval low to high (of a
    t-test paired over classes: what other classes would do, not other trials); above of classes: in how many; p: Wilcoxon's,
    two-sided. NaN where not run. images: of training a class, as `images_a_class` has it.
    """
    from scipy.stats import t

    if any("classification" not in experiment.methods for experiment, _ in runs):
        raise config.ConfigError("methods: gains are over classification; name it among the methods")
    rows = []
    for experiment, records in runs:
        images = images_a_class(experiment, records)
        for statistics in store.STATISTICS:
            table = by_class(experiment.model_copy(update={"statistics": statistics}), records)
            for method, measure in dict.fromkeys((m, s) for m, s, _ in table.columns if m != "classification"):
                gained = gain(table, method, measure)
                both, n = table.loc[gained.index], len(gained)
                half = t.ppf(0.975, n - 1) * gained.std() / math.sqrt(n) if n > 1 else math.nan
                row = {"images": images, "statistics": statistics, "method": method, "measure": measure}
                row |= {"plain": both["classification", measure, "mean"].mean(), "with": both[method, measure, "mean"].mean()}
                row |= {"gain": gained.mean(), "low": gained.mean() - half, "high": gained.mean() + half}
                rows.append(row | {"above": (gained > 0).sum(), "classes": n, "p": _wilcoxon(gained)})
    return pd.DataFrame(rows)


def images_a_class(experiment: Experiment, records: Sequence[Record]) -> float:
    """Training images of a class: as many as asked for, or on average of the data set; NaN if all and none was run."""
    if experiment.train_per_class or not records:
        return float(experiment.train_per_class or math.nan)
    return (records[0].train_images or math.nan) / len(records[0].classes)


def gains_shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `gains` as text."""
    images = ["all (not run)" if math.isnan(n) else f"{n:,.0f}" for n in table.images]
    text = pd.DataFrame({"Images a class": images, "Statistics": table.statistics})
    text["Method"], text["Measure"] = table.method.map(label), table.measure.map(label)
    for name, column in ((label("classification"), "plain"), ("With the method", "with")):
        text[name] = ["not run" if math.isnan(value) else f"{value:.2f}" for value in table[column]]
    text["Gain (95 % interval)"] = [_gain_text(row) for row in table.itertuples()]
    text["Above in"] = [f"{a} of {n}" if n else "" for a, n in zip(table.above, table.classes, strict=True)]
    text["p"] = [_p(p).removeprefix("= ") for p in table.p]
    return text.set_index(["Images a class", "Statistics", "Method", "Measure"])


def _gain_text(row: Any) -> str:
    if math.isnan(row.gain):
        return "not run"
    return f"{row.gain:+.2f}" + ("" if math.isnan(row.low) else f" ({row.low:+.2f} to {row.high:+.2f})")


def primary(table: pd.DataFrame, experiment: Experiment, records: Sequence[Record]) -> str:
    """The result that was fixed before any run, as a sentence: MSP with mixed statistics, rotation against classification."""
    row = table[(table.statistics == "mixed") & (table.method == "rotation") & (table.measure == "msp")].iloc[0]
    what = f"MSP's average precision, mixed statistics, {experiment.train_per_class or 'all'} training images a class"
    if math.isnan(row.gain):
        return f"**Primary result**: {what}: not run."
    done, planned = len(records), len(store.plan(experiment))
    interval = f", 95 % interval over {row.classes} classes {row.low:+.2f} to {row.high:+.2f}" * (not math.isnan(row.low))
    p = f", Wilcoxon's p {_p(row.p)}" * (not math.isnan(row.p))
    so_far = f" So far {done} of {planned} runs are finished: not yet the result." * (done < planned)
    return (
        f"**Primary result**: {what}, rotation against classification: {row.gain:+.2f} points{interval}{p}; above in "
        f"{row.above} of {row.classes} classes; mean of {experiment.trials} trial{'s' * (experiment.trials > 1)}.{so_far}"
    )


def rank_correlation(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over classes of accuracy with each score's average precision, here and in the paper, as text."""
    classes, rows = table.drop(index="average"), {}
    for method, measure in dict.fromkeys((m, s) for m, s, _ in table.columns if s != "accuracy"):
        pairs = [[(method, name, statistic) for name in ("accuracy", measure)] for statistic in ("mean", "paper")]
        rows[f"{label(method)}: accuracy and {label(measure)}"] = [_spearman(classes, pair) for pair in pairs]
    text = pd.DataFrame.from_dict(rows, orient="index", columns=["here", "in the paper"])
    return text if text["in the paper"].any() else text[["here"]]


def of_classes(experiment: Experiment, records: Sequence[Record], classes: Sequence[object]) -> list[Record]:
    """The records of these held-out classes, passing over those of another data set; ConfigError if it has none of them."""
    names, known = list(map(str, classes)), [name or "none" for name in store.held_out(experiment)]
    if not set(names) & set(known):
        raise config.ConfigError(
            f"classes: {experiment.dataset_name} has none of {', '.join(names)}; choose from {', '.join(known)}"
        )
    return [record for record in records if record.hold_out in names]


def _spearman(classes: pd.DataFrame, columns: list[tuple[str, str, str]]) -> str:
    from scipy.stats import spearmanr  # takes longer to import than the rest of this module

    both = classes[columns].dropna() if set(columns) <= set(classes.columns) else pd.DataFrame()
    if len(both) < 3:
        return "not run" if columns[0][2] == "mean" else ""
    if (both.nunique() == 1).any():
        return "undefined: all are equal"
    found = spearmanr(*both.to_numpy().T)
    return f"{found.statistic:+.2f} (p = {found.pvalue:.2f}, {len(both)} classes)"


def by_weight(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """Validation accuracy by data set, method and auxiliary weight, in percent; `chosen` is the best weight of a method.

    runs: the experiments of auxiliary_weights with their records. Nothing is chosen of a method until all its runs are there.
    """
    rows = []
    for experiment, records in runs:
        row = {"dataset": experiment.dataset_name, "train_per_class": experiment.train_per_class or ""}
        row |= {"method": experiment.methods[0], "weight": experiment.auxiliary_weight}
        accuracy = f"accuracy{store.STATISTICS[experiment.statistics]}"
        accuracies = 100 * pd.Series([record.metrics[accuracy] for record in records], dtype=float)
        complete = len(records) == len(store.plan(experiment))
        rows.append(row | {"accuracy": accuracies.mean(), "std": accuracies.std(), "complete": complete})
    table = pd.DataFrame(rows)
    table["chosen"] = False
    for (*_, method), group in table.groupby(["dataset", "train_per_class", "method"]):
        if method != "classification" and group.complete.all():
            table.loc[group.accuracy.idxmax(), "chosen"] = True  # of equals the first
    return table


def by_weight_shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of by_weight as text, the paper's choice beside."""
    text = pd.DataFrame({"Data set": table.dataset, "Images a class": table.train_per_class})
    text["Method"] = table.method.map(label)
    plain = table.method == "classification"
    text["Auxiliary weight"] = np.where(plain, "", table.weight.map("{:g}".format))
    text["Validation accuracy"] = [mean_std(m, s) for m, s in zip(table.accuracy, table["std"], strict=True)]
    text["Chosen"] = np.where(table.chosen, "chosen", "")
    papers = table.dataset.map(PAPERS_WEIGHTS).fillna("").where(table.method != "cpc", PAPERS_CPC_WEIGHT)
    text["In the paper"] = papers.where(table.method.isin(["rotation", "cpc"]) & (table.train_per_class == ""), "")
    text = text.loc[:, text.any()]
    return text.set_index([name for name in ("Data set", "Images a class", "Method") if name in text])


def save_chosen_weights(table: pd.DataFrame, folder: Path) -> None:
    """Write the chosen weights into outputs/<profile>/, beside those chosen before for other data sets and methods."""
    path, keys = folder / config.CHOSEN_WEIGHTS, ["dataset", "method", "train_per_class"]
    rows = table[table.chosen].rename(columns={"weight": "auxiliary_weight"})[
        ["dataset", "method", "auxiliary_weight", "accuracy", "train_per_class"]
    ]
    if path.exists():
        try:
            before = pd.read_csv(path, dtype={"train_per_class": str}, keep_default_na=False)
            before = before.assign(train_per_class=before.get("train_per_class", ""))  # older files are of all images
            rows = pd.concat([before, rows.astype({"train_per_class": str})]).drop_duplicates(keys, keep="last")[list(rows)]
        except Exception as error:
            raise config.ConfigError(f"{path} can't be read ({one_line(error)}); delete it to write it anew") from None
    if len(rows):
        text = rows.to_csv(index=False)
        save_atomically(path, lambda file: file.write(text.encode()))


def _wins(classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str) -> str:
    if not {(*better, statistic), (*worse, statistic)} <= set(classes.columns):
        return ""
    gain = _gain(classes, better, worse, statistic)
    if gain.empty:
        return "not run"
    wins, p = f"{(gain > 0).sum()} of {len(gain)}", _wilcoxon(gain)
    return wins if math.isnan(p) else f"{wins}, {gain.mean():+.2f} points, p {_p(p)}"


def gain(table: pd.DataFrame, method: str, measure: str) -> pd.Series:
    """Of a table of by_class, a method above plain classification by class, in points; without the classes that lack one."""
    return _gain(table.drop(index="average", errors="ignore"), (method, measure), ("classification", measure))


def _gain(classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str = "mean") -> pd.Series:
    """In points, of the classes that have both."""
    gain = (classes[(*better, statistic)] - classes[(*worse, statistic)]).dropna()
    return gain.round(9)  # equal ones are equal again, for the ranks


def _wilcoxon(gain: pd.Series) -> float:
    """The p of Wilcoxon's two-sided signed-rank test; NaN where too few differ."""
    if (gain != 0).sum() < FEWEST_TO_TEST:
        return math.nan
    from scipy.stats import wilcoxon

    return float(wilcoxon(gain).pvalue)


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"= {value:.3f}"


def limits(experiment: Experiment) -> str:
    """What a table of this data set can't show, as Markdown for below it; "" where there is nothing to say."""
    if experiment.dataset != "digits":
        return ""
    return (
        "On digits rotation makes no difference that the trials can tell from chance, with upright statistics; with mixed ones "
        "it costs. The paper's claim is about photographs: see notebooks/few_labels.ipynb, on CIFAR-10."
    )


def as_text(table: pd.DataFrame) -> str:
    """A table of by_class for a terminal."""
    return shown(table).to_string(line_width=200)


def print_all(experiments: Iterable[Experiment]) -> None:
    """Each experiment's table on the terminal."""
    for experiment in experiments:
        records = store.finished(experiment)
        print(f"\n{title(experiment)}: average precision and accuracy, %")
        print(as_text(by_class(experiment, records)), limits(experiment), sep="\n")
        print(*remarks(experiment, records), sep="\n")


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table of by_class as CSV, each mean directly followed by its std, then the paper's."""
    names = {"mean": "", "std": "_std", "paper": "_paper", "paper_std": "_paper_std"}
    flat = table.set_axis([f"{method}_{measure}{names[s]}" for method, measure, s in table.columns], axis=1)
    save_plain(flat.rename_axis(index="hold_out"), path)


def save_plain(table: pd.DataFrame, path: Path) -> None:
    """Write any table of percents as CSV, two decimals; one with more empty cells than the file is <name>.unfinished.csv."""
    text, before = table.to_csv(float_format="%.2f"), 0.0
    with suppress(OSError, ValueError):  # no file, or not a table
        before = _filled(path.read_text())
    save_complete(path, _filled(text), before, lambda file: file.write(text.encode()))


def save_complete(path: Path, share: float, before: float, write: Callable[[BinaryIO], object]) -> None:
    """Write the file if it has at least the share of its numbers that the one before has, else beside it, which is printed."""
    unfinished = path.with_suffix(f".unfinished{path.suffix}")
    if share < before:
        print(f"{short(path)} stays, with {before:.0%} of its numbers; this one, with {share:.0%}, is {short(unfinished)}")
        save_atomically(unfinished, write)
    else:
        save_atomically(path, write)
        unfinished.unlink(missing_ok=True)


def _filled(text: str) -> float:
    """The share of numbers in a CSV's own columns that are there."""
    table = pd.read_csv(io.StringIO(text), index_col=0)
    own = table[[name for name in table if not str(name).endswith(("_std", "_paper"))]].apply(pd.to_numeric, errors="coerce")
    return float(own.notna().to_numpy().mean())


def title(experiment: Experiment) -> str:
    """The experiment in a few words: data set, profile, and the auxiliary weight where a method has one."""
    plain = set(experiment.methods) <= {"classification", "center_mask"}
    weight = "" if plain else f", auxiliary weight {experiment.auxiliary_weight:g}"
    few = f", {experiment.train_per_class} training images a class" if experiment.train_per_class else ""
    name = f"{experiment.dataset_name}{few}"
    return f"{name}, profile {experiment.profile}{weight}, {experiment.statistics} batch-norm statistics"


def heading(experiment: Experiment) -> str:
    """The experiment in a line of Markdown, for a notebook's top."""
    e = experiment
    demo = "**A demonstration in minutes, not the paper's experiment.** " if e.profile == "demo" else ""
    training = (
        f"{e.architecture}, {e.epochs} epochs of batches of {e.batch_size}, {e.schedule} schedule, {machine.precision(e)}"
    )
    return f"{demo}**{title(e)}**: {training}, {e.trials} trial{'s' * (e.trials > 1)}."


def unlike_paper(experiment: Experiment, notebook: str) -> str:
    """Which settings differ from params/paper/<notebook>.yaml, as a sentence."""
    fields = {*Experiment.model_fields, *config.Several.model_fields}
    given = config.read_parameters(f"params/paper/{notebook}.yaml").items()
    known = {e.dataset: e for e in config.several({name: value for name, value in given if name in fields})}
    paper = known.get(experiment.dataset)
    if paper is None:
        return f"{experiment.dataset_name} is not the paper's data set, which is {' or '.join(known)}."
    mine, theirs = (_choices(e, experiment.methods) for e in (experiment, paper))
    if "auxiliary_weight" in mine:
        printed = PAPERS_CPC_WEIGHT if "cpc" in experiment.methods else PAPERS_WEIGHTS[experiment.dataset]
        weight = mine["auxiliary_weight"]
        theirs["auxiliary_weight"] = weight if weight in map(float, printed.split(" or ")) else printed
    computed = f"Training computes in {mine.pop('precision')}, of which the paper says nothing."
    unlike = [f"{name} {mine[name]} (paper: {theirs[name]})" for name in mine if mine[name] != theirs[name]]
    said = f"Settings unlike the paper's: {', '.join(unlike)}." if unlike else "All settings are the paper's, as we read them."
    return f"{said} {computed}"


def _choices(experiment: Experiment, methods: Iterable[str]) -> dict[str, object]:
    """Every setting that an experiment with these methods depends on."""
    settings = {k: v for method in methods for k, v in store.Run(experiment, None, method, 0).settings.items()}
    odin = {"temperature": experiment.temperature, "epsilon": experiment.epsilon} if "odin" in experiment.scores else {}
    return settings | odin | {"trials": experiment.trials, "statistics": experiment.statistics}


def remarks(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """What a reader must know of a table: how much was run, where, how long it took, what is unlike, and what is left out."""
    where = (
        f", trained in {duration(sum(r.seconds for r in records))} on {_counted(r.device for r in records)}" if records else ""
    )
    paper = imagenet.COUNTS.get(experiment.dataset, (0, 0))[0]
    fewer = sorted({r.train_images for r in records if paper and r.train_images and r.train_images != paper})
    lines = [f"{len(records)} of {len(store.plan(experiment))} runs are finished{where}."]
    if n := experiment.train_per_class:
        lines.append(
            f"Trained on {n} images of each class, drawn anew for each trial and held-out class, the same for each method."
        )
    lines += [f"The data set has {n} of the {paper} training images that it has in the paper." for n in fewer]
    if records and store.here(experiment) != records[0].data:
        lines.append(f"{experiment.dataset_name} is not here, or has changed: these runs used the version {records[0].data}.")
    wanted = store.scoring(experiment)
    lacking = [f"{label(name)} ({record.hold_out or 'none'}, {record.method})" for record in records
               for name in store.lacking(record, wanted)]  # fmt: skip
    if lacking:
        lines.append(f"Not scored yet: {lacking[0]}{f' and {len(lacking) - 1} more' * (len(lacking) > 1)}.")
    return lines + unlike(records) + store.unmatched([experiment])


def between(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> str:
    """What is unlike between the rows of a table about several experiments, besides their data; "" if nothing is."""
    return "  \n".join(unlike([record for _, records in runs for record in records], one_data_set=False))


def unlike(records: Sequence[Record], one_data_set: bool = True) -> list[str]:
    """In what the runs of one table differ that its numbers may depend on, a line each."""
    aspects = {
        "data": [str(record.data) for record in records if one_data_set],
        "precision": [record.precision for record in records],
        "torch": [".".join(record.versions.get("torch", "unknown").split(".")[:2]) for record in records],
        "devices": [record.device for record in records],
    }
    said = {"data": "NOT COMPARABLE, runs on different data"}
    return [f"{said.get(name, f'Different {name}')}: {_counted(v)}." for name, v in aspects.items() if len(set(v)) > 1]


def summary(experiment: Experiment, records: Sequence[Record]) -> str:
    """remarks as Markdown."""
    return "  \n".join(remarks(experiment, records))


def duration(seconds: float) -> str:
    """40 s, 75 min, 3.1 h."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())
