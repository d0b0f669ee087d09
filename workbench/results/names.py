"""How methods, measures and rows are called where they are shown."""

import re
from collections.abc import Iterable

import pandas as pd

pd.set_option("display.html.use_mathjax", False)  # a class may be called $x$

LABELS = {"classification": "Classification-only", "rotation": "Rotation-augmented"}
LABELS |= {"cpc": "CPC-augmented", "center_mask": "Random-center-masked", "accuracy": "Accuracy"}
LABELS |= {"msp": "MSP", "odin": "ODIN", "msp_t1000": "MSP (T = 1000)", "max_logit": "Max logit"}
LABELS |= {"energy": "Energy", "entropy": "Entropy", "gen": "GEN", "mahalanobis": "Mahalanobis"}
LABELS |= {"rmd": "RMD", "knn": "KNN", "cosine": "Cosine", "vim": "ViM", "react": "ReAct"}
LABELS |= {"scale": "SCALE", "fdbd": "fDBD", "nnguide": "NNGuide"}
DATASETS = {"cifar10": "CIFAR-10", "stl10": "STL-10"}
AVERAGE = "average"  # the last row of a table of classes


def label(name: str, among: Iterable[str] = ()) -> str:
    """A method's or a measure's name as shown: the paper's words, or a user's function.

    The function's module is shown too where another name in `among` would look the same.
    """
    module, _, function = name.rpartition(":")
    shown = LABELS.get(name, function)
    others = [LABELS.get(other, other.rpartition(":")[2]) for other in among if other != name]
    alike = shown.casefold() in map(str.casefold, others)
    return f"{shown} ({module})" if module and alike else shown


def plain(text: str) -> str:
    """The text in Markdown as it stands: names are no HTML, links, pictures or formulas there.

    The spans keep MathJax from joining two $ or a backslash with what follows.
    """
    return re.sub(r"[]<>&`*|[$\\]", lambda found: f"<span>&#{ord(found[0])};</span>", text)


def code(text: str) -> str:
    """The text as code in Markdown, between more backticks than it has."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def without_average(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the classes; all rows of a table about something else, whose index has a name."""
    return table if table.index.name else table.drop(index=AVERAGE, errors="ignore")


def rows_of(table: pd.DataFrame) -> list[str]:
    """A table's rows as shown; a class is called as its folder is."""
    if table.index.name:
        return [DATASETS.get(name, name) for name in table.index]
    return [name.capitalize() if name == AVERAGE else name for name in table.index]
