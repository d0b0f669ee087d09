"""The controls. A change redraws the curves and the view below them that is open."""

import base64
import io
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import cache
from html import escape
from typing import Any, BinaryIO

import anywidget
import ipywidgets as widgets
import traitlets
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from semlib.datasets import ImageSet
from workbench.experiment import Experiment
from workbench.files import ROOT, file_name, save_atomically
from workbench.results.inspector.page import STYLE, Page, Side, styled
from workbench.results.inspector.results import KINDS, Choice, Results, grouped, images_of, overview
from workbench.runs import plan, store

NOTHING = "There are no finished runs in {}/ yet: run make demo (minutes) or a table's notebook, then this cell again."
VIEWS = ("Average precision", "At the threshold", "Histograms", "Images", "Confusions", "Runs")
ALONE, CLASS = "nothing", "class"


class Plotly(anywidget.AnyWidget):
    """plotly.js, which all plots of a page share. It is read after `initialize`, which may take two
    seconds at most.
    """

    code = traitlets.Unicode(get_plotlyjs()).tag(sync=True)
    _esm = """
        const load = async (code) => {
            const address = URL.createObjectURL(new Blob([code], {type: "text/javascript"}));
            await import(address);
            URL.revokeObjectURL(address);
            return window.Plotly;
        };
        export default {initialize({model}) {
            window.semlibPlotly ??= load(model.get("code"));
        }}"""

    @classmethod
    @cache
    def shared(cls) -> "Plotly":
        """The one of this kernel."""
        return cls()


class Plot(anywidget.AnyWidget):
    """A figure of plotly, redrawn when another is given, as wide as there is room.

    plotly's FigureWidget would check every number anew, and load plotly.js for each figure.
    """

    figure = traitlets.Unicode('{"data": [], "layout": {}}').tag(sync=True)  # as JSON
    _esm = """export default {async render({model, el}) {
        while (!window.semlibPlotly) await new Promise((wait) => setTimeout(wait, 20));
        const Plotly = await window.semlibPlotly, plot = el.appendChild(document.createElement("div"));
        const save = () => Plotly.downloadImage(plot, {format: "svg"});
        const config = {
            displaylogo: false, showSendToCloud: false, plotlyServerURL: "",  // nothing is sent away
            edits: {shapePosition: true}, toImageButtonOptions: {scale: 2},
            modeBarButtonsToRemove: ["select2d", "lasso2d"],
            modeBarButtonsToAdd: [{name: "Download plot as an SVG", icon: Plotly.Icons.disk, click: save}],
        };
        const draw = () => {
            const {data, layout} = JSON.parse(model.get("figure"));
            plot.setAttribute("aria-label", layout.meta);
            return Plotly.react(plot, data, layout, config);
        };
        plot.setAttribute("role", "figure");
        model.on("change:figure", draw);
        await draw();
        let back;
        plot.on("plotly_click", ({points: [{data, customdata}]}) => {
            if (data.meta && customdata) model.send({clicked: [data.meta, customdata]});  // of a run
        });
        plot.on("plotly_relayout", (edit) => {
            const [, k] = Object.keys(edit).join().match(/^shapes\\[(\\d+)\\]/) ?? [];
            if (k === undefined) return;
            model.send({dragged: [plot.layout.shapes[k].name, plot.layout.shapes[k].x0]});
            clearTimeout(back);
            back = setTimeout(draw, 1000);  // back to where it was, if there it flags the same images
        });
        const size = new ResizeObserver(() => plot.offsetParent && Plotly.Plots.resize(plot));
        size.observe(el);
        return () => {
            clearTimeout(back);
            size.disconnect();
            model.off("change:figure", draw);
            Plotly.purge(plot);
        };
    }}"""

    def __init__(self, pointed: Callable[[dict[str, list]], None]):
        super().__init__()
        self.on_msg(lambda _, message, __: pointed(message))

    def draw(self, figure: dict[str, Any], *about: Any) -> None:
        """about: what the figure is of; a zoom stays while that does."""
        figure["layout"]["uirevision"] = str(about)
        self.figure = json.dumps(figure, cls=PlotlyJSONEncoder)


class Inspector:
    """Precision-recall curves of all finished runs in the experiment's outputs, opened at its
    profile and data set.

    In JupyterLab it is a widget; where no kernel runs (an executed notebook, a report) its first
    view is a page.
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self.outputs = experiment, experiment.folder.parent
        self._quiet, self._pages, self._images = False, {}, {}  # what was looked at stays in memory
        self.warning, self.said, self.html, self.saved = (widgets.HTML() for _ in range(4))
        self.box = widgets.VBox([Plotly.shared(), widgets.HTML(STYLE), self.warning]).add_class(
            "semlib"
        )
        self.tables: dict[str, list[store.Record]] = {}
        with self._warned():
            for folder in (path for path in sorted(self.outputs.glob("*")) if path.is_dir()):
                groups = grouped(store.collect(folder), experiment)
                self.tables |= {
                    f"{folder.name}: {title}": records for title, records in groups.items()
                }
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
            parts += [
                f'<img alt="Precision-recall curves" src="data:image/png;base64,{picture}">',
                self._table(),
            ]
        page = {
            "text/html": f"<div>{''.join(parts)}</div>",
            "text/plain": "The precision-recall inspector",
        }
        return self.box._repr_mimebundle_(**how) | page

    # --- what is looked at

    @property
    def page(self) -> Page:
        which = (self.table.value, self.beside.value, self.statistics.value)
        if which not in self._pages:
            with self._warned():
                beside = self.tables.get(self.beside.value, ())
                self._pages[which] = Page(
                    Results(self.tables[which[0]], self.statistics.value, beside, self.beside.value)
                )
        return self._pages[which]

    @property
    def choice(self) -> Choice:
        return Choice(*(control.value for control in self.lists))

    @property
    def share(self) -> float:
        return self.threshold.value / 100

    # --- building

    def _build(self) -> None:
        own = {title: (title.startswith(f"{self.experiment.profile}: "), records[0].dataset == self.experiment.dataset_name)
               for title, records in self.tables.items()}  # fmt: skip
        opened = [
            _one(
                "Table",
                "Runs of one data set with the same settings, by the folder in outputs/",
                self.tables,
            ),
            _one("Beside", "Another table of the same classes, to compare with", [ALONE]),
            _one(
                "Statistics",
                "Batch norm's when scoring: mixed, as trained, or over upright images alone",
                plan.STATISTICS,
            ),
        ]
        self.table, self.beside, self.statistics = opened
        self.table.value, self.statistics.value = (
            max(own, key=lambda title: own[title]),
            self.experiment.statistics,
        )
        self.lists = [
            _several(title) for title in ("Held-out classes", "Methods", "Scores", "Trials")
        ]
        told = (
            "Share of the test images that is flagged as anomalous: those with the highest scores"
        )
        limits = {"min": 0.01, "max": 100.0, "step": 0.1, "tooltip": told}
        self.threshold = widgets.BoundedFloatText(
            description="flag the top %", **_narrow("180px"), **limits
        )
        slider = widgets.FloatSlider(
            description="Threshold", readout=False, **_narrow("480px"), **limits
        )
        widgets.jslink(
            (slider, "value"), (self.threshold, "value")
        )  # in the browser: no echo overtakes a hand
        self.name = widgets.Text(
            description="Save as",
            tooltip="Name of the file, without its ending",
            **_narrow("300px"),
        )
        save = {"figure (PDF)": "pdf", "selection (CSV)": "csv"}
        buttons = [
            widgets.Button(description=text, tooltip="Save in the profile's folder", icon="save")
            for text in save
        ]
        for button in buttons:
            button.on_click(lambda pressed: self.save(save[pressed.description]))
        self.held_out = _one("Held out", "The held-out class of which there is more")
        self.sides = [
            _one(text, f"{text}: a method, a score and a trial") for text in ("Left", "Right")
        ]
        self.kinds = _several("Columns", KINDS, ("mean", "std", "difference", "paper"))
        self.sort = _one("Sort by", "The column that sorts the table", [CLASS])
        self.falling = widgets.Checkbox(True, description="highest first", indent=False)
        self.view = widgets.ToggleButtons(
            options=VIEWS, style={"button_width": "auto"}, tooltips=VIEWS
        )
        self.panels, self.matrices, self.bars, self.histograms = (
            Plot(self._pointed) for _ in range(4)
        )
        self.below, self._chooser = widgets.VBox(), _row(self.held_out, *self.sides)
        self._sorter = _row(
            self.kinds, self.sort, self.falling
        )  # built once: a control that is made anew loses the keyboard
        drawn = [
            *self.lists,
            self.threshold,
            self.held_out,
            *self.sides,
            self.kinds,
            self.sort,
            self.falling,
            self.view,
        ]
        for react, controls in {self._open: opened, self._draw: drawn}.items():
            for control in controls:
                control.observe(lambda _, react=react: self._quiet or react(), "value")
        rows = [
            _row(*opened),
            _row(*self.lists),
            _row(slider, self.threshold),
            self.said,
            self.panels,
        ]
        self.box.children += (*rows, _row(self.name, *buttons, self.saved), self.view, self.below)

    # --- reacting

    @contextmanager
    def _silence(self):
        """Controls that are set by other controls don't react."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _open(self) -> None:
        own = self.tables[self.table.value]
        alike = [
            title
            for title, other in self.tables.items()
            if other is not own and other[0].classes == own[0].classes
        ]
        with self._silence():
            _offer(self.beside, [ALONE, *alike])
            results = self.page.results
            for control, name in zip(self.lists, Choice._fields, strict=True):
                control.options = getattr(results, name)
                control.value = control.options[: 1 if name == "scores" else None]
            self.threshold.value = (
                round(100 * results.skew[results.classes[0]], 1) if results.classes else 10
            )
            self.name.value = file_name("pr_curves", results.dataset, results.statistics)
        self._draw()

    def _draw(self) -> None:
        try:
            self._redraw(self.choice)
        except ValueError as error:  # scores that were damaged or deleted meanwhile
            self.said.value = f"<p role='alert'>{escape(_short(error))}</p>"

    def _redraw(self, choice: Choice) -> None:
        if not all(choice) or self.page.results.selection(choice, self.share).empty:
            self.said.value = "<p role='status'>Choose at least one class, method, score and trial of what was run.</p>"
            return
        sides = [(f"{m}, {s}, trial {t}", (m, s, t)) for m, s, t in itertools.product(*choice[1:])]
        other = next((side for _, side in sides if side[0] != choice.methods[0]), sides[-1][1])
        with self._silence():
            _offer(self.held_out, choice.classes)
            _offer(self.sides[0], sides)
            _offer(self.sides[1], sides, other)
            _offer(self.sort, [CLASS, *map(" ".join, self.page.results.average_precisions(choice))])
        self.panels.draw(self.page.panels(choice, self.share), self.page, choice.classes)
        said = self.page.at_threshold(choice, self.share, ("method", "score")).to_html()
        self.said.value = f"<div role='status'>{said}</div>"
        self.below.children = self._shown()

    def _pointed(self, message: dict[str, list]) -> None:
        """Put the threshold to a point of a trial's curve that was clicked, or to where a
        histogram's line was dragged.
        """
        if "clicked" in message:
            (name, *run), (_, flagged, _, trial) = message["clicked"]
            self._flag(flagged, name, (*run, int(trial)))
        if "dragged" in message:
            k, place = message["dragged"]
            if one := self.page.results.ranked(self.held_out.value, *self.sides[int(k)].value):
                self._flag(max(one.curve.at(place).flagged, 1), self.held_out.value)

    def _flag(self, flagged: int, hold_out: str, side: Side | None = None) -> None:
        images = next(
            len(arrays["label"])
            for (name, _, _), arrays in self.page.results.arrays.items()
            if name == hold_out
        )
        with self._silence():
            self.threshold.value = (
                math.floor(1e6 * flagged / images) / 1e4
            )  # a little less flags as many
            self.held_out.value, self.sides[0].value = hold_out, side or self.sides[0].value
        self._draw()

    # --- the views below

    def _table(self) -> str:
        return self.page.average_precisions(
            self.choice, self.kinds.value, self.sort.value, self.falling.value
        ).to_html()

    def _shown(self) -> list[widgets.Widget]:
        page, choice, share, view = self.page, self.choice, self.share, self.view.value
        hold_out, sides = self.held_out.value, [control.value for control in self.sides]
        if view == "Histograms":
            self.histograms.draw(page.histograms(hold_out, sides, share), page, hold_out, sides)
            return [self._chooser, self.histograms]
        if view == "Confusions":
            self.matrices.draw(page.confusions(sides, choice), page, choice, sides)
            self.bars.draw(page.taken_for(hold_out, choice), page, choice, hold_out)
            return [self._chooser, self.matrices, self.bars]
        if view == "Images":
            self.html.value = "".join(
                page.images(hold_out, side, share, self._test(side)).to_html() for side in sides
            )
            return [self._chooser, self.html]
        if view == "Average precision":
            self.html.value = self._table()
            return [self._sorter, self.html]
        runs = styled(
            overview(self.tables), "What has run, and the settings in which the tables differ"
        )
        self.html.value = (
            page.at_threshold(choice, share) if view == "At the threshold" else runs
        ).to_html()
        return [self.html]

    def _test(self, side: Side) -> ImageSet | str:
        """The test images of a run, or why they can't be shown."""
        record = self.page.results.runs.get((self.held_out.value, side[0], side[2]))
        if record is None:
            return ""
        if record.test_digest not in self._images:
            self._images[record.test_digest] = images_of(record, self.experiment)
        return self._images[record.test_digest]

    # --- saving

    def save(self, ending: str) -> None:
        """Write the current figure (png, pdf) or selection (csv) into the profile's folder, and say
        where.
        """
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
            file.write(
                self.page.results.selection(self.choice, self.share).to_csv(index=False).encode()
            )
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
    return {
        "style": {"description_width": "auto"},
        "layout": {"width": width, "margin": "2px 14px 2px 0"},
    }


def _one(text: str, told: str, options: Iterable[Any] = ()) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=list(options), description=text, tooltip=told, **_narrow("auto")
    )


def _several(
    text: str, options: Iterable[Any] = (), value: Iterable[Any] = ()
) -> widgets.SelectMultiple:
    told = f"{text}: several with Ctrl or Shift"
    return widgets.SelectMultiple(
        description=text, tooltip=told, options=options, value=value, rows=5, **_narrow("auto")
    )


def _offer(control: widgets.Dropdown, options: Iterable[Any], start: Any = None) -> None:
    """Other options; the value stays if it is one of them."""
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    value = control.value if control.value in values else start or values[0]
    control.options, control.value = options, value


def _short(text: object) -> str:
    return str(text).replace(f"{ROOT}/", "")
