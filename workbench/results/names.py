"""How methods, measures and rows are called where they are shown."""

from collections.abc import Iterable

import pandas as pd

LABELS = {
    "msp": "MSP",
    "odin": "ODIN",
    "accuracy": "Accuracy",
    "classification": "Classification-only",
}
LABELS |= {
    "rotation": "Rotation-augmented",
    "cpc": "CPC-augmented",
    "center_mask": "Random-center-masked",
}
LABELS |= {
    "msp_t1000": "MSP (T = 1000)",
    "max_logit": "Max logit",
    "energy": "Energy",
    "entropy": "Entropy",
    "gen": "GEN",
}
LABELS |= {
    "mahalanobis": "Mahalanobis",
    "rmd": "RMD",
    "knn": "KNN",
    "cosine": "Cosine",
    "vim": "ViM",
    "react": "ReAct",
}
LABELS |= {"scale": "SCALE", "fdbd": "fDBD", "nnguide": "NNGuide"}
DATASETS = {"cifar10": "CIFAR-10", "stl10": "STL-10"}
AVERAGE, OTHER_AVERAGE = (
    "average",
    "average / all",
)  # the latter where a class has the name; no class's name has a /


def label(name: str, among: Iterable[str] = ()) -> str:
    """How a method or a measure is shown: the paper's words, or a user's function.

    Its module is shown too where another of those `among` which it stands has the same name.
    """
    module, _, function = name.rpartition(":")
    shown = LABELS.get(name, function)
    others = {
        LABELS.get(other, other.rpartition(":")[2]).casefold() for other in among if other != name
    }
    return f"{shown} ({module})" if module and shown.casefold() in others else shown


def average_row(classes: Iterable[str]) -> str:
    """The label of the average below rows of these classes."""
    return OTHER_AVERAGE if AVERAGE in map(str.lower, classes) else AVERAGE


def average_of(table: pd.DataFrame) -> str:
    """The label of the average row in a table of classes that has one."""
    return OTHER_AVERAGE if OTHER_AVERAGE in table.index else AVERAGE


def without_average(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the classes, or all rows of a table that is about something else, which names its
    index.
    """
    return table if table.index.name else table.drop(index=average_of(table), errors="ignore")


def rows_of(table: pd.DataFrame) -> list[str]:
    """A table's rows as shown: a class is called as its folder is."""
    if table.index.name:
        return [DATASETS.get(name, name) for name in table.index]
    return [name.capitalize() if name == average_of(table) else name for name in table.index]
