"""A map of test images: points in a plane of a network's features, each with its thumbnail."""

import base64
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from semlib.datasets import Dataset
from workbench.experiment import ConfigError
from workbench.files import save_atomically, short
from workbench.images.digests import digests_of
from workbench.results import oracle
from workbench.results.names import label
from workbench.results.ranking import Ranking
from workbench.runs import plan
from workbench.runs.store import Record

# PyTorch, scikit-learn and SciPy are imported where they are used: they are slow to import.

PLANES = ("PCA", "t-SNE")
GROUPS = {  # of a map's images, in the order in which they are drawn
    "normal": "#9a9a9a",
    "found": "#0173b2",
    "missed": "#d55e00",
    "found by neither": "#d55e00",
    "found by both": "#0173b2",
    "found by left and missed by right": "#029e73",
    "found by right only": "#cc78bc",
}
LEGEND = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
LAYOUT: dict[str, Any] = {  # transparent, for light and dark pages
    "paper_bgcolor": "#0000",
    "plot_bgcolor": "#0000",
    "hovermode": "closest",
    "modebar": {"bgcolor": "#0000", "color": "#888", "activecolor": "#444"},
    "legend": LEGEND | {"itemsizing": "constant"},
}
MANY = 2500  # images; thumbnails of more are smaller
INSPECTOR = Path(__file__).parent / "inspector"
FILES = ("map.html", "plot.js", "style.css")


@dataclass(frozen=True)
class ImageMap:
    """A figure of plotly with the sheet of its thumbnails; a notebook shows it as it is saved."""

    title: str
    about: str
    figure: dict[str, Any]
    sheet: bytes

    def html(self) -> str:
        """A page that needs no other file and no net."""
        from plotly.offline import get_plotlyjs
        from plotly.utils import PlotlyJSONEncoder

        page, code, style = ((INSPECTOR / name).read_text() for name in FILES)
        figure = json.dumps(self.figure, cls=PlotlyJSONEncoder).replace("<", "\\u003c")
        parts = {"title": escape(self.title), "about": escape(self.about), "figure": figure}
        parts |= {"plotly": get_plotlyjs(), "code": code, "style": style}
        return Template(page).substitute(parts, sheet=base64.b64encode(self.sheet).decode())

    def save(self, path: str | Path) -> Path:
        """Write the page."""
        path = Path(path)
        save_atomically(path, lambda file: file.write(self.html().encode()))
        return path

    def _repr_html_(self) -> str:
        frame = 'style="width: 100%; height: 720px; border: 0"'
        return f'<iframe {frame} srcdoc="{escape(self.html())}"></iframe>'


def image_map(
    left: Record,
    data: Dataset,
    right: Record | None = None,
    score: str = "msp",
    plane: str = "PCA",
    share: float | None = None,
    statistics: str | None = None,
    names: Sequence[str] = (),
) -> ImageMap:
    """The test images of a run by its features, coloured by whether the anomalies are found.

    right: another run on the same images, to colour by what either finds. plane: PCA or t-SNE.
    share: of the test images to flag; None: the share of anomalies. statistics: batch norm's; None:
    those of the table for which left was trained. names: the images', (N,).
    ConfigError, with a command, where the weights of left are not here.
    """
    records = [left] if right is None else [left, right]
    if digests_of(data).test != left.test_digest or len({r.test_digest for r in records}) > 1:
        raise ConfigError("the images that are here now are not those that were scored")
    if len({record.hold_out for record in records}) > 1:
        raise ConfigError(f"{left.hold_out} and {records[1].hold_out} held out are not one map")
    share = left.skew if share is None else share
    statistics = statistics or left.statistics
    if not 0 < share <= 1:
        raise ConfigError(f"share: should be a fraction above 0 and up to 1, not {share}")
    for record in records:
        if score not in record.scoring:
            choices = ", ".join(record.scoring)
            raise ConfigError(f"{score!r} is not a score of this run; choose from {choices}")
    key = plan.array_name(score, statistics)
    rankings = [Ranking(*record.scores("is_anomaly", key).values()) for record in records]
    sides = {f"{label(record.method)}, trial {record.trial}": record for record in records}
    said = texts(described(sides, statistics, names))
    places = places_of(left, data, plane, statistics)
    title = f"{left.dataset}, {left.hold_out} held out: {' and '.join(sides)}"
    about = f"The {len(said):,} test images of {left.dataset} in a plane ({plane}) of the features"
    about += f" that the detectors use. {label(score)} ({statistics} statistics) flags the"
    about += f" {100 * share:.3g} % that are most anomalous."
    drawn = figure(places, groups_of(rankings, share), said)
    return ImageMap(title, about, drawn, sheet(data.test.images))


# --- the images as a table


def described(
    sides: Mapping[str, Record], statistics: str, names: Sequence[str] = ()
) -> pd.DataFrame:
    """A row a test image: image, class, then what each run takes it for, and its scores and ranks.

    sides: one or two runs by their titles. names: the images', (N,). Rank 1 is the most anomalous;
    images of one score share the best.
    """
    from scipy.stats import rankdata

    columns: dict[str, Any] = {}
    for title, record in sides.items():
        own = record.scores()
        classes = np.array(record.classes)
        if not columns:
            images = [f"test image {k}" for k in range(len(own["label"]))]
            images = list(names) or images
            columns = {"image": images, "class": classes[own["label"]]}
        before = f"{title}: " if len(sides) > 1 else ""
        predicted = own[plan.array_name("predicted", statistics)]
        columns[f"{before}taken for"] = classes[predicted]
        for name, values in own.items():
            key, of = plan.key_and_statistics(name)
            if key in record.scoring and of == statistics:
                columns[f"{before}{label(key)}"] = values
                ranks = rankdata(-values.astype(float), "min").astype(int)
                columns[f"{before}{label(key)} rank"] = ranks
    return pd.DataFrame(columns)


def groups_of(rankings: Sequence[Ranking], share: float) -> np.ndarray:
    """The group of each test image (N,), a key of GROUPS: what a threshold for each run finds.

    rankings: of left, or of left and right. The thresholds flag this share of the images.
    """
    found = [each.scores >= each.flagging(share).threshold.item() for each in rankings]
    held_out = np.where(found[0], "found", "missed")
    if len(found) > 1:
        left, right = found
        by_left = np.where(right, "found by both", "found by left and missed by right")
        others = np.where(right, "found by right only", "found by neither")
        held_out = np.where(left, by_left, others)
    return np.where(rankings[0].is_anomaly, held_out, "normal")


def texts(table: pd.DataFrame) -> np.ndarray:
    """What stands beside each point (N,): image, class, predictions and ranks, as HTML."""
    lines = "<b>" + table["image"].map(escape) + "</b>, " + table["class"].map(escape)
    for name in table.columns[2:]:
        last = name.rpartition(": ")[2]
        if last == "taken for":
            lines += f"<br>{escape(name)} " + table[name].map(escape) + ", rank by"
        elif last.endswith(" rank"):
            lines += f" {escape(last.removesuffix(' rank'))} " + table[name].map("{:,};".format)
    return lines.str.rstrip(";").to_numpy(str)


# --- the points


def places_of(record: Record, data: Dataset, plane: str, statistics: str) -> np.ndarray:
    """Where the test images lie in a plane of the features of a run's network, float32 (N, 2).

    Kept beside the run. ConfigError, with the command, where its weights are not here.
    """
    if plane not in PLANES:
        raise ConfigError(f"plane: {plane!r} is unknown; choose from {', '.join(PLANES)}")
    path = kept_as(record, plane, statistics)
    with suppress(OSError, ValueError, EOFError):  # none, or damaged
        places = np.load(path, allow_pickle=False)
        if places.shape == (len(data.test.images), 2):
            return places
    if record.external or not (record.run_home / "weights.pt").exists():
        raise ConfigError(_trained_again(record))
    places = _in_plane(oracle.features(record, data, statistics), plane)
    with suppress(OSError):  # a read-only folder: each process computes them
        save_atomically(path, lambda file: np.save(file, places))
    return places


def kept_as(record: Record, plane: str, statistics: str) -> Path:
    """The file in which the points of a run's map are kept, by its weights."""
    weights = (record.weights_sha256 or "none")[:8]
    return record.home / f"map-{plane}-{statistics}-{weights}.npy"


def _trained_again(record: Record) -> str:
    """That a run's weights are missing, and the command that trains them."""
    title = record.run.title
    if record.external:
        return f"{title}: was trained elsewhere; a map needs the weights of a run of semlib's"
    which = record.settings | {"dataset": record.dataset}
    which |= {"hold_out": record.hold_out or "none", "methods": record.method}
    which |= {"first_trial": record.trial, "trials": 1, "profile": "map", "missing": "train"}
    texts = {name: "none" if value is None else str(value) for name, value in which.items()}
    pairs = " ".join(f"-p {name} {shlex.quote(text)}" for name, text in texts.items())
    command = f"python -m semlib run notebooks/holdout.ipynb {pairs}"
    return f"{title}: weights.pt is not in {short(record.run_home)}, and a map needs it: {command}"


def _in_plane(features: np.ndarray, plane: str) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if plane == "PCA":
        found = PCA(2, random_state=0).fit_transform(features)
    else:
        few = PCA(min(30, *features.shape), random_state=0).fit_transform(features)
        perplexity = min(30, (len(few) - 1) / 3)
        found = TSNE(2, init="pca", random_state=0, perplexity=perplexity).fit_transform(few)
    return found.astype(np.float32)


def figure(
    places: np.ndarray, groups: np.ndarray, said: np.ndarray, chosen: int | None = None
) -> dict[str, Any]:
    """A figure of plotly: a trace for each group; a point's customdata is its image's number.

    chosen: the number of an image to mark.
    """
    traces = []
    for group, colour in GROUPS.items():
        members = np.flatnonzero(groups == group)
        if len(members):
            is_normal = group == "normal"
            look = {"color": colour, "size": 4 if is_normal else 6}
            name = f"{'' if is_normal else 'held out, '}{group} ({len(members):,})"
            traces.append(_points(places, members, said) | {"marker": look, "name": name})
    if chosen is not None:
        ring = {"symbol": "circle-open", "color": "#e03030", "size": 18, "line": {"width": 3}}
        points = _points(places, np.array([chosen]), said)
        traces.append(points | {"marker": ring, "name": "chosen"})
    axis = {"showticklabels": False, "gridcolor": "#80808030", "zeroline": False}
    layout = LAYOUT | {"xaxis": axis, "yaxis": axis, "height": 560, "dragmode": "zoom"}
    layout["margin"] = {"l": 10, "r": 10, "t": 34, "b": 56}
    layout["hoverlabel"] = {"bgcolor": "#fff", "font": {"color": "#222"}}
    layout["meta"] = {"said": "A map of the test images", "map": _grid(len(groups))}
    return {"data": traces, "layout": layout}


def _points(places: np.ndarray, members: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    x, y = places[members].astype(float).round(3).T
    how = {"type": "scattergl", "mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    return how | {"x": x, "y": y, "customdata": members, "text": said[members]}


# --- the thumbnails


def _grid(count: int) -> dict[str, int]:
    """Images in a row of the sheet, and pixels a side of each."""
    return {"across": math.ceil(count**0.5), "side": 32 if count > MANY else 64}


def pixels(image: np.ndarray) -> np.ndarray:
    """What is shown of an image (C, H, W): its first three channels (H, W, 3), or one (H, W)."""
    return image[:3].transpose(1, 2, 0) if len(image) >= 3 else image[0]


def sheet(images: np.ndarray) -> bytes:
    """All images (N, C, H, W) in the rows of one JPEG, which `figure` tells how to cut."""
    across, side = _grid(len(images)).values()
    whole = Image.new("RGB", (across * side, -(-len(images) // across) * side), "white")
    for k, image in enumerate(images):
        is_small = max(image.shape[1:]) < side
        how = Image.Resampling.NEAREST if is_small else Image.Resampling.BILINEAR
        picture = ImageOps.contain(Image.fromarray(pixels(image)), (side, side), how)
        whole.paste(picture, (k % across * side, k // across * side))
    file = io.BytesIO()
    whole.save(file, "jpeg", quality=85)
    return file.getvalue()
