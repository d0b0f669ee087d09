"""Appendix D's detectors against scipy and the paper's numbers; Sec. 5.2's mask."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cells
from scipy.ndimage import sobel
from scipy.stats import chisquare, multivariate_normal, norm
from sklearn.metrics import average_precision_score

from semlib import datasets, metrics
from semlib.datasets import augmentation
from workbench.experiment import create
from workbench.images import prepared
from workbench.results import appendix_d, stats, tables

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (200, 3, 4, 4), dtype=np.uint8)
TEST = RANDOM.integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)
GAUSSIAN = "full-covariance Gaussian"
MIXTURE = "mixture over single pixels"
CLASSES = ("ant", "bee", "cat")
NOTEBOOK = cells("appendix_d_baseline")


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
    again = metrics.PixelGaussian(5).fit(TRAIN).score(TEST)
    np.testing.assert_array_equal(detector.score(TEST), again)
    with pytest.raises(ValueError, match="uint8"):
        detector.score(TEST / 255)


def test_pixel_mixture_of_one_component_is_a_gaussian_over_single_pixels():
    scores = metrics.PixelMixture(components=1, sample=200_000).fit(TRAIN).score(TEST)
    pixels = (TRAIN.swapaxes(0, 1).reshape(3, -1) + 0.5) / 256
    densities = norm(pixels.mean(1)[:, None, None], pixels.std(1)[:, None, None])
    expected = -densities.logpdf((TEST + 0.5) / 256).sum((1, 2, 3))
    np.testing.assert_allclose(scores, expected, rtol=0.05)
    assert np.corrcoef(scores, expected)[0, 1] > 0.999


def test_pixel_mixture_samples_all_images_and_puts_a_pixel_in_the_middle_of_its_level():
    """Of four levels the lowest is as far below their mean as the highest is above it."""
    levels = np.arange(100, 104, dtype=np.uint8)[:, None, None, None]
    mixture = metrics.PixelMixture(components=1, sample=20_000).fit(levels.repeat(10_000, 0))
    low, *_, high = mixture.score(levels)
    assert low == pytest.approx(high, rel=0.03)


def test_pixel_mixture_has_three_components():
    """Of three levels each has its own Gaussian: a value between two of them is far from all."""
    levels = np.array([20, 120, 220], np.uint8)[:, None, None, None]
    mixture = metrics.PixelMixture(sample=3000).fit(levels)
    between = mixture.score(np.array([70, 170], np.uint8)[:, None, None, None])
    assert mixture.score(levels).max() < between.min() - 100


def test_edge_energy_is_minus_the_mean_square_of_sobels_gradient():
    expected = []
    for grey in TEST.mean(1) / 255:
        expected.append(-(sobel(grey, 0) ** 2 + sobel(grey, 1) ** 2).mean())
    np.testing.assert_allclose(metrics.edge_energy(TEST), expected, rtol=1e-12)


def test_detectors_are_fitted_without_the_anomaly_and_ranked_by_average_precision(monkeypatch):
    """A detector whose scores are known: the distance to the mean of the training images."""
    learned = []

    def fit(images, seed):
        learned.append(images)
        return lambda others: np.abs(others.mean((1, 2, 3)) - images.mean())

    monkeypatch.setattr(appendix_d, "DETECTORS", {"distance": fit})
    greys = RANDOM.integers(0, 256, (90, 1, 1, 1), dtype=np.uint8)
    labels = np.arange(30) % 3
    train, test = (datasets.ImageSet(part, labels) for part in (greys[:30], greys[30:60]))
    data = datasets.Dataset("greys", train, test, CLASSES)

    held_out = NOTEBOOK.hold_outs(data).distance
    for k, name in enumerate(CLASSES):
        without = train.images[train.labels != k]
        np.testing.assert_array_equal(learned[k], without)
        distances = np.abs(test.images.ravel() - without.mean())
        known = average_precision_score(test.labels == k, distances)
        assert held_out[name] == pytest.approx(100 * known)
    assert held_out["average"] == pytest.approx(held_out[list(CLASSES)].mean())

    sets = {"a": greys[60:80], "b": greys[80:]}
    ood = NOTEBOOK.out_of_distribution(data, sets).distance
    for name, others in sets.items():
        both = np.concatenate([test.images, others]).ravel()
        is_anomaly = [False] * 30 + [True] * len(others)
        known = average_precision_score(is_anomaly, np.abs(both - train.images.mean()))
        assert ood[name] == pytest.approx(100 * known)
    np.testing.assert_array_equal(learned[-1], train.images)


def test_an_ood_set_that_is_not_here_has_its_row_beside_the_papers_number():
    columns = [*appendix_d.DETECTORS]
    held_out = pd.DataFrame(11.0, index=[*"0123456789", "average"], columns=columns)
    rows = NOTEBOOK.beside_the_paper("cifar10", pd.DataFrame(columns=columns), held_out)
    assert np.isnan(rows.loc["iSUN", GAUSSIAN])
    printed = {"TinyImageNet (crop)": 96.84, "TinyImageNet (resize)": 99.03, "LSUN (crop)": 58.06}
    printed |= {"LSUN (resize)": 99.77, "iSUN": 99.21, "CIFAR-10 hold-outs (mean of 10)": 11.17}
    assert rows.paper.to_dict() == printed
    assert rows.difference.iloc[-1] == pytest.approx(-0.17)


def test_ood_sets_are_loaded_beside_colour_images_of_32_pixels_alone(monkeypatch):
    def load(name, root):
        if name == "isun":
            raise datasets.NotAvailable(name)
        return TEST

    monkeypatch.setattr(datasets, "load_ood", load)
    for shape, found in (((3, 32, 32), {*datasets.OOD} - {"isun"}), ((1, 32, 32), set())):
        part = datasets.ImageSet(np.zeros((1, *shape), np.uint8), np.zeros(1, int))
        assert {*NOTEBOOK.available(datasets.Dataset("one", part, part, ("a",)))} == found


def test_probes_see_the_means_of_blocks_of_pixels_and_have_the_interval_of_their_scores(tmp_path):
    """Images of twice 32 pixels are reduced by blocks of four; a class of smooth ones is found."""
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 3
    images = rng.integers(0, 256, (120, 1, 64, 64), dtype=np.uint8)
    images[labels == 1] = 128
    part = datasets.ImageSet(images, labels)
    data = datasets.Dataset("blocks", part, part, CLASSES)
    table = appendix_d.probes(data)
    assert table.index.tolist() == [("blocks", name) for name in CLASSES]
    small = images.reshape(120, 1, 32, 2, 32, 2).mean((3, 5)).round().astype(np.uint8)
    for k, name in enumerate(CLASSES):
        gaussian = metrics.PixelGaussian(0).fit(small[labels != k]).score(small)
        for probe, scores in (("edge energy", metrics.edge_energy(small)), (GAUSSIAN, gaussian)):
            row = table.loc[("blocks", name), probe]
            known = metrics.average_precision(labels == k, scores)
            assert row.average_precision == pytest.approx(100 * known)
            np.testing.assert_allclose(row, 100 * np.array(stats.interval(labels == k, scores)))
    assert table.loc[("blocks", "bee"), ("edge energy", "average_precision")] == 100
    elsewhere = create({"dataset": "cifar10", "data_root": str(tmp_path)})
    none = cells("detectors").probes_of([elsewhere])
    assert none.empty and none.columns.equals(table.columns)


@pytest.mark.data
@pytest.mark.slow
def test_the_papers_numbers_on_the_real_images(cifar10_root):
    data = prepared.load("cifar10", cifar10_root)
    names = ("tiny_imagenet_crop", "tiny_imagenet_resize")
    sets = {name: datasets.load_ood(name, cifar10_root) for name in names}
    ood = NOTEBOOK.out_of_distribution(data, sets)
    held_out = NOTEBOOK.hold_outs(data).loc["average"]
    paper = tables.published("appendix_d_baseline").average_precision
    assert held_out[GAUSSIAN] == pytest.approx(paper["cifar10_hold_outs"], abs=0.1)
    assert ood[GAUSSIAN].to_dict() == pytest.approx(paper[[*names]].to_dict(), abs=0.5)
    assert ood[MIXTURE].tolist() == pytest.approx([59, 62], abs=2)
    assert held_out[MIXTURE] == pytest.approx(10.6, abs=0.5)


def test_center_mask_hides_a_16x16_region_at_36_places_of_the_centre_uniformly_an_image_each():
    images = torch.rand(7200, 3, 32, 32)
    fill = torch.tensor([0.25, 0.5, 0.75])[:, None, None]
    masked = augmentation.center_mask(images, fill, torch.Generator().manual_seed(0))
    hidden = (masked != images).any(1)
    assert torch.equal(torch.where(hidden[:, None], fill, images), masked)
    assert (hidden.sum((1, 2)) == 256).all()
    rows = hidden.any(2)  # (N, 32)
    columns = hidden.any(1)
    assert (rows.sum(1) == 16).all() and (columns.sum(1) == 16).all()
    corners = torch.stack([rows.int().argmax(1), columns.int().argmax(1)], 1)
    assert (corners.min().item(), corners.max().item()) == (5, 10)
    counts = torch.bincount((corners[:, 0] - 5) * 6 + corners[:, 1] - 5, minlength=36)
    assert len(counts) == 36 and chisquare(counts.numpy()).pvalue > 1e-4
    again = augmentation.center_mask(images, fill, torch.Generator().manual_seed(1))
    assert not torch.equal(masked, again)


def test_center_mask_hides_half_of_each_side_of_images_that_are_not_square():
    images = torch.rand(50, 1, 32, 64)
    fill = torch.full((1, 1, 1), 2.0)
    hidden = augmentation.center_mask(images, fill, torch.Generator().manual_seed(0))[:, 0] == 2
    assert (hidden.any(2).sum(1) == 16).all() and (hidden.any(1).sum(1) == 32).all()
    outside = torch.cat([hidden[:, :, :11], hidden[:, :, 53:]], 2)  # of the central 42 columns
    assert not outside.any()
