"""A user's functions: what their digest covers, that the source which runs is the one that was
digested, and that a task leaves the network's modes as they were.
"""

import os
import re
import sys

import pytest

from workbench import own
from workbench.experiment import ConfigError

OWN = '''
"""Tasks and scores of mine."""
import math
import numpy as np
import torch
import scoring_tools
from my_losses import square

SCALE = 2.0
TEMPERATURE = 10.0
TABLE = {"a": 1, "b": [2, 3]}


def helper(x):
    """Helps."""
    return x * SCALE  # twice


def loss(net, images):
    """The task."""
    import my_lazy
    text = f"{TABLE['a']!r:>{TABLE['b'][0]}} 'quoted' {net}"
    return square(helper(my_lazy.one())) + len(text) * 0


loss.heads = {"mine": 4}


def score(logits):
    return scoring_tools.energy(logits / TEMPERATURE)


score.note = "of the score"

if __name__ == "__main__":
    print("by hand")
'''
FILES = {
    "my_task.py": OWN,
    "my_losses.py": "from my_package.inner import power\ndef square(x):\n    return power(x, 2)\n",
    "my_package/__init__.py": "LEVEL = 1\n",
    "my_package/inner.py": "from . import deep\ndef power(x, n): return deep.identity(x) ** n\n",
    "my_package/deep.py": "def identity(x):\n    return x\n",
    "my_lazy.py": "def one():\n    return 1\n",
    "scoring_tools.py": "def energy(logits):\n    return -logits\n",
    "unrelated.py": "X = 1\n",
}
SAME = {  # edits that the task doesn't depend on
    "a comment": ("my_task.py", "# twice", "# two times"),
    "a docstring": ("my_task.py", '"""The task."""', '"""My task."""'),
    "the module's docstring": ("my_task.py", "Tasks and scores of mine.", "Mine."),
    "layout": ("my_task.py", "return x * SCALE", "return (x\n        * SCALE)"),
    "quotes": ("my_task.py", '"mine": 4', "'mine': 4"),
    "a score in the same file": ("my_task.py", "logits / TEMPERATURE", "logits * TEMPERATURE"),
    "a constant of the score": ("my_task.py", "TEMPERATURE = 10.0", "TEMPERATURE = 20.0"),
    "an attribute of the score": ("my_task.py", '"of the score"', '"another"'),
    "what runs by hand": ("my_task.py", "by hand", "by foot"),
    "a module that nothing imports": ("unrelated.py", "X = 1", "X = 2"),
    "a comment in a helper": ("my_losses.py", "power(x, 2)", "power(x, 2)  # squared"),
}
OTHER = {
    "its body": ("my_task.py", "len(text) * 0", "len(text) * 1"),
    "a text": ("my_task.py", "'quoted'", "'Quoted'"),
    "its heads": ("my_task.py", '"mine": 4', '"mine": 5'),
    "a function that it calls": ("my_task.py", "return x * SCALE", "return x + SCALE"),
    "a constant of that": ("my_task.py", "SCALE = 2.0", "SCALE = 3.0"),
    "a module that it imports": ("my_losses.py", "power(x, 2)", "power(x, 3)"),
    "a module that this imports": ("my_package/inner.py", "** n", "** n + 0"),
    "a relative import of that": ("my_package/deep.py", "return x", "return +x"),
    "that package": ("my_package/__init__.py", "LEVEL = 1", "LEVEL = 2"),
    "a module imported in the function": ("my_lazy.py", "return 1", "return 2"),
    "a module imported for another function": ("scoring_tools.py", "-logits", "-2 * logits"),
    "1 for '1'": ("my_task.py", '"a": 1', '"a": "1"'),
}


@pytest.fixture
def modules(place, tmp_path):
    """The files, importable; a function that edits one of them."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def edit(file: str, old: str, new: str) -> None:
        path = tmp_path / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


def test_a_digest_has_this_value_on_every_python(modules):
    """Known values: 3.11, 3.12 and 3.13 give them, where ast.dump and ast.unparse differ."""
    assert own.digest("my_task:loss") == "408875ee0436df80"
    assert own.digest("my_task:score") == "25a797c1713d4072"


@pytest.mark.parametrize("edit", SAME | OTHER)
def test_what_a_function_depends_on_changes_its_digest_and_not_the_scores(modules, edit):
    before = own.digest("my_task:loss")
    score = own.digest("my_task:score")
    file, old, new = (SAME | OTHER)[edit]
    modules(file, old, new)
    assert (own.digest("my_task:loss") != before) == (edit in OTHER)
    if edit in OTHER and file == "my_task.py":  # else it is a module that the score imports too
        assert own.digest("my_task:score") == score


ODD = {  # a module in which the function `f` depends on N in an indirect way
    "a decorator of the user's": "K = []\n@K.append\ndef g(): return N\ndef f(x): return K[0]()",
    "a subclass that its base finds": (
        "class A:\n    KEPT = []\n    def __init_subclass__(cls):\n        A.KEPT.append(cls)\n"
        "class B(A):\n    X = N\ndef f(x):\n    return A.KEPT[0].X"
    ),
    "globals": "def g():\n    return N\ndef f(x):\n    return globals()['g']()",
    "sys.modules": "import sys\nY = N\ndef f(x):\n    return sys.modules[__name__].Y",
    "a block": "X = 1\nif X:\n    Y = N\nelse:\n    Y = 2\ndef f(x):\n    return Y",
    "a call": "Y = []\nY.append(N)\ndef f(x):\n    return Y",
    "a base class": "class A:\n    X = N\nclass B(A):\n    pass\ndef f(x):\n    return B.X",
    "an import": "X = 0\nif __name__ != '__main__':\n    X = N\ndef f(x):\n    return X",
    "its else": "if __name__ == '__main__':\n    X = 0\nelse:\n    X = N\ndef f(x):\n    return X",
    "a default": "ONE = N\ndef f(x, y=ONE):\n    return y",
    "a function made by another": "def make(n):\n    return lambda x: n\nf = make(N)",
    "two names at once": "A, B = 0, N\ndef f(x):\n    return B",
    "another's attribute": "class A:\n    pass\nA.x = N\ndef f(x):\n    return A.x",
    "itself, through another name": "def g(x):\n    return N\nf = g",
}


@pytest.mark.parametrize("kind", ODD)
def test_dependences_that_are_not_plain_are_seen_too(tmp_path, modules, kind):
    digests = set()
    for number in "12":
        (tmp_path / "odd.py").write_text(re.sub(r"\bN\b", number, ODD[kind]))
        digests.add(own.digest("odd:f"))
    assert len(digests) == 2


FOLLOWED = {  # an import, and the module that it runs
    "from helps import *": "helps.py",
    "import helps": "helps.py",
    "import helps as h": "helps.py",
    "from helps import VALUE\ndef g():\n    return VALUE": "helps.py",
    "import wrapped.inner": "wrapped/__init__.py",
    "import importlib; H = importlib.import_module('helps')": "helps.py",
    "from importlib import import_module; H = import_module('.a', 'wrapped')": "wrapped/a.py",
}


@pytest.mark.parametrize("line", FOLLOWED)
def test_an_import_for_its_effects_or_of_everything_is_followed(tmp_path, modules, line):
    (tmp_path / "wrapped").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "wrapped" / f"{name}.py").write_text("")
    (tmp_path / FOLLOWED[line]).write_text("VALUE = 1\n")
    (tmp_path / "odd.py").write_text(f"{line}\ndef f(x):\n    return x\n")
    before = own.digest("odd:f")
    modules(FOLLOWED[line], "VALUE = 1", "VALUE = 2")
    assert own.digest("odd:f") != before


def test_installed_modules_and_pythons_own_are_not_followed(tmp_path, modules, monkeypatch):
    (tmp_path / "site-packages" / "bought").mkdir(parents=True)
    (tmp_path / "site-packages" / "bought" / "__init__.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    imports = "import json, bought, torch.nn, semlib.metrics"
    (tmp_path / "odd.py").write_text(f"{imports}\ndef f(x):\n    return json, bought, semlib\n")
    before = own.digest("odd:f")
    (tmp_path / "site-packages" / "bought" / "__init__.py").write_text("X = 2\n")
    assert own.digest("odd:f") == before
    assert set(own._closure("odd", "f")) == {"odd"}


def test_modules_that_import_each_other_end(tmp_path, modules):
    odd = "import other\ndef f(x):\n    return other.g()\ndef h():\n    return 1\n"
    (tmp_path / "odd.py").write_text(odd)
    (tmp_path / "other.py").write_text("import odd\ndef g():\n    return odd.h()\n")
    before = own.digest("odd:f")
    modules("odd.py", "return 1", "return 2")
    assert own.digest("odd:f") != before


def test_the_source_that_runs_is_the_one_that_is_digested(modules, tmp_path):
    """Also edited at once, in the same size, in the module or in one that it imports."""
    digests = {own.digest("my_task:loss")}
    assert own.function("my_task:loss")(1, None) == 4
    edits = [("my_task.py", "SCALE = 2.0", "SCALE = 3.0", 9)]
    edits += [("my_lazy.py", "return 1", "return 2", 36)]
    edits += [("my_package/inner.py", "** n", "** 1", 6)]
    edits += [("my_package/deep.py", "return x", "return 5", 5)]
    for file, old, new, value in edits:
        times = (tmp_path / file).stat()
        modules(file, old, new)
        os.utime(tmp_path / file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert own.function("my_task:loss")(1, None) == value
        digests.add(own.digest("my_task:loss"))
    assert len(digests) == 5


def test_two_functions_over_one_helper_both_see_its_edits(modules, tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text("import my_lazy\ndef f():\n    return my_lazy.one()\n")
    assert own.function("first:f")() == own.function("second:f")() == 1
    modules("my_lazy.py", "return 1", "return 2")
    assert own.function("second:f")() == own.function("first:f")() == 2


def test_a_module_that_was_imported_before_its_edit_is_imported_again(modules):
    import my_lazy  # as in a notebook's cell

    modules("my_lazy.py", "return 1", "return 2")
    assert own.function("my_lazy:one")() == 2 and my_lazy.one() == 1


WRONG = ["nowhere:f", "my_task:nothing", "math:sqrt", "my_task:SCALE", "broken:f"]


@pytest.mark.parametrize("name", WRONG)
def test_a_function_that_cannot_be_used_is_one_clear_line(modules, tmp_path, name):
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(ConfigError) as error:
        own.digest(name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_function_of_a_notebook_has_no_source_to_tell_edits_by(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "mine", lambda logits: logits, raising=False)
    with pytest.raises(ConfigError, match=r"__main__:mine: .* put it into a .py file"):
        own.digest("__main__:mine")
