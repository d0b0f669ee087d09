"""Records -> one long table, a row a number: every table, test and figure is made from it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from workbench.experiment import ConfigError, Experiment, create
from workbench.runs import plan, store
from workbench.runs.store import Record

Runs = Sequence[tuple[Experiment, Sequence[Record]]]  # experiments, each with its finished runs
COLUMNS = ["profile", "dataset", "images", "hold_out", "method", "trial"]
COLUMNS += ["statistics", "measure", "value", "device", "precision", "seconds", "address"]


def frame(source: str | Runs, outputs: str | Path = "outputs") -> pd.DataFrame:
    """Every number of a profile's runs, outputs/<profile>/, or of (experiment, records) pairs.

    measure: "accuracy", or a score, of which the value is the average precision; of a pair the
    experiment's scores, of a profile all. value: percent. statistics: batch norm's, mixed or
    upright. images: training images a class that were asked for, NaN: all. hold_out: "none" where
    no class was held out. seconds: of training. address: 8 digits that tell runs apart, followed
    by each setting of training in which these runs differ.
    """
    if isinstance(source, str):
        folder = create({"profile": source, "outputs": str(outputs)}).folder
        records = store.collect(folder)
        if not records:
            known = ", ".join(sorted(path.parent.name for path in folder.parent.glob("*/runs")))
            raise ConfigError(f"profile: {source} has no finished runs; choose from {known}")
        runs = [(source, record, record.scoring) for record in records]
    else:
        runs = []
        for experiment, records in source:
            scoring = plan.how_scored(experiment)
            runs += [(experiment.profile, record, scoring) for record in records]
    settings = differing([record for _, record, _ in runs])
    rows = []
    for profile, record, scoring in runs:
        of_run = _facts(profile, record) | {name: record.settings.get(name) for name in settings}
        for number in _numbers(record, scoring):
            rows.append(of_run | number)
    return pd.DataFrame(rows, columns=[*COLUMNS, *settings])


def differing(records: Sequence[Record]) -> list[str]:
    """The settings of training in which these runs differ, as far as their methods read them."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.settings.items():
            values.setdefault(name, set()).add(str(value))
    shown = {*COLUMNS, "train_per_class"}
    return [name for name, several in values.items() if len(several) > 1 and name not in shown]


def _facts(profile: str, record: Record) -> dict[str, object]:
    same = ("dataset", "method", "trial", "device", "precision", "seconds")
    found = {name: getattr(record, name) for name in same} | {"profile": profile}
    images = float(record.settings.get("train_per_class") or "nan")
    which = {"hold_out": record.hold_out or "none", "address": record.address[:8]}
    return found | which | {"images": images}


def _numbers(record: Record, scoring: Mapping[str, Mapping]) -> Iterator[dict[str, object]]:
    """Accuracy and each score's average precision. Only here a metric's name has "@upright"."""
    keys = {name: record.key(how) for name, how in scoring.items()} | {"accuracy": "accuracy"}
    for statistics, end in plan.STATISTICS.items():
        for measure, key in keys.items():
            if f"{key}{end}" in record.metrics:
                value = 100 * record.metrics[f"{key}{end}"]
                yield {"statistics": statistics, "measure": measure, "value": value}
