"""What training and scoring mean is pinned: whoever changes it says whether finished runs still stand."""

import ast
import hashlib
import json
from functools import cache

import pytest
from helpers import ROOT

from semlib import store, user_code
from semlib.config import RANKED

TRAINING = {  # file: the names in it that make weights what they are; () for the whole file
    "training.py": ("STEP_MILESTONES", "rate_factor", "train", "_optimizer"),
    "auxiliary.py": (),
    "models/wide_resnet.py": (),
    "models/conditional_norm.py": (),
    "models/cpc.py": (),
    "datasets/augmentation.py": (),
    "datasets/arrays.py": ("hold_out",),
    "datasets/loading.py": ("_with_validation", "_fold"),
    "runs.py": ("_train", "_network", "_heads", "_transform", "_pixels", "_moments"),
}
SCORING = ("evaluating", "_full_float32", "upright", "UPRIGHT_BATCH", "as_floats", "score")
FITTED = {"metrics/scores.py": SCORING, "runs.py": ("_score", "_function", "_fitted", "_ranks")}
COVERED = {
    ("training", store.RECIPE): TRAINING,
    ("msp", store.VERSIONS["msp"]): {"metrics/scores.py": ("max_softmax", *SCORING), "runs.py": ("_score", "_function")},
    **{(name, store.VERSIONS[name]): FITTED | {"metrics/detectors.py": ("features", name)} for name in RANKED},
    ("odin", store.VERSIONS["odin"]): {
        "metrics/scores.py": ("odin", "max_softmax", *SCORING),
        "runs.py": ("_score", "_function"),
    },
}
PINNED = {
    ("training", 2): "93eca73f07e07f60",
    ("msp", 1): "54d4ad145562aea1",
    ("odin", 1): "a1b7bb044982875d",
}
SAID = """the code that {what} {number} stands for has changed. Do finished runs still stand?
  No: raise {constant} in semlib/store.py, and they will be made anew.
  Yes, since the change makes no difference to any number: pin it, in PINNED of this file ({key}: "{digest}")."""


@cache
def tree(file):
    return ast.parse((ROOT / "semlib" / file).read_text())


def digest(covered):
    """Of the named definitions, of detectors with all that they use, without comments, docstrings and layout."""
    parts = []
    for file, names in covered.items():
        if file == "metrics/detectors.py":
            parts += [user_code.plain(s) for name in names for s in user_code._reached(tree(file).body, name)]
            continue
        found = {name: statement for statement in tree(file).body for name in user_code._binds(statement, set()) or ()}
        assert set(names) <= set(found), f"{file} has no {set(names) - set(found)}: say in this file where it went"
        parts += [user_code.plain(found[name]) for name in names] if names else [user_code.plain(tree(file))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@pytest.mark.parametrize("key", COVERED, ids=lambda key: key[0])
def test_the_meaning_of_training_and_scores_is_pinned_to_its_number(key):
    what, number = key
    constant = "RECIPE" if what == "training" else f'VERSIONS["{what}"]'
    now = digest(COVERED[key])
    assert PINNED.get(key) == now, SAID.format(what=what, number=number, constant=constant, key=key, digest=now)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("nesterov=True", "nesterov=False", True),
        ("momentum=0.9", "momentum=0.8", True),
        ("STEP_MILESTONES = (0.3, 0.6, 0.8)", "STEP_MILESTONES = (0.3, 0.6, 0.9)", True),
        ("SGD over the shared weights", "Gradient descent over the shared weights", False),  # a docstring
        ("# an incomplete last batch is dropped", "# and dropped", False),
        ("is damaged", "is broken", False),  # of a checkpoint
    ],
)
def test_a_change_of_meaning_changes_the_digest_and_words_do_not(monkeypatch, old, new, changes):
    covered, before = {"training.py": TRAINING["training.py"]}, digest({"training.py": TRAINING["training.py"]})
    text = (ROOT / "semlib" / "training.py").read_text()
    assert old in text
    monkeypatch.setitem(globals(), "tree", lambda file: ast.parse(text.replace(old, new)))
    assert (digest(covered) != before) == changes
