"""The inspector's controls. A change redraws the curves and the view below them that is open."""

import base64
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import traitlets
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from workbench.experiment import Experiment
from workbench.files import ROOT, csv_text, file_name, save_atomically
from workbench.results.inspector import selection
from workbench.results.inspector.page import Page
from workbench.results.inspector.selection import Choice, Results
from workbench.runs import plan, store

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
NOTHING = "There are no finished runs in {}/ yet: run make demo (minutes) or a table's notebook."
CHOOSE = "Choose at least one class, method, score and trial of what was run."
VIEWS = ("Average precision", "At the threshold", "Histograms", "Images", "Confusions")


class Plotly(anywidget.AnyWidget):
    """plotly.js, which all plots of a page share."""

    _esm = HERE / "plot.js"
    _css = STYLE
    code = traitlets.Unicode(get_plotlyjs()).tag(sync=True)


shared = cache(Plotly)  # the one of this kernel


class Plot(anywidget.AnyWidget):
    """A figure of plotly, redrawn when it changes, as wide as there is room.

    plotly's FigureWidget would load plotly.js anew for each figure, and check every number.
    """

    _esm = Plotly._esm
    figure = traitlets.Unicode('{"data": [], "layout": {"meta": {}}}').tag(sync=True)  # JSON

    def draw(self, figure: dict[str, Any], *about: Any) -> None:
        """about: what the figure is of; a zoom stays while that does."""
        figure["layout"] |= {"uirevision": str(about), "editrevision": False}
        self.figure = json.dumps(figure, cls=PlotlyJSONEncoder)


class Inspector:
    """Precision-recall curves of all finished runs in the experiment's outputs.

    It opens at the experiment's profile and data set. In JupyterLab it is a widget; where no kernel
    runs (an executed notebook) its first view is a page.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.outputs = experiment.folder.parent
        self._busy = False
        self._page = cache(self._make_page)
        self.warning, self.said, self.html, self.saved = (widgets.HTML() for _ in range(4))
        self.box = widgets.VBox([shared(), self.warning, self.said]).add_class("semlib")
        self.tables: dict[str, list[store.Record]] = {}
        # the experiment's profile comes first, and is opened
        folders = [path for path in self.outputs.glob("*") if path.is_dir()]
        with self._warned():
            for folder in sorted(folders, key=lambda path: (path != experiment.folder, path)):
                tables = selection.grouped(store.collect(folder), experiment)
                self.tables |= {f"{folder.name}: {title}": table for title, table in tables.items()}
        if self.tables:
            self._build()
            self._react(self._open)
        else:
            self.said.value = f"<p>{NOTHING.format(escape(_short(self.outputs)))}</p>"

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        parts = [f"<style>{STYLE.read_text()}</style>", self.said.value, self.warning.value]
        if self.tables and all(self.choice):
            self._write(file := io.BytesIO(), "png")
            source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
            parts += [f'<img alt="Precision-recall curves" src="{source}">', self.html.value]
        page = f'<div class="semlib">{"".join(parts)}</div>'
        also = {"text/html": page, "text/plain": "The precision-recall inspector"}
        return self.box._repr_mimebundle_(**how) | also

    # --- what is chosen

    @property
    def page(self) -> Page:
        return self._page(self.table.value, self.beside.value, self.statistics.value)

    def _make_page(self, table: str, beside: str, statistics: str) -> Page:
        with self._warned():
            others = self.tables.get(beside, ())
            return Page(Results(self.tables[table], statistics, others, beside))

    @property
    def choice(self) -> Choice:
        return Choice(*(control.value for control in self.lists))

    @property
    def share(self) -> float:
        return self.threshold.value / 100

    # --- building

    def _build(self) -> None:
        drop_down = widgets.Dropdown
        several = widgets.SelectMultiple
        row = widgets.HBox
        sizes = {title: selection.counted(records) for title, records in self.tables.items()}
        options = [(f"{title}, {size}", title) for title, size in sizes.items()]
        self.table = drop_down(description="Table", options=options)
        self.beside = drop_down(description="Beside", options=["nothing"])
        self.statistics = drop_down(description="Statistics", options=[*plan.STATISTICS])
        self.statistics.value = self.experiment.statistics
        lists = ("Held-out classes", "Methods", "Scores", "Trials")
        self.lists = [several(description=text, rows=5) for text in lists]
        limits = {"max": 100.0, "step": 0.1}
        slider = widgets.FloatSlider(description="Threshold", readout=False, **limits)
        self.threshold = widgets.BoundedFloatText(description="flag the top %", min=0.01, **limits)
        widgets.jslink((self.threshold, "value"), (slider, "value"))  # in the browser, at once
        self.name = widgets.Text(description="Save as")
        buttons = []
        for text, ending in (("figure (PDF)", "pdf"), ("selection (CSV)", "csv")):
            buttons.append(widgets.Button(description=text, icon="save"))
            buttons[-1].on_click(lambda _, ending=ending: self.save(ending))
        self.view = widgets.ToggleButtons(options=VIEWS, style={"button_width": "auto"})
        self.held_out = drop_down(description="Held out")
        self.sides = [drop_down(description=text) for text in ("Left", "Right")]
        self.sort = drop_down(description="Sort by", options=["class"])
        self.falling = widgets.Checkbox(True, description="highest first", indent=False)
        self.panels = Plot()
        self.histograms = Plot()
        # built once: a control that is made anew would lose the keyboard
        self._sides = row([self.held_out, *self.sides])
        self._sorter = row([self.sort, self.falling])
        self.below = widgets.VBox()
        opened = [self.table, self.beside, self.statistics]
        rows: list[widgets.Widget] = [row(opened), row(self.lists), row([slider, self.threshold])]
        rows += [self.said, self.panels, row([self.name, *buttons, self.saved])]
        self.box.children = (*self.box.children[:2], *rows, self.view, self.below)
        drawn = [*self.lists, self.threshold, self.view]
        drawn += [*self._sides.children, *self._sorter.children]
        for react, controls in ((self._open, opened), (self._draw, drawn)):
            for control in controls:
                control.observe(lambda _, react=react: self._react(react), "value")
        for plot in (self.panels, self.histograms):
            plot.on_msg(lambda _, message, __: self._react(self._point, *message))

    # --- reacting

    def _react(self, react: Callable, *message: Any) -> None:
        """Controls that are set by this do not react."""
        if self._busy:
            return
        self._busy = True
        try:
            react(*message)
        except ValueError as error:  # scores that were damaged or deleted meanwhile
            self.said.value = f"<p role='alert'>{escape(_short(error))}</p>"
        finally:
            self._busy = False

    def _open(self) -> None:
        """Offer what the table has; at first everything is chosen, but of the scores one."""
        classes = self.tables[self.table.value][0].classes
        alike = [title for title, table in self.tables.items() if table[0].classes == classes]
        alike.remove(self.table.value)
        _offer(self.beside, ["nothing", *alike])
        results = self.page.results
        for control, name in zip(self.lists, Choice._fields, strict=True):
            control.options = getattr(results, name)
            control.value = control.options[: 1 if name == "scores" else None]
        for name in results.classes[:1]:
            self.threshold.value = round(100 * results.skew[name], 1)
        self.name.value = file_name("pr_curves", results.dataset, results.statistics)
        self._draw()

    def _draw(self) -> None:
        page = self.page
        choice = self.choice
        curves = page.results.curves(choice)
        if curves.empty:
            self.said.value = f"<p role='status'>{CHOOSE}</p>"
            return
        _offer(self.held_out, curves.hold_out.unique())
        runs = curves[curves.hold_out == self.held_out.value][["method", "score", "trial"]]
        sides = [*runs.itertuples(index=False, name=None)]
        options = [("{}, {}, trial {}".format(*side), side) for side in sides]
        others = [side for side in sides if side[0] != sides[0][0]]
        _offer(self.sides[0], options)
        _offer(self.sides[1], options, *others[:1])
        _offer(self.sort, ["class", *map(" ".join, page.results.average_precisions(choice))])
        self.panels.draw(page.panels(choice, self.share), page, choice.classes)
        said = page.at_threshold(choice, self.share, ("method", "score")).to_html()
        self.said.value = f"<div role='status'>{said}</div>"
        self.below.children = self._below(page, choice, self.view.value)

    def _point(self, hold_out: str, method: str, score: str, trial: float, *at: Any) -> None:
        """Set the threshold to a point of a curve that was clicked, or a line that was dragged."""
        threshold, clicked = at
        side = (method, score, int(trial))
        scores = self.page.results.ranking(hold_out, *side).scores
        flagged = max((scores >= threshold).sum(), 1)
        self.threshold.value = math.floor(1e6 * flagged / len(scores)) / 1e4  # flags as many
        self.held_out.value = hold_out
        if clicked:
            _offer(self.sides[0], [("", side)])
        self._draw()

    # --- the view below

    def _below(self, page: Page, choice: Choice, view: str) -> list[widgets.Widget]:
        hold_out = self.held_out.value
        sides = [side.value for side in self.sides]
        if view == "Histograms":
            figure = page.histograms(hold_out, sides, self.share)
            self.histograms.draw(figure, page, hold_out, sides)
            return [self._sides, self.histograms]
        controls = []
        if view == "Images":
            controls = [self._sides]
            tables = [page.images(hold_out, side, self.share, self.experiment) for side in sides]
        elif view == "Average precision":
            controls = [self._sorter]
            tables = [page.average_precisions(choice, self.sort.value, self.falling.value)]
        elif view == "At the threshold":
            tables = [page.at_threshold(choice, self.share)]
        else:
            tables = [page.confusions(choice)]
        self.html.value = "".join(table.to_html() for table in tables)
        return [*controls, self.html]

    # --- saving

    def save(self, ending: str) -> None:
        """Save the figure (png, pdf) or the selection (csv) in the profile's folder."""
        name = re.sub(r"[^\w.-]+", "_", self.name.value) or "pr_curves"
        path = self.outputs / self.table.value.partition(":")[0] / f"{name}.{ending}"
        said = CHOOSE
        try:
            if len(self.page.results.curves(self.choice)):
                save_atomically(path, lambda file: self._write(file, ending))
                said = f"Saved {_short(path)}"
        except OSError as error:
            said = f"{_short(path)} could not be saved: {error.strerror}"
        self.saved.value = f"<p role='status'>{escape(said)}</p>"

    def _write(self, file: BinaryIO, ending: str) -> None:
        if ending == "csv":
            rows = self.page.results.selection(self.choice, self.share)
            file.write(csv_text(rows, index=False).encode())
        else:
            figure = self.page.figure(self.choice, self.share)
            figure.savefig(file, format=ending)
            plt.close(figure)

    @contextmanager
    def _warned(self):
        """Show warnings on the page, without the folders of this machine."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        lines = "<br>".join(escape(_short(warning.message)) for warning in caught)
        if lines:
            self.warning.value += f"<p role='alert'>{lines}</p>"


def _offer(control: widgets.Dropdown, options: Iterable[Any], start: Any = None) -> None:
    """Other options; the value stays if it is one of them, else it is start or the first."""
    options = list(options)
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    value = control.value if control.value in values else start or values[0]
    control.options = options
    control.value = value


def _short(text: object) -> str:
    return str(text).replace(f"{ROOT}/", "")
