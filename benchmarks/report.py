"""What every benchmark prints and writes: a table in Markdown, and JSON beside the script."""

import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each contestant; they take turns, as a machine has its ups and downs.

    One that returns a float has timed itself.
    """
    import torch  # here: inspector's and tables' benchmarks measure a process without it

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            begun = time.perf_counter()
            own = run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(own if isinstance(own, float) else time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in seconds.items()}


def write(script: str, rows: list[dict[str, Any]], device: str = "cpu", **also: Any) -> None:
    """Print rows as a table and write them, the command and the machine as JSON."""
    import torch

    from workbench.runs import machine

    about = {"command": " ".join(["python", f"benchmarks/{Path(script).name}", *sys.argv[1:]])}
    about |= {"machine": machine.device_name(device), "threads": torch.get_num_threads()}
    about["torch"] = torch.__version__
    print(" | ".join(f"{name}: {value}" for name, value in (about | also).items()))
    print(markdown(rows))
    text = json.dumps(about | also | {"rows": rows}, indent=1)
    name = Path(script).stem + ("" if device == "cpu" else f"-{device.partition(':')[0]}")
    Path(script).with_name(f"{name}.json").write_text(text + "\n")


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of these rows, whose columns are the keys of them all."""
    names = list(dict.fromkeys(itertools.chain(*rows)))
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peak_gb() -> float:
    """Peak memory of this program (Linux); getrusage's may be that of its parent process."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20
