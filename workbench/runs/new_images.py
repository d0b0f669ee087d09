"""Images without labels, scored with a finished run whose weights are kept."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from semlib.datasets import Dataset, ImageSet
from workbench.experiment import ConfigError, Machine, Scoring, create
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
    """Score every image in a folder and those below it: the run's record, a table, and the images.

    A row an image: file, as seen from the folder; predicted, a class's name; each score, higher =
    more anomalous, and <score>_percentile: how many percent of the run's normal test images have a
    lower score, equal ones counted half. The images are made what the data set's are, uint8
    (N, C, H, W). parameters: dataset (the folder, if the run's is one), and of Scoring and Machine.
    ConfigError or DataError, one line, names what can't be used.
    """
    record = _record(home)
    run = _run(record, parameters)
    execute.weights(record)
    wanted = plan.scoring(run.experiment)
    if absent := store.lacking(record, wanted):
        choices = ", ".join(record.scoring)
        what = f"{run.title} was not scored by {', '.join(absent)} with these settings"
        raise ConfigError(f"scores: {what}; choose from {choices}")
    data = _data(run)
    files, images = prepared.unlabelled(folder, data)
    predicted, found, normal = _scores(run, record, data, images, wanted)
    columns: dict[str, Any] = {"file": files, "predicted": [data.classes[k] for k in predicted]}
    for name, values in found.items():
        columns[name] = values
        columns[f"{name}_percentile"] = _percentiles(normal[name], values)
    return record, pd.DataFrame(columns), images


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
    home = record.trained.absolute()
    where = home.parents[4] if home.match(f"runs/{record.place}") else Path.cwd()
    hold_out = record.hold_out or "none"
    which = [folder.absolute().name, record.dataset, hold_out, record.method, record.place.name]
    return where / (re.sub(r"[^\w.-]+", "_", "-".join(["score", *which])) + ".csv")


def _record(home: Path) -> Record:
    try:
        record = store.read_record(home)
        record.check()
        return record
    except ValueError as error:
        do = "name a finished run's folder, which holds record.json and weights.pt"
        raise ConfigError(f"{home} can't be used: {error}; {do}") from None


def _run(record: Record, parameters: Mapping[str, Any]) -> Run:
    """The record's run, with the parameters that may differ from it."""
    may = {"dataset", *Scoring.model_fields, *Machine.model_fields}
    if wrong := sorted(set(parameters) - may):
        choices = ", ".join(sorted(may))
        raise ConfigError(f"{wrong[0]}: is of the finished run; choose from {choices}")
    settings = record.settings | {"dataset": record.dataset}
    settings["scores"] = list(dict.fromkeys(how["score"] for how in record.scoring.values()))
    for how in reversed(record.scoring.values()):  # of several ODINs the first
        settings |= {name: how[name] for name in ("temperature", "epsilon") if name in how}
    experiment = create(settings | dict(parameters))
    if experiment.dataset_name != record.dataset:
        found = experiment.dataset_name
        raise ConfigError(f"dataset: the run is of {record.dataset}, not of {found}")
    return replace(record.run, experiment=experiment)


def _data(run: Run) -> Dataset:
    """The run's data set. ConfigError names the option that says where it is."""
    e = run.experiment
    name = run.dataset
    known = prepared.is_name(name, e.data_root, e.image_side) or resolve(name).is_dir()
    if e.dataset == name and not known:
        folder = f"-p dataset /path/to/{name} if it is a folder of images"
        file = f"-p data_root with the folder of {name}.npz"
        where = f"which isn't in {prepared.data_root(e.data_root)}"
        what = f"{name} was trained on, and a record keeps no path"
        raise ConfigError(f"dataset: {what}; add {folder}, else {file}, {where}")
    return plan.load(e)


def _scores(
    run: Run, record: Record, data: Dataset, images: np.ndarray, wanted: Mapping[str, dict]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Predicted classes (N,) of the images, their scores, and those of the normal test images.

    Where the record keeps ranks alone, the normal test images are scored again beside the new ones.
    """
    statistics = run.experiment.statistics
    arrays = record.scores()
    normal_tests = data.test.images[:0]
    ranked = [name for name, how in wanted.items() if how.get("stored") == "ranks"]
    if ranked:
        if digests_of(data).test != record.test_digest:
            kept = f"of {', '.join(ranked)} ranks are kept"
            raise ConfigError(
                f"{run.title}: {kept}, and its test images aren't here to score again"
            )
        normal_tests = data.test.images[~arrays["is_anomaly"]]
    count = len(normal_tests)
    both = _arrays(run, record, data, np.concatenate([normal_tests, images]), wanted)
    found = {}
    normal = {}
    for name, how in wanted.items():
        values = both[array_name(plan.score_key(how), statistics)]
        found[name] = values[count:]
        kept = arrays[array_name(str(record.key(how)), statistics)][~arrays["is_anomaly"]]
        normal[name] = values[:count] if name in ranked else kept
    return both[array_name("predicted", statistics)][count:], found, normal


def _arrays(
    run: Run, record: Record, data: Dataset, images: np.ndarray, wanted: Mapping[str, dict]
) -> dict[str, np.ndarray]:
    """What `Scorer.arrays` gives of these images in place of the test images, values not ranks."""
    machine.set_up(run.experiment)
    net = execute.network(record, data).to(machine.device(run.experiment))
    normal = run.split(data).kept[0]  # the first class that is not held out
    unlabelled = ImageSet(images, np.full(len(images), normal, np.int64))
    hows = {name: how | {"stored": "values"} for name, how in wanted.items()}
    scorer = Scorer(run, replace(data, test=unlabelled), hows)
    net = net.to(memory_format=torch.channels_last)
    scorer.score(net, [run.experiment.statistics])
    if scorer.failed:
        raise ConfigError(f"{run.title}: {'; '.join(scorer.failed.values())}")
    return scorer.arrays
