"""What a grid prints while it runs, and with --dry-run."""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from workbench.experiment import Experiment
from workbench.files import short
from workbench.results import show, tables
from workbench.results.names import label
from workbench.runs import machine, plan, store
from workbench.runs.plan import Run


def watch(
    snakemake: subprocess.Popen, jobs: Mapping[Path, Experiment], notebooks: Mapping[Path, Path]
) -> int:
    """Wait for Snakemake, print a line for each job that ends, and a bar of runs; its exit status.

    jobs, and the tables' notebooks, by the `done` file that each writes at its end.
    """
    left = {run.home / "record.json" for run in itertools.chain(*map(store.missing, jobs.values()))}
    left = {record for record in left if not record.exists()}  # the others are only scored
    running = [done for done in (*jobs, *notebooks) if not done.exists()]
    with tqdm(total=len(left), unit="run", disable=None, leave=False, dynamic_ncols=True) as bar:
        status = None
        while status is None:
            with suppress(subprocess.TimeoutExpired):
                status = snakemake.wait(timeout=1.0)
            left = {record for record in left if not record.exists()}
            bar.update(bar.total - len(left) - bar.n)
            for done in filter(Path.exists, list(running)):
                running.remove(done)
                text = line(jobs[done]) if done in jobs else short(notebooks[done])
                tqdm.write(text, file=sys.stdout)
                sys.stdout.flush()
    return status


def line(job: Experiment) -> str:
    """A finished job: data set, held-out classes, each method's mean of the first score, time."""
    records = store.finished(job)
    nothing = job.hold_out == ("none",)
    measure = "accuracy" if nothing else job.scores[0]
    means = tables.measurements(job, records).groupby("method", sort=False)[measure].mean()
    values = ", ".join(f"{mean:.2f} {label(m, job.methods)}" for m, mean in means.items())
    name = " ".join([job.dataset_name, *job.images_a_class])
    hold_out = "nothing" if nothing else ", ".join(job.hold_out)
    seconds = show.duration(sum(record.seconds for record in records))
    return f"{name}, {hold_out} held out: {label(measure, job.scores)} {values}; {seconds}"


def seconds_by_kind(experiment: Experiment) -> tuple[pd.Series, str]:
    """Median training time of each kind of run, on this device or else on all; the devices."""
    records = [r for r in store.collect(experiment.folder) if not r.external]
    rows = [(_kind(record), record.device, record.seconds) for record in records]
    frame = pd.DataFrame(rows, columns=["kind", "device", "seconds"])
    here = frame.device == machine.device_name(machine.device(experiment))
    frame = frame[here] if here.any() else frame
    return frame.groupby("kind").seconds.median(), ", ".join(sorted(frame.device.unique()))


def _kind(run: Any) -> str:
    """What a Run or a Record has in common with those that take about as long."""
    return json.dumps([run.dataset, run.method, plan.non_default(run.settings)], sort_keys=True)


def estimate(experiments: Sequence[Experiment], seconds: pd.Series, jobs: int) -> str:
    """How many runs are finished and how many missing, and the time that these will take."""
    planned, to_train, to_score = _work(experiments)
    if not planned:
        return "trains nothing, shows what is finished"
    left = len(to_train) + len(to_score)
    text = f"{len(planned) - left} of {len(planned)} runs are finished, {left} are missing"
    times = seconds.reindex([_kind(run) for run in to_train.values()])
    if times.any():
        total = times.sum()
        text += f": {show.duration(total)} of training, {show.duration(total / jobs)} side by side"
    if to_score:
        scores = ", ".join(dict.fromkeys(itertools.chain(*to_score.values())))
        text += f", {len(to_score)} of them only to be scored: they lack {scores}"
        if lost := sum(not weights.exists() for weights in to_score):
            text += f" ({lost} can't be, for their weights are not here)"
    if unknown := times.isna().sum():
        text += f"; the time of {unknown} is unknown, for no run like them is finished"
    return text


def _work(experiments: Sequence[Experiment]) -> tuple[set[Path], dict[Path, Run], dict[Path, Any]]:
    """The homes of planned runs; the runs to train; by their weights the scores that runs lack."""
    planned: set[Path] = set()
    to_train: dict[Path, Run] = {}
    to_score: dict[Path, list[str]] = {}
    for experiment in experiments:
        for run, record in store.progress(experiment) if experiment.missing == "train" else ():
            if run.external:
                continue
            planned.add(run.home)
            scores = store.missing_scores(record, experiment)
            # Trained runs may lack a record of their scores on the test images that are here
            trained = record or (store.trained(run) if run.data else None)
            if trained is None:
                to_train[run.home] = run
            elif scores:
                to_score.setdefault(trained.run_home / "weights.pt", []).extend(scores)
    return planned, to_train, to_score
