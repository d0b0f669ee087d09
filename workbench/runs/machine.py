"""What this machine computes on and in. torch is imported only where it has to be asked."""

import math
import os
import platform
from contextlib import suppress
from pathlib import Path

from workbench.experiment import ConfigError, Experiment


def device(experiment: Experiment) -> str:
    """cpu, cuda or cuda:k; ConfigError names the choices."""
    if experiment.device == "cpu":
        return "cpu"
    import torch

    here = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(f"cuda:{k}" for k in range(torch.cuda.device_count())),
    ]
    if experiment.device not in ("auto", *here):
        raise ConfigError(
            f"device: {experiment.device!r} is not here; choose from auto, {', '.join(here)}"
        )
    return (
        ("cuda" if "cuda" in here else "cpu") if experiment.device == "auto" else experiment.device
    )


def precision(experiment: Experiment) -> str:
    """float32 or bfloat16: as named, or with auto bfloat16 where the processor computes in it."""
    if experiment.precision != "auto":
        return experiment.precision
    return "bfloat16" if has_bfloat16(experiment) else "float32"


def has_bfloat16(experiment: Experiment) -> bool:
    """Whether the experiment's device computes in bfloat16, and not by emulation."""
    import torch

    if device(experiment).startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def cores() -> int:
    """The CPU cores that this process may use: of its affinity and of its container's quota."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, quota() or here)


def quota(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int | None:
    """The cores' time that a container's control groups allow, rounded up; None where they set no
    limit.

    cpu.max (version 2) or cpu.cfs_quota_us and cpu.cfs_period_us (version 1), of this process's
    group and those above it.
    """
    limits = []
    with suppress(OSError):
        for line in of.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            top = root / "cpu" if kinds else root
            for group in (Path(path.strip("/")), *Path(path.strip("/")).parents):
                with suppress(OSError, ValueError):
                    folder = top / group
                    if kinds:
                        allowed, period = (
                            (folder / f"cpu.cfs_{name}_us").read_text()
                            for name in ("quota", "period")
                        )
                    else:
                        allowed, period = (folder / "cpu.max").read_text().split()
                    limits.append(int(allowed) / int(period))
    return min((math.ceil(limit) for limit in limits if limit > 0), default=None)


def device_name(device: str) -> str:
    """The processor's or GPU's name, as records keep it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
