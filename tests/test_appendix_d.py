"""Appendix D's detectors against scipy, and on the real images against the paper's numbers; Sec.
5.2's mask.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import sobel
from scipy.stats import chisquare, multivariate_normal, norm
from sklearn.metrics import average_precision_score

from semlib import datasets, metrics
from semlib.datasets import augmentation
from workbench.images import prepared
from workbench.results import appendix_d, stats, tables

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (200, 3, 4, 4), dtype=np.uint8)
TEST = RANDOM.integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)


def test_pixel_gaussian_is_minus_the_log_density_of_one_gaussian_a_channel():
    detector = metrics.PixelGaussian(seed=5).fit(TRAIN)
    train, test = ((x + np.random.default_rng(5).random(x.shape)) / 256 for x in (TRAIN, TEST))
    expected = np.zeros(len(TEST))
    for c in range(3):
        pixels = train[:, c].reshape(200, 16)
        centred = pixels - pixels.mean(0)
        density = multivariate_normal(pixels.mean(0), centred.T @ centred / 199)
        expected -= [density.logpdf(image.ravel()) for image in test[:, c]]
    np.testing.assert_allclose(detector.score(TEST), expected, rtol=1e-9)
    np.testing.assert_array_equal(
        detector.score(TEST), metrics.PixelGaussian(5).fit(TRAIN).score(TEST)
    )
    with pytest.raises(ValueError, match="uint8"):
        detector.score(TEST / 255)


def test_pixel_mixture_of_one_component_is_a_gaussian_over_single_pixels():
    scores = metrics.PixelMixture(components=1, sample=200_000).fit(TRAIN).score(TEST)
    pixels = (TRAIN.swapaxes(0, 1).reshape(3, -1) + 0.5) / 256
    densities = norm(pixels.mean(1)[:, None, None], pixels.std(1)[:, None, None])
    expected = -densities.logpdf((TEST + 0.5) / 256).sum((1, 2, 3))
    np.testing.assert_allclose(scores, expected, rtol=0.05)
    assert np.corrcoef(scores, expected)[0, 1] > 0.999


def test_pixel_mixture_puts_a_pixel_in_the_middle_of_its_level():
    """Of four levels the lowest is as far below their mean as the highest is above it; half a level
    more or less would show.

    So would a sample that is not of all images.
    """
    levels = np.arange(100, 104, dtype=np.uint8)[:, None, None, None]
    low, *_, high = (
        metrics.PixelMixture(components=1, sample=20_000)
        .fit(levels.repeat(10_000, 0))
        .score(levels)
    )
    assert low == pytest.approx(high, rel=0.03)


def test_pixel_mixture_has_three_components():
    """Of three levels each has its own Gaussian: what lies between two of them is far from all."""
    levels = np.array([20, 120, 220], np.uint8)[:, None, None, None]
    mixture = metrics.PixelMixture(sample=3000).fit(levels)
    between = mixture.score(np.array([70, 170], np.uint8)[:, None, None, None])
    assert mixture.score(levels).max() < between.min() - 100


def test_detectors_learn_from_training_images_without_the_anomaly_which_is_what_they_find(
    monkeypatch,
):
    """With a detector whose scores are known: how far an image's mean is from that of the training
    images.
    """
    learned = []

    def fit(images):
        learned.append(images)
        return lambda others: np.abs(others.mean((1, 2, 3)) - images.mean())

    monkeypatch.setattr(appendix_d, "detectors", lambda seed=0: {"distance": fit})
    greys = RANDOM.integers(0, 256, (90, 1, 1, 1), dtype=np.uint8)
    parts = [
        datasets.ImageSet(part, np.arange(len(part)) % 3) for part in (greys[:30], greys[30:60])
    ]
    data = datasets.Dataset("greys", *parts, ("ant", "bee", "cat"))

    held_out = appendix_d.hold_outs(data).distance
    for k, name in enumerate(data.classes):
        train = data.train.images[data.train.labels != k]
        np.testing.assert_array_equal(learned[k], train)
        distances = np.abs(data.test.images.ravel() - train.mean())
        assert held_out[name] == pytest.approx(
            100 * average_precision_score(data.test.labels == k, distances)
        )
    assert held_out["average"] == pytest.approx(held_out[list(data.classes)].mean())

    ood = appendix_d.out_of_distribution(data, {"a": greys[60:80], "b": greys[80:]}).distance
    for name, others in (("a", greys[60:80]), ("b", greys[80:])):
        distances = np.abs(
            np.concatenate([data.test.images, others]).ravel() - data.train.images.mean()
        )
        is_anomaly = [False] * 30 + [True] * len(others)
        assert ood[name] == pytest.approx(100 * average_precision_score(is_anomaly, distances))
    np.testing.assert_array_equal(learned[-1], data.train.images)


def test_edge_energy_is_minus_the_mean_square_of_sobels_gradient():
    expected = []
    for grey in TEST.mean(1) / 255:
        expected.append(-(sobel(grey, 0) ** 2 + sobel(grey, 1) ** 2).mean())
    np.testing.assert_allclose(metrics.edge_energy(TEST), expected, rtol=1e-12)


def test_a_set_that_is_not_here_is_said_so_beside_the_papers_number():
    columns = list(appendix_d.detectors())
    held_out = pd.DataFrame(11.0, index=[*"0123456789", "average"], columns=columns)
    rows = appendix_d.table("cifar10", pd.DataFrame(columns=columns), held_out)
    text = appendix_d.shown(rows)
    assert text.loc["iSUN", "full-covariance Gaussian"] == "not available"
    printed = {
        "TinyImageNet (crop)": "96.84",
        "TinyImageNet (resize)": "99.03",
        "LSUN (crop)": "58.06",
    }
    printed |= {
        "LSUN (resize)": "99.77",
        "iSUN": "99.21",
        "CIFAR-10 hold-outs (mean of 10)": "11.17",
    }
    assert text.paper.to_dict() == printed
    assert text.loc["CIFAR-10 hold-outs (mean of 10)", "difference"] == "-0.17"


def test_sets_of_colour_images_32_pixels_wide_are_beside_data_of_such_images_alone(monkeypatch):
    def load(name, root):
        if name == "isun":
            raise datasets.NotAvailable(name)
        return TEST

    monkeypatch.setattr(datasets, "load_ood", load)
    for shape, found in (((3, 32, 32), {*datasets.OOD} - {"isun"}), ((1, 32, 32), set())):
        part = datasets.ImageSet(np.zeros((1, *shape), np.uint8), np.zeros(1, int))
        assert {*appendix_d.available(datasets.Dataset("one", part, part, ("a",)))} == found


@pytest.mark.data
@pytest.mark.slow
def test_the_papers_numbers_on_the_real_images(cifar10_root):
    data = prepared.load("cifar10", cifar10_root)
    sets = {
        name: datasets.load_ood(name, cifar10_root)
        for name in ("tiny_imagenet_crop", "tiny_imagenet_resize")
    }
    ood = appendix_d.out_of_distribution(data, sets)
    held_out = appendix_d.hold_outs(data)
    paper = tables.published("appendix_d_baseline").average_precision
    gaussian, mixture = "full-covariance Gaussian", "mixture over single pixels"
    assert abs(held_out.loc["average", gaussian] - paper["cifar10_hold_outs"]) < 0.1
    assert all(abs(ood.loc[name, gaussian] - paper[name]) < 0.5 for name in sets)
    assert (
        abs(ood.loc["tiny_imagenet_crop", mixture] - 59) < 2
        and abs(ood.loc["tiny_imagenet_resize", mixture] - 62) < 2
    )
    assert abs(held_out.loc["average", mixture] - 10.6) < 0.5


def test_center_mask_hides_a_16x16_region_at_36_places_of_the_centre_uniformly_an_image_each():
    images = torch.rand(7200, 3, 32, 32)
    fill = torch.tensor([0.25, 0.5, 0.75])[:, None, None]
    masked = augmentation.center_mask(images, fill, torch.Generator().manual_seed(0))
    hidden = (masked != images).any(1)
    assert torch.equal(torch.where(hidden[:, None], fill, images), masked)
    assert (hidden.sum((1, 2)) == 256).all()
    rows, columns = hidden.any(2), hidden.any(1)  # (N, 32)
    assert (rows.sum(1) == 16).all() and (columns.sum(1) == 16).all()
    corners = torch.stack([rows.int().argmax(1), columns.int().argmax(1)], 1)
    assert (corners.min().item(), corners.max().item()) == (5, 10)
    counts = torch.bincount((corners[:, 0] - 5) * 6 + corners[:, 1] - 5, minlength=36)
    assert len(counts) == 36 and chisquare(counts.numpy()).pvalue > 1e-4
    again = augmentation.center_mask(images, fill, torch.Generator().manual_seed(1))
    assert not torch.equal(masked, again)


def test_center_mask_hides_half_of_each_side_of_images_that_are_not_square():
    images = torch.rand(50, 1, 32, 64)
    hidden = (
        augmentation.center_mask(
            images, torch.full((1, 1, 1), 2.0), torch.Generator().manual_seed(0)
        )[:, 0]
        == 2
    )
    assert (hidden.any(2).sum(1) == 16).all() and (hidden.any(1).sum(1) == 32).all()
    assert (
        not hidden[:, :, :11].any() and not hidden[:, :, 53:].any()
    )  # within the central 42 columns


def test_probes_are_the_detectors_on_each_held_out_class_with_the_interval_of_their_scores():
    """Of images of twice 32 pixels: reduced to the means of blocks of four pixels; a class of
    smooth images is found.
    """
    rng, labels = np.random.default_rng(1), np.arange(120) % 3
    images = rng.integers(0, 256, (120, 1, 64, 64), dtype=np.uint8)
    images[labels == 1] = 128
    part = datasets.ImageSet(images, labels)
    data = datasets.Dataset("blocks", part, part, ("ant", "bee", "cat"))
    table = appendix_d.probes(data)
    assert table.index.tolist() == [("blocks", name) for name in data.classes]
    small = images.reshape(120, 1, 32, 2, 32, 2).mean((3, 5)).round().astype(np.uint8)
    for k, name in enumerate(data.classes):
        gaussian = metrics.PixelGaussian(0).fit(small[labels != k]).score(small)
        for probe, scores in (
            ("edge energy", metrics.edge_energy(small)),
            ("full-covariance Gaussian", gaussian),
        ):
            row = table.loc[("blocks", name), probe]
            assert row.average_precision == pytest.approx(
                100 * metrics.average_precision(labels == k, scores)
            )
            np.testing.assert_allclose(row, 100 * np.array(stats.interval(labels == k, scores)))
    assert table.loc[("blocks", "bee"), ("edge energy", "average_precision")] == 100
    assert appendix_d.every_probe([]).empty
