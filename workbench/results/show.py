"""Tables as text, and sentences about the runs that a table is made of."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from semlib.datasets import imagenet
from workbench.experiment import Experiment, Several, read_parameters, several
from workbench.results import stats, tables
from workbench.results.frame import Runs
from workbench.results.names import label, rows_of, without_average
from workbench.runs import machine, plan, store
from workbench.runs.store import Record

# --- tables


def mean_std(mean: float, std: float, absent: str = "not run") -> str:
    """34.92 ± 0.41 as the paper prints it; of one trial the number alone."""
    if math.isnan(mean):
        return absent
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def p_value(value: float) -> str:
    """= 0.014, or < 0.001; "" for NaN."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def written(
    table: pd.DataFrame, index: Mapping[str, str], columns: Mapping[str, str], absent: str = "-"
) -> pd.DataFrame:
    """A table as text: each column a format, "{low:.2f} to {high:.2f}", that a row's values fill.

    index: those that become the index. Methods and measures are shown by their labels, p by its
    text, and a cell whose number is NaN as absent.
    """
    named = {}
    for name in table.columns.intersection(["method", "measure", "score", "against"]):
        named[name] = table[name].map(partial(label, among=table[name].unique()))
    for name in table.columns.intersection(["p", "holm"]):
        named[name] = table[name].map(p_value).str.removeprefix("= ")
    rows = table.assign(**named).to_dict("records")
    text = {
        name: [how.format_map(row) for row in rows] for name, how in {**index, **columns}.items()
    }
    text = pd.DataFrame(text, table.index).replace(r" \(.?nan to .?nan\)", "", regex=True)
    text = text.replace(r".*\bnan\b.*", absent, regex=True)
    return text.set_index([*index]) if index else text


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """A table of by_class as text: "mean ± std" here and in the paper, or "not run"."""
    texts = {}
    for column, part in _labelled(table).items():
        texts[*column, "here"] = list(map(mean_std, part["mean"], part["std"]))
        if "paper" in part:
            paper = map(partial(mean_std, absent=""), part["paper"], part["paper_std"])
            texts[*column, "paper"] = list(paper)
    text = pd.DataFrame(texts, index=rows_of(table)).rename_axis(table.index.name or "Anomaly")
    return text if "paper" in text.columns.unique(2) else text.droplevel(2, axis=1)


def _labelled(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The parts of a table of by_class by the labels of their method and measure."""
    methods, measures = (list(table.columns.unique(level)) for level in ("method", "measure"))
    parts = tables.parts(table).items()
    return {(label(m, methods), label(s, measures)): part for (m, s), part in parts}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Measured minus published in points; * where it is more than two deviations of both together.

    "?" where one trial gives no deviation.
    """
    texts = {}
    for column, part in _labelled(table).items():
        if "paper" in part:
            limit = 2 * np.hypot(part["std"], part.paper_std)
            points = part["mean"] - part.paper
            mark = np.select([limit.isna(), points.abs() > limit], [" ?", " *"], "")
            found = pd.DataFrame({"points": points, "mark": mark})
            texts[column] = written(found, {}, {"text": "{points:+.2f}{mark}"}, absent="").text
    if not texts:
        nothing = "the paper has no numbers of this data set"
        return pd.DataFrame({"Difference": [nothing]}, index=["-"])
    text = pd.DataFrame(texts).set_axis(rows_of(table))
    return text.rename_axis(table.index.name or "Anomaly")


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """In how many classes ODIN beats MSP, and a method plain classification, here and in the paper.

    Where six classes or more differ, with the mean difference and the p of Wilcoxon's two-sided
    signed-rank test over the classes' means. The classes of a data set are not quite independent:
    their trainings share images.
    """
    parts, rows = _labelled(without_average(table)), {}
    plain, odin, msp = label("classification"), label("odin"), label("msp")
    for (method, measure), part in parts.items():
        if measure == odin and (method, msp) in parts:
            rows[f"{method}: {measure} above {msp}"] = part, parts[method, msp]
    for (method, measure), part in parts.items():
        if method != plain and (plain, measure) in parts:
            rows[f"{method}: {measure} above {plain}"] = part, parts[plain, measure]
    return _here_and_paper(rows, _wins)


def rank_correlation(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over classes of accuracy with each score, here and in the paper."""
    parts, rows, accuracy = _labelled(without_average(table)), {}, label("accuracy")
    for (method, measure), part in parts.items():
        if measure != accuracy:
            rows[f"{method}: accuracy and {measure}"] = parts[method, accuracy], part
    return _here_and_paper(rows, _spearman)


def _here_and_paper(
    rows: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], compare: Callable[..., str]
) -> pd.DataFrame:
    """A row for each pair of parts: compare(one, other) of the classes that have both numbers."""
    text = pd.DataFrame("", index=[*rows], columns=["here", "in the paper"])
    for name, (one, other) in rows.items():
        both = pd.concat({"one": one, "other": other}, axis=1).swaplevel(axis=1)
        text.loc[name, "here"] = compare(*both["mean"].dropna().T.to_numpy()) or "not run"
        if "paper" in one and "paper" in other:
            text.loc[name, "in the paper"] = compare(*both["paper"].dropna().T.to_numpy())
    return text if text["in the paper"].any() else text[["here"]]


def _wins(better: np.ndarray, worse: np.ndarray) -> str:
    found = stats.paired(pd.Series(better - worse))
    if not found["classes"]:
        return ""
    wins, p = f"{found['above']} of {found['classes']}", p_value(found["p"])
    return f"{wins}, {found['difference']:+.2f} points, p {p}" if p else wins


def _spearman(accuracy: np.ndarray, precision: np.ndarray) -> str:
    from scipy.stats import spearmanr  # slow to import

    if len(accuracy) < 3:
        return ""
    if min(np.ptp(accuracy), np.ptp(precision)) == 0:
        return "undefined: all are equal"
    found = spearmanr(accuracy, precision)
    return f"{found.statistic:+.2f} (p = {found.pvalue:.2f}, {len(accuracy)} classes)"


def with_skew(summary: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """A table of by_subset as text with the skew, a random detector's average precision."""
    text = formatted(summary)
    skews = [100 * pd.Series([record.skew for record in records]).mean() for _, records in runs]
    column = ("Skew", *[""] * (text.columns.nlevels - 1))
    text.insert(0, column, [mean_std(skew, math.nan) for skew in skews])
    return text


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.gains` as text."""
    index = {"Images a class": "{images:,.0f}", "Statistics": "{statistics}"}
    index |= {"Method": "{method}", "Measure": "{measure}"}
    means = {label("classification"): "{plain:.2f}", "With the method": "{with:.2f}"}
    means |= {"Gain (95 % over held-out classes)": "{gain:+.2f} ({low:+.2f} to {high:+.2f})"}
    text = written(table, index, means | {"Above in": "{above} of {classes}", "p": "{p}"}, "-")
    classes = table.set_axis(text.index)[["classes", "planned"]]
    part = classes.classes < classes.planned
    text.loc[part, [*means]] = "not all run"
    text.loc[part, "Above in"] += " that were run, of " + classes.planned.astype(str)
    text.loc[classes.classes == 0] = "not run"
    return text


def weights(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `tables.by_weight` as text, with the chosen weight's line for params files."""
    index = {"Data set": "{dataset}", "Images a class": "{train_per_class}", "Method": "{method}"}
    columns = {"Auxiliary weight": "{weight:g}", "Validation accuracy": "{text}"}
    columns |= {"For the params file": "auxiliary_weight: {weight:g}"}
    means = list(map(mean_std, table.accuracy, table["std"]))
    text = written(table.assign(text=means), index, columns)
    text.loc[list(table.method == "classification"), "Auxiliary weight"] = ""
    text.loc[list(~table.chosen), "For the params file"] = ""
    return text


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.leaderboard` as text; each interval says what it is about."""
    columns = {
        "Average precision (%)": "{average_precision:.2f}",
        "95 % over test images": "{images_low:.2f} to {images_high:.2f}",
        "Std over trials": "{trial_std:.2f}",
        "95 % over held-out classes": "{class_low:.2f} to {class_high:.2f}",
        "AUROC (%)": "{auroc:.2f}",
        "FPR at 95 % recall (%)": "{fpr95:.2f}",
    }
    if table.paper.notna().any():
        columns["The paper"] = "{paper:.2f}"
    text = written(table.reset_index(), {"Method": "{method}", "Detector": "{score}"}, columns)
    return text.mask(text["Average precision (%)"] == "-", "not run")


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.contrasts` or `stats.effects` as text: p last if it has one."""
    columns = {
        "Difference (points)": "{difference:+.2f}",
        "95 % over held-out classes": "{low:+.2f} to {high:+.2f}",
        "95 % over test images": "{images_low:+.2f} to {images_high:+.2f}",
        "Above in": "{above} of {classes}",
    }
    if "holm" in table:
        columns |= {"p": "{p}", "p by Holm": "{holm}"}
    index = {"Method": "{method}", "Score": "{score}", "Against": "{against}"}
    return written(table, index, columns, absent="not run")


def prevalences(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.by_prevalence` as text, a column for each share of anomalies."""
    text = table.T.map("{:.2f}".format).replace("nan", "-").rename(columns="{:.1%}".format)
    text = text.rename(index=label).rename_axis(["Method", "Detector"])
    return text.rename_axis(columns="Anomalies")


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.correlations` as text: a column a probe."""
    texts = table.assign(text=[correlation(row) for row in tables.rows(table)])
    wide = texts.pivot_table("text", stats.PAIR, "probe", aggfunc="first", sort=False)
    wide = wide.rename(index=label).rename_axis(["Method", "Detector"])
    return wide.rename_axis(columns=None)


def correlation(row: Any) -> str:
    """A row of `stats.correlations`: the correlation and its interval."""
    interval = f"{row.rho:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
    return "undefined" if math.isnan(row.rho) else interval


def audit(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats.audit` as text, in percent."""
    titles = ["Average precision", "By trapezoids", "Lowest order of ties"]
    titles += ["Highest order of ties", "Images that share a score"]
    return table.map("{:.2f}".format).set_axis(titles, axis=1).rename(index=label)


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
        print(*remarks(experiment, records), sep="\n")


# --- about the runs


def averaged(records: Sequence[Record], how: str = "mean of ") -> str:
    """mean of 3 trials, of 1 or 2 where some runs are missing, or one trial.

    how: what stands before several.
    """
    runs = Counter((record.dataset, record.hold_out, record.method) for record in records)
    fewest, most = min(runs.values(), default=0), max(runs.values(), default=0)
    if most == 1:
        return "one trial"
    between = {most: "", most - 1: f"{fewest} or "}.get(fewest, f"{fewest} to ")
    return f"{how}{between}{most} trials"


def duration(seconds: float) -> str:
    """40 s, 75 min, 3.1 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def title(experiment: Experiment) -> str:
    """Data set, profile, the auxiliary weight if a method has one, and the statistics."""
    parts = [experiment.dataset_name]
    if experiment.train_per_class:
        parts.append(f"{experiment.train_per_class} training images a class")
    parts.append(f"profile {experiment.profile}")
    if not {*experiment.trained} <= {"classification", "center_mask"}:
        parts.append(f"auxiliary weight {experiment.auxiliary_weight:g}")
    return ", ".join([*parts, f"{experiment.statistics} batch-norm statistics"])


def heading(*experiments: Experiment) -> str:
    """Each experiment's title and training in a paragraph of Markdown, for a notebook's top."""
    paragraphs = []
    for e in experiments:
        training = f"{e.architecture}, {e.epochs} epochs of batches of {e.batch_size}"
        training += f", {e.schedule} schedule, {machine.precision(e)}"
        trials = "1 trial" if e.trials == 1 else f"{e.trials} trials"
        text = f"**{title(e)}**: {training}, {trials}."
        if e.profile == "demo":
            text = f"**A demonstration in minutes, not the paper's experiment.** {text}"
        paragraphs.append(text)
    return "\n\n".join(paragraphs)


def summary(experiment: Experiment, records: Sequence[Record]) -> str:
    """remarks as Markdown."""
    return "  \n".join(remarks(experiment, records))


def summaries(runs: Runs) -> str:
    """Each experiment's title and summary as Markdown, then in what their runs differ."""
    parts = [f"**{title(e)}**: {summary(e, records)}" for e, records in runs]
    return "\n\n".join([*parts, between(runs)])


def between(runs: Runs) -> str:
    """In what the runs of several experiments differ besides their data, as Markdown."""
    every = [record for _, records in runs for record in records]
    return "  \n".join(unlike(every, one_data_set=False))


def unlike(records: Sequence[Record], one_data_set: bool = True) -> list[str]:
    """A line for each aspect that differs between runs, where a table's numbers may depend on it."""
    own = [record for record in records if not record.external]
    torch = [record.versions.get("torch", "unknown").split(".")[:2] for record in own]
    aspects = {
        "Different precision": [record.precision for record in own],
        "Different torch": [".".join(version) for version in torch],
        "Different devices": [record.device for record in own],
    }
    if one_data_set:
        data = [str(record.data) for record in records]
        aspects = {"NOT COMPARABLE, runs on different data": data} | aspects
    return [f"{name}: {_counted(v)}." for name, v in aspects.items() if len({*v}) > 1]


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())


def remarks(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """What a reader must know of a table: how much was run, where, how long, what is missing."""
    own = [record for record in records if not record.external]
    lines = [f"{len(records)} of {len(plan.planned(experiment))} runs are finished."]
    if own:
        where = f"trained in {duration(sum(r.seconds for r in own))} on {_counted(r.device for r in own)}"
        lines = [f"{lines[0][:-1]}, {where}."]
    lines += _whole_trials(experiment, records)
    if len(own) < len(records):
        named = _counted(label(record.method) for record in records if record.external)
        lines.append(f"Trained elsewhere, their scores imported, how is not known here: {named}.")
    if n := experiment.train_per_class:
        drawn = "drawn anew for each trial and held-out class, the same for each method"
        lines.append(f"Trained on {n} images of each class, {drawn}.")
    paper = imagenet.COUNTS.get(experiment.dataset, (0, 0))[0]
    for n in sorted({record.train_images for record in records} - {None, paper}) if paper else ():
        few = f"{n} of the {paper} training images"
        lines.append(f"The data set has {few} that it has in the paper.")
    if records and plan.here(experiment) != records[0].data:
        gone = f"{experiment.dataset_name} is not here, or has changed"
        lines.append(f"{gone}: these runs used the version {records[0].data}.")
    lines += _not_scored(experiment, records)
    return lines + unlike(records) + store.unmatched([experiment])


def _whole_trials(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """A line if the averages are of fewer trials than were begun, or methods have not as many."""
    runs = pd.DataFrame(
        [(r.method, r.trial, r.hold_out or "none") for r in records],
        columns=["method", "trial", "hold_out"],
    )
    classes = runs.groupby(["method", "trial"]).hold_out.nunique()
    whole = (
        (classes == len(plan.held_out(experiment))).groupby(level="method").agg(["sum", "count"])
    )
    whole = whole[whole["sum"] > 0]
    if (whole["sum"] == whole["count"]).all() and whole["sum"].nunique() <= 1:
        return []
    methods = [method for method in experiment.methods if method in whole.index]
    counts = ", ".join(f"{whole['sum'][method]} with {label(method)}" for method in methods)
    return [f"Averages are of the trials that have every class: {counts}."]


def _not_scored(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    wanted = plan.scoring(experiment)
    missing = []
    for record in records:
        for name in store.lacking(record, wanted):
            missing.append(f"{label(name, wanted)} ({record.hold_out or 'none'}, {record.method})")
    if not missing:
        return []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [f"Not scored yet: {missing[0]}{more}; missing: train computes them from kept weights."]


def unlike_paper(notebook: str, *experiments: Experiment) -> str:
    """Which settings differ from params/paper/<notebook>.yaml, a paragraph an experiment."""
    file = f"params/paper/{notebook}.yaml"
    fields = {*Experiment.model_fields, *Several.model_fields}
    given = {name: value for name, value in read_parameters(file).items() if name in fields}
    papers = {paper.dataset: paper for paper in several(given)}
    paragraphs = []
    for experiment in experiments:
        if experiment.dataset not in papers:
            known = " or ".join(papers)
            said = f"{experiment.dataset_name} is not the paper's data set, which is {known}."
        else:
            said = _unlike(experiment, papers[experiment.dataset], file)
        paragraphs.append(said)
    return "\n\n".join(paragraphs)


def _unlike(experiment: Experiment, paper: Experiment, file: str) -> str:
    methods = experiment.trained or ("classification",)
    mine, theirs = _choices(experiment, methods), _choices(paper, methods)
    computed = f"Training computes in {mine.pop('precision')}, of which the paper says nothing."
    different = [f"{k} {mine[k]} (there {theirs[k]})" for k in mine if mine[k] != theirs[k]]
    if not different:
        return f"All settings are the paper's, as we read them in {file}. {computed}"
    return f"Settings unlike {file}: {', '.join(different)}. {computed}"


def _choices(experiment: Experiment, methods: Iterable[str]) -> dict[str, Any]:
    """Every setting that the results of an experiment with these methods depend on."""
    settings: dict[str, Any] = {}
    for method in methods:
        settings |= plan.Run(experiment, None, method, 0).settings
    if "odin" in experiment.scores:
        settings |= {"temperature": experiment.temperature, "epsilon": experiment.epsilon}
    return settings | {"trials": experiment.trials, "statistics": experiment.statistics}
