"""Seconds to a job's first training step, and of preparing data: python benchmarks/startup.py

A hold-out of digits through `semlib run`, alone (--checked: as a grid starts it, which has checked
the parameters and prepared the data for all its jobs). The auxiliary loss is this file's: its first
call with a whole batch is the first training step; before, it is tried on fewer images. The data
are 1,000 made-up photographs, prepared as one's own images, and a made-up prepared file as large as
CIFAR-10's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import report
from PIL import Image

from workbench.images import prepared

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
PARAMETERS = {"methods": "[startup:loss]", "missing": "train", "epochs": 1, "threads": 1}
PARAMETERS |= {"trials": 1, "hold_out": 3, "batch_size": BATCH}
IMPORTS = ("torch", "workbench.runs.store", "workbench.runs.execute", "workbench.results.plots")


def loss(net, images):
    place = Path(os.environ["SEMLIB_STARTUP"])
    if len(images) == BATCH and not place.exists():
        place.write_text(repr(time.time()))
    return net(images, head="mine").square().mean()


loss.heads = {"mine": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    first: dict[str, list[float]] = defaultdict(list)

    def run(title: str, words: list[str]) -> float:
        begun, whole = job(words)
        first[f"{title}: to the first step"].append(begun)
        return whole

    ways = {"semlib run": [], "semlib run, in a grid": ["--checked"]}
    contestants = {f"{title}: whole job": partial(run, title, ways[title]) for title in ways}
    for name in IMPORTS:
        words = [sys.executable, "-c", f"import {name}"]
        imports = partial(subprocess.run, words, cwd=ROOT, check=True)
        contestants[f"a process that imports {name}"] = imports
    with tempfile.TemporaryDirectory() as folder:
        seconds = report.alternate(contestants | data(folder), args.rounds)
    seconds = {title: statistics.median(times) for title, times in first.items()} | seconds
    rows = [{"what": what, "seconds": round(median, 2)} for what, median in seconds.items()]
    report.write(__file__, rows)


def job(words: list[str]) -> tuple[float, float]:
    """Seconds to the first training step, and to the end."""
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder, "first")
        path = f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"
        environment = os.environ | {"SEMLIB_STARTUP": str(stamp), "PYTHONPATH": path}
        command = [sys.executable, "-m", "semlib", "run", "notebooks/holdout.ipynb", *words]
        for name, value in (PARAMETERS | {"outputs": folder}).items():
            command += ["-p", name, str(value)]
        command += ["-o", f"{folder}/out.ipynb"]
        begun = time.time()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        return float(stamp.read_text()) - begun, time.time() - begun


def data(folder: str) -> dict[str, Callable[[], object]]:
    """Preparing photographs as one's own images, and reading a prepared file with its digest."""
    rng = np.random.default_rng(0)
    for k in range(1000):
        part = "test" if k % 5 == 0 else "train"
        path = Path(folder, "birds", part, f"class {k % 10 // 5}", f"{k}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path)
    arrays = {"classes": np.array([f"class {k}" for k in range(10)])}
    for part, n in {"train": 50_000, "test": 10_000}.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (n, 3, 32, 32), np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 10, n)
    np.savez(Path(folder, "like_cifar10.npz"), **arrays)

    def photographs() -> None:
        prepared.load(f"{folder}/birds", tempfile.mkdtemp(dir=folder), 64)

    def prepared_file() -> None:
        assert prepared.digests_of(prepared.load("like_cifar10", folder))

    return {
        "1,000 photographs of 500 x 375 prepared at 64": photographs,
        "a prepared file of 60,000 images read, and its digest": prepared_file,
    }


if __name__ == "__main__":
    main()
