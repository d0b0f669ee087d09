"""The cost of a CPC step as a multiple of the same network's classification step: python benchmarks/cpc_step.py.

Forward, backward and update of wrn-imagenet-cpc; the two steps take turns, and their medians are compared. Peak memory is
the process's after the first CPC step, before any of classification. Written to benchmarks/cpc_step.json.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from semlib import auxiliary, models, runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(args.device, args.batch, args.side, args.repeats, args.bfloat16)
    result |= vars(args) | {"machine": runs.device_name(args.device), "torch": torch.__version__}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(device: str, batch: int, side: int, repeats: int, autocast: bool) -> dict[str, float]:
    """Seconds a step of either task, their ratio, and the peak of memory in GB."""
    torch.manual_seed(0)
    net = models.build("wrn-imagenet-cpc", 11, (3, side, side)).to(device, memory_format=torch.channels_last)
    images = torch.rand(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 11
    losses = {"cpc": lambda: auxiliary.cpc(net, images), "classification": lambda: F.cross_entropy(net(images), labels)}
    optimizers = {task: torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9, nesterov=True) for task in losses}

    def step(task: str) -> float:
        started = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            loss = losses[task]()
        optimizers[task].zero_grad()
        loss.backward()
        optimizers[task].step()
        loss.item()  # waits for the device
        return time.perf_counter() - started

    step("cpc")
    peak = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _resident()
    step("classification")
    seconds = {task: [] for task in losses}
    for _ in range(repeats):
        for task, times in seconds.items():
            times.append(step(task))
    medians = {task: statistics.median(times) for task, times in seconds.items()}
    multiple = medians["cpc"] / medians["classification"]
    found = {"multiple": multiple} | {f"{task}_seconds": value for task, value in medians.items()} | {"peak_gb": peak / 1e9}
    return {name: round(value, 3) for name, value in found.items()}


def _resident() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


if __name__ == "__main__":
    main()
