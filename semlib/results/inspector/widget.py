"""The controls. A change redraws what it touches: the curves and the open tab; another tab is made when it is opened."""

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import ipywidgets as widgets

from semlib.config import Experiment
from semlib.files import ROOT, file_name, save_atomically
from semlib.results.inspector.page import STYLE, Page, block, shown_columns
from semlib.results.inspector.results import Choice, Results, grouped, images_of
from semlib.runs import plan, store

TABS = ("Average precision", "At the threshold", "Images", "Taken for")
NOTHING = (
    "There are no finished runs in {}/ yet: run <code>make demo</code> (minutes) or a table's notebook, then this cell again."
)
UNSORTED = "class"


class Ticks:
    """A named group of check boxes; from five on with buttons for all and none."""

    def __init__(self, title: str, changed: Callable[[], None]):
        self.title, self._changed, self._quiet = title, changed, False
        self._boxes: dict[Any, widgets.Checkbox] = {}
        self._all, self._none = (self._button(text, ticked) for text, ticked in (("all", True), ("none", False)))
        self.box = _row()

    def _button(self, text: str, ticked: bool) -> widgets.Button:
        button = widgets.Button(description=text, tooltip=f"{self.title}: {text}", layout={"width": "64px"})
        button.on_click(lambda _: self.set(self._boxes if ticked else ()))
        return button

    def offer(self, names: Iterable[Any], ticked: Iterable[Any]) -> None:
        """Show these names; says nothing to `changed`."""
        how = {"indent": False, "description_allow_html": True, "layout": {"width": "auto", "margin": "0 14px 0 0"}}
        spoken = f'<span class="semlib-hidden">{self.title}: </span>'  # a screen reader hears "Trials: 0", not "0"
        told = {name: spoken + escape(str(name)) for name in names}
        self._boxes = {name: widgets.Checkbox(name in ticked, description=text, **how) for name, text in told.items()}
        for box in self._boxes.values():
            box.observe(self._ticked, "value")
        title = widgets.HTML(f'<span class="semlib-group">{self.title}</span>')
        buttons = [self._all, self._none] if len(self._boxes) > 4 else []
        self.box.children = [title, *self._boxes.values(), *buttons]

    @property
    def chosen(self) -> tuple:
        return tuple(name for name, box in self._boxes.items() if box.value)

    def set(self, names: Iterable[Any]) -> None:
        """Tick exactly these, as one change."""
        self._quiet = True
        for name, box in self._boxes.items():
            box.value = name in names
        self._quiet = False
        self._changed()

    def _ticked(self, _) -> None:
        if not self._quiet:
            self._changed()


class Inspector:
    """Precision-recall curves of all finished runs in the experiment's outputs, opened at its profile and data set.

    In JupyterLab it is a widget; where no kernel runs (an executed notebook, a report) its first view is a page.
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self.outputs = experiment, experiment.folder.parent
        self._quiet = True
        self._pages: dict[tuple[str, str, str], Page] = {}  # what was looked at stays in memory
        self._images: dict[tuple[str, str], Any] = {}
        self.warning = widgets.HTML()
        with self._warned():
            folders = [path for path in sorted(self.outputs.glob("*")) if path.is_dir()]
            found = {path.name: grouped(store.collect(path), experiment) for path in folders}
        self.profiles = {name: groups for name, groups in found.items() if groups}
        if self.profiles:
            self._build()
            self._open_profile()
        else:
            self.static = [widgets.HTML(STYLE), widgets.HTML(block(f"<p>{NOTHING.format(_short(self.outputs))}</p>"))]
            self.box = widgets.VBox([*self.static, self.warning])

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        page = "".join(part.value for part in [*self.static, self.warning])
        return self.box._repr_mimebundle_(**how) | {"text/html": page, "text/plain": "The precision-recall inspector"}

    # --- what is looked at

    @property
    def which(self) -> tuple[str, str]:
        return self.profile.value, self.table.value

    @property
    def page(self) -> Page:
        which = (*self.which, self.statistics.value)
        if which not in self._pages:
            with self._warned():
                self._pages[which] = Page(Results(self.profiles[self.profile.value][self.table.value], self.statistics.value))
        return self._pages[which]

    @property
    def choice(self) -> Choice:
        return Choice(*(ticks.chosen for ticks in self.ticks))

    @property
    def share(self) -> float:
        return self.threshold.value / 100

    # --- building

    def _build(self) -> None:
        start = self.experiment.profile if self.experiment.profile in self.profiles else next(iter(self.profiles))
        self.profile = _dropdown("Profile", "The folder in outputs/", list(self.profiles), start)
        self.table = _dropdown("Table", "Runs of one data set with the same settings")
        told = "Batch norm's statistics when scoring: mixed, as trained, or over upright training images alone"
        self.statistics = _dropdown("Statistics", told, list(plan.STATISTICS), self.experiment.statistics)
        self.statistics.observe(self._loud(self._open_table), "value")
        self.profile.observe(self._loud(self._open_profile), "value")
        self.table.observe(self._loud(self._open_table), "value")
        self.about, self.curves, self.said, self.saved = (widgets.HTML() for _ in range(4))
        self.ticks = [Ticks(title, self._loud(self._chosen)) for title in ("Held-out classes", "Methods", "Scores", "Trials")]
        chosen = _row(*(ticks.box for ticks in self.ticks[1:]))
        self._build_tabs()
        self.static = [widgets.HTML(STYLE), self.about, self.said, self.curves, self.tab.children[0].children[1]]
        top = _row(self.profile, self.table, self.statistics, self.about)
        head = [self.static[0], self.warning, top, self.ticks[0].box, chosen, self._threshold(), self.said]
        self.box = widgets.VBox([*head, self.curves, self._saving(), self.tab], layout={"overflow": "hidden"})

    def _threshold(self) -> widgets.Widget:
        told = "Share of the test images that is flagged as anomalous: those with the highest scores"
        limits = {"min": 0.1, "max": 100.0, "step": 0.1, "tooltip": told}
        how = {"style": {"description_width": "auto"}, "layout": {"width": "170px"}}
        self.threshold = widgets.BoundedFloatText(description="flag the top %", **how, **limits)
        slider = widgets.FloatSlider(readout=False, layout={"width": "420px"}, **limits)
        widgets.jslink((slider, "value"), (self.threshold, "value"))  # in the browser: no echo overtakes a hand
        self.threshold.observe(self._loud(self._redraw), "value")
        return _row(widgets.HTML('<span class="semlib-group">Threshold</span>'), slider, self.threshold)

    def _build_tabs(self) -> None:
        self.sort = _dropdown("Sort by", "The column that sorts the table", [UNSORTED], UNSORTED)
        self.falling = widgets.Checkbox(True, description="highest first", indent=False, tooltip="Sort the highest first")
        told = ("Held out", "Method", "Score", "Trial")
        self.focus = [_dropdown(text, f"{text} of the images that are shown") for text in told]
        for control in (self.sort, self.falling, *self.focus):
            control.observe(self._loud(self._fill), "value")
        controls = ([self.sort, self.falling], [], self.focus, [])
        rows = [_row(*c) for c in controls]
        self.tab = widgets.Tab([widgets.VBox([row, widgets.HTML()]) for row in rows], titles=TABS, selected_index=0)
        self.tab.observe(self._loud(self._fill), "selected_index")

    def _saving(self) -> widgets.Widget:
        self.name = widgets.Text(description="Save as", tooltip="Name of the file, without its ending")
        row = [self.name]
        for text, ending, what in (("figure", "png", "PNG"), ("figure", "pdf", "PDF"), ("selection", "csv", "CSV")):
            told = f"Save the current {text} as {what} in the profile's folder"
            button = widgets.Button(description=f"{text} ({what})", tooltip=told, icon="save")
            button.on_click(lambda _, ending=ending: self.save(ending))
            row.append(button)
        return _row(*row, self.saved)

    # --- reacting

    def _loud(self, react: Callable[[], None]) -> Callable[..., None]:
        """An observer that is deaf while controls are set by other controls."""

        def observer(*_: Any) -> None:
            if not self._quiet:
                react()

        return observer

    @contextmanager
    def _silence(self):
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _open_profile(self) -> None:
        groups = self.profiles[self.profile.value]
        with self._silence():
            self.table.options = list(groups)
            wanted = [title for title, records in groups.items() if records[0].dataset == self.experiment.dataset_name]
            self.table.value = next(iter([*wanted, *groups]))
        self._open_table()

    def _open_table(self) -> None:
        results = self.page.results
        offers = (results.classes, results.methods, results.scores, results.trials)
        with self._silence():
            for ticks, names in zip(self.ticks, offers, strict=True):
                ticks.offer(names, names if ticks.title != "Scores" else names[:1])
            for control, names in zip(self.focus, offers, strict=True):
                control.options = names
            if results.classes:
                self.threshold.value = round(100 * results.skew(results.classes[0]), 1)
            self.name.value = file_name("pr_curves", results.dataset, results.statistics)
        self.about.value = block(self.page.about())
        self._chosen()

    def _chosen(self) -> None:
        with self._silence():
            for control, chosen in zip(self.focus, self.choice, strict=True):
                if chosen and control.value not in chosen:
                    control.value = chosen[0]
            columns = [UNSORTED, *shown_columns(self.page.results.average_precisions(self.choice))]
            kept = self.sort.value if self.sort.value in columns else UNSORTED
            self.sort.options = columns
            self.sort.value = kept
        self._redraw()

    def _redraw(self) -> None:
        self.curves.value = block(self.page.panels(self.choice, self.share))
        self.said.value = block(self.page.summary(self.choice, self.share))
        self._fill()

    def _fill(self) -> None:
        """Make the open tab."""
        makers = (self._table, self._numbers, self._pictures, self._predictions)
        k = self.tab.selected_index or 0  # None only without tabs
        made = makers[k]() if all(self.choice) else ""
        self.tab.children[k].children[1].value = block(made)

    def _table(self) -> str:
        return self.page.average_precisions(self.choice, self.sort.value, self.falling.value)

    def _numbers(self) -> str:
        return self.page.at_threshold(self.choice, self.share)

    def _pictures(self) -> str:
        if self.which not in self._images:
            self.tab.children[2].children[1].value = block('<p class="note">Reading the images…</p>')
            self._images[self.which] = images_of(self.profiles[self.which[0]][self.which[1]][0], self.experiment)
        return self.page.images(tuple(control.value for control in self.focus), self.share, self._images[self.which])

    def _predictions(self) -> str:
        return self.page.taken_for(self.choice)

    # --- keeping

    def save(self, ending: str) -> None:
        """Write the current figure (png, pdf) or selection (csv) into the profile's folder, and say where."""
        name = re.sub(r"[^\w.-]+", "_", self.name.value) or "pr_curves"
        path = self.outputs / self.profile.value / f"{name}.{ending}"
        if not all(self.choice):
            self.saved.value = block('<p class="note">Nothing is chosen: nothing to save.</p>')
            return
        self.saved.value = block('<p class="note">Saving…</p>')
        try:
            save_atomically(path, lambda file: self._write(file, ending))
            said = f"Saved {escape(_short(path))}"
        except OSError as error:
            said = f"{escape(_short(path))} could not be saved: {escape(str(error.strerror))}"
        self.saved.value = block(f'<p role="status">{said}</p>')

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
        lines = "".join(f"<li>{escape(_relative(str(warning.message)))}</li>" for warning in caught)
        self.warning.value += block(f'<ul class="warning" role="alert">{lines}</ul>') if lines else ""


def _row(*parts: widgets.Widget) -> widgets.HBox:
    """Side by side, and below each other where the page is narrow."""
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})


def _dropdown(text: str, told: str, options: Iterable[Any] = (), value: Any = None) -> widgets.Dropdown:
    how = {"style": {"description_width": "auto"}, "layout": {"width": "auto", "margin": "2px 14px 2px 0"}}
    return widgets.Dropdown(options=list(options), value=value, description=text, tooltip=told, **how)


def _short(path: Path) -> str:
    return _relative(str(path))


def _relative(text: str) -> str:
    return text.replace(f"{ROOT}/", "")
