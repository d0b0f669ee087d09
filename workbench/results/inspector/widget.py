"""The inspector's controls. A change redraws the curves and the view below them that is open."""

import base64
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import traitlets
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from semlib.datasets import DataError
from workbench.experiment import Experiment
from workbench.files import ROOT, file_name, result, save_atomically
from workbench.results import image_map, tables
from workbench.results.inspector import selection
from workbench.results.inspector.page import FEW, SELECT, Described, Mark, Page, picture, titled
from workbench.results.inspector.selection import Choice, Images, Results, Side
from workbench.runs import plan, store

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
NOTHING = "There are no finished runs in {}/ yet: run make demo (minutes) or a table's notebook."
COMPUTING = "A map of 10,000 images takes half a minute, by t-SNE minutes; controls wait."
ABOUT_IMAGE = "Click an image, or a point of a curve or of the map, to see it here."
CHOOSE = "Choose at least one class, method, score and trial of what was run."
VIEWS = ("Average precision", "At the threshold", "Histograms", "Images", "Map", "Confusions")
SAVED = {"figure (PDF)": ".pdf", "selection (CSV)": ".csv", "lasso (CSV)": "-lasso.csv"}
MANY = 30  # classes, of which more are not drawn unasked
Rows = tuple[list[widgets.Widget], list[widgets.Widget]]  # controls, and what they change


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
    sheet = traitlets.Bytes().tag(sync=True)  # a JPEG of thumbnails

    def draw(self, figure: dict[str, Any], *about: Any) -> None:
        """about: what the figure is of; a zoom stays while that does."""
        figure["layout"] |= {"uirevision": str(about), "editrevision": False}
        self.figure = json.dumps(figure, cls=PlotlyJSONEncoder)


class Table(anywidget.AnyWidget):
    """HTML whose images can be clicked."""

    _esm = HERE / "table.js"
    value = traitlets.Unicode().tag(sync=True)


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
        self.warning, self.said, self.saved, self.large = (widgets.HTML() for _ in range(4))
        self.html = Table()
        # by the digest of the test images: the one that is shown large, and those that are selected
        self._chosen: dict[str, int] = {}
        self._lasso: dict[str, list[int]] = {}
        self.sheet_of = ""  # the test images whose thumbnails the map has
        self.box = widgets.VBox([shared(), self.warning, self.said]).add_class("semlib")
        self.tables: dict[str, list[store.Record]] = {}
        # the experiment's profile comes first, and is opened
        folders = [path for path in self.outputs.glob("*") if path.is_dir()]
        with self._warned():
            for folder in sorted(folders, key=lambda path: (path != experiment.folder, path)):
                tables = selection.grouped(store.collect(folder), experiment)
                self.tables |= {f"{folder.name}: {title}": table for title, table in tables.items()}
        wanted = [title for title in self.tables if title.startswith(f"{experiment.profile}: ")]
        if self.tables and not wanted:
            found = sorted({title.partition(": ")[0] for title in self.tables})
            said = f"{_short(experiment.folder)}/ has no finished runs; profiles that have some: "
            self.warning.value += f"<p role='alert'>{escape(said + ', '.join(found))}</p>"
        if self.tables:
            self._build(wanted or [*self.tables])
            self._react(self._open)
        else:
            self.said.value = f"<p>{NOTHING.format(escape(_short(self.outputs)))}</p>"

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        parts = [f"<style>{STYLE.read_text()}</style>", self.said.value, self.warning.value]
        if self.tables and not self.page.results.curves(self.choice).empty:
            self._write(file := io.BytesIO(), ".png")
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

    def _build(self, wanted: list[str]) -> None:
        """wanted: the tables of which one is opened, of the experiment's data set if there is."""
        e = self.experiment
        drop_down = widgets.Dropdown
        options = [(f"{title}, runs: {len(runs)}", title) for title, runs in self.tables.items()]
        self.table = drop_down(description="Table", options=options)
        own = [title for title in wanted if self.tables[title][0].dataset == e.dataset_name]
        self.table.value = (own or wanted)[0]
        self.beside = drop_down(description="Beside", options=["nothing"])
        self.statistics = drop_down(description="Statistics", options=[*plan.STATISTICS])
        usual = self.tables[self.table.value][0].statistics
        self.statistics.value = e.statistics if "statistics" in e.model_fields_set else usual
        lists = ("Held-out classes", "Methods", "Scores", "Trials")
        self.lists = [widgets.SelectMultiple(description=text, rows=4) for text in lists]
        limits = {"max": 100.0, "step": 0.1}
        self.slider = widgets.FloatSlider(description="Threshold", readout=False, **limits)
        self.threshold = widgets.BoundedFloatText(description="flag the top %", min=0.01, **limits)
        widgets.jslink((self.threshold, "value"), (self.slider, "value"))  # in the browser, at once
        toggles: dict[str, Any] = {"style": {"button_width": "auto"}}
        self.zoom = widgets.ToggleButtons(options=["fit", "whole"], **toggles)
        self.view = widgets.ToggleButtons(options=VIEWS, **toggles)
        self.held_out = drop_down(description="Held out")
        self.sides = [drop_down(description=text) for text in ("Left", "Right")]
        self.sort = drop_down(description="Sort by", options=["class"])
        self.falling = widgets.Checkbox(True, description="highest first", indent=False)
        self.first = drop_down(description="First", options=["at the threshold", "the worst"])
        self.number = widgets.BoundedIntText(1, description="Page", min=1, max=1)
        self.plane = drop_down(description="Plane", options=image_map.PLANES)
        self.name = widgets.Text(description="Save as")
        self.panels, self.histograms, self.map = (Plot() for _ in range(3))
        self._arrange()

    def _arrange(self) -> None:
        """Lay the controls out, and react to them."""
        row = widgets.HBox
        every = [_button(text, self._choose_classes, text) for text in ("all", "none")]
        saves = [_button(text, self.save, ending, "save") for text, ending in SAVED.items()]
        # built once: a control that is made anew would lose the keyboard
        self._sides = row([self.held_out, *self.sides])
        self._sorter = row([self.sort, self.falling])
        self._pager = row([*self._sides.children, self.first, self.number])
        self._plane = row([*self._sides.children, self.plane])
        self.controls = widgets.VBox()
        self.below = widgets.VBox()
        opened = [self.table, self.beside, self.statistics]
        rows: list[widgets.Widget] = [row(opened)]
        rows += [row([self.lists[0], widgets.VBox(every), *self.lists[1:]])]
        rows += [self.said, row([self.slider, self.threshold, self.zoom]), self.panels]
        rows += [self.view, self.controls]
        rows += [row([self.below, self.large]).add_class("beside")]
        rows += [row([self.name, *saves, self.saved])]
        self.box.children = (*self.box.children[:2], *rows)
        drawn = [*self.lists, self.threshold, self.zoom, self.view, *self._sides.children]
        drawn += [*self._sorter.children, self.first, self.number, self.plane]
        for react, controls in ((self._open, opened), (self._draw, drawn)):
            for control in controls:
                control.observe(lambda _, react=react: self._react(react), "value")
        for shown in (self.panels, self.histograms, self.map, self.html):
            shown.on_msg(lambda _, message, __: self._react(self._told, *message))

    # --- reacting

    def _react(self, react: Callable, *message: Any) -> None:
        """Controls that are set by this do not react."""
        if self._busy:
            return
        self._busy = True
        try:
            react(*message)
        except ValueError as error:  # scores that were damaged or deleted meanwhile, no weights
            self.said.value = f"<p role='alert'>{escape(_short(error))}</p>"
        finally:
            self._busy = False

    def _open(self) -> None:
        """Offer what the table has; at first everything is chosen, but of the scores one."""
        classes = self.tables[self.table.value][0].classes
        alike = [title for title, table in self.tables.items() if table[0].classes == classes]
        alike.remove(self.table.value)
        _offer(self.beside, ["nothing", *alike])
        self._chosen.clear()
        self._lasso.clear()
        self.sides[1].options = ()  # so that it begins with another method than the left
        results = self.page.results
        most = {"scores": 1, "classes": MANY}
        most |= {"methods": FEW} if self.beside.value == "nothing" else {}
        for control, name in zip(self.lists, Choice._fields, strict=True):
            control.options = getattr(results, name)
            control.value = control.options[: most.get(name)]
        for name in results.classes[:1]:
            self.threshold.value = round(100 * results.skew[name], 1)
        self.name.value = file_name("pr_curves", results.dataset, results.statistics)
        self._draw()

    def _draw(self) -> None:
        page = self.page
        choice = self.choice
        curves = page.results.curves(choice)
        for shown in (self.panels, self.below):  # else they would show the choice before
            shown.layout.display = "none" if curves.empty else None
        if curves.empty:
            self.said.value = f"<p role='status'>{CHOOSE}</p>"
            return
        _offer(self.held_out, curves.hold_out.unique())
        runs = curves[curves.hold_out == self.held_out.value][["method", "score", "trial"]]
        sides = [*runs.itertuples(index=False, name=None)]
        options = [(titled(side), side) for side in sides]
        _offer(self.sides[0], options, *self._with_weights(sides)[:1])
        left = self.sides[0].value
        others = [side for side in sides if side[0] != left[0]]
        others.sort(key=lambda side: side[1:] != left[1:])
        _offer(self.sides[1], options, *others[:1])
        _offer(self.sort, ["class", *map(" ".join, page.results.average_precisions(choice))])
        mark = self._show()
        whole = self.zoom.value == "whole"
        figure = page.panels(choice, self.share, whole, mark)
        self.panels.draw(figure, page, choice.classes, whole)
        controls, shown = self._below(page, choice, self.view.value, mark)
        self.controls.children = controls
        self.below.children = shown
        self.said.value = f"<div role='status'>{page.summary(choice, self.share)}</div>"

    def _choose_classes(self, which: str) -> None:
        self.lists[0].value = self.lists[0].options if which == "all" else ()

    def _told(self, what: str, *message: Any) -> None:
        """A point, an image or images of a view were clicked, dragged or selected."""
        if what == "point":
            self._point(*message)
        elif what == "image":
            (self._chosen[self._left().test_digest],) = message
        else:  # the image that is shown large has two points
            self._lasso[self._left().test_digest] = [*dict.fromkeys(message)]
        self._draw()

    def _point(self, hold_out: str, method: str, score: str, trial: float, *at: Any) -> None:
        """Set the threshold to a point of a curve that was clicked, or a line that was dragged."""
        threshold, clicked = at
        side = (method, score, int(trial))
        ranking = self.page.results.ranking(hold_out, *side)
        flagged = max((ranking.scores >= threshold).sum(), 1)
        self.threshold.value = math.floor(1e6 * flagged / len(ranking.scores)) / 1e4
        self.held_out.value = hold_out
        if clicked:
            _offer(self.sides[0], [("", side)])
            here = np.flatnonzero(ranking.scores == threshold).tolist()
            image = max(here, key=lambda k: ranking.is_anomaly[k])
            self._chosen[self._left().test_digest] = image

    def _show(self) -> Mark | None:
        """Show the chosen image large; what marks it on the curves and in the histograms."""
        test = self._left().test_digest
        image = self._chosen.get(test)
        self.large.value = ABOUT_IMAGE
        if image is None:
            return None
        table, texts = self._described()
        mark = Mark(self.held_out.value, image, table["image"][image], test)
        here = self._images()
        shown = "" if here.why else picture(here.data.test.images[image], mark.name, image)
        among = f"of {len(table):,} images, {escape(mark.hold_out)} held out"
        self.large.value = f"<div role='status'>{shown}<p>{texts[image]}<br>{among}</p></div>"
        return mark

    # --- the view below

    def _chosen_sides(self) -> tuple[Side, ...]:
        return tuple(dict.fromkeys(side.value for side in self.sides))

    def _with_weights(self, sides: Sequence[Side]) -> list[Side]:
        """Those of which there can be a map."""
        runs = {side: self.page.results.run(self.held_out.value, side) for side in sides}
        return [side for side, run in runs.items() if (run.run_home / "weights.pt").exists()]

    def _left(self) -> store.Record:
        return self.page.results.run(self.held_out.value, self.sides[0].value)

    def _images(self) -> Images:
        return selection.images_of(self._left(), self.experiment)

    def _described(self) -> Described:
        return self.page.described(self.held_out.value, self._chosen_sides(), self._images().names)

    def _groups(self) -> np.ndarray:
        return self.page.groups(self.held_out.value, self._chosen_sides(), self.share)

    @property
    def selected(self) -> pd.DataFrame:
        """The images that were selected on the map, a row each: class, group, scores and ranks."""
        if not self._lasso:
            return pd.DataFrame()
        images = self._lasso.get(self._left().test_digest, [])
        return self._described()[0].assign(group=self._groups()).iloc[images]

    def _below(self, page: Page, choice: Choice, view: str, mark: Any) -> Rows:
        hold_out = self.held_out.value
        sides = self._chosen_sides()
        if view == "Histograms":
            figure = page.histograms(hold_out, sides, self.share, mark)
            self.histograms.draw(figure, page, hold_out, sides)
            return [self._sides], [self.histograms]
        if view == "Map":
            return self._map(mark)
        if view == "Images":
            how = (self.share, self.experiment, self.first.value == "the worst", self.number.value)
            self.html.value, self.number.max = page.images(hold_out, sides, *how)
            return [self._pager], [self.html]
        controls: list[widgets.Widget] = []
        if view == "Average precision":
            controls = [self._sorter]
            table = page.average_precisions(choice, self.sort.value, self.falling.value)
        elif view == "At the threshold":
            table = page.at_threshold(choice, self.share)
        else:
            table = page.confusions(choice)
        self.html.value = table.to_html()
        return controls, [self.html]

    def _map(self, mark: Mark | None) -> Rows:
        """The test images in a plane of the left run's features, and those that are selected."""
        record = self._left()
        here = self._images()
        how = (self.plane.value, self.statistics.value)
        if not image_map.kept_as(record, *how).exists():
            self.html.value = f"<p role='status'>{COMPUTING}</p>"
        try:
            if here.why:
                raise DataError(here.why)
            places = image_map.places_of(record, here.data, *how)
        except ValueError as error:
            kept = self._with_weights([side for _, side in self.sides[0].options])
            do = f"Runs of this class with weights: {', '.join(map(titled, kept)) or 'none'}. "
            self.html.value = f"<p role='alert'>{escape(do + _short(error))}</p>"
            return [self._plane], [self.html]
        images = here.data.test.images
        if self.sheet_of != record.test_digest:
            self.sheet_of = record.test_digest
            self.map.sheet = image_map.sheet(images)
        chosen = mark.image if mark else None
        figure = image_map.figure(places, self._groups(), self._described()[1], chosen)
        figure["layout"] |= {"dragmode": "lasso", "height": 420}
        self.map.draw(figure, record.home, *how)
        self.html.value = self.page.selected(self.selected, images)
        return [self._plane], [self.map, self.html]

    # --- saving

    def save(self, ending: str) -> None:
        """Save the figure (.png, .pdf) or a table (of SAVED) in the profile's folder."""
        name = re.sub(r"[^\w.-]+", "_", self.name.value) or "pr_curves"
        path = result(self.outputs / self.table.value.partition(":")[0] / f"{name}{ending}")
        try:
            if self.page.results.curves(self.choice).empty:
                said = CHOOSE
            elif ending == SAVED["lasso (CSV)"] and self.selected.empty:
                said = SELECT
            else:
                save_atomically(path, lambda file: self._write(file, ending))
                said = f"Saved {_short(path)}"
        except OSError as error:
            said = f"{_short(path)} could not be saved: {error.strerror}"
        self.saved.value = f"<p role='status'>{escape(said)}</p>"

    def _write(self, file: BinaryIO, ending: str) -> None:
        if ending.endswith("csv"):
            rows = self.page.results.selection(self.choice, self.share)
            table = self.selected if ending == SAVED["lasso (CSV)"] else rows
            file.write(tables.csv_text(table, index=False).encode())
        else:
            figure = self.page.figure(self.choice, self.share)
            figure.savefig(file, format=ending.lstrip("."))
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


def _button(text: str, react: Callable, what: str, icon: str = "") -> widgets.Button:
    button = widgets.Button(description=text, icon=icon)
    button.on_click(lambda _: react(what))
    return button


def _offer(control: widgets.Dropdown, options: Iterable[Any], start: Any = None) -> None:
    """Other options; the value stays if it is one of them, else it is start or the first."""
    options = list(options)
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    value = control.value if control.value in values else start or values[0]
    control.options = options
    control.value = value


def _short(text: object) -> str:
    return str(text).replace(f"{ROOT}/", "")
