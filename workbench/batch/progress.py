"""What a grid prints while it runs."""

import itertools
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from workbench.experiment import Experiment
from workbench.files import short
from workbench.results import show, tables
from workbench.results.names import label
from workbench.runs import store


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
