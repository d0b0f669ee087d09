"""Tables of means over trials in percent, beside the paper's, and their CSV files."""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from workbench.experiment import Experiment
from workbench.files import save_atomically, short
from workbench.results.frame import Runs, frame
from workbench.results.names import AVERAGE, average_of, average_row, without_average
from workbench.runs import plan
from workbench.runs.store import Record

SUBSETS = ("dog", "car", "snake", "spider", "fungus")  # of ImageNet
HOLD_OUT_TABLES = {"cifar10": "table3_cifar10", "stl10": "table4_stl10"}  # in published/
HOLD_OUT_TABLES |= {f"imagenet_{name}": f"appendix_b_imagenet_{name}" for name in SUBSETS}
PAPERS_IMAGES = {  # of a class, and where
    500: "Table 4 (STL-10)",
    1300: "Tables 5, 6 (ImageNet's subsets)",
    5000: "Table 3 (CIFAR-10)",
}
LEVELS = ["method", "measure", "statistic"]  # of a table's columns


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """Each row as a named tuple."""
    yield from table.itertuples()


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


def measurements(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """A row a run: hold_out, method, trial, then each score's average precision and accuracy."""
    long = frame([(experiment, records)])
    long = long[long.statistics == experiment.statistics]
    run = ["hold_out", "method", "trial"]
    wide = long.pivot_table("value", run, "measure", sort=False)
    return wide.reindex(columns=[*experiment.scores, "accuracy"]).reset_index()


def by_class(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """The paper's hold-out table (Tables 3, 4, Appendix B, C): a row a class, then the average.

    Columns (method, measure, statistic), the statistic one of mean, std, paper, paper_std; NaN
    where nothing was run. std: over trials, NaN of one. The average is the mean over classes within
    a trial, then mean and std over the trials that have all classes. With no class held out the
    one row is "none", and the one measure accuracy.
    """
    classes = [name or "none" for name in plan.held_out(experiment)]
    average = average_row(classes)
    index = classes if classes == ["none"] else [*classes, average]
    measures = ["accuracy"] if classes == ["none"] else [*experiment.scores, "accuracy"]
    long = frame([(experiment, records)])
    long = long[long.statistics == experiment.statistics]
    trials = long.pivot(index="hold_out", columns=["method", "measure", "trial"], values="value")
    trials = trials.reindex(index)
    if average in index:
        trials.loc[average] = trials.loc[classes].mean(skipna=False)
    by_pair = trials.T.groupby(level=["method", "measure"])
    here = pd.concat({"mean": by_pair.mean().T, "std": by_pair.std().T}, axis=1)
    here = here.reorder_levels([1, 2, 0], axis=1).rename_axis(index=None)
    every = [experiment.methods, measures, ["mean", "std"]]
    here = here.reindex(columns=pd.MultiIndex.from_product(every, names=LEVELS))
    e = experiment
    printed = paper(e.dataset, classes, e.architecture, e.train_per_class)
    if {*printed.index} != {*classes, AVERAGE}:  # the paper's average is of all classes
        printed = printed.drop(index=AVERAGE, errors="ignore")
    return beside(here, printed)


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
        averages[subset] = table.loc[average_of(table)]
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


def by_weight(runs: Runs) -> pd.DataFrame:
    """Validation accuracy by data set, method and auxiliary weight, mean and std over trials.

    runs: the experiments of auxiliary_weights. chosen: a method's best weight, the first of
    equals, once all its runs are there.
    """
    table = []
    for experiment, records in runs:
        accuracy = measurements(experiment, records).accuracy
        row: dict[str, Any] = {"dataset": experiment.dataset_name}
        row["images"] = experiment.train_per_class or "all"
        row |= {"method": experiment.methods[0], "weight": experiment.auxiliary_weight}
        row |= {"accuracy": accuracy.mean(), "std": accuracy.std()}
        table.append(row | {"complete": len(records) == len(plan.planned(experiment))})
    table = pd.DataFrame(table)
    search = table.groupby(["dataset", "images", "method"])
    best = search.accuracy.rank(ascending=False, method="first") == 1
    whole = search.complete.transform("all")
    return table.assign(chosen=best & whole & (table.method != "classification"))


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table of by_class as CSV: each mean, its std, the paper's mean and std."""
    names = ["_".join(column).removesuffix("_mean") for column in table.columns]
    save_plain(table.set_axis(names, axis=1).rename_axis(index="hold_out"), path)


def save_plain(table: pd.DataFrame, path: Path, decimals: int = 2) -> None:
    """Write a table as CSV; where the file has fewer empty cells, beside it (see save_complete)."""
    text = table.to_csv(float_format=f"%.{decimals}f")
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
    """The share of numbers in a CSV that are there; deviations and the paper's don't count."""
    table = pd.read_csv(io.StringIO(text), index_col=0)
    own = table[[name for name in table if not str(name).endswith(("_std", "_paper"))]]
    return float(own.apply(pd.to_numeric, errors="coerce").notna().to_numpy().mean())
