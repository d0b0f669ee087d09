"""Appendix D's trivial detectors: densities of pixels, energy of edges. Higher = more anomalous."""

import numpy as np


class PixelGaussian:
    """A Gaussian with full covariance over the pixels of each colour channel.

    It is fitted on uint8 images (N, C, H, W); the score (N,) is minus the sum over channels of the
    log-density. Pixels are dequantised as (x + u) / 256 with u uniform in [0, 1), from the seed:
    without it the density of a constant patch has no bound.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, images: np.ndarray) -> "PixelGaussian":
        from scipy.stats import multivariate_normal  # slow to import

        self._densities = []
        for channel in self._dequantised(images):
            covariance = np.cov(channel, rowvar=False)
            density = multivariate_normal(channel.mean(0), covariance, allow_singular=True)
            self._densities.append(density)
        return self

    def score(self, images: np.ndarray) -> np.ndarray:
        channels = zip(self._densities, self._dequantised(images), strict=True)
        return -sum(density.logpdf(channel) for density, channel in channels)

    def _dequantised(self, images: np.ndarray) -> np.ndarray:
        if images.dtype != np.uint8 or images.ndim != 4:
            found = f"{images.dtype} {images.shape}"
            raise ValueError(f"images should be uint8 (N, C, H, W), not {found}")
        noise = np.random.default_rng(self.seed).random(images.shape)
        n, channels = images.shape[:2]
        return ((images + noise) / 256).reshape(n, channels, -1).swapaxes(0, 1)  # (C, N, H * W)


class PixelMixture:
    """Three Gaussians over the pixel values of each colour channel: Appendix D read literally.

    It is fitted on a seeded sample of the pixels of uint8 images (N, C, H, W); the score (N,) is
    minus the sum of log-densities.
    """

    def __init__(self, components: int = 3, sample: int = 100_000, seed: int = 0):
        self.components = components
        self.sample = sample
        self.seed = seed

    def fit(self, images: np.ndarray) -> "PixelMixture":
        from sklearn.mixture import GaussianMixture  # slow to import

        random = np.random.default_rng(self.seed)
        values = (np.arange(256)[:, None] + 0.5) / 256  # all that a pixel can be
        self._log_densities = []  # (256,) of each channel
        for channel in images.swapaxes(0, 1):  # (C, N, H, W)
            pixels = random.choice(channel.ravel(), self.sample)
            mixture = GaussianMixture(self.components, random_state=self.seed)
            mixture.fit(((pixels + random.random(self.sample)) / 256)[:, None])
            self._log_densities.append(mixture.score_samples(values))
        return self

    def score(self, images: np.ndarray) -> np.ndarray:
        channels = zip(self._log_densities, images.swapaxes(0, 1), strict=True)
        return -sum(table[channel].sum((1, 2)) for table, channel in channels)


def edge_energy(images: np.ndarray) -> np.ndarray:
    """Minus the mean squared Sobel gradient of uint8 images (N, C, H, W), (N,).

    An image with fewer edges is more anomalous.
    """
    from scipy.ndimage import correlate1d  # its sobel would smooth along the images' axis too

    grey = images.mean(1) / 255  # (N, H, W)
    across = correlate1d(correlate1d(grey, [-1, 0, 1], 1), [1, 2, 1], 2)
    along = correlate1d(correlate1d(grey, [-1, 0, 1], 2), [1, 2, 1], 1)
    return -(across**2 + along**2).mean((1, 2))
