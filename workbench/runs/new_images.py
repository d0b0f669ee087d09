"""Images without labels, scored with a finished run whose weights are kept."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from semlib.datasets import Dataset, ImageSet
from workbench import own
from workbench.experiment import ConfigError, Experiment, Machine, Scoring, create
from workbench.files import resolve
from workbench.images import prepared
from workbench.images.digests import digests_of
from workbench.runs import execute, machine, plan, store
from workbench.runs.plan import Run, array_name
from workbench.runs.scoring import Scorer
from workbench.runs.store import Record


def score(
    home: Path, folder: Path, parameters: Mapping[str, Any]
) -> tuple[Record, pd.DataFrame, np.ndarray]:
    """Score a file, or what is in a folder and below: the run's record, a table, and the images.

    A row an image: file, as seen from the folder; predicted, a class's name; each score, higher =
    more anomalous, and <score>_percentile: how many percent of the run's normal test images have a
    lower score, equal ones counted half; last those that can't be read, with the `error`. The
    images are made what the data set's are, uint8 (N, C, H, W). parameters: dataset (the folder, if
    the run's is one), and of Scoring and Machine; batch norm's statistics are by default those of
    the table for which the run was trained.
    ConfigError or DataError, one line, names what can't be used.
    """
    record = _record(home)
    run = replace(record.run, experiment=_experiment(record, parameters))
    data = _data(run.experiment)
    net = execute.network(record, data)
    if digests_of(data).test != record.test_digest:
        raise ConfigError(f"{run.title}: was scored on other test images than {data.name} has now")
    files, images, unreadable = prepared.unlabelled(folder, data)
    normal = data.test.images[~run.split(data).is_anomaly]
    # Of detectors a record keeps ranks alone: the normal test images are scored beside the new ones
    predicted, scores = _scores(run, net, data, np.concatenate([normal, images]))
    count = len(normal)
    columns: dict[str, Any] = {"file": files}
    columns["predicted"] = [data.classes[k] for k in predicted[count:]]
    for name, values in scores.items():
        columns[name] = values[count:]
        columns[f"{name}_percentile"] = _percentiles(values[:count], values[count:])
    table = pd.DataFrame(columns)
    if unreadable:
        rest = pd.DataFrame({"file": [*unreadable], "error": [*unreadable.values()]})
        table = pd.concat([table, rest], ignore_index=True)
    return record, table, images


def _percentiles(normal: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each value the percent of normal ones below it, equal ones counted half.

    Sorted: SciPy's percentileofscore would compare each value with each at once.
    """
    rising = np.sort(normal)
    below = np.searchsorted(rising, values, "left")
    upto = np.searchsorted(rising, values, "right")
    return (50 * (below + upto) / len(normal)).round(2)


def usual_place(record: Record, folder: Path) -> Path:
    """Where the table of a folder's images goes: the run's profile, else the current folder."""
    home = record.run_home.absolute()
    where = home.parents[4] if home.match(f"runs/{record.place}") else Path.cwd()
    hold_out = record.hold_out or "none"
    which = [folder.absolute().name, record.dataset, hold_out, record.method, record.place.name]
    return where / (re.sub(r"[^\w.-]+", "_", "-".join(["score", *which])) + ".csv")


def _record(home: Path) -> Record:
    try:
        record = store.read_record(home)
        record.check()
        if record.place != plan.place(record, record.address):
            raise ValueError("its address isn't that of its settings")
        return record
    except ValueError as error:
        do = "name a finished run's folder, which holds record.json and weights.pt"
        raise ConfigError(f"{home} can't be used: {error}; {do}") from None


def _experiment(record: Record, parameters: Mapping[str, Any]) -> Experiment:
    """The record's experiment, with the parameters that may differ from it."""
    may = {"dataset", *Scoring.model_fields, *Machine.model_fields}
    if wrong := sorted(set(parameters) - may):
        choices = ", ".join(sorted(may))
        raise ConfigError(f"{wrong[0]}: is of the finished run; choose from {choices}")
    settings = record.settings | {"dataset": record.dataset, "statistics": record.statistics}
    settings["scores"] = list(dict.fromkeys(how["score"] for how in record.scoring.values()))
    for how in () if "scores" in parameters else record.scoring.values():
        name = how["score"]
        if ":" in name and not record.external and not own.is_here(name, str(how.get("source"))):
            changed = f"{name} isn't here as it was when the run was scored"
            raise ConfigError(f"scores: {changed}; choose others with -p scores")
    for how in reversed(record.scoring.values()):  # of several ODINs the first
        settings |= {name: how[name] for name in ("temperature", "epsilon") if name in how}
    experiment = create(settings | dict(parameters))
    if experiment.dataset_name != record.dataset:
        found = experiment.dataset_name
        raise ConfigError(f"dataset: the run is of {record.dataset}, not of {found}")
    return experiment


def _data(e: Experiment) -> Dataset:
    """The run's data set. ConfigError names the option that says where it is."""
    is_named = prepared.is_name(e.dataset, e.data_root, e.image_side)
    if not is_named and not resolve(e.dataset).is_dir():
        name = e.dataset_name
        what = f"{name} was trained on, and a record keeps no path"
        do = f"add -p dataset /path/to/{name}, or -p data_root with the folder of {name}.npz"
        raise ConfigError(f"dataset: {what}; {do}")
    return plan.load(e)


def _scores(
    run: Run, net: nn.Module, data: Dataset, images: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predicted classes (N,) of the images, and their scores (N,) by name."""
    machine.set_up(run.experiment)
    statistics = run.experiment.statistics
    wanted = plan.how_scored(run.experiment)
    normal = run.split(data).kept[0]  # the first class that is not held out
    unlabelled = ImageSet(images, np.full(len(images), normal, np.int64))
    values = {name: how | {"stored": "values"} for name, how in wanted.items()}
    scorer = Scorer(run, replace(data, test=unlabelled), values)
    net = net.to(machine.device(run.experiment)).to(memory_format=torch.channels_last)
    scorer.score(net, [statistics])
    if scorer.failed:
        raise ConfigError(f"{run.title}: {'; '.join(scorer.failed.values())}")
    found = {name: scorer.arrays[array_name(key, statistics)] for name, key in scorer.keys.items()}
    return scorer.arrays[array_name("predicted", statistics)], found
