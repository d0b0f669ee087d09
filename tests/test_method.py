"""notebooks/method.ipynb: what stands in its cells is what the library does."""

import nbformat
import numpy as np
import pytest
import torch
from helpers import ROOT

from semlib import auxiliary, metrics, training


@pytest.fixture(scope="module")
def cells():
    """The names that the notebook's cells define, up to those that train."""
    notebook = nbformat.read(ROOT / "notebooks" / "method.ipynb", 4)
    names = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or "plt.show" in cell.source.partition("def ")[0]:
            continue
        if "Live(" in cell.source:
            return names
        source = cell.source.replace("epochs = 10", "epochs = 2")
        exec(source.replace("plt.show()", "plt.close()"), names)
    raise AssertionError("no cell trains")


def test_the_loss_in_the_cell_is_the_librarys(cells):
    net = cells["network"](auxiliary.rotation).eval()
    images = cells["test"][:8]
    mine = cells["rotation"](net, images)
    theirs = auxiliary.rotation(net, images)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert cells["rotation"].heads == auxiliary.rotation.heads
    assert cells["rotation"].share == auxiliary.rotation.share


@pytest.mark.parametrize("loss", [None, auxiliary.rotation])
def test_the_update_in_the_cell_is_the_librarys(cells, loss):
    split = cells["split"]
    recipe = cells["recipe"]
    mine = [value for _, value in cells["train"](cells["network"](loss), loss)]
    states = training.train(cells["network"](loss), split.train, recipe, loss, seed=cells["seed"])
    np.testing.assert_allclose(mine, [state.loss for state in states], rtol=0, atol=1e-6)


def test_the_scores_in_the_cell_are_the_librarys(cells):
    net = cells["network"]().eval()
    images = cells["test"][:50]
    with torch.no_grad():
        expected = metrics.max_softmax(net(images))
    torch.testing.assert_close(cells["msp"](net, images).detach(), expected, rtol=0, atol=1e-6)
    found = cells["odin"](net, images)
    torch.testing.assert_close(found, metrics.odin(net, images), rtol=0, atol=1e-6)
