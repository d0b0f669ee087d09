"""Functions from a notebook's cells: what their digest covers."""

import textwrap

import pytest
from IPython.core.interactiveshell import InteractiveShell

from workbench import cells
from workbench.experiment import ConfigError

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


def digest(source, name="loss"):
    """The digest of a function that a cell of this source defines, in a kernel of its own."""
    shell = InteractiveShell()
    result = shell.run_cell(textwrap.dedent(source))
    result.raise_error()
    return cells.digest(shell.user_ns[name])


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
        (
            "import numpy as np\nt = np.ones(3)\ndef loss(net, images): return t",
            "loss uses t, of type",
        ),
        ("loss = lambda net, images: 0", "write it with def"),
        ("fs = [lambda x: x]\ndef loss(net, images): return fs[0](1)", "a lambda in it"),
        ("class A:\n  def __call__(self): return 0\nloss = A()", "A is no function"),
        (
            "def make(t):\n  def loss(net, images): return t\n  return loss\n"
            "loss = make([object()])",
            "t",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused_in_a_line(source, said):
    with pytest.raises(ConfigError, match=said) as error:
        digest(source)
    assert "\n" not in str(error.value)


def test_a_closure_over_a_number_counts():
    source = "def make(t):\n  def loss(net, images): return t\n  return loss\nloss = make({})"
    assert digest(source.format(1)) != digest(source.format(2))


def test_a_function_may_name_itself_and_another_that_names_it():
    source = """
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    def loss(net, images): return even(4)
    """
    assert len(digest(source)) == 16
