"""Tables of means over trials in percent, beside the paper's, and their CSV files."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from workbench.experiment import Experiment
from workbench.files import result, save_atomically, short
from workbench.images.digests import Digests
from workbench.results.frame import frame
from workbench.results.names import AVERAGE, without_average
from workbench.runs import plan
from workbench.runs.store import Record

SUBSETS = ("dog", "car", "snake", "spider", "fungus")  # of ImageNet
HOLD_OUT_TABLES = {"cifar10": "table3_cifar10", "stl10": "table4_stl10"}  # in published/
HOLD_OUT_TABLES |= {f"imagenet_{name}": f"appendix_b_imagenet_{name}" for name in SUBSETS}
PAPERS_DATA = {  # digests of the training and test images
    "cifar10": Digests(
        "d55d672a8e56ec42e1ca007bdf565953bcdffb1c3c4f74ee18ac07c80a650e23",
        "7d8ae806ac8989446414e77068384a0d98824a955531b5b91605bf50da105a73",
    )
}
STL10 = ({1000, 5000}, 8000)  # its training images, in a fold or all, and its test images
LEVELS = ["method", "measure", "statistic"]  # of a table's columns
RUN = ["hold_out", "trial", "method"]


def parts(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Of a table of by_class each (method, measure) pair's columns: mean, std, paper, paper_std."""
    pairs: Any = table.T.groupby(level=["method", "measure"], sort=False)
    return {pair: part.droplevel(["method", "measure"]).T for pair, part in pairs}


def published(table: str) -> pd.DataFrame:
    """The paper's numbers in published/<table>.csv: percent, each mean followed by its std."""
    path = files("workbench.results") / "published" / f"{table}.csv"
    return pd.read_csv(str(path), index_col=0, dtype={"hold_out": str})


def paper(
    dataset: str, classes: Sequence[str], architecture: str = "", train_per_class: int | None = None
) -> pd.DataFrame:
    """The paper's hold-out table of this data set with all training images; empty if it has none.

    It has none of a folder of images of the same name with other classes. Of the ImageNet subsets
    it has two: Appendix C's with CPC's lighter network, Appendix B's with the other one.
    """
    if dataset not in HOLD_OUT_TABLES or train_per_class is not None:
        return pd.DataFrame()
    name = HOLD_OUT_TABLES[dataset]
    if architecture.endswith("-cpc"):
        name = name.replace("appendix_b", "appendix_c")
    table = published(name)
    if dataset == "cifar10":  # of masking the centre the paper has the averages alone (Sec. 5.2)
        for column, value in published("masking_ablation").loc["center_mask"].items():
            table.loc[AVERAGE, f"center_mask_{column}"] = value
    return table if {*table.index} - {AVERAGE} >= {*classes} else pd.DataFrame()


def is_papers_data(records: Sequence[Record]) -> bool:
    """Whether the paper's numbers can be beside: a folder of images may be called cifar10 too."""
    for record in records:
        if record.data != PAPERS_DATA.get(record.dataset, record.data):
            return False
        if record.dataset == "stl10":
            images = record.check()["images"]
            if record.train_images not in STL10[0] or images != STL10[1]:
                return False
    return True


def measurements(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """A row a run: hold_out, method, trial, then each score's average precision and accuracy."""
    long = frame([(experiment, records)])
    long = long[long.statistics == experiment.statistics]
    wide = long.pivot_table("value", ["hold_out", "method", "trial"], "measure", sort=False)
    return wide.reindex(columns=[*experiment.scores, "accuracy"]).reset_index()


def compared(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """Which runs are compared: a row for each (hold_out, trial, method) where any method has one.

    scored: finished with every score that its method has here. shared: stands in its class's row,
    which has the trials that every method has; a method without any run of the class doesn't
    count. whole: averages are of it, of the trials in which every method has every class; a method
    without such a trial doesn't count. why: why a run is missing that another method has, else "".
    """
    values = measurements(experiment, records).set_index(RUN)
    absent = ~values.notna().groupby("method").transform("any")
    scored = (values.notna() | absent).all(axis=1).unstack("method", fill_value=False)
    of_class = (scored | ~scored.groupby("hold_out").transform("any")).all(axis=1)
    every = scored.groupby("trial").sum() == len(plan.held_out(experiment))
    every = every.loc[:, every.any()]
    table = scored.stack().rename("scored").to_frame()
    run = table.index.droplevel("method")
    trial = table.index.get_level_values("trial").isin(every.index[every.all(axis=1)])
    method = table.index.get_level_values("method").isin(every.columns)
    table["shared"] = table.scored & run.isin(of_class.index[of_class])
    table["whole"] = table.scored & trial & method
    finished = [(record.hold_out or "none", record.trial, record.method) for record in records]
    why = np.where(table.index.isin(finished), "lacks a score", "not run")
    lacks = ~table.scored & run.isin(scored.index[scored.any(axis=1)])
    return table.assign(why=np.where(lacks, why, ""))


def shared(experiment: Experiment, records: Sequence[Record], of: str = "shared") -> list[Record]:
    """The runs whose numbers stand in one row, or of averages alone: a column of `compared`."""
    chosen = compared(experiment, records)[of]
    return [r for r in records if chosen.get((r.hold_out or "none", r.trial, r.method))]


def trials_of_averages(chosen: pd.DataFrame) -> str:
    """Of a table of `compared`: trial 0, or trials 0, 1; "" if no trial has every class."""
    trials = sorted(chosen.index[chosen.whole].unique("trial"))
    name = "trial" if len(trials) == 1 else "trials"
    return f"{name} {', '.join(map(str, trials))}" if trials else ""


def _said(chosen: pd.DataFrame) -> dict[str, str]:
    """What rows of `by_class` leave out: rotation trial 1 (not run), rotation trial 2..."""
    lacks = chosen[chosen.why != ""].reset_index()
    texts = lacks.method + " trial " + lacks.trial.astype(str) + " (" + lacks.why + ")"
    said = texts.groupby(lacks.hold_out).agg(", ".join).to_dict()
    if said:
        trials = trials_of_averages(chosen)
        said[AVERAGE] = f"of {trials}" if trials else "no trial has every class"
    return said


def by_class(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """The paper's hold-out table (Tables 3, 4, Appendix B, C): a row a class, then the average.

    Columns (method, measure, statistic), the statistic one of mean, std, paper, paper_std; NaN
    where nothing was run. std: over trials, NaN of one. A row has the same trials of every method
    (`shared`). The average is the mean over classes within a trial, then mean and std over the
    trials in which every method has all classes (`whole`). With no class held out the one row is
    "none", and the one measure accuracy. attrs["lacks"]: what rows leave out.
    """
    classes = [name or "none" for name in plan.held_out(experiment)]
    index = classes if classes == ["none"] else [*classes, AVERAGE]
    measures = ["accuracy"] if classes == ["none"] else [*experiment.scores, "accuracy"]
    runs = measurements(experiment, records).set_index(RUN)[measures]
    chosen = compared(experiment, records)
    of_classes = runs[runs.index.isin(chosen.index[chosen.shared])]
    averages = runs[runs.index.isin(chosen.index[chosen.whole])]
    averages = averages.groupby(level=["trial", "method"]).mean()
    averages = pd.concat({AVERAGE: averages}, names=["hold_out"])
    rows = pd.concat([of_classes, averages]).groupby(level=["hold_out", "method"])
    here = pd.concat({"mean": rows.mean(), "std": rows.std()}, axis=1, names=["statistic"])
    here = here.rename_axis(columns=["statistic", "measure"]).unstack("method")
    every = [experiment.methods, measures, ["mean", "std"]]
    columns = pd.MultiIndex.from_product(every, names=LEVELS)
    here = pd.DataFrame(here.T.reorder_levels(LEVELS).T, index, columns)
    e = experiment
    printed = paper(e.dataset, classes, e.architecture, e.train_per_class)
    if not is_papers_data(records):
        printed = pd.DataFrame()
    if {*printed.index} != {*classes, AVERAGE}:  # the paper's average is of all classes
        printed = printed.drop(index=AVERAGE, errors="ignore")
    table = beside(here, printed)
    table.attrs["lacks"] = _said(chosen)
    return table


def beside(here: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Means and deviations, with the paper's beside where it has these rows and columns."""
    paper = paper.reindex(here.index).dropna(axis=1, how="all")
    both: dict[Any, pd.DataFrame] = {}
    for (method, measure), part in parts(here).items():
        name = f"{method}_{measure}"
        part = part[["mean", "std"]]
        if name in paper:
            part = part.assign(paper=paper[name], paper_std=paper[f"{name}_std"])
        both[method, measure] = part
    return pd.concat(both, axis=1, names=LEVELS)


def by_subset(tables: Mapping[str, pd.DataFrame], paper: pd.DataFrame) -> pd.DataFrame:
    """Tables 5 and 6: the average row of each subset's table, beside the paper's.

    The paper's average is of all classes and training images: it stands only beside one of these.
    """
    averages = {}
    whole = []
    for name, table in tables.items():
        subset = name.removeprefix("imagenet_")
        averages[subset] = table.loc[AVERAGE]
        if "paper" in averages[subset].dropna().index.unique("statistic"):
            whole.append(subset)
    paper = paper[paper.index.isin(whole)]
    return beside(pd.DataFrame(averages).T, paper).rename_axis(index="Subset")


def all_classes(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The class rows of several data sets' tables of by_class under each other."""
    return pd.concat([without_average(table) for table in tables.values()])


def images_a_class(experiment: Experiment, records: Sequence[Record]) -> float:
    """Training images a class: as asked for, else the data set's mean; NaN if nothing was run."""
    if experiment.train_per_class or not records:
        return float(experiment.train_per_class or math.nan)
    return (records[0].train_images or math.nan) / len(records[0].classes)


def csv_text(table: pd.DataFrame, **how: Any) -> str:
    """A table as CSV; an apostrophe is before text that spreadsheets would take for a formula."""

    def guarded(value: Any) -> Any:
        is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
        return f"'{value}" if is_formula else value

    table = table.map(guarded)
    if table.index.nlevels == 1:
        table = table.set_axis(table.index.map(guarded))
    return table.to_csv(**how)


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table of by_class as CSV: each mean, its std, the paper's mean and std.

    If rows leave something out, a last column `lacks` says what.
    """
    lacks = table.attrs.get("lacks", {})
    names = ["_".join(column).removesuffix("_mean") for column in table.columns]
    table = table.set_axis(names, axis=1).rename_axis(index="hold_out")
    if lacks:
        table = table.assign(lacks=table.index.map(lacks).fillna(""))
    save_plain(table, path)


def save_plain(table: pd.DataFrame, path: Path, decimals: int = 2) -> None:
    """Write a table as CSV; where the file has fewer empty cells, beside it (see save_complete)."""
    path = result(path)
    text = csv_text(table, float_format=f"%.{decimals}f")
    before = 0.0
    with suppress(OSError, ValueError):  # no file, or not a table
        before = _filled(path.read_text())
    save_complete(path, _filled(text), before, lambda file: file.write(text.encode()))


def save_complete(
    path: Path, share: float, before: float, write: Callable[[BinaryIO], object]
) -> None:
    """Write the file, or <name>.unfinished.<suffix> if the one before has more of its numbers."""
    unfinished = path.with_suffix(f".unfinished{path.suffix}")
    if share < before:
        stays = f"{short(path)} stays, with {before:.0%} of its numbers"
        print(f"{stays}; this one, with {share:.0%}, is {short(unfinished)}")
        save_atomically(unfinished, write)
    else:
        save_atomically(path, write)
        unfinished.unlink(missing_ok=True)


def _filled(text: str) -> float:
    """The share of cells of a CSV that are not empty; deviations and the paper's don't count."""
    table = pd.read_csv(io.StringIO(text), index_col=0)
    own = table[[name for name in table if not str(name).endswith(("_std", "_paper", "lacks"))]]
    return float(own.notna().to_numpy().mean())
