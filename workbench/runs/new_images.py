"""Images without labels, scored with a finished run whose weights are kept."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from semlib import datasets
from semlib.datasets import ImageSet
from workbench.experiment import ConfigError, Machine, Scoring, create
from workbench.files import resolve
from workbench.images import prepared
from workbench.runs import execute, machine, plan, scoring, store
from workbench.runs.plan import Run
from workbench.runs.store import Record


def score(
    home: Path, folder: Path, parameters: Mapping[str, Any]
) -> tuple[Record, pd.DataFrame, np.ndarray]:
    """Score every image in a folder and those below it: the run's record, a row an image, and the
    images as they were scored.

    Columns: file, as seen from the folder; predicted, a class's name; each score, float64, higher =
    more anomalous, and <score>_percentile: how many percent of the run's normal test images have a
    lower score, those with an equal one counted half. The images are made what the data set's are,
    uint8 (N, C, H, W). parameters: dataset (the folder, where the run's data set is one), and of
    Scoring and Machine; scores are the record's, unless some of them are named. ConfigError or
    DataError, one line, names what can't be used.
    """
    try:
        record = store.read_record(home)
        record.check()
    except ValueError as error:
        raise ConfigError(
            f"{home} can't be used: {error}; name a finished run's folder, which holds record.json and weights.pt"
        ) from None
    run = _run(record, parameters)
    execute.weights(record)
    wanted = plan.scoring(run.experiment)
    if absent := [name for name, how in wanted.items() if record.key(how) is None]:
        choices = ", ".join(record.scoring)
        raise ConfigError(
            f"scores: {run.title} was not scored by {absent[0]} with these settings; choose from {choices}"
        )
    data, e = _data(run, record), run.experiment
    net = execute.network(record, data).to(machine.device(e)).to(memory_format=torch.channels_last)
    files, images = prepared.unlabelled(folder, data)
    if e.threads:
        torch.set_num_threads(e.threads)
    predicted, found, normal = _scores(run, record, net, data, images, wanted)
    columns: dict[str, Any] = {"file": files, "predicted": [data.classes[k] for k in predicted]}
    for name, values in found.items():
        columns |= {name: values, f"{name}_percentile": _percentile(normal[name], values)}
    return record, pd.DataFrame(columns), images


def usual_place(record: Record, folder: Path) -> Path:
    """Where the table of a folder's images goes: into the run's profile, or where that can't be
    told into this folder.
    """
    home = record.trained.absolute()
    where = home.parents[4] if home.match(f"runs/{record.place}") else Path.cwd()
    name = f"score-{folder.absolute().name}-{record.dataset}-{record.hold_out or 'none'}-{record.method}-{record.place.name}"
    return where / (re.sub(r"[^\w.-]+", "_", name) + ".csv")


def _run(record: Record, parameters: Mapping[str, Any]) -> Run:
    """The record's run, with the parameters that may differ from it."""
    may = {"dataset", *Scoring.model_fields, *Machine.model_fields}
    if wrong := sorted(set(parameters) - may):
        raise ConfigError(
            f"{wrong[0]}: is of the finished run; choose from {', '.join(sorted(may))}"
        )
    own = {name: how for name, how in record.scoring.items() if how["score"] == name}
    odin = {
        name: value
        for name, value in own.get("odin", {}).items()
        if name in ("temperature", "epsilon")
    }
    settings = {
        **record.settings,
        "dataset": record.dataset,
        "scores": list(own),
        **odin,
        **parameters,
    }
    experiment = create(settings)
    if experiment.dataset_name != record.dataset:
        raise ConfigError(
            f"dataset: the run is of {record.dataset}, not of {experiment.dataset_name}"
        )
    return Run(experiment, record.hold_out, record.method, record.trial)


def _data(run: Run, record: Record) -> datasets.Dataset:
    """The run's data set. ConfigError names the option to add: a record keeps no path of a folder
    of images.
    """
    e, name = run.experiment, record.dataset
    if e.dataset == name and not (
        prepared.is_name(name, e.data_root, e.image_side) or resolve(name).is_dir()
    ):
        raise ConfigError(
            f"dataset: {name} was trained on, and a record keeps no path; add -p dataset /path/to/{name} if it is a folder of "
            f"images, else -p data_root with the folder of {name}.npz, which isn't in {prepared.data_root(e.data_root)}"
        )
    return plan.load(e)


def _scores(
    run: Run,
    record: Record,
    net: torch.nn.Module,
    data: datasets.Dataset,
    images: np.ndarray,
    wanted: Mapping[str, dict],
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The predicted classes of the images, their scores, and those of the run's normal test images,
    by name.

    Of the latter the record keeps values, or else ranks alone: then the test images are scored
    again beside the new ones.
    """
    arrays, end = record.scores(), plan.STATISTICS[run.experiment.statistics]
    is_normal = ~arrays["is_anomaly"]
    ranked = [name for name, how in wanted.items() if how.get("stored") == "ranks"]
    of_new = _arrays(
        run, net, data, images, {name: how for name, how in wanted.items() if name not in ranked}
    )
    normal = {
        name: arrays[f"{record.key(wanted[name])}{end}"][is_normal]
        for name in wanted
        if name not in ranked
    }
    if ranked:
        if prepared.digests_of(data).test != record.test_digest:
            raise ConfigError(
                f"{run.title}: of {', '.join(ranked)} ranks are kept, and its test images aren't here to score again"
            )
        tests = data.test.images[is_normal]
        both = _arrays(
            run, net, data, np.concatenate([tests, images]), {name: wanted[name] for name in ranked}
        )
        normal |= {name: both[name + end][: len(tests)] for name in ranked}
        of_new |= {name + end: both[name + end][len(tests) :] for name in ranked}
    return of_new[f"predicted{end}"], {name: of_new[name + end] for name in wanted}, normal


def _arrays(
    run: Run,
    net: torch.nn.Module,
    data: datasets.Dataset,
    images: np.ndarray,
    wanted: Mapping[str, dict],
) -> dict[str, np.ndarray]:
    """What `scoring.score` has of these images in place of the test images, the values of every
    score.
    """
    new = ImageSet(images, np.zeros(len(images), np.int64))
    split = datasets.hold_out(data, run.hold_out, run.experiment.train_per_class, run.trial)
    split = replace(split, test=new, is_anomaly=np.zeros(len(images), bool))
    functions, values = scoring.functions(dict(wanted)), {name: {} for name in wanted}
    arrays, failed = scoring.score(
        run, net, replace(data, test=new), split, values, functions, [run.experiment.statistics]
    )
    if failed:
        raise ConfigError(f"{run.title}: {'; '.join(failed.values())}")
    return arrays


def _percentile(normal: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each value the percent of normal ones below it, equal ones counted half: the mean over
    anomalies is the AUROC.
    """
    below, upto = (np.searchsorted(np.sort(normal), values, side) for side in ("left", "right"))
    return (50 * (below + upto) / len(normal)).round(2)
