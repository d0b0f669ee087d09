"""The controls. A change redraws the curves and the view below them that is open."""

import base64
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from html import escape
from typing import Any, BinaryIO

import anywidget
import ipywidgets as widgets
import traitlets
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from semlib.config import Experiment
from semlib.files import ROOT, file_name, save_atomically
from semlib.results.inspector.page import STYLE, Page, pairs, styled
from semlib.results.inspector.results import KINDS, Choice, Results, grouped, images_of, overview
from semlib.runs import plan, store

NOTHING = "There are no finished runs in {}/ yet: run make demo (minutes) or a table's notebook, then this cell again."
ALONE, CLASS = "nothing", "class"


class Plotly(anywidget.AnyWidget):
    """plotly.js, which all plots of a page share. It is read after `initialize`, which may take two seconds at most."""

    code = traitlets.Unicode(get_plotlyjs()).tag(sync=True)
    _esm = """export default {initialize({model}) {
        const address = URL.createObjectURL(new Blob([model.get("code")], {type: "text/javascript"}));
        window.semlibPlotly ??= import(address).then(() => window.Plotly);
    }}"""


class Plot(anywidget.AnyWidget):
    """A figure of plotly, redrawn when another is given, as wide as there is room.

    plotly's FigureWidget would check every number anew, and load plotly.js for each figure.
    """

    figure = traitlets.Unicode().tag(sync=True)  # JSON
    _esm = """export default {async render({model, el}) {
        while (!window.semlibPlotly) await new Promise((wait) => setTimeout(wait, 20));
        const Plotly = await window.semlibPlotly, plot = el.appendChild(document.createElement("div"));
        const save = () => Plotly.downloadImage(plot, {format: "svg"});
        const config = {
            displaylogo: false, edits: {shapePosition: true}, toImageButtonOptions: {scale: 2},
            modeBarButtonsToRemove: ["select2d", "lasso2d"],
            modeBarButtonsToAdd: [{name: "Download plot as an SVG", icon: Plotly.Icons.disk, click: save}],
        };
        const draw = () => {
            const {data, layout} = JSON.parse(model.get("figure"));
            plot.ariaLabel = layout.meta;
            return Plotly.react(plot, data, layout, config);
        };
        plot.role = "figure";
        await draw();
        plot.on("plotly_click", ({points: [{data, customdata}]}) => model.send({clicked: [data.meta, customdata]}));
        plot.on("plotly_relayout", (edit) => {
            if (Object.keys(edit).some((key) => key.startsWith("shapes"))) {
                model.send({dragged: plot.layout.shapes.map((shape) => shape.x0)});
            }
        });
        const size = new ResizeObserver(() => plot.offsetParent && Plotly.Plots.resize(plot));
        size.observe(el);
        model.on("change:figure", draw);
        return () => {
            size.disconnect();
            model.off("change:figure", draw);
            Plotly.purge(plot);
        };
    }}"""

    def draw(self, figure: dict[str, Any], *about: Any) -> None:
        """about: what the figure is of; a zoom stays while that does."""
        figure["layout"]["uirevision"] = str(about)
        self.figure = json.dumps(figure, cls=PlotlyJSONEncoder)


class Inspector:
    """Precision-recall curves of all finished runs in the experiment's outputs, opened at its profile and data set.

    In JupyterLab it is a widget; where no kernel runs (an executed notebook, a report) its first view is a page.
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self.outputs = experiment, experiment.folder.parent
        self._quiet, self._pages, self._images = False, {}, {}  # what was looked at stays in memory
        self.warning, self.said, self.html, self.saved = (widgets.HTML() for _ in range(4))
        self.box = widgets.VBox([Plotly(), widgets.HTML(STYLE), self.warning]).add_class("semlib")
        self.tables: dict[str, list[store.Record]] = {}
        with self._warned():
            for folder in (path for path in sorted(self.outputs.glob("*")) if path.is_dir()):
                groups = grouped(store.collect(folder), experiment)
                self.tables |= {f"{folder.name}: {title}": records for title, records in groups.items()}
        if self.tables:
            self._build()
            self._open()
        else:
            self.said.value = f"<p>{escape(NOTHING.format(_short(self.outputs)))}</p>"
            self.box.children += (self.said,)

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        parts = [STYLE, self.said.value, self.warning.value]
        if self.tables and all(self.choice):
            self._write(file := io.BytesIO(), "png")
            picture = base64.b64encode(file.getvalue()).decode()
            parts += [f'<img alt="Precision-recall curves" src="data:image/png;base64,{picture}">', self._table()]
        page = {"text/html": f"<div>{''.join(parts)}</div>", "text/plain": "The precision-recall inspector"}
        return self.box._repr_mimebundle_(**how) | page

    # --- what is looked at

    @property
    def page(self) -> Page:
        which = (self.table.value, self.beside.value, self.statistics.value)
        if which not in self._pages:
            with self._warned():
                beside = self.tables.get(self.beside.value, ())
                self._pages[which] = Page(Results(self.tables[which[0]], self.statistics.value, beside, self.beside.value))
        return self._pages[which]

    @property
    def choice(self) -> Choice:
        return Choice(*(control.value for control in self.lists))

    @property
    def share(self) -> float:
        return self.threshold.value / 100

    # --- building

    def _build(self) -> None:
        mine = {title: (title.startswith(f"{self.experiment.profile}: "), records[0].dataset == self.experiment.dataset_name)
                for title, records in self.tables.items()}  # fmt: skip
        told = "Runs of one data set with the same settings, by the folder in outputs/"
        self.table = _one("Table", told, list(self.tables), max(mine, key=lambda title: mine[title]))
        self.beside = _one("Beside", "Another table of the same classes, to compare with", [ALONE], ALONE)
        told = "Batch norm's statistics when scoring: mixed, as trained, or over upright training images alone"
        self.statistics = _one("Statistics", told, list(plan.STATISTICS), self.experiment.statistics)
        self.lists = [_several(title) for title in ("Held-out classes", "Methods", "Scores", "Trials")]
        told = "Share of the test images that is flagged as anomalous: those with the highest scores"
        limits = {"min": 0.01, "max": 100.0, "step": 0.1, "tooltip": told}
        self.threshold = widgets.BoundedFloatText(description="flag the top %", **_narrow("180px"), **limits)
        slider = widgets.FloatSlider(description="Threshold", readout=False, **_narrow("480px"), **limits)
        widgets.jslink((slider, "value"), (self.threshold, "value"))  # in the browser: no echo overtakes a hand
        self.name = widgets.Text(description="Save as", tooltip="Name of the file, without its ending", **_narrow("300px"))
        buttons = [self._button(*words) for words in (("figure (PDF)", "pdf"), ("selection (CSV)", "csv"))]
        self.held_out = _one("Held out", "The held-out class of which there is more")
        self.sides = [_one(text, f"{text}: a method, a score and a trial") for text in ("Left", "Right")]
        self.kinds = _several("Columns", KINDS, ("mean", "std", "difference", "paper"))
        self.sort = _one("Sort by", "The column that sorts the table", [CLASS], CLASS)
        self.falling = widgets.Checkbox(True, description="highest first", indent=False)
        self.panels, self.matrices, self.bars, self.histograms = (Plot() for _ in range(4))
        for plot in (self.panels, self.histograms):
            plot.on_msg(self._pointed)
        views = {"Average precision": self._numbers, "At the threshold": self._at_threshold, "Histograms": self._scores}
        views |= {"Images": self._pictures, "Confusions": self._confusions, "Runs": self._runs}
        self.view = widgets.ToggleButtons(options=views, style={"button_width": "auto"}, tooltips=list(views))
        self.below, self._chooser = widgets.VBox(), _row(self.held_out, *self.sides)
        self._sorter = _row(self.kinds, self.sort, self.falling)  # built once: a control that is made anew loses the keyboard
        opened, looked = [self.table, self.beside, self.statistics], [self.threshold, self.held_out, *self.sides, self.view]
        reactions = {self._open: opened, self._choose: [*self.lists, self.kinds]}
        for react, controls in (reactions | {self._redraw: [*looked, self.sort, self.falling]}).items():
            for control in controls:
                control.observe(self._loud(react), "value")
        rows = [_row(*opened), _row(*self.lists), _row(slider, self.threshold), self.said, self.panels]
        self.box.children += (*rows, _row(self.name, *buttons, self.saved), self.view, self.below)

    def _button(self, text: str, ending: str) -> widgets.Button:
        button = widgets.Button(description=text, tooltip=f"Save the {text} in the profile's folder", icon="save")
        button.on_click(lambda _: self.save(ending))
        return button

    # --- reacting

    def _loud(self, react: Callable[[], None]) -> Callable[..., None]:
        """An observer that is deaf while controls are set by other controls."""
        return lambda *_: None if self._quiet else react()

    @contextmanager
    def _silence(self):
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _open(self) -> None:
        own = self.tables[self.table.value]
        alike = [title for title, other in self.tables.items() if other is not own and other[0].classes == own[0].classes]
        with self._silence():
            _offer(self.beside, [ALONE, *alike])
            results = self.page.results
            for control, name in zip(self.lists, Choice._fields, strict=True):
                control.options = getattr(results, name)
                control.value = control.options[: 1 if name == "scores" else None]
            self.threshold.value = round(100 * results.skew[results.classes[0]], 1) if results.classes else 10
            self.name.value = file_name("pr_curves", results.dataset, results.statistics)
        self._choose()

    def _choose(self) -> None:
        if not all(self.choice):
            self.said.value = "<p role='status'>Choose at least one class, one method, one score and one trial.</p>"
            return
        sides = [(f"{m}, {s}, trial {t}", (m, s, t)) for m, s in pairs(self.choice) for t in self.choice.trials]
        other = next((side for _, side in sides if side[0] != self.choice.methods[0]), sides[-1][1])
        columns = self.page.results.average_precisions(self.choice, self.kinds.value)
        with self._silence():
            _offer(self.held_out, self.choice.classes)
            _offer(self.sides[0], sides)
            _offer(self.sides[1], sides, other)
            _offer(self.sort, [CLASS, *map(" ".join, columns)])
        self._redraw()

    def _redraw(self) -> None:
        if all(self.choice):
            opened = (self.table.value, self.beside.value, self.statistics.value, self.choice.classes)
            self.panels.draw(self.page.panels(self.choice, self.share), *opened)
            said = self.page.at_threshold(self.choice, self.share, ("method", "score")).to_html()
            self.said.value = f"<div role='status'>{said}</div>"
            self.below.children = self.view.value()

    def _pointed(self, _: Plot, message: dict[str, list], __: Any) -> None:
        """A click on a trial's curve, or the lines of the histograms after one was dragged: put the threshold there."""
        meta, point = message.get("clicked") or (None, None)
        if meta and point:  # of a run
            (name, *run), (_, flagged, _, trial) = meta, point
            with self._silence():
                self.held_out.value, self.sides[0].value = name, (*run, int(trial))
            self._flag(flagged, self.sides[0].value)
        for control, place in zip(self.sides, message.get("dragged", ()), strict=False):
            one = self.page.results.ranked(self.held_out.value, *control.value)
            if one and place != one.at(self.share).threshold:
                return self._flag(max(one.curve.at(place).flagged, 1), control.value)

    def _flag(self, flagged: int, side: tuple[str, str, int]) -> None:
        one = self.page.results.ranked(self.held_out.value, *side)
        share = flagged / len(one.scores)
        with self._silence():
            self.threshold.value = math.floor(1e6 * share) / 1e4  # a little less flags as many
        self._redraw()

    # --- the views below

    def _table(self) -> str:
        return self.page.average_precisions(self.choice, self.kinds.value, self.sort.value, self.falling.value).to_html()

    def _numbers(self) -> list[widgets.Widget]:
        self.html.value = self._table()
        return [self._sorter, self.html]

    def _at_threshold(self) -> list[widgets.Widget]:
        self.html.value = self.page.at_threshold(self.choice, self.share).to_html()
        return [self.html]

    def _looked_at(self) -> tuple[str, list[tuple[str, str, int]]]:
        return self.held_out.value, [control.value for control in self.sides]

    def _scores(self) -> list[widgets.Widget]:
        hold_out, sides = self._looked_at()
        self.histograms.draw(self.page.histograms(hold_out, sides, self.share), self.page, hold_out, sides)
        return [self._chooser, self.histograms]

    def _pictures(self) -> list[widgets.Widget]:
        (hold_out, sides), parts = self._looked_at(), []
        for side in sides:
            record = self.page.results.runs.get((hold_out, side[0], side[2]))
            if record and record.test_digest not in self._images:
                self._images[record.test_digest] = images_of(record, self.experiment)
            images = self._images[record.test_digest] if record else ""
            parts.append(self.page.images(hold_out, side, self.share, images).to_html())
        self.html.value = "".join(parts)
        return [self._chooser, self.html]

    def _confusions(self) -> list[widgets.Widget]:
        hold_out, sides = self._looked_at()
        self.matrices.draw(self.page.confusions(sides, self.choice), self.page, self.choice, sides)
        self.bars.draw(self.page.taken_for(hold_out, self.choice), self.page, self.choice, hold_out)
        return [self._chooser, self.matrices, self.bars]

    def _runs(self) -> list[widgets.Widget]:
        self.html.value = styled(overview(self.tables), "What has run, and the settings in which the tables differ").to_html()
        return [self.html]

    # --- saving

    def save(self, ending: str) -> None:
        """Write the current figure (png, pdf) or selection (csv) into the profile's folder, and say where."""
        name = re.sub(r"[^\w.-]+", "_", self.name.value) or "pr_curves"
        path = self.outputs / self.table.value.partition(":")[0] / f"{name}.{ending}"
        try:
            save_atomically(path, lambda file: self._write(file, ending))
            said = f"Saved {_short(path)}"
        except OSError as error:
            said = f"{_short(path)} could not be saved: {error.strerror}"
        self.saved.value = f"<p role='status'>{escape(said)}</p>"

    def _write(self, file: BinaryIO, ending: str) -> None:
        if ending == "csv":
            file.write(self.page.results.selection(self.choice, self.share).to_csv(index=False).encode())
        else:
            self.page.figure(self.choice, self.share).savefig(file, format=ending)

    @contextmanager
    def _warned(self):
        """Show warnings on the page, without the folders of this machine."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        lines = "<br>".join(escape(_short(warning.message)) for warning in caught)
        self.warning.value += f"<p role='alert'>{lines}</p>" if lines else ""


def _row(*parts: widgets.Widget) -> widgets.HBox:
    """Side by side, and below each other where the page is narrow."""
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})


def _narrow(width: str) -> dict[str, Any]:
    return {"style": {"description_width": "auto"}, "layout": {"width": width, "margin": "2px 14px 2px 0"}}


def _one(text: str, told: str, options: Iterable[Any] = (), value: Any = None) -> widgets.Dropdown:
    return widgets.Dropdown(options=list(options), value=value, description=text, tooltip=told, **_narrow("auto"))


def _several(text: str, options: Iterable[Any] = (), value: Iterable[Any] = ()) -> widgets.SelectMultiple:
    told = f"{text}: several with Ctrl or Shift"
    return widgets.SelectMultiple(description=text, tooltip=told, options=options, value=value, rows=5, **_narrow("auto"))


def _offer(control: widgets.Dropdown, options: Iterable[Any], start: Any = None) -> None:
    """Other options; the value stays if it is one of them."""
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    value = control.value if control.value in values else start or values[0]
    control.options, control.value = options, value


def _short(text: object) -> str:
    return str(text).replace(f"{ROOT}/", "")
