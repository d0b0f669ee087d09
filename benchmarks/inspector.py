"""Processor seconds of each change in the inspector: python benchmarks/inspector.py

10 classes, 2 methods and 3 trials of 10,000 scores, both scores shown; every choice is a new one.
"""

import sys
import tempfile
import time
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers import made_up

from workbench.results.inspector import Inspector


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        inspector = Inspector(made_up(Path(folder), images=10_000, dataset="cifar10"))
        inspector.lists[2].value = ("MSP", "ODIN")
        classes = inspector.lists[0].options
        for k, view in enumerate(inspector.view.options):
            inspector.view.value = view
            changes = {"threshold": (inspector.threshold, 20 + k)}
            changes["classes"] = (inspector.lists[0], classes[k + 1 :] + classes[: k + 1])
            changes["trials"] = (inspector.lists[3], ((0, 1), (1, 2))[k % 2])
            row = {"view": view}
            for name, (control, value) in changes.items():
                begun = time.process_time()
                control.value = value
                row[name] = round(time.process_time() - begun, 3)
            rows.append(row)
    report.write(__file__, rows)


if __name__ == "__main__":
    main()
