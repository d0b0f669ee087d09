"""What this machine computes on and in. torch is imported only where it has to be asked."""

import platform
from pathlib import Path

from semlib.config import ConfigError, Experiment


def device(experiment: Experiment) -> str:
    """cpu, cuda or cuda:k; ConfigError names the choices."""
    if experiment.device == "cpu":
        return "cpu"
    import torch

    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if experiment.device not in ("auto", *here):
        raise ConfigError(f"device: {experiment.device!r} is not here; choose from auto, {', '.join(here)}")
    return ("cuda" if "cuda" in here else "cpu") if experiment.device == "auto" else experiment.device


def precision(experiment: Experiment) -> str:
    """float32 or bfloat16: as named, or with auto bfloat16 where the processor computes in it."""
    if experiment.precision != "auto":
        return experiment.precision
    import torch

    if device(experiment).startswith("cuda"):
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has else "float32"


def device_name(device: str) -> str:
    """The processor's or GPU's name, as records keep it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
