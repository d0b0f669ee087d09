"""The controls. A change redraws the curves, in one message, and the view below them that is open."""

import base64
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, BinaryIO

import anywidget
import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from semlib.config import Experiment
from semlib.files import ROOT, file_name, save_atomically
from semlib.results.inspector.page import STYLE, Page, pairs, styled
from semlib.results.inspector.results import Choice, Results, grouped, images_of, overview
from semlib.runs import plan, store

NOTHING = "There are no finished runs in {}/ yet: run make demo (minutes) or a table's notebook, then this cell again."
KINDS = ("mean", "std", "low", "high", "difference", "paper", "paper std", "AUROC", "FPR95")  # columns of the table
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,
    "plotlyServerURL": "",
}  # nothing is sent to plotly's cloud
CONFIG |= {"modeBarButtonsToRemove": ["select2d", "lasso2d"]}
ALONE, CLASS = "nothing", "class"


class Frame(anywidget.AnyWidget):
    """Gives each plot the width that there is, which plotly can't know before it is shown, and its `meta` to screen readers."""

    _esm = """export default {render() {
        const framed = ({detail: {element}}) => {
            element.setAttribute("role", "figure");
            element.setAttribute("aria-label", element.layout.meta);
            new ResizeObserver(() => element.offsetParent && window.dispatchEvent(new Event("resize"))).observe(element);
        };
        document.addEventListener("plotlywidget-after-render", framed);
        return () => document.removeEventListener("plotlywidget-after-render", framed);
    }}"""


class Plot:
    """A FigureWidget, built from a whole figure, then redrawn in one message for as long as it is about the same things."""

    def __init__(self, clicked: Callable[..., None] | None = None, dragged: Callable[..., None] | None = None):
        self.box, self._about, self._clicked, self._dragged, self._replaced = widgets.VBox(), None, clicked, dragged, ()

    def draw(self, figure: dict[str, Any], *about: Any) -> None:
        """about: the format that plotly's own button saves in, and what the figure is of: a zoom stays while that does."""
        new = {trace.get("uid", str(k)): trace for k, trace in enumerate(figure["data"])}
        if about != self._about:
            self.widget, self._about, self._drawn, known = go.FigureWidget(figure), about, new, 0
            own = {"edits": {"shapePosition": bool(self._dragged)}, "toImageButtonOptions": {"format": about[0], "scale": 2}}
            self.widget._config = CONFIG | own
            if dragged := self._dragged:
                self.widget.layout.on_change(lambda _, shapes: dragged([shape.x0 for shape in shapes]), "shapes")
            for old in self._replaced:  # not the last one, which the browser may still be drawing
                old.close()
            self._replaced = self.box.children
            self.box.children = []  # else the old figure is compared with this one, number by number
            self.box.children = [self.widget]
        else:
            known, unseen = len(self._drawn), {"visible": False, "showlegend": False}
            kept = {uid: new.pop(uid, old | unseen) for uid, old in self._drawn.items()}
            with self.widget.batch_update():
                for trace, now, old in zip(self.widget.data, kept.values(), self._drawn.values(), strict=True):
                    trace.update({key: value for key, value in now.items() if not _same(value, old.get(key))}, overwrite=True)
                self.widget.add_traces(list(new.values()))
                self.widget.update_layout({key: figure["layout"].get(key, ()) for key in ("annotations", "shapes")})
            self._drawn = kept | new
        for trace in self.widget.data[known:] if self._clicked else ():
            trace.on_click(self._clicked)


class Inspector:
    """Precision-recall curves of all finished runs in the experiment's outputs, opened at its profile and data set.

    In JupyterLab it is a widget; where no kernel runs (an executed notebook, a report) its first view is a page.
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self.outputs = experiment, experiment.folder.parent
        self._quiet, self._pages, self._images = False, {}, {}  # what was looked at stays in memory
        self.warning, self.said, self.html, self.saved = (widgets.HTML() for _ in range(4))
        self.box = widgets.VBox([Frame(), widgets.HTML(STYLE), self.warning]).add_class("semlib")
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
        self.camera = _one("the figures' own button saves", "The format of pictures that it saves", ["png", "svg"], "png")
        self.held_out = _one("Held out", "The held-out class of which there is more")
        self.sides = [_one(text, f"{text}: a method, a score and a trial") for text in ("Left", "Right")]
        self.kinds = _several("Columns", KINDS, ("mean", "std", "difference", "paper"))
        self.sort = _one("Sort by", "The column that sorts the table", [CLASS], CLASS)
        self.falling = widgets.Checkbox(True, description="highest first", indent=False)
        views = {"Average precision": self._numbers, "At the threshold": self._at_threshold, "Histograms": self._scores}
        views |= {"Images": self._pictures, "Confusions": self._confusions, "Runs": self._runs}
        self.view = widgets.ToggleButtons(options=views, style={"button_width": "auto"}, tooltips=list(views))
        self.panels, self.matrices, self.bars = Plot(self._clicked), Plot(), Plot()
        self.histograms = Plot(lambda _, points, __: points.xs and self._dragged(points.xs * 2), self._dragged)
        self.below, self._chooser = widgets.VBox(), _row(self.held_out, *self.sides)
        self._sorter = _row(self.kinds, self.sort, self.falling)  # built once: a control that is made anew loses the keyboard
        drawn = [self.threshold, self.camera, self.held_out, *self.sides, self.kinds, self.sort, self.falling, self.view]
        opened = [self.table, self.beside, self.statistics]
        for react, controls in ((self._open, opened), (self._choose, self.lists), (self._redraw, drawn)):
            for control in controls:
                control.observe(self._loud(react), "value")
        rows: list[Sequence[widgets.Widget]] = [opened, self.lists, [slider, self.threshold], [self.said], [self.panels.box]]
        rows += [[self.name, *buttons, self.saved, self.camera], [self.view], [self.below]]
        self.box.children += tuple(row[0] if len(row) == 1 else _row(*row) for row in rows)

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
        others = [
            title for title, records in self.tables.items() if records is not own and records[0].classes == own[0].classes
        ]
        with self._silence():
            _offer(self.beside, [ALONE, *others])
            results = self.page.results
            for control, names in zip(
                self.lists, (results.classes, results.methods, results.scores, results.trials), strict=True
            ):
                control.options, control.value = names, names if names is not results.scores else names[:1]
            self.threshold.value = round(100 * results.skew(results.classes[0]), 1) if results.classes else 10
            self.name.value = file_name("pr_curves", results.dataset, results.statistics)
        self._choose()

    def _choose(self) -> None:
        if not all(self.choice):
            self.said.value = "<p role='status'>Choose at least one class, one method, one score and one trial.</p>"
            return
        sides = [(f"{m}, {s}, trial {t}", (m, s, t)) for m, s in pairs(self.choice) for t in self.choice.trials]
        other = next((side for _, side in sides if side[0] != self.choice.methods[0]), sides[-1][1])
        with self._silence():
            _offer(self.held_out, self.choice.classes)
            _offer(self.sides[0], sides)
            _offer(self.sides[1], sides, other)
            _offer(self.sort, [CLASS, *(" ".join(column) for column in self.page.results.average_precisions(self.choice))])
        self._redraw()

    def _redraw(self) -> None:
        if all(self.choice):
            opened = (self.table.value, self.beside.value, self.statistics.value, self.choice.classes)
            self.panels.draw(self.page.panels(self.choice, self.share), self.camera.value, *opened)
            said = self.page.at_threshold(self.choice, self.share, ("method", "score")).to_html()
            self.said.value = f"<div role='status'>{said}</div>"
            self.below.children = self.view.value()

    def _clicked(self, trace: Any, points: Any, _: Any) -> None:
        """Put the threshold to a point of a trial's curve, and show more of that run."""
        if points.point_inds and trace.customdata is not None:
            _, flagged, _, trial = trace.customdata[points.point_inds[0]]
            with self._silence():
                self.held_out.value, self.sides[0].value = trace.meta[0], (*trace.meta[1:], int(trial))
            self._flag(flagged, self.sides[0].value)

    def _dragged(self, places: list[float]) -> None:
        """Put the threshold to where the line of a histogram was dragged."""
        for side, place in zip((control.value for control in self.sides), places, strict=False):
            curve = self.page.results.curve(self.held_out.value, *side)
            if not self._quiet and curve and place != curve.threshold(self.share):
                return self._flag(max(curve.at(place).flagged, 1), side)

    def _flag(self, flagged: int, side: tuple) -> None:
        share = flagged / len(self.page.results.is_anomaly(self.held_out.value, side[0], side[2]))
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

    def _looked_at(self) -> tuple[str, list[tuple[str, str, int]], widgets.Widget]:
        return self.held_out.value, [control.value for control in self.sides], self._chooser

    def _scores(self) -> list[widgets.Widget]:
        hold_out, sides, controls = self._looked_at()
        with self._silence():
            self.histograms.draw(
                self.page.histograms(hold_out, sides, self.share), self.camera.value, self.page, hold_out, sides
            )
        return [controls, self.histograms.box]

    def _pictures(self) -> list[widgets.Widget]:
        (hold_out, sides, controls), parts = self._looked_at(), []
        for side in sides:
            record = self.page.results.runs.get((hold_out, side[0], side[2]))
            if record and record.test_digest not in self._images:
                self._images[record.test_digest] = images_of(record, self.experiment)
            images = self._images[record.test_digest] if record else ""
            parts.append(self.page.images(hold_out, side, self.share, images).to_html())
        self.html.value = "".join(parts)
        return [controls, self.html]

    def _confusions(self) -> list[widgets.Widget]:
        hold_out, sides, controls = self._looked_at()
        self.matrices.draw(self.page.confusions(sides, self.choice), self.camera.value, self.page, self.choice, sides)
        self.bars.draw(self.page.taken_for(hold_out, self.choice), self.camera.value, self.page, self.choice, hold_out)
        return [controls, self.matrices.box, self.bars.box]

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


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(np.array_equal(one, other)))


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
