"""How long unfinished runs will take, by the times in finished records; read without torch."""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.experiment import Experiment
from workbench.runs import machine, plan, store
from workbench.runs.plan import Run
from workbench.runs.store import Progress

Measure = Callable[[Run], float]


def duration(seconds: float) -> str:
    """40 s, 75 min, 3.1 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def of_missing(experiment: Experiment, found: Progress, measure: Measure) -> str:
    """How much an experiment trains and how long it takes: a line before it does.

    found: its runs, each with its record.
    """
    seconds, by = known(experiment, found, measure)
    said = _said(_work(found), seconds, 1)
    return f"{said} (by {by})" if by else said


def known(experiment: Experiment, found: Iterable, measure: Measure) -> tuple[pd.Series, str]:
    """The seconds that each kind of run takes, and by what that is known.

    found: runs, each with its record. Medians of finished runs on this device, else on all; of
    other kinds what measure(run) gives, NaN if it can't.
    """
    kinds = {_kind(run): run for run in _work(found)[1].values()}
    records = [r for r in store.collect(experiment.folder) if not r.external]
    rows = [(_kind(record), record.device, record.seconds) for record in records]
    frame = pd.DataFrame(rows, columns=["kind", "device", "seconds"])
    frame = frame[frame.kind.isin(kinds)]
    here = frame.device == machine.device_name(machine.device(experiment))
    frame = frame[here] if here.any() else frame
    medians = frame.groupby("kind").seconds.median()
    rest = {kind: measure(run) for kind, run in kinds.items() if kind not in medians}
    tried = pd.Series(rest, dtype=float).dropna()
    by = [f"medians on {', '.join(sorted(frame.device.unique()))}"] if len(medians) else []
    by += ["a few steps tried just now"] if len(tried) else []
    return pd.concat([medians, tried]), " and ".join(by)


def _kind(run: Any) -> str:
    """What a Run or a Record has in common with those that take about as long."""
    return json.dumps([run.dataset, run.method, plan.non_default(run.settings)], sort_keys=True)


def text(experiments: Sequence[Experiment], seconds: pd.Series, jobs: int) -> str:
    """How many runs are finished and how many missing, and the time that these will take."""
    training = [e for e in experiments if e.missing == "train"]
    return _said(_work(itertools.chain(*map(store.progress, training))), seconds, jobs)


def _said(work: tuple, seconds: pd.Series, jobs: int) -> str:
    planned, to_train, to_score = work
    if not planned:
        return "trains nothing, shows what is finished"
    left = len(to_train) + len(to_score)
    text = f"{len(planned) - left} of {len(planned)} runs are finished, {left} are missing"
    times = seconds.reindex([_kind(run) for run in to_train.values()])
    if times.any():
        total = times.sum()
        text += f": {duration(total)} of training"
        if jobs > 1:
            text += f", {duration(total / jobs)} side by side"
    if to_score:
        scores = ", ".join(dict.fromkeys(itertools.chain(*to_score.values())))
        text += f", {len(to_score)} of them only to be scored: they lack {scores}"
        if lost := sum(not weights.exists() for weights in to_score):
            text += f" ({lost} can't be, for their weights are not here)"
    if unknown := times.isna().sum():
        text += f"; the time of {unknown} is unknown"
    return text


def _work(found: Iterable) -> tuple[set[Path], dict[Path, Run], dict[Path, list[str]]]:
    """The homes of planned runs; the runs to train; by their weights the scores that runs lack."""
    planned: set[Path] = set()
    to_train: dict[Path, Run] = {}
    to_score: dict[Path, list[str]] = {}
    for run, record in found:
        if run.external:
            continue
        planned.add(run.home)
        scores = store.missing_scores(record, run.experiment)
        # Trained runs may lack a record of their scores on the test images that are here
        trained = record or (store.trained(run) if run.data else None)
        if trained is None:
            to_train[run.home] = run
        elif scores:
            to_score.setdefault(trained.run_home / "weights.pt", []).extend(scores)
    return planned, to_train, to_score
