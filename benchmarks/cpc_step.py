"""The cost of a CPC step as a multiple of a classification step: python benchmarks/cpc_step.py

Forward, backward and update of wrn-imagenet-cpc; the two steps take turns, and their medians are
compared. Peak memory is the process's after the first CPC step, before any of classification.
Written to benchmarks/cpc_step.json.
"""

import argparse
from functools import partial

import report
import torch
import torch.nn.functional as F

from semlib import auxiliary, models
from workbench.experiment import create
from workbench.runs import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bfloat16 = machine.precision(create({"device": args.device})) == "bfloat16"
    row = measure(args.device, args.batch, args.side, args.repeats, bfloat16)
    report.write(__file__, [row], args.device)


def measure(device: str, batch: int, side: int, repeats: int, autocast: bool) -> dict[str, float]:
    """Seconds a step of either task, their ratio, and the peak of memory in GB."""
    torch.manual_seed(0)
    layout = {"memory_format": torch.channels_last}
    net = models.build("wrn-imagenet-cpc", 11, (3, side, side)).to(device, **layout)
    images = torch.rand(batch, 3, side, side, device=device).contiguous(**layout)
    labels = torch.arange(batch, device=device) % 11
    losses = {
        "cpc": lambda: auxiliary.cpc(net, images),
        "classification": lambda: F.cross_entropy(net(images), labels),
    }
    how = {"lr": 1e-4, "momentum": 0.9, "nesterov": True}
    optimizers = {task: torch.optim.SGD(net.parameters(), **how) for task in losses}

    def step(task: str) -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            loss = losses[task]()
        optimizers[task].zero_grad()
        loss.backward()
        optimizers[task].step()

    step("cpc")
    on_gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else report.peak_gb()
    step("classification")
    seconds = report.alternate({task: partial(step, task) for task in losses}, repeats)
    found = {"batch": batch, "side": side, "bfloat16": autocast}
    found |= {f"{task} s": round(seconds[task], 3) for task in losses}
    found["multiple"] = round(seconds["cpc"] / seconds["classification"], 2)
    return found | {"peak_gb": round(peak, 3)}


if __name__ == "__main__":
    main()
