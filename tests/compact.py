"""Round MSP and ODIN in finished records, to commit them: python tests/compact.py FOLDER ...

Each value is replaced by the one of fewest binary digits that is nearer to it than half way to the
next score, by 1e-5 of itself at most. So order and ties stay, and with them every measure of
ranking; compressed, the values take a third. What is rounded already is left alone.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

from workbench.runs import store


def significant(values: np.ndarray, digits: int) -> np.ndarray:
    """Rounded to so many binary digits."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, digits)), exponent - digits)


def rounded(scores: np.ndarray) -> np.ndarray:
    """Float64 scores (N,) with as few binary digits as keep their order and ties."""
    values, which = np.unique(scores, return_inverse=True)
    if np.mean(values == significant(values, 45)) > 0.5:  # of 53: hardly a computed value is
        return scores
    gaps = np.r_[np.inf, np.diff(values), np.inf]
    room = np.minimum(np.minimum(gaps[:-1], gaps[1:]) / 2.001, 1e-5 * np.abs(values))
    found = values.copy()
    for digits in range(53, 0, -1):  # the fewest are written last
        shorter = significant(values, digits)
        near = np.abs(shorter - values) < room
        found[near] = shorter[near]
    return found[which]


if __name__ == "__main__":
    folders = map(Path, sys.argv[1:])
    for path in itertools.chain(*(folder.glob("**/record.json") for folder in folders)):
        record = store.read_record(path.parent)
        arrays = record.scores()
        arrays |= {name: rounded(array) for name, array in arrays.items() if array.dtype == float}
        sha256 = store.write_scores(path.with_name("scores.npz"), arrays)
        store.rewrite(record, scores_sha256=sha256)
        store.read_record(path.parent).check()  # computes each measure anew
