"""Figures of records and of the tables made by `tables` and `stats`, as matplotlib Figures."""

import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, cycle, islice, product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from semlib.datasets import Dataset
from workbench.experiment import Experiment
from workbench.files import result, save_atomically
from workbench.images import prepared
from workbench.images.digests import digests_of
from workbench.results import show, stats, tables
from workbench.results.frame import Runs
from workbench.results.image_map import image_map as image_map
from workbench.results.image_map import pixels
from workbench.results.names import label
from workbench.results.ranking import Ranking
from workbench.runs import plan
from workbench.runs.store import Record

plt.style.use("default")  # a machine's matplotlibrc may ask for TeX that is not installed
plt.rcParams |= {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}  # TrueType, text
if "ipykernel" in sys.modules:
    # Now, not at the first figure: it makes pyplot interactive, which rc_context would undo
    plt.switch_backend(plt.get_backend())
if "ipykernel" in sys.modules and plt.get_backend().lower() == "agg":
    from IPython import get_ipython  # with $MPLBACKEND=Agg a notebook would show no figure

    if shell := get_ipython():
        shell.run_line_magic("matplotlib", "inline")

SHARE = "semlib: share of runs finished"  # key in a figure file's metadata
KNOWN = ("classification", "rotation", "cpc", "center_mask")  # the same colours in every figure
STYLES = ("-", (0, (4, 1.5)), ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)))  # one for each score
WIDTHS = {"column": 3.3, "page": 7.0}  # inches, in AAAI's style
PANELS = 12  # at most this many are drawn
CURVES = 6
ROWS = 30
CURVE = ["hold_out", "method", "score", "average_precision", "precisions", "skew"]
DOTTED: dict[str, Any] = {"color": "0.45", "linewidth": 0.9, "linestyle": ":"}
ZERO: dict[str, Any] = {"color": "black", "linewidth": 0.8}
# For characters that DejaVu Sans lacks; of a font that isn't installed matplotlib would warn.
FALLBACKS = ("Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic")
FALLBACKS += ("Noto Sans Devanagari", "Arial Unicode MS", "Hiragino Sans", "Microsoft YaHei")
INSTALLED = {*font_manager.get_font_names()}
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in FALLBACKS if name in INSTALLED)],
    "font.size": 8.5,
    "figure.titlesize": "medium",
    "legend.frameon": False,
    "lines.solid_capstyle": "butt",  # an interval's bar ends where the interval ends
    "text.parse_math": False,  # a class may be called a$b$
}
styled: Any = plt.rc_context(STYLE)  # decorates functions that make a figure
Records = Sequence[Record]


def colours(methods: Sequence[str]) -> dict[str, tuple]:
    """Each method's RGB colour; they differ in lightness too, for a print in grey."""
    import seaborn as sns  # slow to import

    found = dict(zip(KNOWN, sns.color_palette("colorblind"), strict=False))
    others = [method for method in methods if method not in KNOWN]
    dark = math.ceil(len(others) / 2)  # the others are darker or lighter than the known ones
    lightness = np.r_[np.linspace(0.3, 0.4, dark), np.linspace(0.71, 0.87, len(others) - dark)]
    for k, method in enumerate(others):
        found[method] = sns.husl_palette(1, h=(0.85 + 0.38 * k) % 1, s=0.9, l=lightness[k])[0]
    return found


def panels(shape: tuple[int, int], width: float, height: float, dpi: int = 110, **shared: bool):
    """A figure of shape (rows, columns), width x height inches, and the list of its axes."""
    size: dict[str, Any] = {"figsize": (width, height), "dpi": dpi, "layout": "constrained"}
    figure, axes = plt.subplots(*shape, squeeze=False, **size, **shared)
    return figure, [*axes.flat]


def legend(figure: Figure, loc: str = "outside lower center", ncols: int = 1) -> None:
    """One legend beside the panels, which has each of their labels once."""
    handles = {}
    for axis in figure.axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    place: dict[str, Any] = {"loc": loc, "ncols": ncols}
    figure.legend(handles.values(), handles, **place)


def note(text: str) -> Figure:
    figure, (axis,) = panels((1, 1), 8, 1)
    axis.text(0.5, 0.5, text, ha="center", va="center", color="0.5", fontsize=10)
    axis.set_axis_off()
    return figure


@styled
def precision_recall(experiment: Experiment, records: Records, curves: int = CURVES) -> Figure:
    """Precision by recall, a panel for each held-out class: mean over trials, band of one std.

    Of many classes those where methods differ most are drawn, of many scores the first, so that a
    panel has at most `curves` curves. Its legend gives average precisions in percent.
    """
    scoring = plan.how_scored(experiment)
    scores = dict(islice(scoring.items(), max(1, curves // len(experiment.methods))))
    held_out = [name for name in plan.held_out(experiment) if name is not None]
    if not held_out:
        return note("no class is held out: no precision-recall curve")
    means = tables.by_class(experiment, records).loc[held_out]
    means = means.xs((experiment.scores[0], "mean"), axis=1, level=("measure", "statistic"))
    spread = (means.max(axis=1) - means.min(axis=1)).fillna(-1)
    classes = [name for name in held_out if name in spread.nlargest(PANELS).index]
    drawn = [r for r in tables.shared(experiment, records) if r.hold_out in classes]
    rows = []
    for method, (score, how) in product(experiment.methods, scores.items()):
        for record in drawn:
            key = record.key(how) if record.method == method else None
            key = key and plan.array_name(key, experiment.statistics)
            if key in record.metrics:
                ranking = Ranking(*record.scores("is_anomaly", key).values())
                names = [label(method, experiment.methods), label(score, scores)]
                row = [record.hold_out, *names, 100 * record.metrics[key], precisions(ranking)]
                rows.append([*row, record.skew])
    table = pd.DataFrame(rows, columns=CURVE)
    colour = {label(m, experiment.methods): c for m, c in colours(experiment.methods).items()}
    title = f"Precision-recall of the held-out class, {experiment.dataset_name}"
    if len(classes) < len(held_out):
        title += f": {len(classes)} of {len(held_out)}, where methods differ most"
    if len(scores) < len(scoring):
        title += f", the first {len(scores)} of {len(scoring)} scores"
    below = f"{experiment.profile}, {experiment.statistics} statistics; average precision in %, "
    title += f"\n({below}{show.averaged(drawn, 'mean ± std of ')})"
    return curves_by_class(table, classes, colour, title)


def curves_by_class(
    table: pd.DataFrame, classes: Sequence[str], colour: Mapping[str, Any], title: str
) -> Figure:
    """A panel for each class. table: a row a trial's curve, columns CURVE; colour: by method."""
    columns = min(5, len(classes))
    rows = math.ceil(len(classes) / columns)
    size = (max(1.95 * columns, 5.2), 1.9 * rows + (0.9 if len(classes) > 1 else 2.7))
    figure, axes = panels((rows, columns), *size, dpi=180, sharex=True, sharey=True)
    style = dict(zip(table.score.unique(), cycle(STYLES), strict=False))
    for axis, name in zip(axes, classes, strict=False):
        _draw_curves(axis, table[table.hold_out == name], colour, style)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axis.set(title=name, xlabel="recall", ylabel="precision")
        axis.label_outer()
    for axis in axes[len(classes) :]:
        axis.remove()
    legend(figure, ncols=2 if columns < 3 else 3)
    figure.suptitle(title)
    return figure


def _draw_curves(axis: Axes, table: pd.DataFrame, colour: Mapping, style: Mapping) -> None:
    """One class's curves, its share of anomalies, and a legend with the average precisions."""
    if table.empty:
        axis.text(0.5, 0.5, "not run", ha="center", va="center", color="0.5")
        return
    texts = []
    pairs: Any = table.groupby(["method", "score"], sort=False)
    for (method, score), trials in pairs:
        each = pd.concat(trials.precisions.tolist(), axis=1)
        mean = each.mean(axis=1)  # over trials
        std = each.std(axis=1)
        ink: dict[str, Any] = {"color": colour[method]}
        how = f"{method}, {score}"
        axis.plot(mean, drawstyle="steps-pre", ls=style[score], lw=1.1, label=how, **ink)
        band = (mean.index, mean - std, mean + std)
        axis.fill_between(*band, step="pre", alpha=0.13, linewidth=0, **ink)
        percent = trials.average_precision
        texts.append(f"{score} {show.mean_std(percent.mean(), percent.std())}")
    high = pairs.average_precision.mean().mean() > 50
    look: dict[str, Any] = {"labelcolor": "linecolor", "handlelength": 0, "labelspacing": 0.2}
    look["fontsize"] = 7
    skew = table["skew"].iloc[0]
    look["bbox_to_anchor"] = (0, skew, 1, 1 - skew)  # the dotted line crosses no number
    look["loc"] = "lower left" if high else "upper right"  # away from the curves
    axis.legend(axis.lines[:], texts, **look)
    axis.axhline(skew, label="share of anomalies", **DOTTED)


def precisions(ranking: Ranking) -> pd.Series:
    """The precision at each recall 0, 1/P, 2/P, ..., 1 of P anomalies."""
    anomalies = np.arange(1, ranking.anomalies + 1)
    precision = ranking.finding(anomalies).precision
    return pd.Series([precision[0], *precision], np.r_[0, anomalies / len(anomalies)])


@styled
def gain_by_class(experiment: Experiment, records: Records, most: int = ROWS) -> Figure:
    """Each method's gain over plain classification, a row for each held-out class and their mean.

    A panel for each of the first three scores; points of average precision. Small dots are trials.
    Bars are 95 %: of a class over test images and trainings, and none of one trial; of the mean
    over held-out classes. Hollow: the paper's gain.
    """
    scores = experiment.scores[:3]
    held_out = plan.held_out(experiment)
    drawn = experiment.model_copy(update={"scores": scores})
    table = stats.gains_by_class(drawn, records, most)
    trials = stats.gains_by_trial(drawn, records)
    if table.difference.isna().all():
        said = "not run with both classification and another method, no gain"
        return note(f"{experiment.dataset_name}: {said}")
    names = [*table.hold_out.unique()]
    methods = [*table.method.unique()]
    classes = len(names) - 1
    step = 0.7 / len(methods)
    places = dict(zip(names, [*range(classes), classes + 0.3], strict=True))
    size = (3.2 * len(scores) + 0.075 * max(map(len, names)) + 2, 1.9 + 0.22 * (classes + 2))
    figure, axes = panels((1, len(scores)), *size, sharex=True, sharey=True)
    for (axis, score), method in product(zip(axes, scores, strict=True), methods):
        rows = table[(table.score == score) & (table.method == method)]
        y = rows.hold_out.map(places) + step * (methods.index(method) + 0.5) - 0.35
        each = trials[method, score].unstack().reindex(rows.hold_out)  # (rows, trials)
        _draw_gains(axis, rows, each, y, label(method, methods), colours(methods)[method])
    for axis, score in zip(axes, scores, strict=True):
        axis.set(title=label(score, scores), xlabel="points of average precision")
        axis.axvline(0, **ZERO)
        axis.axhline(classes - 0.4, color="0.6", linewidth=0.8)
        axis.grid(axis="y", color="0.93")
    axes[0].set(yticks=[*places.values()], yticklabels=[*names[:-1], "mean"])
    axes[0].set_ylim(classes + 0.9, -0.6)
    legend(figure, ncols=3)
    title = f"How far each method is above {label('classification').lower()}, by held-out class"
    if classes < len(held_out):
        title += f": {classes} of {len(held_out)}, where the differences are largest"
    if len(scores) < len(experiment.scores):
        title += f"; the first {len(scores)} of {len(experiment.scores)} scores"
    bars = "bars: 95 %; a class: over test images and trainings (small dots)"
    if table.low[table.hold_out.isin(held_out)].isna().all():
        bars = "of one trial nothing is claimed of a class; bar: 95 %"
    bars += "; the mean: over held-out classes"
    about = f"{show.title(experiment)}, {show.averaged(tables.shared(experiment, records))}"
    figure.suptitle(f"{title}\n({about})\n{bars}")
    return figure


def _draw_gains(axis: Axes, rows: pd.DataFrame, trials: pd.DataFrame, y, name, colour) -> None:
    """One method's gains by one score at heights y, the last row that of the mean."""
    ink: dict[str, Any] = {"color": colour}
    axis.hlines(y, rows.low, rows.high, linewidth=1.2, alpha=0.6, **ink)
    axis.plot(trials, y, "o", ms=4, mew=0, alpha=0.6, **ink)
    axis.plot(rows.difference[:-1], y[:-1], "o", ms=5, label=name, **ink)
    axis.plot(rows.difference[-1:], y[-1:], "D", ms=6, **ink)
    if rows.paper.notna().any():
        of_paper: dict[str, Any] = {"fillstyle": "none", "label": "the paper's difference"}
        axis.plot(rows.paper, y, "o", ms=7.5, **of_paper, **ink)


@styled
def learning_curves(experiment: Experiment, records: Records) -> Figure:
    """Cost, test accuracy and average precision by epoch (the paper's Figure 1).

    Mean and a band of one std: over the trials of each class, or, of more than three classes, over
    classes and trials; of the runs that all methods have. Test measures have the mixed batch-norm
    statistics; where the experiment's table has others, diamonds are its numbers, which only the
    last epochs have.
    """
    import seaborn as sns  # slow to import

    own = [record for record in records if not record.external]
    methods = {record.method for record in own}
    runs = Counter((record.hold_out, record.trial) for record in own)
    parts = []
    for record in (r for r in own if runs[r.hold_out, r.trial] == len(methods)):
        name = re.sub("^_", " _", record.hold_out or "none")  # legends leave out _...
        method = label(record.method, experiment.methods)
        parts.append(record.history().assign(**{"held out": name, "method": method}))
    if not parts:
        return note(f"{experiment.dataset_name}: not run, no learning curve")
    history = pd.concat(parts, ignore_index=True)
    classes = history["held out"].unique()
    palette = {label(m, experiment.methods): c for m, c in colours(experiment.methods).items()}
    look = {"hue": "method", "palette": palette}
    if 1 < len(classes) <= 3:
        look = {"hue": "held out", "palette": "colorblind"}
    shown = {"loss": "cost (training)", "accuracy": "test accuracy (%), mixed statistics"}
    shown["msp"] = "average precision, MSP (%), mixed statistics"
    figure, axes = panels((1, 3), 12, 3.8)
    for axis, (column, text) in zip(axes, shown.items(), strict=True):
        if column in history:
            value = history[column] * (1 if column == "loss" else 100)
            how = {"style": "method", "errorbar": "sd", "marker": "o", "markersize": 4}
            sns.lineplot(history.assign(value=value), x="epoch", y="value", ax=axis, **look, **how)
            axis.get_legend().remove()
        of_table = plan.array_name(column, experiment.statistics)
        if of_table != column and of_table in history:
            last = 100 * history.groupby([look["hue"], "epoch"])[of_table].mean().dropna()
            how = {"x": "epoch", "y": of_table, "marker": "D", "s": 45, "legend": False}
            sns.scatterplot(last.reset_index(), ax=axis, zorder=3, **look, **how)
            text += f"; diamonds: {experiment.statistics}, as in the table"
        axis.set(xlabel="epoch", ylabel=text)
        axis.locator_params(axis="x", integer=True)
    legend(figure, "outside right center")
    held_out = ", ".join(classes) if len(classes) <= 3 else f"mean of {len(classes)} classes"
    title = f"Learning curves, {experiment.dataset_name}, {held_out} held out"
    figure.suptitle(f"{title} ({experiment.profile})")
    return figure


@styled
def samples(images: Mapping[str, np.ndarray], title: str) -> Figure:
    """The paper's Figures 2 to 6: a row for each class of its images, uint8 (N, C, H, W)."""
    if not any(map(len, images.values())):
        return note(f"{title}: no images of it here")
    rows = {}
    for name, members in images.items():
        rows[name if len(members) else f"{name}\n(not here)"] = [(image, "") for image in members]
    return _sheet(rows, title)


@styled
def most_anomalous(table: pd.DataFrame, images: np.ndarray, count=42, columns=7) -> Figure:
    """The images, uint8 (N, C, H, W), with the highest first score of `runs.new_images`' table."""
    score = table.columns[2]
    cells = []
    table = table.dropna(subset=[score])  # without files that can't be read, which come last
    ranked = table.reset_index(drop=True).sort_values(score, ascending=False, kind="stable")
    for k, row in ranked[:count].iterrows():
        name = _shortened(row.file.encode(errors="replace").decode())
        below = f"{_shortened(row.predicted, 16)}, {row[f'{score}_percentile']:.1f}"
        cells.append((images[k], f"{name}\n{below}"))
    rows = {f"from {k + 1}": cells[k : k + columns] for k in range(0, len(cells), columns)}
    title = f"The most anomalous of {len(table)} images by {label(score)}: file, predicted class, "
    return _sheet(rows, f"{title}percentile among the run's normal test images", 1.5)


@styled
def ranked_images(
    record: Record, data: Dataset, score: str = "msp", count: int = 8, statistics: str = "mixed"
) -> Figure:
    """The most and the least anomalous test images, two rows of anomalies and two of normal ones.

    score: a name in the record's `scoring`. count: images a row. statistics: mixed or upright.
    """
    if score not in record.scoring:
        choices = ", ".join(record.scoring)
        raise ValueError(f"{score!r} is not a score of this run; choose from {choices}")
    if digests_of(data).test != record.test_digest:
        return note("the images that are here now are not those that were scored")
    key = score + plan.STATISTICS[statistics]
    predicted = f"predicted{plan.STATISTICS[statistics]}"
    arrays = record.scores("label", predicted, "is_anomaly", key)
    table = pd.DataFrame(arrays).sort_values(key, ascending=False, kind="stable")
    rows = {}
    for is_anomaly, kind in ((True, "anomalies"), (False, "normal")):
        ranked = table[table.is_anomaly == is_anomaly]
        half = math.ceil(len(ranked) / 2)  # no image is in two rows
        for end, members in (("most", ranked[:half]), ("least", ranked[half:][::-1])):
            cells = rows[f"{kind},\n{end} anomalous"] = []
            for k, row in members[:count].iterrows():
                names = [_shortened(record.classes[row[of]]) for of in ("label", predicted)]
                arrow = " → " if len("".join(names)) <= 18 else "\n→ "
                cells.append((data.test.images[k], f"{arrow.join(names)}\n{row[key]:.4g}"))
    what = f"{label(score)} ({statistics} statistics), {label(record.method)}"
    held_out = f"{record.hold_out or 'nothing'} held out"
    return _sheet(rows, f"{what}, {held_out}: class → predicted class, score")


def examples(experiment: Experiment, records: Records) -> None:
    """`ranked_images` of the first held-out class for each method, where the images are here."""
    e = experiment
    if records and prepared.exists(e.dataset, e.data_root, e.image_side):
        data = plan.load(e)
        for record in records[: len(e.methods)]:
            ranked_images(record, data, statistics=e.statistics)


def _sheet(rows: Mapping[str, Sequence], title: str, side: float = 1.25) -> Figure:
    """Rows of images, each a pair of pixels (C, H, W) and a caption; side: inches of an image."""
    columns = max(map(len, rows.values()))
    lines = max(len(caption.splitlines()) for _, caption in chain(*rows.values()))
    above = 0.12 * lines / side
    size = (max(6, side * columns + 1), side * (1 + above) * len(rows) + 0.4)
    figure, axes = panels((len(rows), 1), *size)  # not an axis an image: they are slow to make
    for axis, (text, cells) in zip(axes, rows.items(), strict=True):
        axis.set(xticks=[], yticks=[], frame_on=False, anchor="W")
        axis.set(xlim=(0, columns), ylim=(1, -above))
        axis.set_ylabel(text, rotation=0, ha="right", va="center")
        for k, (image, caption) in enumerate(cells):
            height, width = np.array(image.shape[1:]) / max(image.shape[1:]) * 0.47
            place = (k + 0.5 - width, k + 0.5 + width, 0.5 + height, 0.5 - height)
            axis.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, extent=place)
            axis.text(k + 0.5, 0.5 - height, caption, fontsize=7.5, ha="center", va="bottom")
    figure.suptitle(title)
    return figure


def _shortened(text: str, most: int = 24) -> str:
    """The text; the middle of one of more than so many characters is left out."""
    half = most // 2 - 1
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def save_for_paper(figure: Figure, path: str | Path, width: str = "page") -> str:
    """Write a figure as <path>.pdf and <path>.svg, as wide as a column or a page; its caption.

    The figure takes this form: its title, which is returned, is left to the caption, and panels
    that would be too narrow stand in further rows. No text is smaller than 7 points; it stays text.
    """
    if width not in WIDTHS:
        raise ValueError(f"width: should be one of {', '.join(WIDTHS)}, not {width!r}")
    inches = WIDTHS[width]
    caption = figure.get_suptitle()
    figure.suptitle("")
    with plt.rc_context(STYLE):
        rows, columns = _lay_out_anew(figure, inches)
        for text in figure.findobj(Text):
            text.set_fontsize(min(max(text.get_fontsize(), 7), 8))
        added = [0]
        for axis in figure.axes:
            for text in (axis.title, axis.xaxis.label):
                before = text.get_text()  # beside an axis stand names: 12 characters an inch
                lines = before.splitlines()
                most = int(12 * inches / columns)
                lines = [textwrap.fill(line, most, break_on_hyphens=False) for line in lines]
                text.set_text("\n".join(lines))
                added.append(text.get_text().count("\n") - before.count("\n"))
        figure.set_figheight(figure.get_figheight() + 0.15 * rows * sum(sorted(added)[-2:]))
    for ending in ("pdf", "svg"):
        write = partial(figure.savefig, format=ending)
        save_atomically(Path(f"{path}.{ending}"), write)
    return caption


def _lay_out_anew(figure: Figure, inches: float) -> tuple[int, int]:
    """Put the panels into as many columns as the width has room for, and the legend below.

    How many rows and columns there are then.
    """
    axes = figure.axes
    before: Any = axes[0].get_gridspec()
    rows, columns = before.get_geometry()
    width, height = figure.get_size_inches()
    across = min(columns, max(1, int(inches * columns / (0.75 * width))))
    down = math.ceil(len(axes) / across)
    grid = figure.add_gridspec(down, across)
    xlabel = axes[-1].get_xlabel()
    ylabel = axes[0].get_ylabel()
    for k, axis in enumerate(axes):
        axis.set_subplotspec(grid[k])
        first = k % across == 0
        last = k + across >= len(axes)
        if axis.get_shared_y_axes().joined(axis, axes[0]):
            axis.tick_params(labelleft=first)
            axis.set_ylabel(ylabel if first else "")
        if axis.get_shared_x_axes().joined(axis, axes[0]):
            axis.tick_params(labelbottom=last)
            axis.set_xlabel(xlabel if last else "")
    figure.set_size_inches(inches, 0.8 * height * down / rows)
    for before in [*figure.legends]:
        longest = max(len(text.get_text()) for text in before.get_texts())
        before.remove()
        legend(figure, ncols=max(1, int(inches / (0.6 + 0.055 * longest))))
    return down, across


def save(figure: Figure, path: Path, runs: Runs) -> None:
    """Write a PNG; if the file there shows more of its runs, to <name>.unfinished.png instead."""
    path = result(path)
    planned = sum(len(plan.planned(experiment)) for experiment, _ in runs)
    share = sum(len(records) for _, records in runs) / planned
    before = 0.0
    with suppress(Exception), Image.open(path) as file:
        before = 1e-9  # not a file of ours: a figure of some runs replaces it, one of none doesn't
        file.load()  # fails where it is damaged
        before = float(file.info[SHARE])
    metadata = {SHARE: str(share)}
    write = partial(figure.savefig, format="png", metadata=metadata)
    tables.save_complete(path, share, before, write)
