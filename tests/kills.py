"""Kill grids at random until N kills are done, then compare with an undisturbed one: make kills
N=200

Every 3 to 20 seconds SIGKILL ends a kernel, a Papermill process, Snakemake alone, or everything at
once; the same command then goes on. Each grid that ends, and the last one, must have the scores of
the undisturbed grid to the bit.
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


def run(
    folder: Path, kills: int, *given: str, pause: tuple[float, float] = (3, 20), seed: int = 0
) -> list[str]:
    """What happened, line by line; AssertionError if a score differs. given: further words of the
    grid's command.
    """
    chance, lines, counts, begun = random.Random(seed), [], Counter(), time.monotonic()

    def say(text: str) -> None:
        lines.append(f"{time.monotonic() - begun:7.1f} s  {text}")
        print(lines[-1], flush=True)

    with (folder / "log").open("w") as log:

        def start(name: str) -> subprocess.Popen:
            words = [
                sys.executable,
                "-m",
                "semlib",
                "grid",
                str(PARAMS),
                "-p",
                "outputs",
                str(folder / name),
                *given,
            ]
            how = {"cwd": ROOT, "env": environment(), "start_new_session": True}
            return subprocess.Popen(words, stdout=log, stderr=log, **how)

        assert start("whole").wait() == 0, (folder / "log").read_text()
        whole = scores(experiment(folder / "whole", given))
        say(f"an undisturbed grid: {len(whole)} runs")
        grids = 0
        while sum(counts.values()) < kills:
            process = start(f"grid-{grids}")
            while process.poll() is None and sum(counts.values()) < kills:
                time.sleep(chance.uniform(*pause))
                if process.poll() is None and (victim := kill(process, chance)):
                    counts[victim] += 1
                    done = len(store.finished(experiment(folder / f"grid-{grids}", given)))
                    say(f"kill {sum(counts.values())}: {victim}; {done} runs are finished")
            if sum(counts.values()) == kills:
                process.wait()
                process = start(f"grid-{grids}")
            if process.wait() == 0 or sum(counts.values()) == kills:
                assert process.returncode == 0, (folder / "log").read_text()
                assert scores(experiment(folder / f"grid-{grids}", given)) == whole, (
                    f"grid {grids} differs"
                )
                say(f"grid {grids} is complete: its scores equal the undisturbed one's to the bit")
                grids += 1
    say(
        f"{kills} kills ({', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}) over {grids} grids"
    )
    return lines


def experiment(outputs: Path, given: Sequence[str]) -> Experiment:
    pairs = [
        *zip(given[1::3], given[2::3], strict=True),
        ("outputs", str(outputs)),
    ]  # -p NAME VALUE
    return notebooks.parameters(ROOT / "notebooks" / "benchmark.ipynb", [PARAMS], pairs)[1][0]


def kill(grid: subprocess.Popen, chance: random.Random) -> str | None:
    """SIGKILL one process below the grid, or all; the victim's kind, None if there is none of that
    kind now.
    """
    victim = chance.choice(list(VICTIMS))
    below = psutil.Process(grid.pid).children(recursive=True)
    found = [p for p in below if VICTIMS[victim] in _words(p)]
    if victim == "everything":
        os.killpg(grid.pid, signal.SIGKILL)
        for process in below:  # those in sessions of their own
            _kill(process)
        grid.wait()
    elif found:
        _kill(chance.choice(found))
    return victim if found or victim == "everything" else None


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


if __name__ == "__main__":
    main()
