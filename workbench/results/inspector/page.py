"""What the inspector shows of a choice: plotly's figures as dicts, pandas' Stylers, and the PDF."""

import base64
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from PIL import Image

from workbench.experiment import Experiment
from workbench.results import image_map, plots, show
from workbench.results.inspector.selection import (
    WHICH,
    Choice,
    Images,
    Ranked,
    Results,
    Side,
    images_of,
    steps,
)
from workbench.runs.store import Record

LENGTHS = itertools.product((2, 4, 8), (6, 1, 10, 3, 15))  # of gaps and of strokes, pixels
DASHES = ("solid", *(f"{stroke}px,{gap}px" for gap, stroke in LENGTHS))
COLUMNS = 5  # panels in a row
ACROSS = 16  # images in a row, of both sides together
SHEET = 96  # selected images that are shown
SELECT = "Select images on the map with the lasso."
START = 0.05  # the precisions that axes fit begin at this recall: the first few jump
FEW = 3  # with more methods or scores than this their numbers do not stand over the panels
UNSEEN = "#aa3377"  # the held-out class, where colours are not the methods'
POINT = (
    "recall %{x:.3f}, precision %{y:.3f}<br>threshold %{customdata[0]:.6g}<br>"
    "flagged %{customdata[1]}, missed %{customdata[2]}<extra></extra>"
)
AXIS = {"gridcolor": "#80808040", "zeroline": False, "ticklabelstandoff": 3}
NUMBERS = {"precision": "{:.2%}", "recall": "{:.2%}", "flagged": "{:.6g}", "missed": "{:.4g}"}
ABOUT = """Average precision in %: mean and standard deviation over trials (of the average within a
trial first), and the difference to the first plain classification in points. FPR95: the share of
normal images at 95 % recall."""
Described = tuple[pd.DataFrame, np.ndarray]


class Mark(NamedTuple):
    """A test image that is shown wherever it is. test: the digest of the images that it is of."""

    hold_out: str
    image: int
    name: str
    test: str


class Page:
    """The views of one table. A method has one colour and a score one dash, whatever is chosen."""

    def __init__(self, results: Results):
        self.results = results
        keys: dict[str, str] = {}  # the first of a method has the colour that it has in all figures
        for name, record in results.first.items():
            keys[name] = name if record.method in keys.values() else record.method
        colours = plots.colours([*keys.values()])
        self.colours = {name: to_hex(colours[key]) for name, key in keys.items()}
        self.dashes = dict(zip(results.scores, itertools.cycle(DASHES), strict=False))
        self._curves = cache(self._draw_curves)
        self._layout = cache(self._lay_out)
        self.described = cache(self._describe)

    # --- precision-recall curves

    def panels(
        self, choice: Choice, share: float, whole: bool = False, mark: Mark | None = None
    ) -> dict[str, Any]:
        """A panel for each class: thin trials, their mean and its band, points at the threshold.

        whole: precision's axes go to 1, else to where curves are. mark: an image to show as stars.
        """
        traces = [*self._curves(choice)]
        points = self.results.selection(choice, share)
        for which, trials in points.groupby(WHICH, sort=False):
            markers = {"mode": "markers", "marker": {"size": 8}}  # in the line's colour
            traces.append(self._trace(choice, which) | _points(trials) | markers)
        if mark and mark.hold_out in choice.classes:
            curves = self.results.curves(choice)
            for row in curves[curves.hold_out == mark.hold_out].itertuples():
                side = (row.method, row.score, row.trial)
                if self.results.run(row.hold_out, side).test_digest == mark.test:
                    there = _points(row.ranking.at(mark.image).assign(trial=row.trial))
                    trace = self._trace(choice, (row.hold_out, row.method, row.score))
                    star = {"size": 15, "symbol": "star", "line": {"color": "#fff", "width": 1}}
                    traces.append(trace | there | {"mode": "markers", "marker": star})
        return {"data": traces, "layout": dict(self._layout(choice, whole))}

    def _draw_curves(self, choice: Choice) -> list[dict[str, Any]]:
        traces = []
        named = set()
        for which, curves in self.results.curves(choice).groupby(WHICH, sort=False):
            *trials, mean = self._curve(self._trace(choice, which), steps(curves))
            mean["showlegend"] = mean["name"] not in named
            named.add(mean["name"])
            traces += [*trials, mean]
        for k, name in enumerate(choice.classes, 1):
            skew = self.results.skew[name]
            guess: dict[str, Any] = {"x": [0, 1], "y": [skew, skew], "name": "guessing (the skew)"}
            guess |= {"xaxis": f"x{k}", "yaxis": f"y{k}", "legendgroup": "skew", "mode": "lines"}
            guess |= {"hovertemplate": "guessing: %{y:.2%}<extra></extra>", "showlegend": k == 1}
            traces.append(guess | {"line": {"color": "#888888", "dash": "1px,2px", "width": 1}})
        return traces

    def _trace(self, choice: Choice, which: Any) -> dict[str, Any]:
        """What the traces of a method and a score in a panel have in common. which: of WHICH."""
        name, method, score = which
        k = choice.classes.index(name) + 1
        label = escape(f"{method}, {score}")
        said = f"<b>{escape(name)}</b>, trial %{{customdata[3]}}<br>{label}<br>{POINT}"
        trace: dict[str, Any] = {"xaxis": f"x{k}", "yaxis": f"y{k}", "mode": "lines"}
        trace |= {"name": label, "legendgroup": label, "uirevision": label, "showlegend": False}
        trace |= {"meta": [name, method, score], "hoverinfo": "skip", "hovertemplate": said}
        # vh: a precision holds back to the recall before it, as in Eq. 4
        line = {"color": self.colours[method], "dash": self.dashes[score], "shape": "vh"}
        return trace | {"line": line}

    def _curve(self, trace: dict[str, Any], points: pd.DataFrame) -> Iterator[dict[str, Any]]:
        """The traces of a method and a score in a panel; points: the steps of its trials."""
        precision = points.groupby(points.index).precision
        mean = precision.mean().to_numpy()
        std = precision.std().to_numpy()
        x = np.append(0, points.index.unique())
        if points.trial.nunique() > 1:
            corners = x.repeat(2)[1:-1]
            low, high = ((mean + sign * std).clip(0, 1).repeat(2) for sign in (-1, 1))
            outline = {"x": np.append(corners, corners[::-1]), "y": np.append(high, low[::-1])}
            band = {"fill": "toself", "fillcolor": f"{trace['line']['color']}2a"}
            yield trace | outline | band | {"line": {"width": 0}}
        thin, thick = (trace["line"] | {"width": width} for width in (1, 2))
        for _, trial in points.groupby("trial"):
            yield trace | _points(trial) | {"line": thin, "opacity": 0.45}
        y = np.append(mean[0], mean)
        yield trace | {"x": x, "y": y, "line": thick}

    def _lay_out(self, choice: Choice, whole: bool) -> dict[str, Any]:
        across = min(COLUMNS, len(choice.classes))
        rows = math.ceil(len(choice.classes) / across)
        panel = 105 if rows > 1 else 220  # pixels
        gap = 40 + 12 * self._title(choice.classes[0], choice).count("<br>")
        curves = len(choice.methods) * len(choice.scores)
        legend = 42 + 29 * math.ceil((curves + 1) / 3)
        grid = {"rows": rows, "columns": across, "pattern": "independent", "xgap": 0.18}
        layout: dict[str, Any] = {
            "meta": {"said": "Precision-recall curves, whose numbers are in the tables"},
            "height": (panel + gap) * rows + legend + 20,
            "margin": {"l": 55, "r": 10, "t": gap + 20, "b": legend},
            "grid": grid | {"ygap": gap / (gap + panel)},
            "annotations": [],
        }
        points = [ranked.points.loc[START:] for ranked in self.results.curves(choice).ranking]
        highest = max(part.precision.max() for part in points)
        top = 1.02 if whole else min(1.02, 1.15 * highest)
        for k, name in enumerate(choice.classes, 1):
            below = "recall" if k + across > len(choice.classes) else ""
            left = "precision" if (k - 1) % across == 0 else ""
            x = _axis(below, range=[0, 1], matches="x")  # a zoom is of all
            y = _axis(left, range=[0, top], matches="y")
            layout |= {f"xaxis{k}": x, f"yaxis{k}": y}
            layout["annotations"].append(_heading(k, self._title(name, choice)))
        return image_map.LAYOUT | layout

    def _title(self, name: str, choice: Choice) -> str:
        """A class and, in the methods' colours, its average precision (%), one line per score."""
        lines = [f"<b>{escape(name)}</b>"]
        if max(len(choice.methods), len(choice.scores)) > FEW:
            return lines[0]
        for score in choice.scores:
            parts = [score] if len(choice.scores) > 1 else []
            for method in choice.methods:
                kinds = [(score, method, kind) for kind in ("mean", "std")]
                numbers = self.results.average_precisions(choice).reindex(columns=kinds).loc[name]
                text = show.mean_std(*numbers)
                parts.append(f'<span style="color:{self.colours[method]}">{text}</span>')
            lines.append(f'<span style="font-size:10px">{"  ".join(parts)}</span>')
        return "<br>".join(lines)

    @plots.styled
    def figure(self, choice: Choice, share: float) -> Figure:
        """The panels drawn by matplotlib, to be saved."""
        curves = self.results.curves(choice)
        precisions = [plots.precisions(ranking) for ranking in curves.ranking]
        curves = curves.assign(precisions=precisions, skew=curves["skew"] / 100)
        title = f"{self.results.dataset}, {self.results.statistics} statistics"
        title += "; average precision in %"
        figure = plots.curves_by_class(curves, choice.classes, self.colours, title)
        axes = dict(zip(choice.classes, figure.axes, strict=True))
        points: Any = self.results.selection(choice, share)
        for row in points.itertuples():
            point = (row.recall, row.precision, "o")
            axes[row.hold_out].plot(*point, ms=3.5, color=self.colours[row.method])
        return figure

    # --- the figures below

    def histograms(
        self, hold_out: str, sides: Sequence[Side], share: float, mark: Mark | None = None
    ) -> dict[str, Any]:
        """Scores of normal and anomalous test images, each side with its threshold to drag."""
        groups = {"normal": "#888888", f"{hold_out}, unseen": UNSEEN}
        layout: dict[str, Any] = {
            "meta": {
                "said": "Histograms of scores",
                "lines": [[hold_out, *side] for side in sides],
            },
            "height": 330,
            "margin": {"l": 60, "r": 10, "t": 60, "b": 70},
            "grid": {"rows": 1, "columns": len(sides), "pattern": "independent"},
            "barmode": "overlay",
            "shapes": [],
            "annotations": [],
        }
        traces = []
        arrows = []
        for k, side in enumerate(sides, 1):
            ranking = self.results.ranking(hold_out, *side)
            on = {"xaxis": f"x{k}", "yaxis": f"y{k}", "bingroup": f"x{k}", "showlegend": k == 1}
            for is_anomaly, (name, colour) in enumerate(groups.items()):
                chosen = (ranking.is_anomaly == is_anomaly) & np.isfinite(ranking.scores)
                look: dict[str, Any] = {"type": "histogram", "histnorm": "percent", "nbinsx": 60}
                look |= {"marker": {"color": colour, "opacity": 0.6}, "legendgroup": name}
                traces.append(on | look | {"name": escape(name), "x": ranking.scores[chosen]})
            x = dict.fromkeys(("x0", "x1"), ranking.flagging(share).threshold.item())
            line = {"type": "line", "line": {"color": "#e03030", "width": 3}, "y0": 0, "y1": 1}
            layout["shapes"].append(line | x | {"xref": f"x{k}", "yref": "paper"})
            left = "share of the images (%)" if k == 1 else ""
            layout |= {f"xaxis{k}": _axis("score"), f"yaxis{k}": _axis(left, type="log", dtick=1)}
            layout["annotations"].append(_heading(k, escape(titled(side))))
            is_marked = mark and self.results.run(hold_out, side).test_digest == mark.test
            if is_marked and np.isfinite(ranking.scores[mark.image]):
                at = {"x": ranking.scores[mark.image].item(), "y": 0.7, "xref": f"x{k}"}
                look = {"yref": "paper", "ax": 0, "ay": -45, "arrowhead": 2, "arrowwidth": 2}
                arrows.append(at | look | {"text": escape(mark.name)})
        layout["annotations"] += arrows
        return {"data": traces, "layout": image_map.LAYOUT | layout}

    # --- the map

    def _describe(self, hold_out: str, sides: Sequence[Side], names: tuple) -> Described:
        """The test images of one or two runs as a table, and what stands beside each on a map."""
        runs = {titled(side): run for side, run in self._alike(hold_out, sides).items()}
        table = image_map.described(runs, self.results.statistics, names)
        return table, image_map.texts(table)

    def groups(self, hold_out: str, sides: Sequence[Side], share: float) -> np.ndarray:
        alike = self._alike(hold_out, sides)
        return image_map.groups_of([self.results.ranking(hold_out, *s) for s in alike], share)

    def _alike(self, hold_out: str, sides: Sequence[Side]) -> dict[Side, Record]:
        """The runs of the sides that have the first one's test images: tables may have others."""
        runs = {side: self.results.run(hold_out, side) for side in sides}
        test = runs[sides[0]].test_digest
        return {side: run for side, run in runs.items() if run.test_digest == test}

    # --- tables

    def average_precisions(self, choice: Choice, by: str, falling: bool) -> Styler:
        """The table sorted by one of its columns; the best mean of each score in bold."""
        table = self.results.average_precisions(choice)
        classes = table.iloc[:-1]
        average = table.iloc[-1:]
        for column in table:
            if " ".join(column) == by:
                classes = classes.sort_values(column, ascending=not falling, kind="stable")
        rows = pd.concat([classes, average]) if len(classes) > 1 else classes
        style = captioned(rows, f"{ABOUT} {self.results.lacking(choice)}")
        for score in choice.scores if len(choice.methods) > 1 else ():
            means = [column for column in table if column[::2] == (score, "mean")]
            style.highlight_max(means, axis=1, props="font-weight: bold")
        formats = {c: "{:+.2f}" if c[-1] == "difference" else "{:.2f}" for c in table}
        style.format(formats, na_rep="")
        return style

    def summary(self, choice: Choice, share: float) -> str:
        """What the threshold does, in a line: means over the same classes and trials for all."""
        rows = self.results.selection(choice, share)
        classes, trials = self.results.comparable(choice)
        rows = rows[rows.hold_out.isin(classes) & rows.trial.isin(trials)]
        parts = [f"Flagging the most anomalous {100 * share:.3g} % of the test images"]
        means = rows.groupby(WHICH[1:], sort=False)[[*NUMBERS]].mean()
        for (method, score), mean in means.iterrows():
            numbers = ", ".join(f"{name} {NUMBERS[name].format(mean[name])}" for name in NUMBERS)
            name = escape(f"{method}, {score}")
            parts.append(f'<b style="color:{self.colours[method]}">{name}</b> {numbers}')
        there = self.results
        same = f"Means over the same runs for all: {len(classes)} of {len(there.classes)} classes"
        same += f", {len(trials)} of {len(there.trials)} trials ({', '.join(map(str, trials))})."
        return f"{'; '.join(parts)}. {same} {escape(self.results.lacking(choice))}"

    def at_threshold(self, choice: Choice, share: float) -> Styler:
        """Precision, recall, flagged and missed images of each class: means over its trials."""
        rows = self.results.selection(choice, share).groupby(WHICH, sort=False)
        title = f"Flagging the most anomalous {100 * share:.3g} % of the test images. "
        title += self.results.lacking(choice)
        numbers = NUMBERS | {"anomalies": "{:.0f}"}
        table = rows[[*numbers]].mean().assign(trials=rows.size())
        return captioned(table, title, numbers)

    def confusions(self, choice: Choice) -> Styler:
        """What the images of each held-out class are predicted as (%), by each method."""
        rows = {}
        for which, rankings in self.results.curves(choice).groupby(WHICH[:2], sort=False).ranking:
            predicted = np.concatenate([ranked.predicted[ranked.is_anomaly] for ranked in rankings])
            rows[which] = np.bincount(predicted, minlength=len(self.results.known))
        counts = pd.DataFrame(rows, list(self.results.known)).T
        shares = 100 * counts.div(counts.sum(axis=1), axis=0)
        title = "The known classes that each held-out class is taken for: % of its test images"
        return captioned(shares, title, "{:.0f}").bar(color=f"{UNSEEN}66", vmin=0, vmax=100)

    def images(
        self,
        hold_out: str,
        sides: Sequence[Side],
        share: float,
        experiment: Experiment,
        worst: bool = True,
        number: int = 1,
    ) -> tuple[str, int]:
        """A page of rows of images for each side, and how many pages there are.

        Those of the first side's test images can be clicked.
        """
        across = ACROSS // len(sides)
        rankings = [self.results.ranking(hold_out, *side) for side in sides]
        pages = math.ceil(max(len(ranking.scores) for ranking in rankings) / across)
        start = (min(number, pages) - 1) * across
        alike = self._alike(hold_out, sides)
        parts = []
        for side, ranking in zip(sides, rankings, strict=True):
            caption = f"{titled(side)}, {hold_out} held out"
            test = images_of(self.results.run(hold_out, side), experiment)
            if test.why:
                parts.append(sheet({}, f"{caption}: {test.why}"))
                continue
            cells = {}
            for said, members in ranking.examples(share, worst).items():
                shown = members[start : start + across]
                cells[f"{said} ({len(members)})"] = self._cells(ranking, shown, test, side in alike)
            parts.append(sheet(cells, caption))
        return f'<div class="sides">{"".join(parts)}</div>', pages

    def _cells(self, ranking: Ranked, members: np.ndarray, test: Images, to_click: bool):
        """Each image with its class, the class that it is taken for, and its score."""
        for k in members:
            classes = [self.results.known[array[k]] for array in (ranking.label, ranking.predicted)]
            number = f"{ranking.scores[k]:.4g}"
            name = test.names[k] if test.names else f"test image {k}"
            told = f"{name}: {classes[0]}, predicted {classes[1]}, score {number}"
            short = name[-22:] if test.names else classes[0]
            shown = picture(test.data.test.images[k], told, k if to_click else None)
            yield f"{shown}{escape(f'{short} → {classes[1]}')}<br>{number}"

    def selected(self, table: pd.DataFrame, images: np.ndarray) -> str:
        """A sheet of the images that were selected on the map; table: their rows of `described`."""
        if table.empty:
            return f"<p>{SELECT}</p>"
        cells = []
        anomalies_first = table.iloc[np.argsort(table.group == "normal", kind="stable")]
        for k, row in anomalies_first[:SHEET].iterrows():
            shown = picture(images[k], row["image"], k)
            cells.append(f"{shown}{escape(row['image'])}<br>{escape(row['class'])}")
        rows = {f"from {k + 1}": cells[k : k + ACROSS] for k in range(0, len(cells), ACROSS)}
        more = f", of which {SHEET} are shown" if len(table) > SHEET else ""
        return sheet(rows, f"Selected images: {len(table):,}{more}")


def _points(points: pd.DataFrame) -> dict[str, Any]:
    """Points of thresholds, to hover over and to click."""
    custom = points[["threshold", "flagged", "missed", "trial"]].to_numpy(float)
    x = points.recall.to_numpy()
    y = points.precision.to_numpy()
    return {"x": x, "y": y, "customdata": custom, "hoverinfo": "all"}


def _axis(title: str, **how: Any) -> dict[str, Any]:
    return AXIS | {"title": {"text": title, "standoff": 4}} | how


def _heading(k: int, text: str) -> dict[str, Any]:
    """A note above the k-th panel."""
    place = {"x": 0.5, "xref": f"x{k} domain", "y": 1, "yref": f"y{k} domain"}
    return place | {"text": text, "yanchor": "bottom", "showarrow": False}


def titled(side: Side) -> str:
    return "{}, {}, trial {}".format(*side)


def captioned(table: pd.DataFrame, caption: str, how: Any = None) -> Styler:
    """A table with a caption; how: format strings by column."""
    style = table.style.set_caption(escape(caption))
    style.format(how, na_rep="").format_index(escape="html").format_index(escape="html", axis=1)
    return style


def sheet(rows: Mapping[str, Iterable[str]], caption: str) -> str:
    """Rows of images as a table."""
    table = pd.DataFrame({said: pd.Series([*cells], dtype=object) for said, cells in rows.items()})
    return captioned(table.fillna("").T, caption).hide(axis="columns").to_html()


def picture(image: np.ndarray, told: str, k: int | None, most: int = 128) -> str:
    """A test image (C, H, W) as an element whose pixels are in itself. k: as what it is clicked."""
    small = Image.fromarray(plots.pixels(image))
    small.thumbnail((most, most))
    file = io.BytesIO()
    small.save(file, "png", compress_level=1)
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    told = escape(told)
    to_click = "" if k is None else f'data-image="{k}" tabindex="0"'
    return f'<img alt="{told}" title="{told}" {to_click} src="{source}">'
