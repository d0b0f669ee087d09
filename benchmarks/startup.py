"""Start-up of one Papermill job, up to its first training step, and data preparation: python benchmarks/startup.py

A hold-out of digits through `semlib run`, alone (--checked: as a grid starts it, which has checked the parameters and
prepared the data for all its jobs). The auxiliary loss is this file's: its first call is the first training step. The data
are 1,000 made-up photographs, prepared as one's own images, and a made-up prepared file as large as CIFAR-10's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import report
from PIL import Image

from semlib import datasets

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
    report.write(__file__, [*rows, *data(args.rounds)])


def job(words: list[str]) -> tuple[float, float]:
    """Seconds to the first training step, and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder, "first")
        places = {"SEMLIB_STARTUP": str(stamp), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
        command = [sys.executable, "-m", "semlib", *JOB, *words, "-p", "outputs", folder, "-o", f"{folder}/out.ipynb"]
        begun = time.time()
        subprocess.run(command, cwd=ROOT, env=os.environ | places, check=True, capture_output=True)
        return float(stamp.read_text()) - begun, time.time() - begun


def data(rounds: int) -> list[dict]:
    """A row for preparing photographs, and one for reading a prepared file and comparing it with its digest."""
    rng, found = (
        np.random.default_rng(0),
        {"1,000 photographs of 500 x 375 prepared at 64": [], "60,000 prepared images read": []},
    )
    with tempfile.TemporaryDirectory() as folder:
        for k in range(1000):
            path = Path(folder, "birds", "test" if k % 5 == 0 else "train", f"class {k % 10 // 5}", f"{k}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path)
        arrays = {
            f"{part}_images": rng.integers(0, 256, (n, 3, 32, 32), np.uint8) for part, n in (("train", 50000), ("test", 10000))
        }
        labels = {f"{part}_labels": rng.integers(0, 10, n) for part, n in (("train", 50000), ("test", 10000))}
        np.savez(Path(folder, "like_cifar10.npz"), **arrays, **labels, classes=np.array([f"class {k}" for k in range(10)]))
        for k in range(rounds):
            for times, read in zip(
                found.values(),
                (
                    lambda k=k: datasets.load(f"{folder}/birds", f"{folder}/prepared-{k}", 64),
                    lambda: datasets.digest(datasets.load("like_cifar10", folder)),
                ),
                strict=True,
            ):
                begun = time.perf_counter()
                read()
                times.append(time.perf_counter() - begun)
    return [{"what": what, "seconds": round(statistics.median(times), 2)} for what, times in found.items()]


def elapsed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
