"""What a grid prints while it runs."""

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
    """Wait for Snakemake, print a line for each job that ends, and a bar of jobs; its exit status.

    jobs, and the tables' notebooks, by the `done` file that each writes at its end.
    """
    running = [done for done in (*jobs, *notebooks) if not done.exists()]
    status = None
    with tqdm(total=len(running), unit="job", disable=None, leave=False) as bar:
        while status is None:
            with suppress(subprocess.TimeoutExpired):
                status = snakemake.wait(timeout=1.0)
            for done in filter(Path.exists, list(running)):
                running.remove(done)
                text = line(jobs[done]) if done in jobs else short(notebooks[done])
                tqdm.write(text, file=sys.stdout)
                sys.stdout.flush()
                bar.update()
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
