"""A figure in a notebook that grows while something trains."""

import io
import time
from collections import defaultdict
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

PAUSE = 5.0  # seconds between two drawings, of which each takes some tenths


class Live:
    """A panel for each measure, a line for each name; drawn anew in each cell that adds to it.

    `Live("loss", "accuracy").add("rotation", epoch, 0.3, 97.0)`. A notebook keeps the last state as
    one output. Outside a notebook nothing is drawn.
    """

    def __init__(self, *measures: str) -> None:
        self.measures = measures
        self.lines: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        self._cell = None
        self._handle: Any = None
        self._drawn = 0.0

    def add(self, name: str, epoch: float, *values: float) -> None:
        """A point of each measure. An epoch that is not after the last begins the line anew."""
        line = self.lines[name]
        if line and epoch <= line[-1][0]:
            line.clear()
        line.append((epoch, *values))
        shell = get_ipython()
        if shell is None:
            return
        if self._cell != shell.execution_count:
            self._cell = shell.execution_count
            self._handle = display(self._picture(), display_id=True)
            shell.events.register("post_run_cell", self._finish)
        elif time.perf_counter() - self._drawn >= PAUSE:
            self._handle.update(self._picture())

    def _picture(self) -> Image:
        size = (3.1 * len(self.measures), 2.4)
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        axes = figure.subplots(1, len(self.measures), squeeze=False)[0]
        for name, line in self.lines.items():
            table = pd.DataFrame(line, columns=["epoch", *self.measures]).set_index("epoch")
            for axis, measure in zip(axes, self.measures, strict=True):
                axis.plot(table[measure], ".-", label=name)
        for axis, measure in zip(axes, self.measures, strict=True):
            axis.set_title(measure, fontsize=9)
            axis.set_xlabel("epoch", fontsize=8)
            axis.tick_params(labelsize=8)
        axes[0].legend(fontsize=8, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self._drawn = time.perf_counter()
        return Image(file.getvalue(), format="png", width=90 * 3.1 * len(self.measures))

    def _finish(self, result: object) -> None:
        get_ipython().events.unregister("post_run_cell", self._finish)
        self._handle.update(self._picture())
