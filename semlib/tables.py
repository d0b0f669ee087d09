"""Records -> tables in percent, mean +- std over trials, beside the published numbers. Every number is read from a record."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from semlib import config, store
from semlib.config import Experiment
from semlib.files import save_atomically
from semlib.store import Record

PUBLISHED = {"cifar10": "table3_cifar10", "stl10": "table4_stl10"}  # the hold-out table of each data set
LABELS = {"msp": "MSP", "odin": "ODIN", "accuracy": "Accuracy", "classification": "Classification-only"}
LABELS |= {"rotation": "Rotation-augmented", "center_mask": "Random-center-masked", "average": "Average"}


def label(name: str) -> str:
    """How a method, a measure or a row is shown: the paper's words, or a user's function without its module."""
    return LABELS.get(name, name.rpartition(":")[2])


def published(table: str) -> pd.DataFrame:
    """The paper's numbers in semlib/published/<table>.csv, in percent; each mean is followed by its std."""
    return pd.read_csv(str(files("semlib") / "published" / f"{table}.csv"), index_col=0, dtype={"hold_out": str})


def paper(dataset: str, classes: Sequence[str]) -> pd.DataFrame:
    """The paper's hold-out table of this data set; empty if it has none, as for a folder of that name with other classes."""
    table = published(PUBLISHED[dataset]) if dataset in PUBLISHED else pd.DataFrame()
    return table if set(table.index) == {*classes, "average"} else pd.DataFrame()


def measurements(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: hold_out, method, trial, and accuracy and each score's average precision, in percent."""
    wanted = store.scoring(experiment)
    rows = []
    for record in records:
        keys = {name: record.key(how) for name, how in wanted.items()}
        values = {name: record.metrics.get(key, math.nan) * 100 for name, key in keys.items() if key}
        row = {"hold_out": record.hold_out or "none", "method": record.method, "trial": record.trial}
        rows.append(row | values | {"accuracy": record.metrics["accuracy"] * 100})
    return pd.DataFrame(rows, columns=["hold_out", "method", "trial", *wanted, "accuracy"])


def by_class(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """The paper's hold-out table (Tables 3, 4, Appendix B, C): a row a class, then the average; NaN where nothing was run.

    Columns: (method, measure, statistic), the statistic one of mean, std, paper, paper_std. std is the sample standard
    deviation over trials, NaN for one trial. The average row is the mean over classes within a trial, then mean and std
    over the trials that have all classes.
    """
    runs = measurements(experiment, records)
    rows = [name or "none" for name in store.held_out(experiment)]
    paper = _paper(experiment, rows)
    columns = {}
    for method in experiment.methods:
        for measure in (*experiment.scores, "accuracy"):
            trials = runs[runs.method == method].pivot(index="hold_out", columns="trial", values=measure).reindex(rows)
            trials.loc["average"] = trials.mean(skipna=False)
            columns[method, measure, "mean"] = trials.mean(axis=1)
            columns[method, measure, "std"] = trials.std(axis=1, ddof=1)
            if f"{method}_{measure}" in paper:
                columns[method, measure, "paper"] = paper[f"{method}_{measure}"]
                columns[method, measure, "paper_std"] = paper[f"{method}_{measure}_std"]
    table = pd.DataFrame(columns, index=[*rows, "average"])
    table.columns.names = ("method", "measure", "statistic")
    return table


def _paper(experiment: Experiment, rows: list[str]) -> pd.DataFrame:
    """The paper's table of this data set, if it has one; its average row only where all of its classes are asked for."""
    if experiment.dataset not in PUBLISHED:  # a folder of that name isn't the paper's data set
        return pd.DataFrame()
    paper = published(PUBLISHED[experiment.dataset])
    whole = set(paper.index) == {*rows, "average"}
    return paper.reindex([*rows, "average"] if whole else rows)


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
    text = pd.DataFrame(columns, index=[label(name) for name in table.index])
    if not any(column[2] == "paper" for column in text.columns):
        text.columns = text.columns.droplevel(2)
    text = Shown(text.rename_axis(index="Anomaly"))
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
    classes, sentences = table.drop(index="average"), []
    for method in table.columns.unique("method").drop("classification", errors="ignore"):
        parts = []
        for measure in table.columns.unique("measure"):
            here, paper = (_wins(classes, (method, measure), ("classification", measure), s) for s in ("mean", "paper"))
            if "of" in here:
                parts.append(f"by {label(measure)} in {here}" + (f" (the paper: {paper})" if "of" in paper else ""))
        sentences += [f"{label(method)} is above {label('classification')} {', '.join(parts)} classes."] if parts else []
    one = table.xs("std", axis=1, level="statistic").isna().all(axis=None)
    return " ".join([*sentences, "With one trial nothing can be claimed from it."] if sentences and one else sentences)


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
    return pd.DataFrame(columns, index=[label(name) for name in table.index]).rename_axis(index="Anomaly")


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """In how many classes ODIN beats MSP, and a method beats plain classification in each measure; here and in the paper."""
    classes = table.drop(index="average")
    methods = list(dict.fromkeys(table.columns.get_level_values("method")))
    measures = list(dict.fromkeys(table.columns.get_level_values("measure")))
    pairs = [((m, "odin"), (m, "msp")) for m in methods if {"odin", "msp"} <= set(measures)]
    pairs += [((m, s), ("classification", s)) for m in methods if m != "classification" for s in measures]
    rows = {}
    for better, worse in pairs:
        name = f"{label(better[0])}: {label(better[1])} above " + label(worse[1] if better[0] == worse[0] else worse[0])
        rows[name] = [_wins(classes, better, worse, statistic) for statistic in ("mean", "paper")]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["here", "in the paper"])


def masking(table: pd.DataFrame) -> pd.DataFrame:
    """Sec. 5.2's table from that of by_class: each method's accuracy and MSP average precision over the hold-outs, as text."""
    paper = published("masking_ablation")
    rows = {}
    for method in dict.fromkeys(table.columns.get_level_values("method")):
        here = [mean_std(*(table[method, measure, s]["average"] for s in ("mean", "std"))) for measure in ("accuracy", "msp")]
        row = paper.reindex([method]).iloc[0]
        printed = [mean_std(row[m], row[f"{m}_std"], absent="") for m in ("accuracy", "msp")]
        rows[label(method)] = [here[0], printed[0], here[1], printed[1]]
    columns = pd.MultiIndex.from_product([["Accuracy", "Av. Prec. with MSP"], ["here", "paper"]])
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis(index="Method")


def _wins(classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str) -> str:
    if not {(*better, statistic), (*worse, statistic)} <= set(classes.columns):
        return ""
    both = classes[[(*better, statistic), (*worse, statistic)]].dropna()
    return f"{(both.iloc[:, 0] > both.iloc[:, 1]).sum()} of {len(both)}" if len(both) else "not run"


def as_text(table: pd.DataFrame) -> str:
    """A table of by_class for a terminal."""
    return shown(table).to_string(line_width=200)


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table of by_class as CSV, each mean directly followed by its std, then the paper's."""
    names = {"mean": "", "std": "_std", "paper": "_paper", "paper_std": "_paper_std"}
    flat = table.set_axis([f"{method}_{measure}{names[s]}" for method, measure, s in table.columns], axis=1)
    save_plain(flat.rename_axis(index="hold_out"), path)


def save_plain(table: pd.DataFrame, path: Path) -> None:
    """Write any table of percents as CSV, two decimals."""
    text = table.to_csv(float_format="%.2f")
    save_atomically(path, lambda file: file.write(text.encode()))


def heading(experiment: Experiment) -> str:
    """The experiment in a line of Markdown, for a notebook's top."""
    e = experiment
    training = f"{e.architecture}, {e.epochs} epochs of batches of {e.batch_size}, {e.schedule} schedule"
    return f"**{e.dataset_name}**, profile **{e.profile}**: {training}, {e.trials} trial{'s' * (e.trials > 1)}."


def unlike_paper(experiment: Experiment, notebook: str) -> str:
    """Which settings differ from params/paper/<notebook>.yaml, as a sentence."""
    paper = config.create(config.read_parameters(f"params/paper/{notebook}.yaml"))
    mine, theirs = (store.Run(e, None, "rotation", 0).settings | {"trials": e.trials} for e in (experiment, paper))
    unlike = [f"{name} {mine[name]} (paper: {theirs[name]})" for name in mine if mine[name] != theirs[name]]
    return f"Settings unlike the paper's: {', '.join(unlike)}." if unlike else "All settings are the paper's."


def remarks(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """What a reader must know of a table: how much was run, where, how long it took, and whether all on the same data."""
    where = (
        f", trained in {_duration(sum(r.seconds for r in records))} on {_counted(r.device for r in records)}" if records else ""
    )
    lines = [f"{len(records)} of {len(store.plan(experiment))} runs are finished{where}."]
    if len({record.data_digest for record in records}) > 1:
        lines.append(f"NOT COMPARABLE, runs on different data: {_counted(f'digest {r.data_digest[:8]}' for r in records)}.")
    return lines


def summary(experiment: Experiment, records: Sequence[Record]) -> str:
    """remarks as Markdown."""
    return "  \n".join(remarks(experiment, records))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())
