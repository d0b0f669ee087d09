"""The rotation loss against NumPy's rot90, image by image."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from semlib import auxiliary, config, models

pytestmark = pytest.mark.usefixtures("one_thread")


def network(norm_batch=None):
    torch.manual_seed(0)
    return models.build("wrn-10-1", 5, (3, 8, 8), heads=auxiliary.rotation.heads, norm_batch=norm_batch)


def test_quarter_turns_are_numpys_side_by_side():
    images = torch.rand(5, 3, 6, 6)
    expected = [np.rot90(image.numpy(), k, axes=(1, 2)) for image in images for k in range(4)]
    np.testing.assert_array_equal(auxiliary.quarter_turns(images).numpy(), np.stack(expected))


@pytest.mark.parametrize("norm_batch", [4, 8, 32, 128])
def test_every_group_that_shares_statistics_holds_all_four_turns_equally(norm_batch):
    marked = torch.zeros(32, 1, 4, 4)
    marked[:, 0, 0, 0] = 1  # upright: the mark is top left
    turned = auxiliary.quarter_turns(marked)
    assert turned.shape == (128, 1, 4, 4)
    for group in turned.split(norm_batch):
        corners = group[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]  # (norm_batch, 4): where the mark is
        assert corners.sum(0).tolist() == [norm_batch / 4] * 4


def test_the_rotation_loss_is_the_mean_over_all_turns_of_all_images():
    net, images = network().eval(), torch.rand(6, 3, 8, 8)
    losses = []
    for image in images.numpy():
        for k in range(4):
            turned = torch.from_numpy(np.rot90(image, k, axes=(1, 2)).copy())
            logits = net(turned[None], head="rotation")[0].tolist()
            losses.append(math.log(sum(map(math.exp, logits))) - logits[k])
    loss = auxiliary.rotation(net, images)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_in_training_each_group_of_norm_batch_views_has_statistics_of_its_own():
    images = torch.rand(6, 3, 8, 8)
    grouped, plain = network(norm_batch=8).train(), network().train()  # two images, four turns each
    expected = np.mean([auxiliary.rotation(plain, pair).item() for pair in images.split(2)])
    assert auxiliary.rotation(grouped, images).item() == pytest.approx(expected, rel=1e-5)


class Corner(nn.Module):
    """Tells the turn by which corner is bright, counter-clockwise from the top left, with that much confidence."""

    def __init__(self, confidence):
        super().__init__()
        self.confidence = confidence

    def forward(self, images, head):
        assert head == "rotation"
        return self.confidence * images[:, 0, [0, -1, -1, 0], [0, 0, -1, -1]]


@pytest.mark.parametrize("confidence, loss", [(0, math.log(4)), (1e3, 0.0), (-1e3, 1e3 + math.log(3))])
def test_the_rotation_loss_of_a_blind_a_seeing_and_a_mistaken_network(confidence, loss):
    images = torch.zeros(3, 1, 4, 4)
    images[:, 0, 0, 0] = 1
    assert auxiliary.rotation(Corner(confidence), images).item() == pytest.approx(loss, rel=1e-6, abs=1e-6)


def test_the_rotation_loss_trains_the_shared_weights_and_its_own_head():
    net = network().train()
    auxiliary.rotation(net, torch.rand(4, 3, 8, 8)).backward()
    untouched = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert untouched == {"heads.classification.weight", "heads.classification.bias"}
    assert all(parameter.grad.any() for name, parameter in net.named_parameters() if name not in untouched)


def test_methods_are_found_by_name():
    experiment = config.Experiment(cpc_negatives="batch")
    assert auxiliary.find("classification", experiment) is None
    assert auxiliary.find("rotation", experiment) is auxiliary.rotation
    assert auxiliary.find("semlib.auxiliary:rotation", experiment) is auxiliary.rotation
    assert auxiliary.find("cpc", experiment).keywords == {"negatives": "batch", "augment": False}
    with pytest.raises(config.ConfigError, match=r"semlib\.auxiliary:rotate: .*package\.module:function"):
        auxiliary.find("semlib.auxiliary:rotate", experiment)
