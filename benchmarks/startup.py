"""Start-up of one Papermill job, up to its first training step: python benchmarks/startup.py

A hold-out of digits through `semlib run`, alone (--checked: as a grid starts it, which has checked the parameters and
prepared the data for all its jobs). The auxiliary loss is this file's: its first call is the first training step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parents[1]
JOB = ["run", "notebooks/holdout.ipynb", "-p", "methods", "[startup:loss]", "-p", "missing", "train"]
JOB += ["-p", "epochs", "1", "-p", "threads", "1", "-p", "trials", "1", "-p", "hold_out", "3"]
IMPORTS = ("torch", "semlib.store", "semlib.runs", "semlib.plots")


def loss(net, images):
    place = Path(os.environ["SEMLIB_STARTUP"])
    if not place.exists():
        place.write_text(repr(time.time()))
    return net(images, head="mine").square().mean()


loss.heads = {"mine": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for title, words in {"semlib run": [], "semlib run, in a grid": ["--checked"]}.items():
        first, whole = zip(*(job(words) for _ in range(args.rounds)), strict=True)
        rows.append({"what": f"{title}: to the first step", "seconds": round(statistics.median(first), 2)})
        rows.append({"what": f"{title}: whole job", "seconds": round(statistics.median(whole), 2)})
    for name in IMPORTS:
        seconds = [elapsed([sys.executable, "-c", f"import {name}"]) for _ in range(args.rounds)]
        rows.append({"what": f"a process that imports {name}", "seconds": round(statistics.median(seconds), 2)})
    report.write(__file__, rows)


def job(words: list[str]) -> tuple[float, float]:
    """Seconds to the first training step, and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder, "first")
        places = {"SEMLIB_STARTUP": str(stamp), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
        command = [sys.executable, "-m", "semlib", *JOB, *words, "-p", "outputs", folder, "-o", f"{folder}/out.ipynb"]
        begun = time.time()
        subprocess.run(command, cwd=ROOT, env=os.environ | places, check=True, capture_output=True)
        return float(stamp.read_text()) - begun, time.time() - begun


def elapsed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
