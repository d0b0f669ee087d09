"""Kill grids at random and compare them with an undisturbed grid: make kills N=200

Every 3 to 20 seconds SIGKILL ends a kernel, a Papermill process, Snakemake alone, or everything at
once; the same command then goes on. Each grid that ends must have the undisturbed one's scores.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
from helpers import ROOT, environment, scores

from workbench.batch import notebooks
from workbench.experiment import Experiment
from workbench.runs import store

PARAMS = ROOT / "params" / "demo" / "benchmark.yaml"
PAUSE = (3, 20)  # seconds between two kills
VICTIMS = {
    "kernel": "from ipykernel import",
    "papermill": "semlib run",
    "snakemake": "snakemake --snakefile",
    "everything": "",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--log", type=Path, help="a file to write what happened to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = run(Path(folder), args.kills)
    if args.log:
        args.log.write_text("\n".join(lines) + "\n")


def run(folder: Path, kills: int, *given: str, pause: Sequence[float] = PAUSE) -> list[str]:
    """What happened, line by line; AssertionError if a score differs.

    given: further words of the grid's command, as -p NAME VALUE.
    """
    chance = random.Random(0)
    lines = []
    counts = Counter()
    begun = time.monotonic()

    def say(text: str) -> None:
        lines.append(f"{time.monotonic() - begun:7.1f} s  {text}")
        print(lines[-1], flush=True)

    with (folder / "log").open("w") as log:

        def start(name: str) -> subprocess.Popen:
            words = [sys.executable, "-m", "semlib", "grid", str(PARAMS), *given]
            words += ["-p", "outputs", str(folder / name)]
            how = {"cwd": ROOT, "env": environment(), "start_new_session": True}
            return subprocess.Popen(words, stdout=log, stderr=log, **how)

        assert start("whole").wait() == 0, (folder / "log").read_text()
        whole = scores(experiment(folder / "whole", given))
        say(f"an undisturbed grid: {len(whole)} runs")
        grids = 0
        complete = False
        while counts.total() < kills or not complete:
            last = counts.total() == kills
            process = start(f"grid-{grids}")
            while process.poll() is None and counts.total() < kills:
                time.sleep(chance.uniform(*pause))
                if victim := kill(process, chance):
                    counts[victim] += 1
                    done = len(store.finished(experiment(folder / f"grid-{grids}", given)))
                    say(f"kill {counts.total()}: {victim}; {done} runs are finished")
            complete = process.wait() == 0
            assert complete or not last, (folder / "log").read_text()
            if complete:
                assert scores(experiment(folder / f"grid-{grids}", given)) == whole, grids
                say(f"grid {grids} is complete: its scores equal the undisturbed one's to the bit")
                grids += 1
    kinds = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    say(f"{kills} kills ({kinds}) over {grids} grids")
    return lines


def experiment(outputs: Path, given: Sequence[str]) -> Experiment:
    pairs = [*zip(given[1::3], given[2::3], strict=True), ("outputs", str(outputs))]
    return notebooks.parameters(ROOT / "notebooks" / "benchmark.ipynb", [PARAMS], pairs)[1][0]


def kill(grid: subprocess.Popen, chance: random.Random) -> str | None:
    """SIGKILL one process below a running grid, or all; the kind, None if there is none."""
    if grid.poll() is not None:
        return None
    victim = chance.choice(list(VICTIMS))
    below = psutil.Process(grid.pid).children(recursive=True)
    found = [process for process in below if VICTIMS[victim] in _words(process)]
    if victim == "everything":
        os.killpg(grid.pid, signal.SIGKILL)
        found = below  # those in sessions of their own
        grid.wait()
    elif found:
        found = [chance.choice(found)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return victim if found else None


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


if __name__ == "__main__":
    main()
