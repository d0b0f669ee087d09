"""What training and scoring mean is pinned: whoever changes it says whether finished runs still
stand.
"""

import ast
import hashlib
import json
from functools import cache

import pytest
from helpers import ROOT

from workbench import own
from workbench.experiment import RANKED
from workbench.runs import plan

TRAINING = {  # file: the names in it that make weights what they are; () for the whole file
    "training.py": (
        "STEP_MILESTONES",
        "rate_factor",
        "_rate",
        "train",
        "_epoch",
        "_update",
        "_Batches",
        "_optimizer",
    ),
    "auxiliary.py": (),
    "models/wide_resnet.py": (),
    "models/conditional_norm.py": (),
    "models/cpc.py": (),
    "datasets/augmentation.py": (),
    "datasets/arrays.py": ("hold_out", "training_images"),
    "datasets/loading.py": ("_with_validation", "_fold"),
    "runs/execute.py": (
        "_train",
        "_split",
        "_network",
        "_heads",
        "_transform",
        "_pixels",
        "_moments",
    ),
}
SHARED = {
    "metrics/scores.py": (
        "evaluating",
        "full_float32",
        "upright",
        "UPRIGHT_BATCH",
        "as_floats",
        "score",
        "_arguments",
    ),
    "metrics/detection.py": (),
    "runs/scoring.py": (
        "score",
        "_arrays",
        "functions",
        "_function",
        "_is_fitted",
        "_fitted",
        "_fit",
        "ranks",
        "measures",
    ),
}
COVERED = {
    ("training", plan.RECIPE): TRAINING,
    ("scoring", plan.SCORING): SHARED,
    ("msp", plan.VERSIONS["msp"]): {"metrics/scores.py": ("max_softmax",)},
    **{
        (name, plan.VERSIONS[name]): {"metrics/detectors.py": ("features", name)} for name in RANKED
    },
    ("odin", plan.VERSIONS["odin"]): {"metrics/scores.py": ("odin", "max_softmax")},
}
PINNED = {
    ("training", 2): "c35bb5945a7f6890",
    ("scoring", 1): "dad07154482f678b",
    ("msp", 1): "2b58154f03c7bf28",
    ("msp_t1000", 1): "e50843de167c9e8e",
    ("max_logit", 1): "7fbcd042961535cd",
    ("energy", 1): "3779e95a004cf845",
    ("entropy", 1): "5913ef6a327a45a2",
    ("gen", 1): "5f95d7a13370555f",
    ("mahalanobis", 1): "0eebe4123ec8c518",
    ("rmd", 1): "2f712efd77969742",
    ("knn", 1): "a87a8fa8d806c5f5",
    ("cosine", 1): "33e8b8eea7183014",
    ("vim", 1): "e3ff54ab152d86f6",
    ("react", 1): "d04c6695abe5e53f",
    ("scale", 1): "e3e294b6b014bdc6",
    ("fdbd", 1): "b091942dd794ae23",
    ("nnguide", 1): "689e6f41e10189b8",
    ("odin", 1): "74ed7789713ff0bb",
}
SAID = """the code that {what} {number} stands for has changed. Do finished runs still stand?
  No: raise {constant} in semlib/runs/plan.py, and they will be made anew.
  Yes, since the change makes no difference to any number: pin it, in PINNED of this file ({key}: "{digest}")."""


@cache
def tree(file):
    return ast.parse((ROOT / "semlib" / file).read_text())


def defined(statement):
    targets = getattr(statement, "targets", [])
    return (
        [statement.name]
        if hasattr(statement, "name")
        else [t.id for t in targets if isinstance(t, ast.Name)]
    )


def digest(covered):
    """Of the named definitions, of detectors with all that they use, without comments, docstrings
    and layout.
    """
    parts = []
    for file, names in covered.items():
        if file == "metrics/detectors.py":
            parts += [
                own.plain(s)
                for name in names
                for s in own._reached(tree(file).body, name, "semlib.metrics.detectors", False)
            ]
            continue
        found = {name: statement for statement in tree(file).body for name in defined(statement)}
        assert set(names) <= set(found), (
            f"{file} has no {set(names) - set(found)}: say in this file where it went"
        )
        parts += [own.plain(found[name]) for name in names] if names else [own.plain(tree(file))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@pytest.mark.parametrize("key", COVERED, ids=lambda key: key[0])
def test_the_meaning_of_training_and_scores_is_pinned_to_its_number(key):
    what, number = key
    constant = {"training": "RECIPE", "scoring": "SCORING"}.get(what, f'VERSIONS["{what}"]')
    now = digest(COVERED[key])
    assert PINNED.get(key) == now, SAID.format(
        what=what, number=number, constant=constant, key=key, digest=now
    )


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("nesterov=True", "nesterov=False", True),
        ("momentum=0.9", "momentum=0.8", True),
        ("STEP_MILESTONES = (0.3, 0.6, 0.8)", "STEP_MILESTONES = (0.3, 0.6, 0.9)", True),
        (
            "SGD over the shared weights",
            "Gradient descent over the shared weights",
            False,
        ),  # a docstring
        ("# an incomplete last batch is dropped", "# and dropped", False),
        ("try a lower learning_rate", "lower it", False),  # of an error
    ],
)
def test_a_change_of_meaning_changes_the_digest_and_words_do_not(monkeypatch, old, new, changes):
    covered, before = (
        {"training.py": TRAINING["training.py"]},
        digest({"training.py": TRAINING["training.py"]}),
    )
    text = (ROOT / "semlib" / "training.py").read_text()
    assert old in text
    monkeypatch.setitem(globals(), "tree", lambda file: ast.parse(text.replace(old, new)))
    assert (digest(covered) != before) == changes
