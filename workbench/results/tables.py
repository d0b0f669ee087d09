"""Records -> tables of numbers in percent, mean and std over trials, beside the published ones; all
read from records.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from workbench.experiment import CHOSEN_WEIGHTS, ConfigError, Experiment
from workbench.files import one_line, save_atomically, short
from workbench.results.names import AVERAGE, average_of, average_row, without_average
from workbench.runs import plan
from workbench.runs.store import Record

PUBLISHED = {
    "cifar10": "table3_cifar10",
    "stl10": "table4_stl10",
}  # the hold-out table of each data set
SUBSETS = (
    "dog",
    "car",
    "snake",
    "spider",
    "fungus",
)  # of ImageNet: Appendix B, with CPC's lighter network Appendix C
PAPERS_IMAGES = {
    500: "Table 4 (STL-10)",
    1300: "Tables 5, 6 (ImageNet's subsets)",
    5000: "Table 3 (CIFAR-10)",
}  # a class


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """Each row as a named tuple."""
    yield from table.itertuples()


def published(table: str) -> pd.DataFrame:
    """The paper's numbers in published/<table>.csv, in percent; each mean is followed by its std."""
    return pd.read_csv(
        str(files("workbench.results") / "published" / f"{table}.csv"),
        index_col=0,
        dtype={"hold_out": str},
    )


def paper(
    dataset: str, classes: Sequence[str], architecture: str = "", train_per_class: int | None = None
) -> pd.DataFrame:
    """The paper's hold-out table of this data set; empty if it has none, as for a folder of that
    name with other classes.

    Of fewer training images than all there is none. The ImageNet subsets have two: Appendix C's
    with CPC's lighter network, Appendix B's with the other.
    """
    if train_per_class is not None:
        return pd.DataFrame()
    letter = "c" if architecture.endswith("-cpc") else "b"
    names = PUBLISHED | {
        f"imagenet_{name}": f"appendix_{letter}_imagenet_{name}" for name in SUBSETS
    }
    table = published(names[dataset]) if dataset in names else pd.DataFrame()
    return table if {*table.index} - {AVERAGE} >= set(classes) else pd.DataFrame()


def measurements(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: hold_out, method, trial, and accuracy and each score's average precision, in
    percent.

    With the batch-norm statistics that the experiment's `statistics` names.
    """
    wanted, end = plan.scoring(experiment), plan.STATISTICS[experiment.statistics]
    rows = []
    for record in records:
        keys = {name: record.key(how) for name, how in wanted.items()}
        values = {
            name: record.metrics.get(key + end, math.nan) * 100 for name, key in keys.items() if key
        }
        row = {
            "hold_out": record.hold_out or "none",
            "method": record.method,
            "trial": record.trial,
        }
        rows.append(row | values | {"accuracy": record.metrics["accuracy" + end] * 100})
    return pd.DataFrame(rows, columns=["hold_out", "method", "trial", *wanted, "accuracy"])


def by_class(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """The paper's hold-out table (Tables 3, 4, Appendix B, C): a row a class, then the average; NaN
    where nothing was run.

    Columns: (method, measure, statistic), the statistic one of mean, std, paper, paper_std. std is
    the sample standard deviation over trials, NaN for one trial. The average row is the mean over
    classes within a trial, then mean and std over the trials that have all classes. With no class
    held out there is only the accuracy.
    """
    runs = measurements(experiment, records)
    rows = [name or "none" for name in plan.held_out(experiment)]
    average, columns = average_row(rows), {}
    index = rows if rows == ["none"] else [*rows, average]
    for method in experiment.methods:
        for measure in ("accuracy",) if rows == ["none"] else (*experiment.scores, "accuracy"):
            trials = (
                runs[runs.method == method]
                .pivot(index="hold_out", columns="trial", values=measure)
                .reindex(rows)
            )
            trials.loc[average] = trials.mean(skipna=False)
            trials = trials.loc[index]
            columns[method, measure, "mean"] = trials.mean(axis=1)
            columns[method, measure, "std"] = trials.std(axis=1, ddof=1)
    printed = paper(experiment.dataset, rows, experiment.architecture, experiment.train_per_class)
    if set(printed.index) != {*rows, AVERAGE}:
        printed = printed.drop(index=AVERAGE, errors="ignore")  # it is of all classes
    return _beside(pd.DataFrame(columns, index), printed)


def by_subset(tables: Mapping[str, pd.DataFrame], paper: pd.DataFrame) -> pd.DataFrame:
    """Tables 5 and 6: the average row of each data set's table of by_class, beside the paper's;
    imagenet_dog's is "dog".

    The paper's is of all classes and training images, so it is left out where only some are held
    out or used.
    """
    rows = {
        name.removeprefix("imagenet_"): table.loc[average_of(table)]
        for name, table in tables.items()
    }
    whole = [
        name
        for name, row in rows.items()
        if row[row.index.get_level_values("statistic") == "paper"].notna().any()
    ]
    paper = paper.reindex([name for name in whole if name in paper.index])
    return _beside(pd.DataFrame(rows).T, paper).rename_axis(index="Subset")


def all_classes(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The class rows of several data sets' tables of by_class under each other."""
    return pd.concat([without_average(table) for table in tables.values()])


def generalization(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """Table 2: each data set's accuracies with no class held out, beside the paper's where all
    training images are used.
    """
    paper = published("table2_generalization")
    whole = {e.dataset_name for e, _ in runs if e.train_per_class is None} & set(PUBLISHED)
    columns = {f"{method}_accuracy{end}": {name: paper[f"{name}{end}"][method] for name in whole}
               for method in paper.index for end in ("", "_std")}  # fmt: skip
    rows = {e.dataset_name: by_class(e, records).loc["none"] for e, records in runs}
    return _beside(pd.DataFrame(rows).T, pd.DataFrame(columns)).rename_axis(index="Data set")


def _beside(here: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The means and deviations in `here`, by method, measure and statistic, with the paper's beside
    where it has such rows.
    """
    columns = {}
    for method, measure in dict.fromkeys((m, s) for m, s, _ in here.columns):
        columns |= {
            (method, measure, statistic): here[method, measure, statistic]
            for statistic in ("mean", "std")
        }
        name = f"{method}_{measure}"
        if name in paper and set(here.index) & set(paper.index):
            columns[method, measure, "paper"] = paper[name].reindex(here.index)
            columns[method, measure, "paper_std"] = paper[f"{name}_std"].reindex(here.index)
    table = pd.DataFrame(columns, index=here.index)
    table.columns.names = ("method", "measure", "statistic")
    return table


def images_a_class(experiment: Experiment, records: Sequence[Record]) -> float:
    """Training images of a class: as many as asked for, or on average of the data set; NaN if all
    and none was run.
    """
    if experiment.train_per_class or not records:
        return float(experiment.train_per_class or math.nan)
    return (records[0].train_images or math.nan) / len(records[0].classes)


def of_classes(
    experiment: Experiment, records: Sequence[Record], classes: Sequence[object]
) -> list[Record]:
    """The records of these held-out classes, passing over those of another data set; ConfigError if
    it has none of them.
    """
    names, known = list(map(str, classes)), [name or "none" for name in plan.held_out(experiment)]
    if not set(names) & set(known):
        raise ConfigError(
            f"classes: {experiment.dataset_name} has none of {', '.join(names)}; choose from {', '.join(known)}"
        )
    return [record for record in records if record.hold_out in names]


def by_weight(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """Validation accuracy by data set, method and auxiliary weight, in percent; `chosen` is the
    best weight of a method.

    runs: the experiments of auxiliary_weights with their records. Nothing is chosen of a method
    until all its runs are there.
    """
    rows = []
    for experiment, records in runs:
        row: dict[str, Any] = {
            "dataset": experiment.dataset_name,
            "train_per_class": experiment.train_per_class or "",
        }
        row |= {"method": experiment.methods[0], "weight": experiment.auxiliary_weight}
        accuracy = f"accuracy{plan.STATISTICS[experiment.statistics]}"
        accuracies = 100 * pd.Series([record.metrics[accuracy] for record in records], dtype=float)
        complete = len(records) == len(plan.planned(experiment))
        rows.append(
            row | {"accuracy": accuracies.mean(), "std": accuracies.std(), "complete": complete}
        )
    table = pd.DataFrame(rows)
    table["chosen"] = False
    for _, group in table[table.method != "classification"].groupby(
        ["dataset", "train_per_class", "method"]
    ):
        if group.complete.all():
            table.loc[group.accuracy.idxmax(), "chosen"] = True  # of equals the first
    return table


def save_chosen_weights(table: pd.DataFrame, folder: Path) -> None:
    """Write the chosen weights into outputs/<profile>/, beside those chosen before for other data
    sets and methods.
    """
    path, keys = folder / CHOSEN_WEIGHTS, ["dataset", "method", "train_per_class"]
    columns = ["dataset", "method", "auxiliary_weight", "accuracy", "train_per_class"]
    rows = table[table.chosen].rename(columns={"weight": "auxiliary_weight"})[columns]
    if path.exists():
        try:
            before = pd.read_csv(
                path, dtype=str, keep_default_na=False
            )  # a data set may be called 007, 1e5 or NA
            before = before.assign(
                train_per_class=before.get("train_per_class", "")
            )  # older files are of all images
            rows = pd.concat([before, rows.astype({"train_per_class": str})]).drop_duplicates(
                keys, keep="last"
            )[columns]
        except Exception as error:
            raise ConfigError(
                f"{path} can't be read ({one_line(error)}); delete it to write it anew"
            ) from None
    if len(rows):
        text = rows.to_csv(index=False)
        save_atomically(path, lambda file: file.write(text.encode()))


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table of by_class as CSV, each mean directly followed by its std, then the paper's."""
    names = {"mean": "", "std": "_std", "paper": "_paper", "paper_std": "_paper_std"}
    flat = table.set_axis(
        [f"{method}_{measure}{names[s]}" for method, measure, s in table.columns], axis=1
    )
    save_plain(flat.rename_axis(index="hold_out"), path)


def save_plain(table: pd.DataFrame, path: Path, decimals: int = 2) -> None:
    """Write any table of percents as CSV; one with more empty cells than the file is
    <name>.unfinished.csv.
    """
    text, before = table.to_csv(float_format=f"%.{decimals}f"), 0.0
    with suppress(OSError, ValueError):  # no file, or not a table
        before = _filled(path.read_text())
    save_complete(path, _filled(text), before, lambda file: file.write(text.encode()))


def save_complete(
    path: Path, share: float, before: float, write: Callable[[BinaryIO], object]
) -> None:
    """Write the file if it has at least the share of its numbers that the one before has, else
    beside it, which is printed.
    """
    unfinished = path.with_suffix(f".unfinished{path.suffix}")
    if share < before:
        print(
            f"{short(path)} stays, with {before:.0%} of its numbers; this one, with {share:.0%}, is {short(unfinished)}"
        )
        save_atomically(unfinished, write)
    else:
        save_atomically(path, write)
        unfinished.unlink(missing_ok=True)


def _filled(text: str) -> float:
    """The share of numbers in a CSV's own columns that are there."""
    table = pd.read_csv(io.StringIO(text), index_col=0)
    own = table[[name for name in table if not str(name).endswith(("_std", "_paper"))]].apply(
        pd.to_numeric, errors="coerce"
    )
    return float(own.notna().to_numpy().mean())
