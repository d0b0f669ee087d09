"""The rotation loss against NumPy's rot90, image by image."""

import itertools
import math

import numpy as np
import pytest
import torch

from semlib import auxiliary, models

pytestmark = pytest.mark.usefixtures("one_thread")


def network(norm_batch=None):
    torch.manual_seed(0)
    how = {"heads": auxiliary.rotation.heads, "norm_batch": norm_batch}
    return models.build("wrn-10-1", 5, (3, 8, 8), **how)


def test_quarter_turns_are_numpys_side_by_side():
    images = torch.rand(5, 3, 6, 6)
    pairs = itertools.product(images.numpy(), range(4))
    expected = [np.rot90(image, k, axes=(1, 2)) for image, k in pairs]
    np.testing.assert_array_equal(auxiliary.quarter_turns(images).numpy(), np.stack(expected))


def test_the_rotation_loss_is_the_mean_over_all_turns_of_all_images():
    net = network().eval()
    images = torch.rand(6, 3, 8, 8)
    losses = []
    for image in images.numpy():
        for k in range(4):
            turned = torch.from_numpy(np.rot90(image, k, axes=(1, 2)).copy())
            logits = net(turned[None], head="rotation")[0].tolist()
            losses.append(math.log(sum(map(math.exp, logits))) - logits[k])
    loss = auxiliary.rotation(net, images)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_in_training_each_ghost_batch_of_views_has_statistics_of_its_own():
    images = torch.rand(6, 3, 8, 8)
    grouped = network(norm_batch=8).train()  # two images, four turns each
    plain = network().train()
    expected = np.mean([auxiliary.rotation(plain, pair).item() for pair in images.split(2)])
    assert auxiliary.rotation(grouped, images).item() == pytest.approx(expected, rel=1e-5)


def test_the_rotation_loss_trains_the_shared_weights_and_its_own_head():
    net = network().train()
    auxiliary.rotation(net, torch.rand(4, 3, 8, 8)).backward()
    untouched = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert untouched == {"heads.classification.weight", "heads.classification.bias"}
    trained = [p for name, p in net.named_parameters() if name not in untouched]
    assert all(parameter.grad.any() for parameter in trained)
