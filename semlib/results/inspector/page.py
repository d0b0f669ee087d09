"""What the inspector shows, as HTML and SVG text: sharp at any width, read aloud, and made in milliseconds."""

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from semlib.datasets import ImageSet
from semlib.results import plots, show
from semlib.results.inspector.results import WHICH, Choice, Mean, Point, Results
from semlib.results.names import average_of, without_average

DASHES = ("", "6 2.5", "1.5 2", "6 2 1.5 2")  # of the scores, as plots.STYLES
THUMBNAIL = 72  # pixels a side
ACROSS = 20  # images a row
KINDS = {"mean": "", "difference": "difference", "paper": "the paper's"}  # columns of the table that are shown
Size = tuple[int, int]  # of a panel's SVG, in pixels

STYLE = """<style>
.semlib {font: 13px/1.45 var(--jp-ui-font-family, system-ui, sans-serif); color: var(--jp-ui-font-color1, #222)}
.semlib .panels {display: grid; grid-template-columns: repeat(auto-fill, minmax(max(205px, 18%), 1fr)); gap: 10px 14px}
.semlib .panels.few {display: flex; flex-wrap: wrap} .semlib .few section {flex: 1 1 320px; max-width: 560px}
.semlib .panels h4 {margin: 0; text-align: center; font-size: 13px}
.semlib svg {display: block; width: 100%; height: auto; overflow: visible}
.semlib svg text {font-size: 11px; fill: currentColor}
.semlib table {border-collapse: collapse; font-variant-numeric: tabular-nums}
.semlib caption, .semlib .note {text-align: left; color: var(--jp-ui-font-color2, #555); padding: 4px 0}
.semlib th, .semlib td {padding: 3px 9px; text-align: right; white-space: nowrap; border: 0}
.semlib th {font-weight: 600} .semlib th[scope=row] {text-align: left}
.semlib .panels table {margin: 2px auto 0; font-size: 12px} .semlib .panels td, .semlib .panels th {padding: 0 4px}
.semlib .panels thead th {font-weight: 400; color: var(--jp-ui-font-color2, #555)}
.semlib .wide {overflow-x: auto; max-height: 480px} .semlib .wide thead {background: var(--jp-layout-color1, #fff)}
.semlib .wide thead th {text-align: center; border-bottom: 1px solid #9996}
.semlib .summed tbody tr:last-child > * {border-top: 1px solid #9999}
.semlib .swatch {display: inline-block; width: 30px; height: 10px; vertical-align: middle}
.semlib [role=status] span, .semlib .key span {display: inline-block; margin-right: 24px}
.semlib .images {display: flex; gap: 6px; padding-bottom: 8px; overflow-x: auto}
.semlib figure {margin: 0; flex: 0 0 80px; font-size: 11px; line-height: 1.25; text-align: center; overflow-wrap: anywhere}
.semlib figure img {width: 72px; height: 72px; object-fit: contain; image-rendering: pixelated}
.semlib h5 {margin: 8px 0 4px; font-size: 13px} .semlib h5 small {font-weight: 400; font-size: 12px}
.semlib .charts {display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 6px 24px}
.semlib .bars {display: grid; grid-template-columns: max-content 1fr; gap: 3px 10px; align-items: center; max-width: 560px}
.semlib .bar {display: flex; align-items: center; gap: 6px; font-size: 11px; line-height: 1.1}
.semlib .bar i {height: 9px; min-width: 1px} .semlib .key i {display: inline-block; width: 22px; height: 9px}
.semlib-group {white-space: nowrap; font-weight: 600; padding-right: 8px}
.semlib-hidden {position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)}
.semlib .warning {background: #fff4d6; color: #5c4400; padding: 6px 12px 6px 28px; margin: 4px 0}
</style>"""


def block(html: str) -> str:
    return f'<div class="semlib">{html}</div>'


class Page:
    """The views of one table: a colour for each method and a dash for each score, the same whatever is chosen."""

    def __init__(self, results: Results):
        self.results = results
        self.colours = {name: to_hex(rgb) for name, rgb in plots.colours(results.methods).items()}
        self.dashes = dict(zip(results.scores, DASHES * len(results.scores), strict=False))
        self._lines: dict[tuple, str] = {}  # mean curves as SVG: drawn once

    def about(self) -> str:
        """What the runs of the table are, in a line."""
        records = list(self.results.runs.values())
        if not records:
            return ""
        own = [record for record in records if not record.external]
        parts = [f"{len(records) - len(own)} trained elsewhere"] if len(own) < len(records) else []
        if own:
            s, devices = own[0].settings, sorted({record.device for record in own})
            how = f"{s['architecture']}, {s['epochs']} epochs of batches of {s['batch_size']}, {s['schedule']} schedule"
            parts = [how, *parts, f"{self.results.statistics} statistics", ", ".join(devices)]
        text = f"{len(records)} runs on {self.results.dataset}: {'; '.join(parts)}."
        return f'<span class="note">{escape(" ".join([text, *show.unlike(records)]))}</span>'

    # --- curves

    def panels(self, choice: Choice, share: float) -> str:
        """A panel of precision-recall curves for each class, with its legend; dots: each trial at the threshold."""
        if not all(choice):
            absent = [name for name, chosen in zip(choice._fields, choice, strict=True) if not chosen]
            return f'<p class="note">Nothing to show: tick at least one of the {", of the ".join(absent)}.</p>'
        size = (500, 330) if len(choice.classes) == 1 else (350, 250) if len(choice.classes) <= 3 else (230, 190)
        few = " few" if len(choice.classes) <= 3 else ""
        body = "".join(self._panel(choice._replace(classes=(name,)), share, size) for name in choice.classes)
        return f'<div class="panels{few}">{body}</div>'

    def _panel(self, choice: Choice, share: float, size: Size) -> str:
        (name,), skew = choice.classes, self.results.skew(choice.classes[0])
        lines = "".join(self._line(name, method, score, choice.trials, size) for method, score in _pairs(choice))
        dots = [
            _dot(curve.at(curve.threshold(share)), self.colours[method], self._open(score), trial, size)
            for method, score in _pairs(choice)
            for trial, curve in self.results.curves(name, method, score, choice.trials).items()
        ]
        x, y = _place(0, skew, size)
        guess = f'<path d="M{x:.1f} {y:.1f}H{size[0] - 6}" stroke="#777" stroke-dasharray="1.5 3"/>'
        label = f"Precision-recall curves with {escape(name)} held out; the table below has their average precision"
        svg = f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{label}">'
        svg += f"{_axes(size)}{guess}{lines}{''.join(dots)}</svg>"
        return f"<section><h4>{escape(name)}</h4>{svg}{self._legend(choice)}</section>"

    def _legend(self, choice: Choice) -> str:
        (name,) = choice.classes
        paper = bool(self.results.paper)
        rows = []
        for method, score in _pairs(choice):
            texts = [show.mean_std(*self.results.average_precision(name, method, score, choice.trials))]
            texts += [show.mean_std(*self.results.published(name, method, score), absent="")] if paper else []
            who = escape(f"{method}, {score}")
            head = f'<th scope="row" aria-label="{who}">{self._swatch(method, score)} {escape(score)}</th>'
            rows.append(f'<tr title="{who}">{head}{"".join(f"<td>{text}</td>" for text in texts)}</tr>')
        rows.append(f'<tr><th scope="row">skew</th><td>{100 * self.results.skew(name):.2f}</td></tr>')
        heads = ["AP (%)", "the paper's"] if paper else ["AP (%)"]
        head = "".join(f'<th scope="col">{text}</th>' for text in heads)
        return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _line(self, name: str, method: str, score: str, trials: tuple[int, ...], size: Size) -> str:
        """The mean curve and its band; empty where nothing was run."""
        which = (name, method, score, trials, size)
        if which not in self._lines:
            mean, colour = self.results.mean(name, method, score, trials), self.colours[method]
            band = f'<path d="{_band(mean, size)}" fill="{colour}" opacity="0.18"/>' if mean and mean.std is not None else ""
            line = f'<path d="{_steps(mean.recall, mean.precision, size)}" {self._stroke(method, score)}/>' if mean else ""
            self._lines[which] = band + line
        return self._lines[which]

    def _stroke(self, method: str, score: str) -> str:
        dash = f'stroke-dasharray="{self.dashes[score]}"' if self.dashes[score] else ""
        return f'stroke="{self.colours[method]}" {dash} stroke-width="1.7" fill="none"'

    def _open(self, score: str) -> bool:
        return self.results.scores.index(score) % 2 == 1

    def _swatch(self, method: str, score: str) -> str:
        line = f'<path d="M0 5H30" {self._stroke(method, score)}/>'
        return f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">{line}</svg>'

    # --- numbers

    def average_precisions(self, choice: Choice, by: str, falling: bool) -> str:
        """The table of average precision, sorted by one of its columns; the best method of each score in bold."""
        table = self.results.average_precisions(choice)
        columns = shown_columns(table)
        rows = without_average(table)
        if by in columns:
            rows = rows.sort_values(columns[by], ascending=not falling, kind="stable")
        order = [*rows.index, average_of(table)] if len(rows) > 1 else rows.index
        body = [(escape(name), [self._cell(table.loc[name], column) for column in columns.values()]) for name in order]
        heads = [method if kind == "mean" else KINDS[kind] for _, method, kind in columns.values()]
        spans = Counter(score for score, _, _ in columns.values())
        note = (
            "Average precision in %, mean ± standard deviation over trials; the best method of each score in bold; differences "
        )
        note += "to plain classification in points. The average over classes is taken within a trial first."
        return _table(["Held out", *heads], body, note, spans)

    def _cell(self, row: pd.Series, column: tuple[str, str, str]) -> str:
        score, method, statistic = column
        if statistic == "difference":
            return "" if math.isnan(row[column]) else f"{row[column]:+.2f}"
        std = row.get((score, method, "std" if statistic == "mean" else "paper_std"), math.nan)
        text = show.mean_std(row[column], std, absent="" if statistic == "paper" else "not run")
        rivals = [value for (s, _, other), value in zip(row.index, row, strict=True) if (s, other) == (score, "mean")]
        best = statistic == "mean" and len(rivals) > 1 and row[column] == np.nanmax([*rivals, -1])
        return f"<b>{text}</b>" if best else text

    def at_threshold(self, choice: Choice, share: float) -> str:
        """Precision, recall, flagged and missed for each curve, means over trials."""
        body = []
        for _, part in self.results.selection(choice, share).groupby(list(WHICH), sort=False):
            name, method, score = part[list(WHICH)].iloc[0]
            m = part.mean(numeric_only=True)
            numbers = [f"{100 * m.precision:.2f}", f"{100 * m.recall:.2f}", f"{m.flagged:.6g}"]
            numbers += [f"{m.missed:.4g} of {m.anomalies:.0f}", f"{m.threshold:.6g}"]
            body.append((f"{escape(name)} {self._swatch(method, score)} {escape(f'{method}, {score}')}", numbers))
        heads = ["Held out, method, score", "Precision (%)", "Recall (%)", "Flagged", "Anomalies missed", "Score at least"]
        return _table(heads, body, f"{flagging(share)}; means over trials.")

    def summary(self, choice: Choice, share: float) -> str:
        """What the threshold does, and the key to the lines: means over the chosen classes and trials."""
        rows = self.results.selection(choice, share)
        if rows.empty:
            return ""
        means = rows.groupby(["method", "score"], sort=False)[["precision", "recall", "flagged", "missed"]].mean()
        texts = [
            f"<span>{self._swatch(*which)} {escape(', '.join(which))}: precision <b>{100 * m.precision:.1f} %</b>, "
            f"recall <b>{100 * m.recall:.1f} %</b>, {m.flagged:.0f} flagged, {m.missed:.0f} missed</span>"
            for which, m in means.iterrows()
        ]
        over = f" (means over {len(choice.classes)} classes)" if len(choice.classes) > 1 else ""
        circles = "".join(f", open for {score}" for score in choice.scores if self._open(score))
        note = f"Dotted grey: guessing (the skew). Dots: each trial at the threshold{escape(circles)}."
        note += " Bands: one standard deviation over trials." if len(choice.trials) > 1 else ""
        return f'<div role="status">{flagging(share)}{over}:<br>{"".join(texts)}</div><div class="note">{note}</div>'

    # --- images and predictions

    def taken_for(self, choice: Choice) -> str:
        """For each held-out class a bar chart: which known classes its images are predicted as."""
        key = [f'<span><i style="background:{self.colours[m]}"></i> {escape(m)}</span>' for m in choice.methods]
        note = "The share of a held-out class's images, which the network never saw, that is taken for each known class"
        charts = "".join(self._bars(name, choice) for name in choice.classes)
        return (
            f'<p class="note">{note}; mean over trials.</p><p class="key">{"".join(key)}</p><div class="charts">{charts}</div>'
        )

    def _bars(self, name: str, choice: Choice) -> str:
        rows = []
        table = self.results.taken_for(name, choice.methods, choice.trials)
        for known in table.index:
            bars = "".join(self._bar(method, table.loc[known, method]) for method in table.columns)
            rows.append(f"<div>{escape(known)}</div><div>{bars}</div>")
        return f'<section><h5>{escape(name)} is taken for</h5><div class="bars">{"".join(rows)}</div></section>'

    def _bar(self, method: str, share: float) -> str:
        fill = f'<i style="width:{70 * share:.2f}%;background:{self.colours[method]}"></i>'
        return f'<div class="bar" title="{escape(method)}">{fill}{100 * share:.1f} %</div>'

    def images(self, which: tuple[str, str, str, int], share: float, test: ImageSet | str) -> str:
        """Rows of images behind the threshold, each with its class, the predicted class and its score."""
        if isinstance(test, str):
            return f'<p class="note">{escape(test)}</p>'
        scores = self.results.values(*which)
        if scores is None:
            return '<p class="note">This was not run.</p>'
        order = {"Anomalies missed": "least anomalous first", "Normal images flagged": "most anomalous first"}
        parts = []
        for title, indices in self.results.ranked(*which, share).items():
            note = f"{len(indices)} in all, {order[title]}" if title in order else "of all test images"
            figures = "".join(self._figure(which, k, test.images[k], scores[k]) for k in indices[:ACROSS]) or "none"
            parts.append(f'<h5>{title} <small>({note})</small></h5><div class="images">{figures}</div>')
        return "".join(parts)

    def _figure(self, which: tuple[str, str, str, int], k: int, image: np.ndarray, score: float) -> str:
        name, method, _, trial = which
        numbers = self.results.arrays[name, method, trial]["label"][k], self.results.predicted(name, method, trial)[k]
        is_, taken_for = (escape(self.results.known[number]) for number in numbers)
        value = f"{score:.4g}"
        alt = f"test image {k}: {is_}, predicted {taken_for}, score {value}"
        caption = f"<figcaption>{is_} → {taken_for}<br>{value}</figcaption>"
        return f'<figure><img alt="{alt}" title="{alt}" src="{_thumbnail(image)}">{caption}</figure>'

    # --- to keep

    def figure(self, choice: Choice, share: float) -> Figure:
        """The panels as a matplotlib figure, for PNG and PDF."""
        columns = min(5, len(choice.classes))
        rows = -(-len(choice.classes) // columns)
        figure = Figure(figsize=(max(3.1 * columns, 6), 4.1 * rows + 0.4), dpi=150, layout="constrained")
        for axis, name in zip(figure.subplots(rows, columns, squeeze=False).flat, choice.classes, strict=False):
            self._draw(axis, choice._replace(classes=(name,)), share)
        for axis in figure.axes[len(choice.classes) :]:
            axis.remove()
        figure.suptitle(f"{self.results.dataset}, {self.results.statistics} statistics", **plots.NAME)
        return figure

    def _draw(self, axis, choice: Choice, share: float) -> None:
        (name,) = choice.classes
        for method, score in _pairs(choice):
            mean, colour = self.results.mean(name, method, score, choice.trials), self.colours[method]
            if mean is None:
                continue
            ap = show.mean_std(*self.results.average_precision(name, method, score, choice.trials))
            paper = show.mean_std(*self.results.published(name, method, score), absent="")
            style = {"color": colour, "linestyle": plots.STYLES[self.results.scores.index(score) % len(plots.STYLES)]}
            label = f"{method}, {score}: {ap}" + (f" (paper: {paper})" if paper else "")
            recall, precision = np.append(0, mean.recall), np.append(mean.precision[0], mean.precision)  # from no recall on
            axis.plot(recall, precision, drawstyle="steps-pre", linewidth=1.2, label=label, **style)
            if mean.std is not None:
                low, high = (np.append(edge[0], edge) for edge in mean.edges)
                axis.fill_between(recall, low, high, step="pre", color=colour, alpha=0.18, linewidth=0)
            for curve in self.results.curves(name, method, score, choice.trials).values():
                point = curve.at(curve.threshold(share))
                inner, edge = ("white", colour) if self._open(score) else (colour, "white")
                axis.plot(point.recall, point.precision, "o", color=inner, markeredgecolor=edge, markersize=5)
        skew = self.results.skew(name)
        axis.axhline(skew, color="0.45", linewidth=1, linestyle=(0, (1, 2)), label=f"skew: {100 * skew:.2f}")
        axis.set_title(name, **plots.NAME)
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
        axis.legend(title="average precision (%)", title_fontsize=7, fontsize=7, frameon=False, **place)


def flagging(share: float) -> str:
    return f"Flagging the most anomalous {100 * share:.3g} % of the test images"


def shown_columns(table: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """The columns of Results.average_precisions that are shown, by the name to sort by."""
    return {
        " ".join((score, method, KINDS[kind])).strip(): (score, method, kind) for score, method, kind in table if kind in KINDS
    }


def _pairs(choice: Choice) -> list[tuple[str, str]]:
    return [(method, score) for method in choice.methods for score in choice.scores]


def _table(
    heads: Sequence[str], body: Sequence[tuple[str, Sequence[str]]], note: str, spans: Mapping[str, int] | None = None
) -> str:
    """A table of HTML cells, each row opened by its head. spans: heads over so many columns; the last row is then a summary."""
    over = "".join(f'<th scope="colgroup" colspan="{count}">{escape(text)}</th>' for text, count in (spans or {}).items())
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    head = f"<tr><td></td>{over}</tr><tr>{head}</tr>" if spans else f"<tr>{head}</tr>"
    rows = [f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, cells in body]
    table = f"<table><caption>{note}</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide{" summed" if spans and len(rows) > 1 else ""}">{table}</div>'


def _place(recall, precision, size: Size):
    """Where a point lies in a panel's SVG."""
    return 34 + recall * (size[0] - 40), 6 + (1 - precision) * (size[1] - 40)


def _steps(recall: np.ndarray, precision: np.ndarray, size: Size, start: str = "M") -> str:
    """An SVG path: each precision holds back to the recall before it, as in Eq. 4."""
    x, y = _place(np.append(0, recall), precision, size)
    return f"{start}{x[0]:.1f} {y[0]:.1f}" + "".join(f"V{v:.1f}H{h:.1f}" for v, h in zip(y, x[1:], strict=True))


def _band(mean: Mean, size: Size) -> str:
    (low, high), recall = mean.edges, mean.recall
    x, y = _place(np.append(0, recall), low, size)
    back = "".join(f"H{h:.1f}V{v:.1f}" for h, v in zip(x[:0:-1], y[::-1], strict=True))
    return f"{_steps(recall, high, size)}V{y[-1]:.1f}{back}H{x[0]:.1f}Z"


def _dot(point: Point, colour: str, is_open: bool, trial: int, size: Size) -> str:
    x, y = _place(point.recall, point.precision, size)
    said = f"trial {trial}: precision {100 * point.precision:.1f} %, recall {100 * point.recall:.1f} %"
    paint = f'fill="#fff" stroke="{colour}"' if is_open else f'fill="{colour}" stroke="#fff"'
    circle = f'<circle class="at" cx="{x:.1f}" cy="{y:.1f}" r="4" {paint} stroke-width="1.5">'
    return f"{circle}<title>{said}, {point.flagged} flagged, {point.missed} missed</title></circle>"


@lru_cache
def _axes(size: Size) -> str:
    (left, bottom), (right, top) = _place(0, 0, size), _place(1, 1, size)
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x, y = _place(value, value, size)
        parts.append(f'<path d="M{x} {bottom}V{top}M{left} {y}H{right}" stroke="#8884" stroke-width="0.6"/>')
        parts.append(f'<text x="{x}" y="{bottom + 13}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{left - 4}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 27}" text-anchor="middle">recall</text>')
    parts.append(f'<text transform="translate(8 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">precision</text>')
    return f'<g aria-hidden="true">{"".join(parts)}</g>'


def _thumbnail(image: np.ndarray) -> str:
    """(C, H, W) uint8 -> a PNG as a data URL."""
    picture = Image.fromarray(plots.pixels(image))
    picture.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "png", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
