"""What this machine computes on, and in which precision. Looking at results imports no torch."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.experiment import ConfigError, Experiment


def device(experiment: Experiment) -> str:
    """cpu, cuda or cuda:k; ConfigError names the choices."""
    wanted = experiment.device
    if wanted == "cpu":
        return "cpu"
    import torch

    gpus = ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    choices = ["cpu", *(gpus if torch.cuda.is_available() else [])]
    if wanted == "auto":
        return "cuda" if "cuda" in choices else "cpu"
    if wanted not in choices:
        listed = ", ".join(["auto", *choices])
        raise ConfigError(f"device: {wanted!r} is not here; choose from {listed}")
    return wanted


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


def set_up(experiment: Experiment) -> dict[str, Any]:
    """Give PyTorch the experiment's threads; device, threads and precision as records keep them."""
    import torch

    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    used = {"device": device_name(device(experiment)), "threads": torch.get_num_threads()}
    return used | {"precision": precision(experiment)}


def cores() -> int:
    """The CPU cores that this process may use: of its affinity and of its container's quota."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, quota() or here)


def quota(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int | None:
    """The CPU cores that this process's control groups allow, rounded up; None: they set no limit."""
    limits = []
    version1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    for group in _control_groups(root, of):
        for files in (("cpu.max",), version1):
            with suppress(OSError, ValueError):  # no such file; "max", which is no limit
                text = " ".join((group / name).read_text() for name in files)
                allowed, period = map(int, text.split())
                limits.append(math.ceil(allowed / period))
    return min((limit for limit in limits if limit > 0), default=None)


def _control_groups(root: Path, of: Path) -> Iterator[Path]:
    """The folders of the control groups that limit CPU time: this process's and those above."""
    with suppress(OSError):
        for line in of.read_text().splitlines():
            _, kinds, path = line.split(":", 2)  # of version 2 no kinds
            if not kinds or "cpu" in kinds.split(","):
                group = root / ("cpu" if kinds else "") / path.strip("/")
                yield from (group, *group.parents)


def device_name(device: str) -> str:
    """The processor's or GPU's name, as records keep it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    with suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
