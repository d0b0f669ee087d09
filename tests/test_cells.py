"""Functions from a notebook's cells: what their digest covers, and runs that are made of them."""

import itertools

import pytest
from helpers import OWN_NETWORK, ROOT, contents, tiny, tiny_data
from IPython.core.interactiveshell import InteractiveShell

from workbench import cells, own, results, runs
from workbench.batch import notebooks
from workbench.experiment import ConfigError
from workbench.runs import store

BASE = """
import torch
import torch.nn.functional as F
SHARE = 2

def helper(images):
    return images * SHARE

class Head(torch.nn.Module):
    def forward(self, images):
        return helper(images)

def loss(net, images):
    "What it does."
    head = Head()  # a comment
    return F.cross_entropy(net(head(images), head="x"), torch.zeros(len(images)).long())

loss.heads = {"x": 2}
"""

MAKE = "def make(t):\n  def loss(net, images): return t\n  return loss\n"


def kernel(source):
    """The names in a new kernel that ran a cell of this source."""
    own.of_cells.clear()
    shell = InteractiveShell()
    shell.run_cell(source).raise_error()
    return shell.user_ns


def digest(source):
    return cells.digest(kernel(source)["loss"])


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("SHARE = 2", "SHARE = 3", True),  # a constant that a function names which it names
        ("images * SHARE", "images + SHARE", True),
        ("return helper(images)", "return helper(images) * 2", True),  # in a class
        (".long()", ".int()", True),
        ('{"x": 2}', '{"x": 3}', True),
        ("# a comment", "# another", False),
        ("What it does.", "And how.", False),
        ("SHARE = 2\n", "SHARE = 2\nOTHER = 5\n", False),  # a name that nothing uses
        ("\nloss.heads", "\n\n\nloss.heads", False),
    ],
)
def test_a_digest_changes_with_what_the_function_depends_on(old, new, changes):
    assert old in BASE
    assert (digest(BASE.replace(old, new)) != digest(BASE)) == changes


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import numpy\nt = numpy.ones(3)\ndef loss(net): return t", "loss uses t, of type"),
        ("loss = lambda net, images: 0", "write it with def"),
        ("fs = [lambda x: x]\ndef loss(net, images): return fs[0](1)", "a lambda in it"),
        ("class A:\n  def __call__(self): return 0\nloss = A()", "A is no function"),
        (MAKE + "loss = make([object()])", "uses t, of type object"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_in_a_line(source, said):
    with pytest.raises(ConfigError, match=said) as error:
        digest(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        MAKE + "loss = make({})",
        MAKE + "a = make(0)\nb = make({})\ndef loss(net): return a(net) + b(net)",
        "import torch\nt = {}\n@torch.no_grad()\ndef loss(net): return t",
        "t = {}\ndef loss(net, weight=t): return weight\nt = 0",
    ],
)
def test_a_number_in_a_closure_a_default_or_below_a_decorator_counts(source):
    assert digest(source.format(1)) != digest(source.format(2))


def test_a_function_may_name_itself_and_another_that_names_it():
    source = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)"
    source += "\ndef loss(net, images): return even(4)"
    assert len(digest(source)) == 16


CELL = OWN_NETWORK + BASE + "def score(logits): return -logits.logsumexp(1)\n"


def made(folder, old="", new="", **wanted):
    """Runs made in a new kernel with functions from the cell, in which one text was replaced."""
    tiny_data(folder / "data")
    names = kernel(CELL.replace(old, new))
    functions = {key: {name: names[name]} for key, name in wanted.items()}
    experiment = tiny(folder, methods="classification", scores="msp")
    return runs.complete(experiment, network=names["small"], **functions)


def test_runs_are_found_again_until_a_constant_changes(tmp_path):
    plain, mine = made(tmp_path, methods="loss")
    assert mine.sources.keys() == {"cell:loss", "cell:small"}
    before = contents(tmp_path / "outputs")
    assert made(tmp_path, "a comment", "another", methods="loss") == [plain, mine]
    assert contents(tmp_path / "outputs") == before
    same, other = made(tmp_path, "SHARE = 2", "SHARE = 3", methods="loss")
    assert same == plain and other.home.parent == mine.home.parent
    own.of_cells.clear()  # another session only looks
    found = results.frame("test", tmp_path / "outputs").query("method == 'cell:loss'")
    assert {*found.address} == {mine.address[:8], other.address[:8]} and len({*found.address}) == 2
    with pytest.raises(ConfigError, match=r"^cell:small isn't defined here; run its cell"):
        store.finished(tiny(tmp_path, architecture="cell:small"))


def test_a_score_is_added_to_finished_runs(tmp_path):
    weights = contents(made(tmp_path)[0].home)["weights.pt"]
    (record,) = made(tmp_path, scores="score")
    assert contents(record.home)["weights.pt"] == weights
    assert [how["score"] for how in record.scoring.values()] == ["msp", "cell:score"]


def test_a_loss_that_changes_what_it_names_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="changes a variable of the notebook"):
        made(tmp_path, "    head =", "    global SHARE; SHARE += 1; head =", methods="loss")


@pytest.mark.notebook
def test_the_notebook_of_the_method_ends_in_a_table_of_its_own_functions(tmp_path):
    text = (ROOT / "notebooks" / "method.ipynb").read_text()
    changed = text.replace('"profile\\"', f'"outputs\\": \\"{tmp_path}\\", \\"profile\\"')
    path = tmp_path / "method.ipynb"
    path.write_text(changed)
    done = notebooks.execute(path, tmp_path / "out.ipynb", {"epochs": 2}, 600, 1)
    (shown,) = done.cells[-2].outputs
    assert all(name in shown.data["text/plain"] for name in ("my_loss", "my_score", "average"))
    assert len([*tmp_path.glob("method/runs/*/*/*/*/record.json")]) == 6
    shown = list(itertools.chain(*(cell.get("outputs", ()) for cell in done.cells)))
    assert len([output for output in shown if "image/png" in output.get("data", {})]) == 11
    assert {output.name for output in shown if output.output_type == "stream"} == {"stdout"}
