"""What this machine computes on, and in which precision. Looking at results imports no torch."""

import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.experiment import ConfigError, Experiment, Machine


def device(settings: Machine) -> str:
    """cpu, cuda or cuda:k; ConfigError names the choices."""
    if settings.device == "cpu":
        return "cpu"
    import torch

    gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    if settings.device == "auto":
        return "cuda" if gpus else "cpu"
    choices = ["auto", "cpu", *(["cuda", *gpus] if gpus else [])]
    if settings.device not in choices:
        found = f"{settings.device!r} is not here"
        raise ConfigError(f"device: {found}; choose from {', '.join(choices)}")
    return settings.device


def precision(experiment: Experiment) -> str:
    """float32 or bfloat16: as named, or with auto bfloat16 where the processor computes in it."""
    if experiment.precision != "auto":
        return experiment.precision
    return "bfloat16" if has_bfloat16(experiment) else "float32"


def has_bfloat16(settings: Machine) -> bool:
    """Whether the device computes in bfloat16, and not by emulation."""
    import torch

    if device(settings).startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def set_up(experiment: Experiment) -> dict[str, Any]:
    """Give PyTorch the experiment's threads; device, threads and precision as records keep them."""
    import torch

    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    used = {"device": device_name(device(experiment)), "threads": torch.get_num_threads()}
    return used | {"precision": precision(experiment)}


def device_name(device: str) -> str:
    """The processor's or GPU's name, as records keep it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        if found := re.search(r"model name\s*: (.*\S)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or platform.machine()
