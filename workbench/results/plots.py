"""Figures from records: precision-recall curves, learning curves, images ranked by score. Each
returns a matplotlib Figure.
"""

import math
import sys
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from itertools import cycle, product
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from semlib.datasets import Dataset
from workbench.experiment import PAPERS_SCORES, Experiment
from workbench.files import ROOT
from workbench.images.prepared import digests_of
from workbench.results import show, stats, tables
from workbench.results.curves import Curve
from workbench.results.names import label, without_average
from workbench.runs import plan
from workbench.runs.store import Record

plt.style.use(
    "default"
)  # not what a machine's matplotlibrc says: TeX that isn't there, its own sizes
if (
    "ipykernel" in sys.modules and plt.get_backend().lower() == "agg"
):  # $MPLBACKEND says so: a notebook would have no figure
    from IPython import get_ipython

    if shell := get_ipython():
        shell.run_line_magic("matplotlib", "inline")
DPI = 110
SHARE = "semlib: share of runs finished"  # in a figure's file
NAME = {"parse_math": False}  # of texts with names in them: a class may be called a$b$
LAST_RESORT = "Last Resort"  # fonts that have a box for every character begin so
STYLES = (
    "-",
    (0, (4, 1.5)),
    ":",
    "-.",
    (0, (6, 1, 1, 1, 1, 1)),
    (0, (2, 1)),
)  # one a score; the colour is the method
KNOWN = (
    "classification",
    "rotation",
    "cpc",
    "center_mask",
)  # methods have the same colours on every page
PANELS, CURVES, ROWS = 12, 6, 30  # at most, for a reader
_said: set[str] = set()  # scripts without a font, of which a warning was given


P = ParamSpec("P")


def legible(make: Callable[P, Figure]) -> Callable[P, Figure]:
    """A figure whose texts are shown as they are, in installed fonts that have their characters;
    see `fonts`.
    """

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Figure:
        figure = make(*args, **kwargs)
        texts = figure.findobj(Text)
        families = fonts("".join(text.get_text() for text in texts))
        for text in texts:
            text.set(family=families, **NAME)
        return figure

    return made


def fonts(text: str) -> list[str]:
    """The font families for a text: matplotlib's, then installed ones that have characters which
    those lack.

    A script of which characters are left is named in a warning, once a process.
    """
    families = [*plt.rcParams["font.family"]]
    lacking = "".join(sorted(filter(str.isprintable, set(text))))
    for name in families:
        lacking = _lacking(lacking, font_manager.findfont(FontProperties(family=[name])))
    more, lacking = _fallback(lacking)
    scripts = {_script(c): c for c in reversed(lacking)}  # with its first character
    if new := {name: c for name, c in scripts.items() if name not in _said}:
        _said.update(new)
        named = ", ".join(f"{name} ({c})" if name != c else c for name, c in new.items())
        warnings.warn(
            f"figures show boxes for characters that no font here has: {named}; install one that has them, such as Noto Sans "
            "CJK, and start again, or set matplotlib's font.family to it",
            stacklevel=3,
        )
    if lacking:
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from", UserWarning
        )  # matplotlib's, one a character and figure
    return [*families, *more]


def _script(c: str) -> str:
    """The script of a letter; of a symbol itself."""
    return unicodedata.name(c, c).split()[0] if unicodedata.category(c)[0] in "LM" else c


@cache
def _fallback(lacking: str) -> tuple[list[str], str]:
    """Installed font families that have these characters, and the characters that none has."""
    more = []
    if lacking:
        listed = {entry.fname for entry in font_manager.fontManager.ttflist}
        for path in sorted(
            {*font_manager.findSystemFonts()} - listed
        ):  # installed since matplotlib made its list
            with suppress(Exception):  # not a font that matplotlib can use
                font_manager.fontManager.addfont(path)
    for entry in font_manager.fontManager.ttflist:
        if lacking and entry.style == "normal" and not entry.name.startswith(LAST_RESORT):
            left = _lacking(lacking, entry.fname)
            more, lacking = (more if left == lacking else [*more, entry.name]), left
    return more, lacking


def _lacking(text: str, path: str) -> str:
    """The characters that the font in a file does not have: all, if it can't be read."""
    with suppress(Exception):
        font = font_manager.get_font(path)
        return "".join(c for c in text if not font.get_char_index(ord(c)))
    return text


def colours(methods: Sequence[str]) -> dict[str, tuple]:
    """RGB of each method: the known ones have their own, the others darker and lighter ones, to be
    told apart in grey too.
    """
    import seaborn as sns  # slow to import

    others = [method for method in methods if method not in KNOWN]
    dark = -(-len(others) // 2)
    lightness = [*np.linspace(0.2, 0.4, dark), *np.linspace(0.71, 0.87, len(others) - dark)]
    made = [
        sns.husl_palette(1, h=(0.85 + 0.38 * k) % 1, s=0.9, l=level)[0]
        for k, level in enumerate(lightness)
    ]
    return dict(
        zip((*KNOWN, *others), [*sns.color_palette("colorblind", len(KNOWN)), *made], strict=True)
    )


@legible
def precision_recall(
    experiment: Experiment, records: Sequence[Record], columns: int = 5, curves: int = CURVES
) -> Figure:
    """A panel for each held-out class, of many for those whose methods differ most: the mean curve
    over trials, with a band of one standard deviation, for each method and score; in its corner the
    average precisions in percent. Of more scores than so many curves allow, the first are drawn.
    """
    wanted = plan.scoring(experiment)
    drawn = max(1, curves // len(experiment.methods))
    fewer = f", the first {drawn} of {len(wanted)} scores" * (drawn < len(wanted))
    wanted = dict([*wanted.items()][:drawn])
    classes, every = _panels(experiment, records)
    if not classes:
        return _note("no class is held out: no precision-recall curve")
    columns = min(columns, len(classes))
    rows = -(-len(classes) // columns)
    size = (max(1.95 * columns, 4.6), 1.9 * rows + 0.9) if len(classes) > 1 else (5.2, 4.4)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=size,
        dpi=180,
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    colour, handles = colours(experiment.methods), {}
    for axis in axes.flat[len(classes) :]:
        axis.remove()
    for axis, hold_out in zip(axes.flat, classes, strict=False):
        members = [record for record in records if record.hold_out == hold_out]
        texts = []
        for method, (score, style) in product(
            experiment.methods, zip(wanted, cycle(STYLES), strict=False)
        ):
            look = {"color": colour[method], "linestyle": style}
            line, text = _curve(
                axis,
                [r for r in members if r.method == method],
                wanted[score],
                experiment.statistics,
                look,
            )
            if line:
                handles[f"{label(method, experiment.methods)}, {label(score, wanted)}"] = line
                texts.append((f"{label(score, wanted)} {text}", colour[method]))
        if members:
            handles["share of anomalies"] = axis.axhline(
                members[0].skew, color="0.45", linewidth=0.8, linestyle=(0, (1, 2))
            )
        low = (
            np.mean([float(text.split()[-3 if "±" in text else -1]) for text, _ in texts] or 0) > 50
        )  # where there is room
        for k, (text, shade) in enumerate(reversed(texts) if low else texts):
            at = (
                {"xy": (0, 0.13), "xytext": (4, 8 * k)}
                if low
                else {"xy": (1, 1), "xytext": (-4, -3 - 8 * k)}
            )
            how = {
                "ha": "left" if low else "right",
                "va": "bottom" if low else "top",
                "fontsize": 6.5,
                "color": shade,
            }
            axis.annotate(text, **at, **how, xycoords="axes fraction", textcoords="offset points")
        if not members:
            axis.text(0.5, 0.5, "not run", ha="center", va="center", color="0.5")
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axis.set_title(hold_out, fontsize=8.5)
        axis.tick_params(labelsize=7)
    for axis in axes[-1, : len(classes) - columns * (rows - 1)]:
        axis.set_xlabel("recall", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("precision", fontsize=8)
    where = {
        "loc": "outside lower center",
        "ncols": 2 if columns < 3 else 3,
        "fontsize": 7.5,
        "frameon": False,
    }
    figure.legend(list(handles.values()), list(handles), **where)
    title = f"Precision-recall of the held-out class{'es' * (len(classes) > 1)}, {experiment.dataset_name}"
    title += f": {len(classes)} of {every}, where methods differ most" * (len(classes) < every)
    averaged = show.averaged(records, "mean ± std of ")
    below = f"({experiment.profile}, {experiment.statistics} statistics; average precision in %, {averaged}{fewer})"
    figure.suptitle(f"{title}\n{below}", fontsize=8.5)
    return figure


def _panels(experiment: Experiment, records: Sequence[Record]) -> tuple[list[str], int]:
    """The held-out classes to draw, in their order, and how many there are."""
    classes = [name for name in plan.held_out(experiment) if name is not None]
    if len(classes) <= PANELS:
        return classes, len(classes)
    found = without_average(tables.by_class(experiment, records))
    means = found.xs(
        (experiment.scores[0], "mean"), axis=1, level=("measure", "statistic")
    )  # (classes, methods)
    chosen = (means.max(axis=1) - means.min(axis=1)).fillna(-1).nlargest(PANELS).index
    return [name for name in classes if name in chosen], len(classes)


def _curve(
    axis: Axes, records: Sequence[Record], how: dict, statistics: str, look: dict
) -> tuple[Any, str]:
    """One method's and score's curve, and its average precision as text; nothing where it was not
    run.
    """
    end = plan.STATISTICS[statistics]
    found = [(record, key + end) for record in records if (key := record.key(how))]
    if not found:
        return None, ""
    curves = [Curve.of(*record.scores("is_anomaly", key).values()) for record, key in found]
    anomalies = np.arange(1, curves[0].found[-1] + 1)
    every = np.stack(
        [curve.steps(anomalies).precision for curve in curves]
    )  # (trials, P), at each recall 1/P to 1
    mean, x = every.mean(0), np.r_[0, anomalies / len(anomalies)]
    (line,) = axis.plot(x, np.r_[mean[:1], mean], drawstyle="steps-pre", linewidth=1.1, **look)
    if len(found) > 1:
        half = every.std(0, ddof=1)
        low, high = (np.r_[edge[:1], edge] for edge in (mean - half, mean + half))
        axis.fill_between(x, low, high, step="pre", color=look["color"], alpha=0.13, linewidth=0)
    precisions = pd.Series([100 * record.metrics[key] for record, key in found])
    return line, show.mean_std(precisions.mean(), precisions.std())


@legible
def gain_by_class(
    experiment: Experiment, records: Sequence[Record], panels: int = 3, most: int = ROWS
) -> Figure:
    """How far each method is above plain classification: a row a held-out class, at the bottom
    their mean; a panel a score.

    A dot is a class, its bar 95 % over test images; the diamond is their mean, its bar 95 % over
    held-out classes. Hollow: the paper's. Of more scores the first are drawn, of more classes those
    with the largest differences.
    """
    scores = experiment.scores[:panels]
    table = stats.gains_by_class(experiment.model_copy(update={"scores": scores}), records, most)
    if table.difference.isna().all():
        return _note(
            f"{experiment.dataset_name}: not run with both classification and another method, no difference by class"
        )
    names, methods = list(dict.fromkeys(table.hold_out)), list(dict.fromkeys(table.method))
    colour, last = colours(experiment.methods), len(names) - 1
    size = (
        max(8, 6.3 + 0.075 * max(map(len, names))),
        1.7 + (0.13 + 0.1 * len(methods)) * (len(names) + 1),
    )
    figure, axes = plt.subplots(
        1,
        len(scores),
        figsize=size,
        dpi=DPI,
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    hollow: dict[str, Any] = {"markersize": 7.5, "fillstyle": "none", "markeredgewidth": 1}
    for axis, score in zip(axes.flat, scores, strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        for row in tables.rows(table[table.score == score]):
            place, k = names.index(row.hold_out), methods.index(row.method)
            y = place + 0.3 * (place == last) + 0.7 * ((k + 0.5) / len(methods) - 0.5)
            ink, marker = colour[row.method], "D" if place == last else "o"
            axis.plot([row.low, row.high], [y, y], color=ink, linewidth=1.3)
            axis.plot(row.difference, y, marker, color=ink, markersize=4.5)
            axis.plot(row.paper, y, marker, color=ink, **hollow)
        axis.axhline(last - 0.4, color="0.6", linewidth=0.8)
        axis.set_title(label(score, scores), fontsize=9)
        bars = "class: over test images, given the networks\nmean: over other held-out classes"
        axis.set_xlabel(f"points of average precision; bars: 95 %\n{bars}", fontsize=7)
        axis.tick_params(labelsize=8)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", color="0.93")
        axis.set_axisbelow(True)
    mean = "mean" if table.whole.all() else "mean of those run"
    axes[0, 0].set_yticks([*range(last), last + 0.3], [*names[:-1], mean])
    axes[0, 0].set_ylim(last + 0.9, -0.6)
    handles: dict[str, Artist] = {
        label(name, methods): Patch(color=colour[name]) for name in methods
    }
    if table.paper.notna().any():
        handles["the paper's difference"] = Line2D(
            [], [], linestyle="", marker="o", color="0.3", **hollow
        )
    figure.legend(
        [*handles.values()],
        [*handles],
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    every = sum(name is not None for name in plan.held_out(experiment))
    title = f"How far each method is above {label('classification').lower()}, by held-out class"
    title += f": {last} of {every}, where the differences are largest" * (last < every)
    title += f"; the first {len(scores)} of {len(experiment.scores)} scores" * (
        len(scores) < len(experiment.scores)
    )
    figure.suptitle(f"{title}\n({show.title(experiment)}, {show.averaged(records)})", fontsize=8.5)
    return figure


@legible
def gain_by_labels(
    runs: Sequence[tuple[Experiment, Sequence[Record]]], method: str = "rotation"
) -> Figure:
    """How the method's gain over plain classification depends on the number of training images a
    class.

    A panel each for MSP, ODIN and accuracy, in points: a thin line for each held-out class, a thick
    one for their mean with its 95 % interval over classes, where all of them were run. Dotted: how
    many images a class the paper's tables have.
    """
    measures = [
        name
        for name in ("msp", "odin", "accuracy")
        if all(name in (*e.scores, "accuracy") for e, _ in runs)
    ]
    points = sorted(
        ((tables.images_a_class(e, records), k) for k, (e, records) in enumerate(runs)),
        key=lambda point: point[0],
    )
    points = [(n, *runs[k]) for n, k in points if not math.isnan(n)]
    numbers = [n for n, *_ in points]
    found = [tables.by_class(experiment, records) for _, experiment, records in points]
    means = (
        stats.gains(runs)
        .query("method == @method and statistics == @runs[0][0].statistics")
        .sort_values("images")
    )
    low, high = (min(numbers), max(numbers)) if numbers else (0, 0)
    there = {n: where for n, where in tables.PAPERS_IMAGES.items() if low / 1.5 < n < high * 1.5}
    size = (5 * len(measures), 4.8)
    figure, axes = plt.subplots(
        1, len(measures), figsize=size, dpi=DPI, squeeze=False, layout="constrained"
    )
    for axis, measure in zip(axes.flat, measures, strict=True):
        gained = (
            pd.concat([stats.gain(table, method, measure) for table in found], axis=1)
            if points
            else pd.DataFrame()
        )
        for line in gained.to_numpy():
            axis.plot(
                numbers,
                line,
                color="0.7",
                linewidth=0.9,
                marker="o",
                markersize=2.5,
                label="a held-out class",
            )
        every = means[means.measure == measure]
        mean = every[every.classes == every.planned]
        half = (mean.high - mean.gain).fillna(0)
        bold = {
            "color": colours([method])[method],
            "linewidth": 2.4,
            "marker": "o",
            "capsize": 4,
            "zorder": 3,
        }
        axis.errorbar(
            mean.images, mean.gain, half, **bold, label="mean over classes, 95 % interval"
        )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(
            xscale="log", xlabel="training images a class (logarithmic)", ylabel="gain (points)"
        )
        axis.set_title(label(measure) + " average precision" * (measure != "accuracy"))
        below = {n: show.averaged(records, "") for n, _, records in points}
        lacking = tables.rows(every[every.classes < every.planned])
        below |= {row.images: f"{row.classes or 'none'} of {row.planned} run" for row in lacking}
        axis.set_xticks(numbers, [f"{n:,.0f}\n{below[n]}" for n in numbers])
        axis.minorticks_off()
        if points:
            axis.set_xlim(low / 1.4, high * max(1.8, (high / low) ** 0.23))  # room for names
        if len(gained) <= PANELS:
            _name_lines(axis, gained, numbers)
        for n in there:
            axis.axvline(n, color="0.5", linewidth=0.8, linestyle=":")
    legend = dict(
        zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True)
    )  # one line of each kind
    if there:
        said = "the paper's numbers: " + ", ".join(
            f"{n:,} in {where}" for n, where in there.items()
        )
        legend[said] = Line2D([], [], color="0.5", linewidth=0.8, linestyle=":")
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    title = f"{label(method)} above {label('classification')}"
    figure.suptitle(
        f"{title}, {runs[0][0].dataset_name} ({runs[0][0].profile}, {runs[0][0].statistics} statistics)"
    )
    return figure


def _name_lines(axis: Axes, lines: pd.DataFrame, x: Sequence[float]) -> None:
    """Each line's name beside its last point, moved up or down where names would overlap; lines: a
    row each.
    """
    low, high = axis.get_ylim()
    last = lines.apply(pd.Series.last_valid_index, axis=1)
    for column, place in zip(lines, x, strict=True):
        ends = lines.loc[last == column, column].sort_values()
        at, least = ends.to_numpy().copy(), 0.036 * (high - low)
        for _ in range(200):
            overlap = np.clip(least - np.diff(at), 0, None) / 2
            at[:-1] -= overlap
            at[1:] += overlap
            at = at.clip(low + least / 2, high - least / 2)
        for name, y in zip(ends.index, at, strict=True):
            look: dict[str, Any] = {
                "va": "center",
                "fontsize": 7,
                "color": "0.4",
                "bbox": {"color": "white", "pad": 0.3},
            }
            axis.annotate(name, (place, y), (5, 0), textcoords="offset points", **look)


@legible
def forest(
    found: stats.Measured, table: pd.DataFrame, title: str, tested: pd.DataFrame | None = None
) -> Figure:
    """Differences in average precision, a row a score, the highest first; the colour is the method.

    table: of `stats.effects` or `stats.contrasts`. A dot a held-out class; the diamond is their
    mean, its thin bar the 95 % interval over held-out classes, its thick one over test images.
    tested: `stats.contrasts` whose p by Holm stands beside.
    """
    if table.difference.isna().all():
        return _note(f"{title}: not run")
    every = list(dict.fromkeys(m for m, _ in found.classes.columns))
    colour, methods = colours(every), list(dict.fromkeys(table.method))
    scores = (
        table.groupby("score", sort=False).difference.first().sort_values().index.tolist()
    )  # the first method's
    size = (9.5, 0.6 + (0.22 + 0.13 * len(methods)) * (len(scores) + 2))
    figure, axis = plt.subplots(figsize=size, dpi=DPI, layout="constrained")
    for row in tables.rows(table):
        worse = (row.method, "msp") if row.against == "msp" else (row.against, row.score)
        gained, ink = (
            found.classes[row.method, row.score] - found.classes[worse],
            colour[row.method],
        )
        y = scores.index(row.score) + 0.36 * ((len(methods) - 1) / 2 - methods.index(row.method))
        axis.plot(
            gained, [y] * len(gained), "o", color=ink, markersize=3.5, alpha=0.45, markeredgewidth=0
        )
        axis.plot(
            [row.low, row.high], [y, y], color=ink, linewidth=1.2, solid_capstyle="butt", zorder=3
        )
        axis.plot(
            [row.images_low, row.images_high],
            [y, y],
            color=ink,
            linewidth=4,
            solid_capstyle="butt",
            zorder=3,
        )
        name = label(row.method) if row.score == scores[-1] else None
        axis.plot(
            row.difference,
            y,
            "D",
            color=ink,
            markersize=4,
            markeredgecolor="white",
            zorder=3,
            label=name,
        )
    for row in tables.rows(tested.dropna(subset="holm")) if tested is not None else ():
        at, place = (1.01, scores.index(row.score)), ("axes fraction", "data")
        p = show.p_value(row.holm)
        axis.annotate(
            f"p {p}",
            at,
            xycoords=place,
            color=colour[row.method],
            fontsize=8,
            va="center",
            annotation_clip=False,
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(
        range(len(scores)), [label(score) + " *" * (score in PAPERS_SCORES) for score in scores]
    )
    text = "points of average precision; a dot: a held-out class; bars: 95 %, thin over held-out classes, thick over test images\n"
    text += "*: the paper's scores" + "; p: over held-out classes, corrected by Holm" * (
        tested is not None
    )
    axis.set_xlabel(text, fontsize=8)
    axis.set_ylim(-0.7, len(scores) - 0.3)
    axis.grid(axis="y", color="0.93")
    axis.set_axisbelow(True)
    if len(every) > 1:
        axis.legend(fontsize=8, loc="lower right")
    axis.set_title(title)
    return figure


@legible
def prevalence(table: pd.DataFrame, board: pd.DataFrame, curves: int = CURVES) -> Figure:
    """Average precision by the share of anomalies, as a multiple of that share, which chance would
    give; a panel a method.

    table: of `stats.by_prevalence`. MSP, ODIN and the highest others of the first method in
    `board`, of `stats.leaderboard`.
    """
    methods = list(dict.fromkeys(method for method, _ in table.columns))
    if not methods:
        return _note("average precision by prevalence: not run")
    ranked = [score for method, score in board.index if method == methods[0]]
    scores = [s for s in PAPERS_SCORES if s in ranked] + [
        s for s in ranked if s not in PAPERS_SCORES
    ]
    scores = scores[:curves]
    colour = colours(methods)
    size = (5.2 * len(methods), 4.4)
    figure, axes = plt.subplots(
        1, len(methods), figsize=size, dpi=DPI, squeeze=False, sharey=True, layout="constrained"
    )
    for axis, method in zip(axes.flat, methods, strict=True):
        for score, style in zip(scores, STYLES * len(scores), strict=False):
            if (method, score) in table:
                times = table[method, score] / 100 / table.index
                axis.plot(
                    100 * table.index,
                    times,
                    color=colour[method],
                    linestyle=style,
                    linewidth=1.6,
                    label=label(score),
                )
        axis.axhline(1, color="0.45", linewidth=1, linestyle=(0, (1, 2)))
        shares = [0.1, 1, 10, 50]
        axis.set(xscale="log", xlabel="anomalies among the images (%)", title=label(method))
        axis.set_xticks(shares, [f"{share:g}" for share in shares])
        axis.minorticks_off()
        axis.legend(fontsize=8, frameon=False, handlelength=4)
    axes[0, 0].set_ylabel("average precision / share of anomalies (chance: 1)")
    if axes[0, 0].get_ylim()[1] > 10:  # nearly all are found: the curves fall from hundreds to 2
        axes[0, 0].set_yscale("log")
        axes[0, 0].yaxis.set_major_formatter("{x:g}")
    figure.suptitle(
        f"Average precision by prevalence, {len(scores)} of {len(ranked)} scores, mean over held-out classes"
    )
    return figure


@legible
def probes(
    found: stats.Measured, table: pd.DataFrame, correlations: pd.DataFrame, score: str | None = None
) -> Figure:
    """How well pixels alone find each held-out class against how well a detector does, a panel a
    probe; colour: the method.

    table: of `appendix_d.probes`, whose bars are 95 % over test images. correlations: of
    `stats.correlations`. score: None, the first.
    """
    both = found.classes.index.intersection(table.index)
    if not len(both):
        return _note("pixels alone: the images are not here, or nothing was run")
    score = score or found.classes.columns[0][1]
    names, methods = (
        list(table.columns.unique(0)),
        [m for m, s in found.classes.columns if s == score],
    )
    colour, rho = (
        colours(methods),
        correlations[correlations.score == score].set_index(["method", "probe"]),
    )
    size = (5.6 * len(names), 4.8)
    figure, axes = plt.subplots(
        1, len(names), figsize=size, dpi=DPI, squeeze=False, sharey=True, layout="constrained"
    )
    for axis, probe in zip(axes.flat, names, strict=True):
        x, low, high = (
            table.loc[both, (probe, name)] for name in ("average_precision", "low", "high")
        )
        for method in methods:
            y, r = found.classes.loc[both, (method, score)], rho.loc[(method, probe)]
            text = f"{label(method)}: rank correlation {show.correlation(r)}, 95 % over held-out classes"
            bars = {
                "fmt": "o",
                "markersize": 5,
                "linewidth": 1,
                "alpha": 0.85,
                "color": colour[method],
            }
            axis.errorbar(x, y, xerr=[x - low, high - x], label=text, **bars)
        for (_, name), at, height in zip(
            both, x, found.classes.loc[both, (methods[0], score)], strict=True
        ):
            axis.annotate(
                name, (at, height), xytext=(4, -9), textcoords="offset points", fontsize=7
            )
        axis.set_xlabel(f"{probe}: average precision (%), 95 % over test images")
        axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    axes[0, 0].set_ylabel(f"{label(score)}: average precision (%), mean of trials")
    return figure


@legible
def learning_curves(experiment: Experiment, records: Sequence[Record]) -> Figure:
    """Cost, accuracy and average precision by epoch (the paper's Figure 1), in percent.

    A line for each method and, up to three, each held-out class; the line is the mean, the band one
    std over the rest. Test measures are with the mixed batch-norm statistics.
    """
    import seaborn as sns

    parts = []
    for record in (record for record in records if not record.external):
        name = record.hold_out or "none"  # matplotlib's legends leave out what begins with _
        whose = {
            "held out": f" {name}" if name[0] == "_" else name,
            "method": label(record.method, experiment.methods),
        }
        parts.append(record.history().assign(**whose))
    if not parts:
        return _note(f"{experiment.dataset_name}: not run, no learning curve")
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), dpi=DPI, layout="tight")
    history = pd.concat(parts, ignore_index=True)
    panels = {
        "loss": ("cost (training)", 1),
        "accuracy": ("test accuracy (%), mixed statistics", 100),
        "msp": ("average precision, MSP (%), mixed statistics", 100),
    }
    classes = history["held out"].unique()
    several = 1 < len(classes) <= 3
    hue = (
        {"hue": "held out", "style": "method"} if several else {"hue": "method", "style": "method"}
    )
    own = {
        label(name, experiment.methods): colour
        for name, colour in colours(experiment.methods).items()
    }
    palette = "colorblind" if several else {name: own[name] for name in history["method"].unique()}
    for axis, (column, (text, factor)) in zip(axes, panels.items(), strict=True):
        if column in history:
            scaled = history.assign(value=history[column] * factor)
            how = {"errorbar": "sd", "palette": palette, "marker": "o", "markersize": 4}
            sns.lineplot(scaled, x="epoch", y="value", **hue, ax=axis, **how)
            axis.get_legend().remove()
        axis.set(xlabel="epoch", ylabel=text)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(
        handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
    )
    held_out = ", ".join(classes) if len(classes) <= 3 else f"mean of {len(classes)} classes"
    figure.suptitle(
        f"Learning curves, {experiment.dataset_name}, {held_out} held out ({experiment.profile})"
    )
    return figure


def committed(name: str) -> list[Image.Image]:
    """A figure of outputs/ as it is in the repository, to show beside others; none where it isn't
    there.
    """
    return [Image.open(path) for path in [ROOT / "outputs" / name] if path.exists()]


@legible
def samples(images: Mapping[str, np.ndarray], title: str) -> Figure:
    """The paper's Figures 2 to 6: a row for each class of its images, uint8 (N, C, H, W); what is
    not here is said so.
    """
    if not any(map(len, images.values())):
        return _note(f"{title}: no images of it here")
    rows = [
        (name + "\n(not here)" * (not len(members)), [(image, "") for image in members])
        for name, members in images.items()
    ]
    return _sheet(rows, title, 1.65)


def _sheet(
    rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]], title: str, side: float = 1.25
) -> Figure:
    """A contact sheet: of each row its text, then images (C, H, W), each below its caption; side:
    inches of an image.
    """
    columns, lines = (
        max(len(cells) for _, cells in rows),
        max(c.count("\n") + bool(c) for _, cells in rows for _, c in cells),
    )
    beside, above = (
        0.08 * max(len(line) for text, _ in rows for line in text.splitlines() or [""]),
        0.11 * lines,
    )
    size = (max(6, side * columns + beside), (side + above) * len(rows) + 0.4)
    figure, axes = plt.subplots(
        len(rows), 1, figsize=size, dpi=DPI, squeeze=False, layout="constrained"
    )
    for axis, (text, cells) in zip(axes.flat, rows, strict=True):
        axis.set(
            xticks=[],
            yticks=[],
            frame_on=False,
            xlim=(0, columns),
            ylim=(1, -above / side),
            anchor="W",
        )
        axis.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")
        for k, (image, caption) in enumerate(cells):
            height, width = np.array(image.shape[1:]) / max(image.shape[1:]) * 0.47
            place = (k + 0.5 - width, k + 0.5 + width, 0.5 + height, 0.5 - height)
            axis.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, extent=place)
            axis.text(k + 0.5, 0.5 - height, caption, fontsize=6.5, ha="center", va="bottom")
    figure.suptitle(title, fontsize=10)
    return figure


def _fitting(text: str, characters: int = 24) -> str:
    """The text, or of a longer one its ends."""
    half = characters // 2 - 1
    return text if len(text) <= characters else f"{text[:half]}…{text[-half:]}"


def pixels(image: np.ndarray) -> np.ndarray:
    """What is shown of an image (C, H, W): its first three channels, (H, W, 3), or of fewer the
    first, (H, W).
    """
    return image[:3].transpose(1, 2, 0) if len(image) >= 3 else image[0]


@legible
def most_anomalous(
    table: pd.DataFrame, images: np.ndarray, count: int = 40, columns: int = 8
) -> Figure:
    """A contact sheet of the images, uint8 (N, C, H, W), with the highest first score of a table of
    `runs.new_images`.
    """
    score, cells = table.columns[2], []
    for k in np.argsort(-table[score].to_numpy(), kind="stable")[:count]:
        row = table.iloc[k]
        name = _fitting(row.file.encode(errors="replace").decode())
        cells.append(
            (images[k], f"{name}\n{_fitting(row.predicted, 16)}, {row[f'{score}_percentile']:.1f}")
        )
    title = f"The most anomalous of {len(table)} images by {label(score)}: file, predicted class, percentile among the run's normal"
    return _sheet(
        [("", cells[k : k + columns]) for k in range(0, len(cells), columns)],
        f"{title} test images",
        1.5,
    )


def _note(text: str) -> Figure:
    figure, axis = plt.subplots(figsize=(8, 1), dpi=DPI)
    axis.text(0.5, 0.5, text, ha="center", va="center", color="0.5")
    axis.set_axis_off()
    return figure


@legible
def ranked_images(
    record: Record, data: Dataset, score: str = "msp", count: int = 10, statistics: str = "mixed"
) -> Figure:
    """The test images that a score gets right and wrong, in four rows ranked by score, each titled
    class -> predicted.

    score: a name in the record's `scoring`. count: images a row. statistics: batch norm's, mixed or
    upright.
    """
    end = plan.STATISTICS[statistics]
    arrays = record.scores()
    if score not in record.scoring:
        raise ValueError(
            f"{score!r} is not a score of this run; choose from {', '.join(record.scoring)}"
        )
    if digests_of(data).test != record.test_digest:
        return _note("the images that are here now are not those that were scored")
    scores, is_anomaly = arrays[score + end], arrays["is_anomaly"]
    order = np.argsort(scores, kind="stable")
    anomalies, normal = order[is_anomaly[order]], order[~is_anomaly[order]]
    rows = {
        "anomalies,\nmost anomalous": anomalies[len(anomalies) // 2 :][
            ::-1
        ],  # no image in two rows
        "anomalies,\nleast anomalous": anomalies[: len(anomalies) // 2],
        "normal,\nmost anomalous": normal[len(normal) // 2 :][::-1],
        "normal,\nleast anomalous": normal[: len(normal) // 2],
    }
    sheet = []
    for text, ranked in rows.items():
        names = [
            [record.classes[arrays[which][k]] for which in ("label", f"predicted{end}")]
            for k in ranked[:count]
        ]
        captions = [
            " → ".join(pair) if len("".join(pair)) <= 21 else "\n→ ".join(map(_fitting, pair))
            for pair in names
        ]
        cells = zip(ranked, captions, strict=False)
        sheet.append(
            (text, [(data.test.images[k], f"{caption}\n{scores[k]:.4g}") for k, caption in cells])
        )
    what = f"{label(score)} ({statistics} statistics), {label(record.method)}, {record.hold_out or 'nothing'} held out"
    return _sheet(sheet, f"{what}: class → predicted class, score")


def save(figure: Figure, path: Path, experiment: Experiment, records: Sequence[Record]) -> None:
    """Write a figure as PNG; one of a smaller share of its runs than the file shows goes to
    <name>.unfinished.png.
    """
    save_several(figure, path, [(experiment, records)])


def save_several(
    figure: Figure, path: Path, runs: Sequence[tuple[Experiment, Sequence[Record]]]
) -> None:
    """Likewise a figure of several experiments."""
    share = sum(len(records) for _, records in runs) / sum(
        len(plan.planned(experiment)) for experiment, _ in runs
    )
    before = 0.0
    with (
        suppress(Exception),
        Image.open(path) as file,
    ):  # not there, or not one of ours: anything but nothing replaces it
        before = 1e-9
        file.load()  # fails where it is damaged
        before = float(file.info[SHARE])
    tables.save_complete(
        path,
        share,
        before,
        lambda file: figure.savefig(file, format="png", metadata={SHARE: str(share)}),
    )
