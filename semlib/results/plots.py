"""Figures from records: precision-recall curves, learning curves, images ranked by score. Each returns a matplotlib Figure."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from semlib.config import Experiment
from semlib.datasets import Dataset
from semlib.files import ROOT
from semlib.results import show, stats, tables
from semlib.results.names import label
from semlib.runs import plan
from semlib.runs.store import Record

DPI = 110
SHARE = "semlib: share of runs finished"  # in a figure's file
STYLES = ("-", (0, (4, 1.5)), ":", "-.")  # one a score; the colour is the method


def colours(names: Sequence[str]) -> dict[str, tuple]:
    import seaborn as sns  # slow to import

    return dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def precision_recall(experiment: Experiment, records: Sequence[Record], columns: int = 5) -> Figure:
    """A panel for each held-out class: a curve for each method and score (each trial a line), the skew as the baseline.

    The legend gives the average precision in percent, mean and std over trials.
    """
    from sklearn.metrics import precision_recall_curve

    wanted, colour = plan.scoring(experiment), colours(experiment.methods)
    end = plan.STATISTICS[experiment.statistics]
    classes = [name for name in plan.held_out(experiment) if name is not None]
    if not classes:
        return _note("no class is held out: no precision-recall curve")
    columns = min(columns, len(classes))
    rows = -(-len(classes) // columns)
    size = (3.1 * columns, 4.1 * rows + 0.4) if columns > 1 else (8.5, 5)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=DPI, squeeze=False, sharey=True)
    for axis in axes.flat[len(classes) :]:
        axis.remove()
    for axis, hold_out in zip(axes.flat, classes, strict=False):
        members = [record for record in records if record.hold_out == hold_out]
        scores = [record.scores() for record in members]
        for method in experiment.methods:
            for (name, how), style in zip(wanted.items(), STYLES * len(wanted), strict=False):
                pairs = zip(members, scores, strict=True)
                found = [(r, s, key) for r, s in pairs if r.method == method and (key := r.key(how))]
                precisions = pd.Series([100 * record.metrics[key + end] for record, _, key in found], dtype=float)
                text = f"{label(method)} {label(name)}: {show.mean_std(precisions.mean(), precisions.std())}"
                for i, (_, arrays, key) in enumerate(found):
                    precision, recall, _ = precision_recall_curve(arrays["is_anomaly"], arrays[key + end])
                    precision[-1] = precision[-2]  # scikit-learn ends at (0, 1), no threshold's point; the steps' area is Eq. 4
                    line = {"color": colour[method], "linestyle": style, "linewidth": 1.1, "alpha": 0.85}
                    axis.plot(recall, precision, drawstyle="steps-post", label=None if i else text, **line)
        if members:
            skew = members[0].skew
            axis.axhline(skew, color="0.45", linewidth=1, linestyle=(0, (1, 2)), label=f"skew: {100 * skew:.2f}")
            place = (
                {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
                if columns > 1
                else {"loc": "upper left", "bbox_to_anchor": (1, 1)}
            )
            axis.legend(title="average precision (%)", title_fontsize=7, fontsize=7, frameon=False, **place)
        else:
            axis.text(0.5, 0.5, "not run", ha="center", va="center", color="0.5")
        axis.set(title=hold_out, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    for axis in axes[:, 0]:
        axis.set_ylabel("precision")
    figure.suptitle(
        f"Precision-recall of the held-out class{'es' * (len(classes) > 1)}, {experiment.dataset_name} ({experiment.profile}, "
        f"{experiment.statistics} statistics)"
    )
    figure.tight_layout()
    return figure


def gain_by_labels(runs: Sequence[tuple[Experiment, Sequence[Record]]], method: str = "rotation") -> Figure:
    """How the method's gain over plain classification depends on the number of training images a class.

    A panel each for MSP, ODIN and accuracy, in points: a thin line for each held-out class, a thick one for their mean with its
    95 % interval over classes. Dotted: how many images a class the paper's tables have.
    """
    measures = [name for name in ("msp", "odin", "accuracy") if all(name in (*e.scores, "accuracy") for e, _ in runs)]
    points = sorted(((tables.images_a_class(e, records), k) for k, (e, records) in enumerate(runs)), key=lambda point: point[0])
    points = [(n, tables.by_class(*runs[k])) for n, k in points if not math.isnan(n)]
    numbers = [n for n, _ in points]
    means = stats.gains(runs).query("method == @method and statistics == @runs[0][0].statistics").sort_values("images")
    size = (5 * len(measures), 4.8)
    figure, axes = plt.subplots(1, len(measures), figsize=size, dpi=DPI, squeeze=False, layout="constrained")
    for axis, measure in zip(axes.flat, measures, strict=True):
        gained = pd.concat([stats.gain(table, method, measure) for _, table in points], axis=1) if points else pd.DataFrame()
        for line in gained.to_numpy():
            axis.plot(numbers, line, color="0.7", linewidth=0.9, marker="o", markersize=2.5, label="a held-out class")
        mean = means[means.measure == measure].dropna(subset="gain")
        half = (mean.high - mean.gain).fillna(0)
        bold = {"linewidth": 2.4, "marker": "o", "capsize": 4, "zorder": 3}
        axis.errorbar(mean.images, mean.gain, half, **bold, label="mean over classes, 95 % interval")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xscale="log", xlabel="training images a class (logarithmic)", ylabel="gain (points)")
        axis.set_title(label(measure) + " average precision" * (measure != "accuracy"))
        axis.set_xticks(numbers, [f"{n:,.0f}" + "\nnot run" * (n not in set(mean.images)) for n in numbers])
        axis.minorticks_off()
        if points:
            axis.set_xlim(min(numbers) / 1.4, max(numbers) * 1.4)
        for n, name in tables.PAPERS_IMAGES.items():
            if points and min(numbers) / 1.5 < n < max(numbers) * 1.5:
                axis.axvline(n, color="0.5", linewidth=0.8, linestyle=":")
                axis.annotate(name, (n, 1), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, ha="right", va="top")
    legend = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))  # one line of each kind
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=2, frameon=False)
    title = f"{label(method)} above {label('classification')}"
    figure.suptitle(f"{title}, {runs[0][0].dataset_name} ({runs[0][0].profile}, {runs[0][0].statistics} statistics)")
    return figure


def learning_curves(experiment: Experiment, records: Sequence[Record]) -> Figure:
    """Cost, accuracy and average precision by epoch (the paper's Figure 1), in percent.

    A line for each method and, up to three, each held-out class; the line is the mean, the band one std over the rest. Test
    measures are with the mixed batch-norm statistics.
    """
    import seaborn as sns

    parts = []
    for record in records:
        whose = {"held out": record.hold_out or "none", "method": label(record.method)}
        parts.append(record.history().assign(**whose))
    if not parts:
        return _note(f"{experiment.dataset_name}: not run, no learning curve")
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), dpi=DPI)
    history = pd.concat(parts, ignore_index=True)
    panels = {
        "loss": ("cost (training)", 1),
        "accuracy": ("test accuracy (%), mixed statistics", 100),
        "msp": ("average precision, MSP (%), mixed statistics", 100),
    }
    classes = history["held out"].unique()
    several = 1 < len(classes) <= 3
    hue = {"hue": "held out", "style": "method"} if several else {"hue": "method", "style": "method"}
    for axis, (column, (text, factor)) in zip(axes, panels.items(), strict=True):
        if column in history:
            scaled = history.assign(value=history[column] * factor)
            sns.lineplot(
                scaled, x="epoch", y="value", **hue, ax=axis, errorbar="sd", palette="colorblind", marker="o", markersize=4
            )
            axis.get_legend().remove()
        axis.set(xlabel="epoch", ylabel=text)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    held_out = ", ".join(classes) if len(classes) <= 3 else f"mean of {len(classes)} classes"
    figure.suptitle(f"Learning curves, {experiment.dataset_name}, {held_out} held out ({experiment.profile})")
    figure.tight_layout()
    return figure


def committed(name: str) -> list[Image.Image]:
    """A figure of outputs/ as it is in the repository, to show beside others; none where it isn't there."""
    return [Image.open(path) for path in [ROOT / "outputs" / name] if path.exists()]


def samples(images: Mapping[str, np.ndarray], title: str) -> Figure:
    """The paper's Figures 2 to 6: a row for each class of its images, uint8 (N, C, H, W); what is not here is said so."""
    columns = max(map(len, images.values()))
    if not columns:
        return _note(f"{title}: no images of it here")
    size = (max(6, 1.6 * columns + 1.6), 1.65 * len(images) + 0.5)
    figure, axes = plt.subplots(len(images), columns, figsize=size, dpi=DPI, squeeze=False, layout="constrained")
    for line, (name, members) in zip(axes, images.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(name if len(members) else f"{name}\n(not here)", fontsize=9, rotation=0, ha="right", va="center")
        for axis, image in zip(line, members, strict=False):
            axis.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
    figure.suptitle(title)
    return figure


def _note(text: str) -> Figure:
    figure, axis = plt.subplots(figsize=(8, 1), dpi=DPI)
    axis.text(0.5, 0.5, text, ha="center", va="center", color="0.5")
    axis.set_axis_off()
    return figure


def ranked_images(record: Record, data: Dataset, score: str = "msp", count: int = 10, statistics: str = "mixed") -> Figure:
    """The test images that a score gets right and wrong, in four rows ranked by score, each titled class -> predicted.

    score: a name in the record's `scoring`. count: images a row. statistics: batch norm's, mixed or upright.
    """
    end = plan.STATISTICS[statistics]
    arrays = record.scores()
    if score not in record.scoring:
        raise ValueError(f"{score!r} is not a score of this run; choose from {', '.join(record.scoring)}")
    if data.digests.test != record.test_digest:
        return _note("the images that are here now are not those that were scored")
    scores, predicted, is_anomaly = arrays[score + end], arrays[f"predicted{end}"], arrays["is_anomaly"]
    order = np.argsort(scores, kind="stable")
    anomalies, normal = order[is_anomaly[order]], order[~is_anomaly[order]]
    rows = {
        "anomalies found\n(most anomalous)": anomalies[::-1],
        "anomalies missed\n(least anomalous)": anomalies,
        "normal, flagged\n(most anomalous)": normal[::-1],
        "normal, passed\n(least anomalous)": normal,
    }
    figure, axes = plt.subplots(len(rows), count, figsize=(1.25 * count + 1, 1.55 * len(rows)), dpi=DPI, squeeze=False)
    for line, (text, ranked) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")
        for axis, k in zip(line, ranked, strict=False):
            image = data.test.images[k].transpose(1, 2, 0)
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            is_, taken_for = (record.classes[numbers[k]] for numbers in (arrays["label"], predicted))
            axis.set_title(f"{is_} → {taken_for}\n{scores[k]:.4g}", fontsize=6.5)
    what = f"{label(score)} ({statistics} statistics), {label(record.method)}"
    what += f", {record.hold_out or 'nothing'} held out"
    figure.suptitle(f"{what}: class → predicted class, score", fontsize=10)
    figure.tight_layout()
    return figure


def save(figure: Figure, path: Path, experiment: Experiment, records: Sequence[Record]) -> None:
    """Write a figure as PNG; one of a smaller share of its runs than the file shows goes to <name>.unfinished.png."""
    save_several(figure, path, [(experiment, records)])


def save_several(figure: Figure, path: Path, runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> None:
    """Likewise a figure of several experiments."""
    share = sum(len(records) for _, records in runs) / sum(len(plan.planned(experiment)) for experiment, _ in runs)
    before = 0.0
    if path.exists():
        with suppress(Exception), Image.open(path) as file:  # not one of ours: anything but nothing replaces it
            before = 1e-9
            file.load()  # fails where it is damaged
            before = float(file.info[SHARE])
    tables.save_complete(path, share, before, lambda file: figure.savefig(file, format="png", metadata={SHARE: str(share)}))
