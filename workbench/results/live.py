"""A figure in a notebook that grows while something trains."""

import io
import time
from collections import defaultdict

from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

SHARE = 0.03  # of the time that may be spent on drawing


class Live:
    """A panel for each measure, a line for each name; drawn anew in each cell that adds to it.

    `Live("loss", "accuracy").add("rotation", epoch, 0.3, 97.0)`. A notebook keeps the last state as
    one output. Outside a notebook nothing is drawn.
    """

    def __init__(self, *measures: str) -> None:
        self.measures = measures
        self.lines: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        self._cell = None
        self._handle = None
        self._drawn = 0.0
        self._cost = 0.0

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
            self._handle = None
            self._drawn = 0.0
            shell.events.register("post_run_cell", self._finish)
        if time.perf_counter() - self._drawn >= self._cost / SHARE:
            self.draw()

    def draw(self) -> None:
        """Draw, or draw anew, in the cell that runs."""
        began = time.perf_counter()
        picture = Image(self.png(), format="png", width=90 * 3.1 * len(self.measures))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.perf_counter()
        self._cost = self._drawn - began

    def png(self) -> bytes:
        size = (3.1 * len(self.measures), 2.4)
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        axes = figure.subplots(1, len(self.measures), squeeze=False)[0]
        for k, (axis, measure) in enumerate(zip(axes, self.measures, strict=True), 1):
            for name, line in self.lines.items():
                axis.plot(*zip(*((row[0], row[k]) for row in line), strict=True), ".-", label=name)
            axis.set_title(measure, fontsize=9)
            axis.set_xlabel("epoch", fontsize=8)
            axis.tick_params(labelsize=8)
        axes[0].legend(fontsize=8, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def _finish(self, result: object) -> None:
        get_ipython().events.unregister("post_run_cell", self._finish)
        self.draw()
