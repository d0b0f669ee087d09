"""Listing 640 finished runs of 10,000 images, and their table: python benchmarks/tables_640.py

Made-up scores of CIFAR-10's ten classes, two methods and 32 trials. Each record is read and each
array checked against its SHA-256. Printed: seconds of each, and the process's peak memory with that
of the libraries and of making the runs.
"""

import sys
import tempfile
import time
from pathlib import Path

import report

from workbench.results import show, tables
from workbench.runs import store

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import helpers


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = measure(make(Path(folder)))
    report.write(__file__, [result])


def make(folder: Path, trials: int = 32):
    """The experiment of 20 x trials runs, finished in this folder."""
    return helpers.made_up(folder, images=10_000, dataset="cifar10", trials=trials)


def measure(experiment) -> dict[str, float]:
    """Seconds to list the runs, and to build the table and what stands with it; GB at the peak."""
    begun = time.perf_counter()
    listed = len(store.collect(experiment.folder))
    listing = time.perf_counter() - begun
    records = store.finished(experiment)
    table = tables.by_class(experiment, records)
    for text in (show.formatted, show.differences, show.counts):
        text(table)
    show.remarks(experiment, records)
    building = time.perf_counter() - begun - listing
    seconds = {"list_s": round(listing, 3), "table_s": round(building, 3)}
    return {"runs": listed} | seconds | {"peak_gb": round(report.peak_gb(), 3)}


if __name__ == "__main__":
    main()
