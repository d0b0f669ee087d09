"""A data set and an experiment so small that a run takes a fraction of a second, and the package as
a user starts it.
"""

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score

from semlib.datasets import Dataset, ImageSet
from workbench.cli import main
from workbench.experiment import Experiment, create
from workbench.images import prepared
from workbench.images.digests import Digests
from workbench.results import plots, tables
from workbench.runs import plan, store

ROOT = Path(__file__).parents[1]
MADE_UP = Digests("d" * 64, "e" * 64)
CLASSES = ("zero", "one", "two", "three")
TINY = {
    "profile": "test",
    "dataset": "tiny",
    "hold_out": "one",
    "trials": 1,
    "missing": "train",
    "architecture": "wrn-10-1",
    "dropout": 0.3,
    "norm_batch": None,
    "epochs": 3,
    "batch_size": 64,
    "precision": "float32",
    "threads": 1,
    "evaluate_every": 1,
}

OWN_NETWORK = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes, channels, heads):
        super().__init__()
        convolution = nn.Conv2d(channels, 8, 3, 2)
        self.trunk = nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        outputs = {"classification": classes, **heads}
        self.heads = nn.ModuleDict({name: nn.Linear(72, n) for name, n in outputs.items()})

    def features(self, images):
        return self.trunk(images)

    def forward(self, images, head="classification"):
        return self.heads[head](self.features(images))

def small(classes, image_shape, heads, mean, std):
    assert image_shape[1:] == (8, 8) and len(mean) == len(std) == image_shape[0] and 0 < mean[0] < 1
    return Small(classes, image_shape[0], heads)
"""


FRAGILE = '''
from pathlib import Path
from types import ModuleType

BROKEN = Path(__file__).with_name("broken")


def loss(net, images):
    """Fails while the file `broken` is there and two is held out: a two's corner is white.

    Not when it is tried on a few images.
    """
    if BROKEN.exists() and len(images) > 16 and not (images[:, 0, 0, 0] == 1).any():
        raise RuntimeError("broken on purpose")
    return net(images, head="mine").square().mean()


loss.heads = {"mine": 2}
'''


def tiny_data(root: Path) -> Path:
    """Write tiny.npz, 256 + 100 of scikit-learn's digits 0 to 3; every two has a white corner, so a
    batch shows its class.
    """
    digits = prepared.load("digits", root)
    parts = []
    for part, each in ((digits.train, 64), (digits.test, 25)):
        chosen = np.concatenate([np.flatnonzero(part.labels == k)[:each] for k in range(4)])
        images = part.images[chosen].copy()
        images[part.labels[chosen] == 2, :, 0, 0] = 255
        parts.append(ImageSet(images, part.labels[chosen]))
    data = Dataset("tiny", *parts, CLASSES)
    arrays = {"train_images": data.train.images, "train_labels": data.train.labels}
    arrays |= {"test_images": data.test.images, "test_labels": data.test.labels}
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "tiny.npz", classes=np.array(data.classes), **arrays)
    return root


def change_data(folder: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace arrays of folder/data/tiny.npz, each by what its function makes of it."""
    path = folder / "data" / "tiny.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: change(arrays[name]) for name, change in changes.items()})


def pets(root, seed: int):
    """An image folder root/pets of three classes, 8 training and 4 test images each."""
    random = np.random.default_rng(seed)
    for part, count in (("train", 8), ("test", 4)):
        for k, name in enumerate(("ant", "bee", "cow")):
            (root / "pets" / part / name).mkdir(parents=True)
            for n in range(count):
                pixels = random.integers(0, 80, (8, 8, 3), dtype=np.uint8) + np.uint8(80 * k)
                Image.fromarray(pixels).save(root / "pets" / part / name / f"{n}.png")
    return root / "pets"


def tiny(folder: Path, **changes) -> Experiment:
    """The tiny experiment: data in folder/data, outputs in folder/outputs."""
    places = {"data_root": str(folder / "data"), "outputs": str(folder / "outputs")}
    return create(TINY | places | changes)


def tiny_benchmark(folder: Path, **changes) -> tuple[Path, Experiment]:
    """A copy of the demo's parameter file with tiny values, folder/benchmark.yaml, and the
    experiment that it makes.
    """
    settings = yaml.safe_load((ROOT / "params" / "demo" / "benchmark.yaml").read_text())
    settings |= TINY | {"outputs": str(folder / "outputs"), "epochs": 2} | changes
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(settings))
    return folder / "benchmark.yaml", tiny(folder, **settings)


def parameters(**values) -> list[str]:
    """Parameters as words of a command line."""
    words = []
    for name, value in values.items():
        words += ["-p", name, str(value)]
    return words


def tiny_words(folder: Path, **changes) -> list[str]:
    """The tiny experiment, of classification, as words of a command line; None leaves one out."""
    settings = TINY | {"methods": "classification", "outputs": folder / "outputs"} | changes
    return parameters(**{name: value for name, value in settings.items() if value is not None})


def semlib_path(folder: Path) -> str:
    """PYTHONPATH by which a user's modules in that folder are found."""
    return f"{folder}{os.pathsep}{ROOT}"


def environment(**changes: object) -> dict[str, str]:
    changed = {name: str(value) for name, value in changes.items()}
    return os.environ | {"PYTHONPATH": str(ROOT)} | changed


def semlib(*words: object, **changes: object) -> subprocess.CompletedProcess:
    """`python -m semlib ...` from the checkout's root; changes: of its environment."""
    command = [sys.executable, "-m", "semlib", *map(str, words)]
    how = {"cwd": ROOT, "env": environment(**changes), "timeout": 900}
    return subprocess.run(command, **how, capture_output=True, text=True)


def refused(*words: object, said=(), place: Path | None = None, but: tuple[str, ...] = ()) -> None:
    """The command line, in this process, ends with one line that says so; place is as before."""
    before = contents(place, but) if place else {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit:
            status = exit.code
    text = re.sub(r"^usage: (.*\n)*.*?: (?=error: )", "", error.getvalue())  # argparse's own
    text = text.rpartition("\r")[2].lstrip()  # after a progress bar
    assert status == 2 and not output.getvalue(), text
    assert text.startswith("error: ") and text.count("\n") == 1, text
    assert all(str(part) in text for part in said), text
    assert not place or contents(place, but) == before, "something was written"


def start(*words: object, places: dict, **how) -> subprocess.Popen:
    """`python -m semlib ...`, not waited for; places: of its environment."""
    command = [sys.executable, "-m", "semlib", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(**places), text=True, **how)


def until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def identical(one: dict, other: dict) -> bool:
    """Whether two networks' states are the same to the bit."""
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def contents(folder: Path, but: tuple[str, ...] = ()) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file in a folder: to say that nothing there was touched."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in but:
            found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, path.read_bytes())
    return found


def scores(experiment: Experiment) -> dict[tuple, dict[str, bytes]]:
    """Of every planned run the arrays in its scores.npz, as bytes: equal if and only if bit for bit
    the same.
    """
    found = {}
    for run in plan.planned(experiment):
        with np.load(run.home / "scores.npz", allow_pickle=False) as file:
            arrays = {name: file[name].tobytes() for name in file.files}
            found[run.hold_out, run.method, run.trial] = arrays
    return found


def made_up(
    folder: Path, images=200, seed: int = 0, data: Digests | None = None, label=None, **changes
) -> Experiment:
    """Finished runs with random scores, without training: the held-out class's are higher. The
    experiment that they are of.

    Each class has the same number of images; half of all scores are rounded, so that there are
    ties.
    """
    places = {"outputs": str(folder), "data_root": str(folder / "no data")}
    experiment = create(places | {"profile": "made_up"} | changes)
    classes = prepared.classes(experiment.dataset)
    label = np.arange(images) % len(classes) if label is None else label
    label = label.astype(np.int16)
    images = len(label)
    for k, run in enumerate(plan.planned(experiment)):
        rng = np.random.default_rng([seed, k])
        is_anomaly = label == classes.index(run.hold_out)
        known = np.flatnonzero(np.array(classes) != run.hold_out)
        is_wrong = is_anomaly | (rng.random(images) < 0.1)
        predicted = np.where(is_wrong, rng.choice(known, images), label).astype(np.int16)
        arrays = {"label": label, "predicted": predicted, "is_anomaly": is_anomaly}
        scoring = plan.how_scored(experiment)
        for name in scoring:
            scores = rng.normal(is_anomaly * rng.uniform(0.5, 2))
            arrays[name] = np.where(rng.random(images) < 0.5, scores.round(1), scores)
        arrays |= {f"{name}@upright": arrays[name] for name in ("predicted", *scoring)}
        own = data or run.data or tables.PAPERS_DATA.get(run.dataset, MADE_UP)
        finish(replace(run, data=own), classes, arrays, scoring)
    return experiment


def finish(run: plan.Run, classes: tuple[str, ...], arrays: dict, scoring: dict) -> store.Record:
    """Write a run's files, with scikit-learn's average precision."""
    scores = [name for name in arrays if name.partition("@")[0] in scoring]
    is_anomaly = arrays["is_anomaly"]
    skew = float(is_anomaly.mean())
    metrics = {name: float(average_precision_score(is_anomaly, arrays[name])) for name in scores}
    for name in arrays:
        if name.startswith("predicted"):
            right = (arrays["label"] == arrays[name])[~arrays["is_anomaly"]]
            metrics[name.replace("predicted", "accuracy")] = float(right.mean())
    made = {"seconds": 1.0, "device": "abacus", "precision": "float32", "threads": 1}
    made |= {"classes": classes, "scoring": scoring, "skew": skew, "metrics": metrics}
    sha256 = store.write_scores(run.home / "scores.npz", arrays)
    how = {"versions": {}, "commit": None, "scores_sha256": sha256}
    record = store.new_record(run.home, run, **made, **how)
    return store.rewrite(record, finished=f"2026-01-01T00:00:{run.trial:02}")


def picture_folder(root: Path, classes=("ant", "bee", "cat"), size=(16, 16), count=2) -> Path:
    """train/<class>/<k>.png, and the same in test/; every picture has a colour of its own."""
    for part in ("train", "test"):
        for j, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                colour = (10 * j, 100 * k, 255 if part == "train" else 0)
                Image.new("RGB", size, colour).save(root / part / name / f"{k}.png")
    return root


def cells(notebook: str, run_before: str | None = None) -> ModuleType:
    """What a notebook's cells import and define, functions and constants; nothing else is run.

    run_before: the id of a cell; those above it are run whole.
    """
    made = ModuleType(notebook)
    made.In = []  # as in IPython: the cells so far
    whole = run_before is not None
    read = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    for cell in (cell for cell in read.cells if cell.cell_type == "code"):
        whole = whole and cell.id != run_before
        made.In.append(cell.source)
        for node in ast.parse(cell.source).body:
            is_constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
            defines = isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)
            if whole or is_constant or defines:
                with plt.rc_context(plots.STYLE):  # a notebook's own style stays its own
                    exec(compile(ast.Module([node], []), notebook, "exec"), vars(made))
    return made
