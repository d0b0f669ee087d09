"""What the inspector shows: plotly's figures, pandas' Stylers, and the matplotlib figure that is saved."""

import base64
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from html import escape, unescape
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from PIL import Image

from semlib.datasets import ImageSet
from semlib.results import plots, show
from semlib.results.curves import Point
from semlib.results.inspector.results import WHICH, Choice, Results

DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (9, 3)), "longdashdot": (0, (9, 3, 2, 3))}
ACROSS, COLUMNS, FEW = 16, 5, 3  # images a row, panels a row, methods and scores whose numbers stand over a panel
NUMBERS = {"precision": "{:.2%}", "recall": "{:.2%}", "flagged": "{:.6g}", "missed": "{:.4g}", "anomalies": "{:.0f}"}
POINT = "recall %{x:.3f}, precision %{y:.3f}<br>threshold %{customdata[0]:.6g}<br>"
POINT += "flagged %{customdata[1]}, missed %{customdata[2]}<extra></extra>"
TRACE = {"type": "scatter", "mode": "lines", "fill": "none", "opacity": 1, "customdata": None, "hoverinfo": "skip"}
TRACE |= {"showlegend": False, "visible": True, "legendgroup": "skew"}
CLEAR = {"paper_bgcolor": "#0000", "plot_bgcolor": "#0000", "hovermode": "closest", "uirevision": True}  # on light and dark
LEGEND = {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "title": None}
SEEN = "whose numbers are in the tables"  # to a screen reader
AXIS = {"gridcolor": "#80808040", "zeroline": False, "ticklabelstandoff": 3}
ABOUT = """Average precision in %: mean and standard deviation over trials (the average over classes within a trial first),
95 % interval from low to high (a class: other test images, given the networks; the average: other classes), difference to the
first plain classification in points. FPR95: of normal images at 95 % recall."""
UNSEEN = "#aa3377"  # the colour of the held-out class where it is not a method's
Side = tuple[str, str, int]  # a method, a score and a trial, to set beside another

STYLE = """<style>
.semlib, .semlib .widget-html-content {color: var(--jp-ui-font-color1, #222)}
.semlib :is([class$=tick], .infolayer, .heatmap-label) text {fill: var(--jp-ui-font-color1, #222) !important}
.semlib .widget-html-content {overflow-x: auto}
.semlib table {border-collapse: collapse; font-variant-numeric: tabular-nums; line-height: 1.5}
.semlib caption {width: 760px; text-align: left; padding: 4px 0; color: var(--jp-ui-font-color2, #555)}
.semlib :is(th, td) {padding: 2px 9px; text-align: right; vertical-align: top} .semlib tr:hover {background: #8882}
.semlib img {width: 64px; height: 64px; object-fit: contain; image-rendering: pixelated; display: block; margin: auto}
.semlib td:has(img) {font-size: 11px; line-height: 1.2; text-align: center; padding: 2px 3px; min-width: 64px}
.semlib [role=alert] {background: #fff4d6; color: #5c4400; padding: 6px 12px}
</style>"""  # plotly knows no theme of JupyterLab: what it writes is painted here


class Page:
    """The views of one table: a colour for each method and a dash for each score, the same whatever is chosen."""

    def __init__(self, results: Results):
        self.results = results
        self.colours = {name: to_hex(rgb) for name, rgb in plots.colours(results.methods).items()}
        self._drawn: dict[tuple, list[dict[str, Any]]] = {}  # what no threshold changes
        self.dashes = dict(zip(results.scores, itertools.cycle(DASHES), strict=False))

    # --- figures

    def panels(self, choice: Choice, share: float) -> dict[str, Any]:
        """Precision-recall curves, a panel a class: trials thin, their mean with its band, and markers at the threshold."""
        across, data = min(COLUMNS, len(choice.classes)), []
        rows, small = -(-len(choice.classes) // across), max(len(choice.methods), len(choice.scores)) <= FEW
        plot, gap = 180 if across > 3 else 330, 52 + 12 * len(choice.scores) * small  # pixels
        grid = {"rows": rows, "columns": across, "pattern": "independent", "xgap": 0.18, "ygap": gap / (gap + plot)}
        layout: dict[str, Any] = CLEAR | {
            "grid": grid,
            "height": (plot + gap) * rows + 60,
            "meta": f"Precision-recall curves, {SEEN}",
        }
        layout |= {"legend": LEGEND, "margin": {"l": 45, "r": 10, "t": gap + 20, "b": 40}, "annotations": []}
        for k, name in enumerate(choice.classes):
            n, first = str(k + 1) if k else "", k == 0
            on, below, left = {"xaxis": f"x{n}", "yaxis": f"y{n}"}, k + across >= len(choice.classes), k % across == 0
            layout[f"xaxis{n}"] = AXIS | {"range": [0, 1], "title": {"text": "recall" * below, "standoff": 4}}
            layout[f"yaxis{n}"] = AXIS | {"range": [0, 1.02], "title": {"text": "precision" * left, "standoff": 4}}
            over = {"showarrow": False, "xref": f"x{n} domain", "yref": f"y{n} domain", "y": 1, "x": 0.5, "yanchor": "bottom"}
            layout["annotations"].append(over | {"text": self._title(name, choice if small else choice._replace(scores=()))})
            for method, score in pairs(choice):
                for trace in self._lines(name, method, score, choice.trials, share):
                    data.append(trace | on | {"showlegend": first and trace["uid"] == "mean"})
                    data[-1]["uid"] = "/".join((name, method, score, trace["uid"]))
            skew, line = self.results.skew(name), {"color": "#888888", "dash": "dot", "width": 1}
            guess: dict[str, Any] = {
                "x": [0, 1],
                "y": [skew] * 2,
                "line": line,
                "name": "guessing (the skew)",
                "uid": f"{name}/skew",
            }
            guess |= {"hovertemplate": f"guessing: {100 * skew:.2f} %<extra></extra>", "hoverinfo": "all", "showlegend": first}
            data.append(TRACE | guess | on)
        return {"data": data, "layout": layout}

    def _title(self, name: str, choice: Choice) -> str:
        """A panel's class, and a line for each score: average precision (%) in the methods' colours."""
        table, lines = self.results.average_precisions(choice), [f"<b>{escape(name)}</b>"]
        for score in choice.scores:
            numbers = [[table.get((score, m, kind), {}).get(name, np.nan) for kind in ("mean", "std")] for m in choice.methods]
            aps = [
                f'<span style="color:{self.colours[m]}">{show.mean_std(*ap)}</span>'
                for m, ap in zip(choice.methods, numbers, strict=True)
            ]
            lines.append(f'<span style="font-size:10px">{f"{score} " * (len(choice.scores) > 1)}{"  ".join(aps)}</span>')
        return "<br>".join(lines)

    def _lines(self, name: str, method: str, score: str, trials: tuple[int, ...], share: float) -> list[dict[str, Any]]:
        """A mean curve, its band, its trials, and where the threshold is on them; nothing where it was not run."""
        which, look = (name, method, score, trials), {"color": self.colours[method], "dash": self.dashes[score]}
        if which not in self._drawn:
            self._drawn[which] = [
                self._shared(name, method, score) | trace for trace in self._steps(*which, look | {"shape": "vh"})
            ]
        curves = self.results.curves(*which)
        at = pd.DataFrame([curve.at(curve.threshold(share)) for curve in curves.values()], columns=Point._fields)
        marks = (
            {"uid": "marks"}
            | _points(at, list(curves))
            | {"mode": "markers", "marker": {"color": look["color"], "size": 8}, "line": look}
        )
        return [*self._drawn[which], self._shared(name, method, score) | marks]

    def _shared(self, name: str, method: str, score: str) -> dict[str, Any]:
        which = escape(f"{method}, {score}")
        text = f"<b>{escape(name)}</b>, trial %{{customdata[3]}}<br>{which}<br>{POINT}"
        return TRACE | {"legendgroup": which, "name": which, "hovertemplate": text, "meta": [name, method, score]}

    def _steps(
        self, name: str, method: str, score: str, trials: tuple[int, ...], line: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """vh: a precision holds back to the recall before it, as in Eq. 4."""
        mean = self.results.mean(name, method, score, trials)
        if mean is None:
            return
        x, y = np.append(0, mean.recall), np.append(mean.precision[0], mean.precision)
        if len(mean.trials) > 1:
            corners, (low, high) = x.repeat(2)[1:-1], ((mean.precision + k * mean.std).clip(0, 1).repeat(2) for k in (-1, 1))
            band = {"x": np.append(corners, corners[::-1]), "y": np.append(high, low[::-1]), "fill": "toself"}
            yield {"uid": "band"} | band | {"fillcolor": f"{line['color']}2a", "line": {"width": 0}}
        for trial, points in mean.trials.items():
            yield {"uid": str(trial)} | _points(points, [trial] * len(points)) | {"line": line | {"width": 1}, "opacity": 0.45}
        yield {"uid": "mean", "x": x, "y": y, "line": line | {"width": 2}}

    def histograms(self, hold_out: str, sides: Sequence[Side], share: float) -> dict[str, Any]:
        """Scores of normal and anomalous test images, a panel for each side, each with its threshold to drag."""
        frames, thresholds, unseen = [], [], f"{hold_out}, unseen"
        for k, (side, scores) in enumerate((side, self.results.values(hold_out, *side)) for side in sides):
            where = {"side": f"{', '.join(side[:2])}, trial {side[2]}" + " " * k}  # two panels, though they be alike
            curve = self.results.curve(hold_out, *side)
            if scores is None or curve is None:
                frames.append(pd.DataFrame([where | {"group": "normal"}]))
                continue
            edges = np.histogram_bin_edges(scores[np.isfinite(scores)], 60)
            is_anomaly = self.results.is_anomaly(hold_out, side[0], side[2])
            for group, chosen in {"normal": ~is_anomaly, unseen: is_anomaly}.items():
                count = np.histogram(scores[chosen], edges)[0]
                numbers = {"score": (edges[1:] + edges[:-1]) / 2, "count": count, "share": 100 * count / chosen.sum()}
                frames.append(pd.DataFrame(numbers | {"width": np.diff(edges), "group": group} | where))
            at = curve.threshold(share)
            line = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "name": str(k)}
            on = {"xref": f"x{k + 1}".replace("x1", "x"), "yref": "paper", "line": {"color": "#e03030", "width": 3}}
            thresholds.append(line | on)
        how = {
            "x": "score",
            "y": "share",
            "color": "group",
            "facet_col": "side",
            "barmode": "overlay",
            "hover_data": ["count"],
            "log_y": True,
        }
        colours = {"normal": "#888888", unseen: UNSEEN}
        figure = px.bar(pd.concat(frames), **how, color_discrete_map=colours, labels={"share": "share of the images (%)"})
        for trace in figure.data:
            trace.width = np.diff(trace.x).mean() if len(trace.x) > 1 else None
        return _plain(figure, {"height": 330, "shapes": thresholds, "meta": f"Histograms of scores, {SEEN}"})

    def confusions(self, sides: Sequence[Side], choice: Choice) -> dict[str, Any]:
        """What each held-out class is taken for (%), a matrix for each side's method."""
        shares = np.stack([100 * self.results.confusions(choice.classes, side[0], choice.trials) for side in sides])
        known, classes = ([escape(name) for name in names] for names in (self.results.known, choice.classes))
        labels = {"x": "taken for", "y": "held out", "color": "% of its images", "facet_col": "method"}
        how = {"facet_col": 0, "x": known, "y": classes, "zmin": 0, "zmax": 100, "aspect": "auto", "labels": labels}
        how |= {"color_continuous_scale": ["rgba(128,128,128,0.05)", UNSEEN], "text_auto": ".0f" if len(known) <= 20 else False}
        figure = px.imshow(shares, **how)
        for note, side in zip(figure.layout.annotations, sides, strict=True):
            note.text = side[0]
        layout = {"height": 130 + 27 * max(6, len(classes)), "coloraxis": {"showscale": False}}
        return _plain(
            figure, layout | {"meta": "For which known class each held-out class is taken"}, type="category", showgrid=False
        )

    def taken_for(self, hold_out: str, choice: Choice) -> dict[str, Any]:
        """Which known classes one held-out class's images are predicted as (%), by all chosen methods."""
        shares = {m: 100 * self.results.confusions([hold_out], m, choice.trials).loc[hold_out] for m in choice.methods}
        table = pd.DataFrame(shares).rename_axis(index="taken for", columns="method")
        labels = {"value": f"share of the images of {hold_out} (%)"}
        figure = px.bar(table, barmode="group", color_discrete_map=self.colours, labels=labels)
        return _plain(figure, {"height": 300, "meta": f"For which known class {hold_out} is taken"})

    def figure(self, choice: Choice, share: float) -> Figure:
        """The panels as matplotlib draws them, to be saved."""
        shown, across = self.panels(choice, share), min(COLUMNS, len(choice.classes))
        rows = -(-len(choice.classes) // across)
        width, height = max(3.1 * across, 6), 3.1 * rows + 0.9
        figure = Figure(figsize=(width, height))  # without a layout engine, which would double the time
        edges = {"left": 0.6 / width, "right": 1 - 0.1 / width, "bottom": 1 / height, "top": 1 - 0.8 / height}
        figure.subplots_adjust(**edges, wspace=0.25, hspace=0.45)
        axes = list(figure.subplots(rows, across, squeeze=False).flat)
        for trace in shown["data"]:
            axis, line = axes[int(trace["xaxis"][1:] or 1) - 1], trace["line"]
            if trace["fill"] == "toself":
                axis.fill(trace["x"], trace["y"], color=trace["fillcolor"], linewidth=0)
                continue
            how = {"linestyle": DASHES[line["dash"]], "linewidth": 0.7 * line.get("width", 1)}
            look = how if trace["mode"] == "lines" else {"marker": "o", "linestyle": "none"}
            look |= {"drawstyle": "steps-pre" if line.get("shape") == "vh" else "default", "alpha": trace["opacity"]}
            label = unescape(trace["name"]).replace("$", r"\$") if trace["showlegend"] else None
            axis.plot(trace["x"], trace["y"], color=line["color"], label=label, **look)
        for axis, name, note in itertools.zip_longest(axes, choice.classes, shown["layout"]["annotations"]):
            if name is None:
                axis.remove()
                continue
            axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
            axis.set_title(unescape(re.sub("<.*?>", "", note["text"].replace("<br>", "\n"))), parse_math=False, fontsize=9)
        figure.suptitle(f"{self.results.dataset}, {self.results.statistics} statistics; average precision in %", **plots.NAME)
        figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=8)
        return figure

    # --- tables

    def average_precisions(self, choice: Choice, kinds: Sequence[str], by: str, falling: bool) -> Styler:
        """The columns of these kinds, sorted by one of them; the best mean of each score in bold."""
        table = self.results.average_precisions(choice)
        columns = {" ".join(column): column for column in table if column[-1] in kinds}
        if by in columns:
            order = table.iloc[:-1].sort_values(columns[by], ascending=not falling, kind="stable").index
            table = table.loc[[*order, table.index[-1]]]
        style = styled(table[list(columns.values())].head(None if len(choice.classes) > 1 else 1), ABOUT)
        for score in choice.scores if len(choice.methods) > 1 else ():
            means = [column for column in columns.values() if column[0] == score and column[-1] == "mean"]
            style = style.highlight_max(means, axis=1, props="font-weight: bold") if means else style
        style.format({c: "{:+.2f}" if c[-1] == "difference" else "{:.2f}" for c in columns.values()}, na_rep="")
        return style

    def at_threshold(self, choice: Choice, share: float, by: Sequence[str] = WHICH) -> Styler:
        """Precision, recall, flagged and missed, means over what `by` does not name."""
        rows = self.results.selection(choice, share).groupby(list(by), sort=False)[list(NUMBERS)].mean()
        over = f" (means over {len(choice.trials)} trials and {len(choice.classes)} classes)" if by != WHICH else ""
        return styled(rows, f"Flagging the most anomalous {100 * share:.3g} % of the test images{over}", NUMBERS)

    def images(self, hold_out: str, side: Side, share: float, test: ImageSet | str) -> Styler:
        """Rows of images behind the threshold, each with its class, the predicted class and its score."""
        scores, (method, _, trial), rows = self.results.values(hold_out, *side), side, {}
        title = f"{', '.join(side[:2])}, trial {trial}, {hold_out} held out"
        if scores is None or isinstance(test, str):
            return styled(pd.DataFrame(), f"{title}: {'this was not run.' if scores is None else test}")
        numbers = (self.results.arrays[hold_out, method, trial]["label"], self.results.predicted(hold_out, method, trial))
        for said, indices in self.results.ranked(hold_out, *side, share).items():
            cells = []
            for k in indices[:ACROSS]:
                is_, taken_for = (escape(self.results.known[number[k]]) for number in numbers)
                told = f'"test image {k}: {is_}, predicted {taken_for}, score {scores[k]:.4g}"'
                cells.append(f"<img alt={told} title={told} {_source(test.images[k])}>{is_} → {taken_for}<br>{scores[k]:.4g}")
            rows[f"{said} ({len(indices)})"] = pd.Series(cells, dtype=object)
        return styled(pd.DataFrame(rows).T, f"{title}: class → predicted class, score").hide(axis=1)


def pairs(choice: Choice) -> list[tuple[str, str]]:
    return list(itertools.product(choice.methods, choice.scores))


def _points(points: pd.DataFrame, trials: Sequence[int]) -> dict[str, Any]:
    """Points of a threshold each, to hover over and to click."""
    custom = [list(row) for row in zip(points.threshold, points.flagged, points.missed, trials, strict=True)]
    return {"x": points.recall.to_numpy(), "y": points.precision.to_numpy(), "customdata": custom, "hoverinfo": "all"}


def _plain(figure: Any, layout: dict[str, Any], **axis: Any) -> dict[str, Any]:
    """A figure of plotly express, with panels that are named and zoomed each by itself."""
    figure.for_each_annotation(lambda note: note.update(text=escape(note.text.removeprefix("side=").strip())))
    figure.update_xaxes(matches=None, **AXIS, **axis).update_yaxes(**AXIS, **axis)
    figure.update_layout(CLEAR | {"legend": LEGEND, "margin": {"l": 60, "r": 10, "t": 60, "b": 40}} | layout)
    return {"data": [trace.to_plotly_json() for trace in figure.data], "layout": figure.layout.to_plotly_json()}


def styled(table: pd.DataFrame, caption: str, how: Any = None) -> Styler:
    """how: format strings by column."""
    style = table.style.set_caption(escape(caption))
    style.format(how, na_rep="").format_index(escape="html").format_index(escape="html", axis=1)
    return style


def _source(image: np.ndarray) -> str:
    """(C, H, W) uint8 -> where an <img> has it from, a PNG in itself."""
    picture = Image.fromarray(plots.pixels(image))
    picture.thumbnail((128, 128))
    file = io.BytesIO()
    picture.save(file, "png", compress_level=1)
    return f'src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"'
