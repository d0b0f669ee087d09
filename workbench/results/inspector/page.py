"""What the inspector shows: plotly's figures as dicts, pandas' Stylers, and the matplotlib figure
that is saved.
"""

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
from workbench.results import plots, show
from workbench.results.inspector.results import WHICH, Choice, Results

DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (9, 3)),
    "longdashdot": (0, (9, 3, 2, 3)),
}
ACROSS, COLUMNS, FEW = (
    16,
    5,
    3,
)  # images a row, panels a row, methods and scores whose numbers stand over a panel
NUMBERS = {
    "precision": "{:.2%}",
    "recall": "{:.2%}",
    "flagged": "{:.6g}",
    "missed": "{:.4g}",
    "anomalies": "{:.0f}",
}
POINT = "recall %{x:.3f}, precision %{y:.3f}<br>threshold %{customdata[0]:.6g}<br>"
POINT += "flagged %{customdata[1]}, missed %{customdata[2]}<extra></extra>"
CLEAR: dict[str, Any] = {
    "paper_bgcolor": "#0000",
    "plot_bgcolor": "#0000",
    "hovermode": "closest",
    "editrevision": False,
}
CLEAR |= {
    "legend": {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "title": None}
}  # on light and dark
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
    """The views of one table: a colour for each method and a dash for each score, the same whatever
    is chosen.
    """

    def __init__(self, results: Results):
        self.results = results
        keys: dict[str, str] = {}  # the first of a method has the method's colour
        for name in results.methods:
            method = results.first[name].method
            keys[name] = name if method in keys.values() else method
        colours = plots.colours([*keys.values()])
        self.colours = {name: to_hex(colours[key]) for name, key in keys.items()}
        self.dashes = dict(zip(results.scores, itertools.cycle(DASHES), strict=False))
        self._curves: tuple[Any, dict[str, Any]] = (
            None,
            {},
        )  # the last panels, without their markers

    # --- figures

    def panels(self, choice: Choice, share: float) -> dict[str, Any]:
        """Precision-recall curves, a panel a class: trials thin, their mean with its band, and
        markers at the threshold.
        """
        if self._curves[0] != choice:
            self._curves = choice, self._panels(choice)
        at: Any = self.results.selection(choice, share).groupby(list(WHICH), sort=False)
        marks = [
            self._trace(choice, *which) | _points(points) | {"mode": "markers"}
            for which, points in at
        ]
        return self._curves[1] | {"data": self._curves[1]["data"] + marks}

    def _panels(self, choice: Choice) -> dict[str, Any]:
        n, across = len(choice.classes), min(COLUMNS, len(choice.classes))
        rows, scores = (
            -(-n // across),
            choice.scores if max(len(choice.methods), len(choice.scores)) <= FEW else (),
        )
        plot, gap = 180 if across > 3 else 330, 52 + 12 * len(scores)  # pixels
        grid = {
            "rows": rows,
            "columns": across,
            "pattern": "independent",
            "xgap": 0.18,
            "ygap": gap / (gap + plot),
        }
        layout: dict[str, Any] = CLEAR | {
            "meta": "Precision-recall curves, whose numbers are in the tables",
            "annotations": [],
        }
        layout |= {
            "grid": grid,
            "height": (plot + gap) * rows + 60,
            "margin": {"l": 45, "r": 10, "t": gap + 20, "b": 40},
        }
        ap = self.results.average_precisions(choice)
        for k, name in enumerate(choice.classes):
            below, left = "recall" * (k + across >= n), "precision" * (k % across == 0)
            layout[f"xaxis{k + 1}"] = AXIS | {
                "range": [0, 1],
                "title": {"text": below, "standoff": 4},
            }
            layout[f"yaxis{k + 1}"] = AXIS | {
                "range": [0, 1.02],
                "title": {"text": left, "standoff": 4},
            }
            over = {
                "x": 0.5,
                "xref": f"x{k + 1} domain",
                "y": 1,
                "yref": f"y{k + 1} domain",
                "yanchor": "bottom",
            }
            text = self._title(name, choice._replace(scores=scores), ap)
            layout["annotations"].append(over | {"text": text, "showarrow": False})
        return {
            "data": [trace for name in choice.classes for trace in self._lines(choice, name)],
            "layout": layout,
        }

    def _title(self, name: str, choice: Choice, ap: pd.DataFrame) -> str:
        """A panel's class, and a line for each score: average precision (%) in the methods'
        colours.
        """
        lines = [f"<b>{escape(name)}</b>"]
        for score in choice.scores:
            numbers = {
                m: [ap.get((score, m, kind), {}).get(name, np.nan) for kind in ("mean", "std")]
                for m in choice.methods
            }
            parts = [
                f'<span style="color:{self.colours[m]}">{show.mean_std(*ends)}</span>'
                for m, ends in numbers.items()
            ]
            lines.append(
                f'<span style="font-size:10px">{f"{score} " * (len(choice.scores) > 1)}{"  ".join(parts)}</span>'
            )
        return "<br>".join(lines)

    def _trace(self, choice: Choice, name: str, method: str, score: str) -> dict[str, Any]:
        """What the traces of a method and a score have in common."""
        which, colour, k = (
            escape(f"{method}, {score}"),
            self.colours[method],
            choice.classes.index(name) + 1,
        )
        look = {
            "mode": "lines",
            "line": {"color": colour, "dash": self.dashes[score], "shape": "vh"},
            "hoverinfo": "skip",
        }
        said = f"<b>{escape(name)}</b>, trial %{{customdata[3]}}<br>{which}<br>{POINT}"
        group = {
            "name": which,
            "legendgroup": which,
            "uirevision": which,
            "showlegend": False,
            "hovertemplate": said,
        }
        on = {
            "xaxis": f"x{k}",
            "yaxis": f"y{k}",
            "marker": {"color": colour, "size": 8},
            "meta": [name, method, score],
        }
        return look | group | on

    def _lines(self, choice: Choice, name: str) -> Iterator[dict[str, Any]]:
        """A panel's curves. vh: a precision holds back to the recall before it, as in Eq. 4."""
        legend, k = {"showlegend": name == choice.classes[0]}, choice.classes.index(name) + 1
        for method, score in itertools.product(choice.methods, choice.scores):
            steps, trace = (
                self.results.steps(name, method, score, choice.trials),
                self._trace(choice, name, method, score),
            )
            if not steps:
                continue
            precisions, line = (
                np.stack([points.precision for points in steps.values()]),
                trace["line"],
            )  # (trials, P)
            x, y = np.append(0, steps[min(steps)].index), precisions.mean(0)
            if len(steps) > 1:
                corners, half = x.repeat(2)[1:-1], precisions.std(0, ddof=1)
                low, high = ((y + sign * half).clip(0, 1).repeat(2) for sign in (-1, 1))
                band = {
                    "x": np.append(corners, corners[::-1]),
                    "y": np.append(high, low[::-1]),
                    "fill": "toself",
                }
                yield (
                    trace | band | {"fillcolor": f"{self.colours[method]}2a", "line": {"width": 0}}
                )
            for points in steps.values():
                yield trace | _points(points) | {"line": line | {"width": 1}, "opacity": 0.45}
            yield trace | legend | {"x": x, "y": np.append(y[0], y), "line": line | {"width": 2}}
        skew, said = self.results.skew[name], "guessing: %{y:.2%}<extra></extra>"
        guess: dict[str, Any] = {
            "name": "guessing (the skew)",
            "legendgroup": "skew",
            "mode": "lines",
            "hovertemplate": said,
        }
        guess |= {
            "line": {"color": "#888888", "dash": "dot", "width": 1},
            "x": [0, 1],
            "y": [skew, skew],
        }
        yield guess | legend | {"xaxis": f"x{k}", "yaxis": f"y{k}"}

    def histograms(self, hold_out: str, sides: Sequence[Side], share: float) -> dict[str, Any]:
        """Scores of normal and anomalous test images, a panel for each side, each with its
        threshold to drag.
        """
        frames, thresholds, unseen = [], [], f"{hold_out}, unseen"
        for k, side in enumerate(sides):
            where = {
                "side": escape(f"{', '.join(side[:2])}, trial {side[2]}") + " " * k
            }  # two panels, though they be alike
            one = self.results.ranked(hold_out, *side)
            if one is None:
                frames.append(pd.DataFrame([where | {"group": "normal"}]))
                continue
            edges = np.histogram_bin_edges(one.scores[np.isfinite(one.scores)], 60)
            for group, chosen in {"normal": ~one.is_anomaly, unseen: one.is_anomaly}.items():
                count = np.histogram(one.scores[chosen], edges)[0]
                numbers = {
                    "score": (edges[1:] + edges[:-1]) / 2,
                    "count": count,
                    "share": 100 * count / chosen.sum(),
                }
                frames.append(pd.DataFrame(numbers | {"group": group} | where))
            at = dict.fromkeys(("x0", "x1"), one.at(share).threshold) | {
                "y0": 0,
                "y1": 1,
                "xref": f"x{k + 1}",
                "yref": "paper",
            }
            thresholds.append(
                {"type": "line", "name": str(k), "line": {"color": "#e03030", "width": 3}} | at
            )
        how = {
            "x": "score",
            "y": "share",
            "color": "group",
            "facet_col": "side",
            "barmode": "overlay",
        }
        labels, colours = (
            {"share": "share of the images (%)"},
            {"normal": "#888888", unseen: UNSEEN},
        )
        table = pd.concat(frames)
        figure = px.bar(
            table,
            **how,
            log_y=True,
            hover_data=["count"],
            labels=labels,
            color_discrete_map=colours,
        )
        said = "Histograms of scores, whose numbers are in the tables"
        return _plain(figure, said, height=330, bargap=0, shapes=thresholds)

    def confusions(self, sides: Sequence[Side], choice: Choice) -> dict[str, Any]:
        """What each held-out class is taken for (%), a matrix for each side's method."""
        shares = np.stack(
            [
                100 * self.results.confusions(choice.classes, side[0], choice.trials)
                for side in sides
            ]
        )
        known, classes = (
            [escape(name) for name in names] for names in (self.results.known, choice.classes)
        )
        labels = {
            "x": "taken for",
            "y": "held out",
            "color": "% of its images",
            "facet_col": "method",
        }
        how = {
            "facet_col": 0,
            "x": known,
            "y": classes,
            "zmin": 0,
            "zmax": 100,
            "aspect": "auto",
            "labels": labels,
        }
        how |= {
            "color_continuous_scale": ["rgba(128,128,128,0.05)", UNSEEN],
            "text_auto": ".0f" if len(known) <= 20 else False,
        }
        figure = (
            px.imshow(shares, **how)
            .update_xaxes(type="category", showgrid=False)
            .update_yaxes(showgrid=False)
        )
        figure.update_yaxes(type="category").update_coloraxes(showscale=False)
        for note, side in zip(figure.layout.annotations, sides, strict=True):
            note.text = escape(side[0])
        return _plain(
            figure,
            "For which known class each held-out class is taken",
            height=130 + 27 * max(6, len(classes)),
        )

    def taken_for(self, hold_out: str, choice: Choice) -> dict[str, Any]:
        """Which known classes one held-out class's images are predicted as (%), by all chosen
        methods.
        """
        shares = {
            m: 100 * self.results.confusions([hold_out], m, choice.trials).loc[hold_out]
            for m in choice.methods
        }
        table = pd.DataFrame(shares).rename_axis(index="taken for", columns="method")
        labels = {"value": f"share of the images of {hold_out} (%)"}
        figure = px.bar(table, barmode="group", color_discrete_map=self.colours, labels=labels)
        return _plain(figure, f"For which known class {hold_out} is taken", height=300)

    @plots.legible
    def figure(self, choice: Choice, share: float) -> Figure:
        """The panels as matplotlib draws them, to be saved."""
        shown, across = self.panels(choice, share), min(COLUMNS, len(choice.classes))
        rows = -(-len(choice.classes) // across)
        width, height = max(3.1 * across, 6), 3.1 * rows + 0.9
        figure = Figure(
            figsize=(width, height)
        )  # without a layout engine, which would double the time
        edges = {
            "left": 0.6 / width,
            "right": 1 - 0.1 / width,
            "bottom": 1 / height,
            "top": 1 - 0.8 / height,
        }
        figure.subplots_adjust(**edges, wspace=0.25, hspace=0.45)
        axes = figure.subplots(rows, across, squeeze=False).ravel()
        for trace in shown["data"]:
            axis, line = axes[int(trace["xaxis"][1:]) - 1], trace["line"]
            if "fill" in trace:
                axis.fill(trace["x"], trace["y"], color=trace["fillcolor"], linewidth=0)
                continue
            look = {
                "linestyle": DASHES[line["dash"]],
                "linewidth": 0.7 * line.get("width", 1),
                "alpha": trace.get("opacity"),
            }
            look |= {"drawstyle": "steps-pre" if "shape" in line else "default"}
            look |= {"linestyle": "none", "marker": "o"} if trace["mode"] == "markers" else {}
            label = unescape(trace["name"]) if trace["showlegend"] else None
            axis.plot(trace["x"], trace["y"], color=line["color"], label=label, **look)
        for axis, note in itertools.zip_longest(axes, shown["layout"]["annotations"]):
            if note is None:
                axis.remove()
                continue
            axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
            axis.set_title(
                unescape(re.sub("<.*?>", "", note["text"].replace("<br>", "\n"))), fontsize=9
            )
        figure.suptitle(
            f"{self.results.dataset}, {self.results.statistics} statistics; average precision in %"
        )
        figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=8)
        return figure

    # --- tables

    def average_precisions(
        self, choice: Choice, kinds: Sequence[str], by: str, falling: bool
    ) -> Styler:
        """The columns of these kinds, sorted by one of them; the best mean of each score in bold."""
        table = self.results.average_precisions(choice)
        table = table[[column for column in table if column[-1] in kinds]]
        columns = {" ".join(column): column for column in table}
        if by in columns:
            order = (
                table.iloc[:-1].sort_values(columns[by], ascending=not falling, kind="stable").index
            )
            table = table.loc[[*order, table.index[-1]]]
        style = styled(table.head(None if len(choice.classes) > 1 else 1), ABOUT)
        for score in choice.scores if len(choice.methods) > 1 else ():
            means = [column for column in table if column[0] == score and column[-1] == "mean"]
            style = (
                style.highlight_max(means, axis=1, props="font-weight: bold") if means else style
            )
        style.format(
            {c: "{:+.2f}" if c[-1] == "difference" else "{:.2f}" for c in table}, na_rep=""
        )
        return style

    def at_threshold(self, choice: Choice, share: float, by: Sequence[str] = WHICH) -> Styler:
        """Precision, recall, flagged and missed, means over what `by` does not name."""
        rows = (
            self.results.selection(choice, share)
            .groupby(list(by), sort=False)[list(NUMBERS)]
            .mean()
        )
        trials, classes = len(choice.trials), len(choice.classes)
        over = (
            f" (means over {trials} trial{'s' * (trials > 1)} and {classes} class{'es' * (classes > 1)})"
            * (by != WHICH)
        )
        return styled(
            rows,
            f"Flagging the most anomalous {100 * share:.3g} % of the test images{over}",
            NUMBERS,
        )

    def images(self, hold_out: str, side: Side, share: float, test: ImageSet | str) -> Styler:
        """Rows of images behind the threshold, each with its class, the predicted class and its
        score.
        """
        title = f"{side[0]}, {side[1]}, trial {side[2]}, {hold_out} held out"
        one, rows = self.results.ranked(hold_out, *side), {}
        if one is None or isinstance(test, str):
            return styled(
                pd.DataFrame(), f"{title}: {'this was not run.' if one is None else test}"
            )
        for said, indices in one.behind(share).items():
            cells = []
            for k in indices[:ACROSS]:
                is_, taken_for = map(escape, one.classes(k))
                told = f'"test image {k}: {is_}, predicted {taken_for}, score {one.scores[k]:.4g}"'
                image = f"<img alt={told} title={told} {_source(test.images[k])}>"
                cells.append(f"{image}{is_} → {taken_for}<br>{one.scores[k]:.4g}")
            rows[f"{said} ({len(indices)})"] = pd.Series(cells, dtype=object)
        return styled(pd.DataFrame(rows).T, f"{title}: class → predicted class, score").hide(axis=1)


def _points(points: pd.DataFrame) -> dict[str, Any]:
    """Points of a threshold each, to hover over and to click."""
    custom = np.stack([points.threshold, points.flagged, points.missed, points.trial], axis=1)
    return {
        "x": points.recall.to_numpy(),
        "y": points.precision.to_numpy(),
        "customdata": custom,
        "hoverinfo": "all",
    }


def _plain(figure: Any, said: str, **layout: Any) -> dict[str, Any]:
    """A figure of plotly express, with panels that are named and zoomed each by itself. said: to a
    screen reader.
    """
    figure.for_each_annotation(
        lambda note: note.update(text=note.text.removeprefix("side=").strip())
    )
    figure.update_xaxes(matches=None, **AXIS).update_yaxes(**AXIS)
    figure.update_layout(
        CLEAR | {"margin": {"l": 60, "r": 10, "t": 60, "b": 40}, "meta": said} | layout
    )
    return {
        "data": [trace.to_plotly_json() for trace in figure.data],
        "layout": figure.layout.to_plotly_json(),
    }


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
