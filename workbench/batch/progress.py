"""What a grid shows while Snakemake runs its jobs: a line for each that ends, on a terminal a bar
of the runs that are left.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from workbench.experiment import Experiment
from workbench.files import short
from workbench.results import show, tables
from workbench.results.names import label
from workbench.runs import store

SECONDS = 1.0  # between two looks


def watch(
    snakemake: subprocess.Popen, jobs: Mapping[Path, Experiment], notebooks: Mapping[Path, Path]
) -> int:
    """Wait for Snakemake; its exit status. The jobs, and the tables' notebooks, by the file that is
    there when one is done.

    The bar's time is what the runs that are left will take, at the pace of those that have ended.
    In a file there is no bar.
    """
    left = {
        run.home for job in jobs.values() for run in store.missing(job) if not _trained(run.home)
    }
    waited_for = [done for done in (*jobs, *notebooks) if not done.exists()]
    with tqdm(total=len(left), unit="run", disable=None, leave=False, dynamic_ncols=True) as bar:
        while True:
            try:
                status = snakemake.wait(SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            trained = set(filter(_trained, left))
            left -= trained
            bar.update(len(trained))
            for done in [done for done in waited_for if done.exists()]:
                waited_for.remove(done)
                tqdm.write(
                    line(jobs[done]) if done in jobs else short(notebooks[done]), file=sys.stdout
                )
                sys.stdout.flush()
            if status is not None:
                return status


def _trained(home: Path) -> bool:
    return (home / "record.json").exists()


def line(job: Experiment) -> str:
    """A finished job: data set, held-out classes, each method's average precision by its first
    score, time of training.
    """
    records = store.finished(job)
    measure = "accuracy" if job.hold_out == ("none",) else job.scores[0]
    means = tables.measurements(job, records).groupby("method", sort=False)[measure].mean()
    what = f"{label(measure, job.scores)} " + ", ".join(
        f"{mean:.2f} {label(m, job.methods)}" for m, mean in means.items()
    )
    name = " ".join([job.dataset_name, *job.few])
    where = "nothing" if job.hold_out == ("none",) else ", ".join(job.hold_out)
    return f"{name}, {where} held out: {what}; {show.duration(sum(record.seconds for record in records))}"
