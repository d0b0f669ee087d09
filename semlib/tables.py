"""Records -> tables in percent, mean +- std over trials, beside the published numbers. Every number is read from a record."""

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, ClassVar

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


def paper(dataset: str, classes: Sequence[str], architecture: str = "") -> pd.DataFrame:
    """The paper's hold-out table of this data set; empty if it has none, as for a folder of that name with other classes.

    The ImageNet subsets have two: Appendix C's with CPC's lighter network, Appendix B's with the other.
    """
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
    table = paper(experiment.dataset, rows, experiment.architecture)
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

    The paper's is of all classes, so it is left out where only some are held out.
    """
    rows = {name.removeprefix("imagenet_"): table.loc["average"] for name, table in tables.items()}
    whole = [set(imagenet.SUBSETS.get(name, {}).values()) <= set(table.index) for name, table in tables.items()]
    paper = paper.reindex([row for row, is_whole in zip(rows, whole, strict=True) if is_whole and row in paper.index])
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


def generalization(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 2: the accuracies of each data set's table of by_class with no class held out, beside the paper's."""
    paper = published("table2_generalization")
    columns = {f"{method}_accuracy{end}": {name: paper[f"{name}{end}"][method] for name in PUBLISHED}
               for method in paper.index for end in ("", "_std")}  # fmt: skip
    rows = {name: table.loc["none"] for name, table in tables.items()}
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
        row = {"dataset": experiment.dataset_name, "method": experiment.methods[0], "weight": experiment.auxiliary_weight}
        accuracy = f"accuracy{store.STATISTICS[experiment.statistics]}"
        accuracies = 100 * pd.Series([record.metrics[accuracy] for record in records], dtype=float)
        complete = len(records) == len(store.plan(experiment))
        rows.append(row | {"accuracy": accuracies.mean(), "std": accuracies.std(), "complete": complete})
    table = pd.DataFrame(rows)
    table["chosen"] = False
    for (_, method), group in table.groupby(["dataset", "method"]):
        if method != "classification" and group.complete.all():
            table.loc[group.accuracy.idxmax(), "chosen"] = True  # of equals the first
    return table


def by_weight_shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of by_weight as text, the paper's choice beside."""
    text = pd.DataFrame({"Data set": table.dataset, "Method": table.method.map(label)})
    plain = table.method == "classification"
    text["Auxiliary weight"] = np.where(plain, "", table.weight.map("{:g}".format))
    text["Validation accuracy"] = [mean_std(m, s) for m, s in zip(table.accuracy, table["std"], strict=True)]
    text["Chosen"] = np.where(table.chosen, "chosen", "")
    papers = table.dataset.map(PAPERS_WEIGHTS).fillna("").where(table.method != "cpc", PAPERS_CPC_WEIGHT)
    text["In the paper"] = papers.where(table.method.isin(["rotation", "cpc"]), "")
    return text.loc[:, text.any()].set_index(["Data set", "Method"])


def save_chosen_weights(table: pd.DataFrame, folder: Path) -> None:
    """Write the chosen weights into outputs/<profile>/, beside those chosen before for other data sets and methods."""
    path, keys = folder / config.CHOSEN_WEIGHTS, ["dataset", "method"]
    rows = table[table.chosen].rename(columns={"weight": "auxiliary_weight"})[[*keys, "auxiliary_weight", "accuracy"]]
    if path.exists():
        try:
            rows = pd.concat([pd.read_csv(path), rows]).drop_duplicates(keys, keep="last")[list(rows)]
        except Exception as error:
            raise config.ConfigError(f"{path} can't be read ({one_line(error)}); delete it to write it anew") from None
    if len(rows):
        text = rows.to_csv(index=False)
        save_atomically(path, lambda file: file.write(text.encode()))


def _wins(classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str) -> str:
    if not {(*better, statistic), (*worse, statistic)} <= set(classes.columns):
        return ""
    both = classes[[(*better, statistic), (*worse, statistic)]].dropna()
    if both.empty:
        return "not run"
    gain = (both.iloc[:, 0] - both.iloc[:, 1]).round(9)  # equal ones are equal again, for the ranks
    wins = f"{(gain > 0).sum()} of {len(gain)}"
    if (gain != 0).sum() < FEWEST_TO_TEST:
        return wins
    from scipy.stats import wilcoxon

    p = wilcoxon(gain).pvalue
    return f"{wins}, {gain.mean():+.2f} points, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def as_text(table: pd.DataFrame) -> str:
    """A table of by_class for a terminal."""
    return shown(table).to_string(line_width=200)


def print_all(experiments: Iterable[Experiment]) -> None:
    """Each experiment's table on the terminal."""
    for experiment in experiments:
        records = store.finished(experiment)
        print(f"\n{title(experiment)}: average precision and accuracy, %")
        print(as_text(by_class(experiment, records)))
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
    return f"{experiment.dataset_name}, profile {experiment.profile}{weight}, {experiment.statistics} batch-norm statistics"


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
