"""A figure in a notebook that grows while something trains."""

import io
import os
import sys
import time
from collections import defaultdict
from typing import Any

SHARE = 0.015  # of the time that may be spent on drawing
FIRST = 0.1  # seconds that the first drawing is taken to cost


def watched() -> bool:
    """Whether a person looks at the cell that runs: one who can be asked, as Papermill can't."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))


def announce(text: str) -> None:
    """Print a line, in a notebook that Papermill executes also on the terminal of who started it.

    There the cell's output is seen only once the notebook is written.
    """
    print(text, flush=True)
    kernels = sys.modules.get("ipykernel.iostream")
    if kernels and isinstance(sys.stderr, kernels.OutStream) and not watched():
        # where a kernel takes what is written to 2, it keeps what 2 was
        terminal = getattr(sys.stderr, "_original_stdstream_copy", None) or 2
        os.write(terminal, f"{text}\n".encode())


class Live:
    """A panel for each measure, a line for each name; drawn anew in each cell that adds to it.

    `Live("loss", "accuracy").add("rotation", epoch, 0.3, 97.0)`. A notebook keeps the last state as
    one output. Outside a notebook nothing is drawn. NaN is no point.
    """

    def __init__(self, *measures: str) -> None:
        self.measures = measures
        self.title = ""
        # Of each name its lines of (epoch, value of each measure); all but the last are drawn pale
        self.lines: dict[str, list[list[tuple[float, ...]]]] = defaultdict(list)
        self._cell = None
        self._handle: Any = None
        self._next = 0.0  # when it may be drawn again
        self._added = False  # something since the last drawing

    def add(self, name: str, epoch: float, *values: float) -> None:
        """A point of each measure. An epoch that is not after the last begins a line anew."""
        from IPython import get_ipython

        lines = self.lines[name]
        if not lines or epoch <= lines[-1][-1][0]:
            lines.append([])
        lines[-1].append((epoch, *values))
        self._added = True
        shell = get_ipython()
        if shell is None:
            return
        if self._cell != shell.execution_count:
            self._cell = shell.execution_count
            self._handle = None
            self._next = time.perf_counter() + FIRST / SHARE
            shell.events.register("post_run_cell", self._finish)
        if time.perf_counter() >= self._next:
            self.draw()

    def draw(self, anew: bool = False) -> None:
        """Draw in the cell that runs; anew: as another output, where the cell's were cleared."""
        from IPython.display import Image, display

        began = time.perf_counter()
        picture = Image(self.png(), format="png", width=90 * 3.1 * len(self.measures))
        if self._handle is None or anew:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._added = False
        now = time.perf_counter()
        self._next = now + (now - began) / SHARE

    def png(self) -> bytes:
        from matplotlib.figure import Figure

        size = (3.1 * len(self.measures), 2.6 if self.title else 2.4)
        figure = Figure(figsize=size, dpi=120)  # a layout engine would draw everything twice
        figure.subplots_adjust(0.05, 0.17, 0.98, 0.8 if self.title else 0.88, wspace=0.2)
        axes = figure.subplots(1, len(self.measures), squeeze=False)[0]
        for column, (axis, measure) in enumerate(zip(axes, self.measures, strict=True), 1):
            for k, (name, (*past, line)) in enumerate(self.lines.items()):
                for before in past:
                    _draw(axis, before, column, color=f"C{k}", alpha=0.25, linewidth=0.8)
                _draw(axis, line, column, color=f"C{k}", marker=".", label=name)
            axis.set_title(measure, fontsize=9)
            axis.set_xlabel("epoch", fontsize=8)
            axis.tick_params(labelsize=8)
        axes[0].legend(fontsize=8, frameon=False)
        figure.suptitle(self.title, fontsize=9)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def _finish(self, result: object) -> None:
        """Once the cell has ended: draw what came after the last drawing."""
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._finish)
        if self._added:
            self.draw()


def _draw(axis: Any, line: list[tuple[float, ...]], column: int, **look: Any) -> None:
    points = [(row[0], row[column]) for row in line if row[column] == row[column]]  # not NaN
    if points:
        axis.plot(*zip(*points, strict=True), **look)
