"""Sphinx's settings of the site (`make docs`): Markdown files and executed notebooks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.express as px
from matplotlib.colors import to_hex

from workbench.experiment import read_parameters, several
from workbench.images import prepared
from workbench.results import plots
from workbench.results.names import label
from workbench.runs import store

ROOT = Path(__file__).resolve().parents[1]

PROFILES = ("cpu", "fast", "paper")  # those whose results are committed
FOUND = [path for profile in PROFILES for path in sorted((ROOT / "outputs" / profile).glob("*"))]
NOTEBOOKS = [p for p in FOUND if p.suffix == ".ipynb" and "unfinished" not in p.name]
EXECUTED = [str(path.relative_to(ROOT).with_suffix("")) for path in NOTEBOOKS]
# Runs whose images have places in a plane, as image_map keeps them
MAPPED = sorted(ROOT.glob("outputs/cpu/runs/cifar10/*/classification/*/map-PCA-mixed-*.npy"))
PAGES = ("explore", "curves", "notebooks", "running", "results", "claims", "findings", "registered")
PAGES += ("statistics",)
PAGES += ("own_images", "extending", "own_code", "own_network", "external", "parameters", "numbers")
PAGES += ("paper", "performance", "reference")
CONTENTS = {
    "Pages": ["notebooks/method", *(f"docs/{page}" for page in PAGES)],
    "Executed notebooks": EXECUTED,
    "The project": ["CONTRIBUTING", "LOG"],
}

project = "semlib"
author = "the semlib authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["README.md", "LOG.md", "CONTRIBUTING.md", "notebooks/method.ipynb"]
include_patterns += [f"docs/{page}.md" for page in PAGES]
include_patterns += [f"{page}.ipynb" for page in EXECUTED]
html_theme = "furo"
html_title = "semlib"
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}  # nothing is loaded from the net
nb_merge_streams = True
myst_heading_anchors = 3
default_role = "code"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "model_config, model_post_init",
}
autodoc_typehints = "none"  # the signature has them


START = """**Where to start**

1. **The method**: [the paper by hand](/notebooks/method.ipynb); loss, update and scores stand in
   the cells.
2. **Inspect**: [precision-recall curves](/docs/curves.md) of each held-out class, to point at and
   zoom into. On your machine [the inspector](/docs/notebooks.md#looking-at-results) adds thresholds
   and the images behind them.
3. **A table**: [CIFAR-10 with few labels](/outputs/cpu/few_labels-cifar10.ipynb), and
   [Table 3](/outputs/cpu/table3_cifar10.ipynb) beside the paper's numbers.
"""


def as_pages(app, name, source):
    """Notebooks without their code and named by profile; README's start and table of contents."""
    if name in EXECUTED:
        source[0] = json.dumps(page_of(json.loads(source[0]), name.split("/")[1]))
    if name == "docs/curves":
        figure = curves().to_html(full_html=False, include_plotlyjs=True)
        source[0] += f"\n```{{raw}} html\n{figure}\n```\n"
        if MAPPED and images_here():
            source[0] += "\n<a href='../map.html'>The map</a>: the test images of one run.\n"
    if name == "README":
        title, about, after = source[0].split("\n\n", 2)
        source[0] = "\n\n".join([title, about, START, after])
        for title, names in CONTENTS.items():
            listed = "\n".join(f"/{name}" for name in names)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"


def page_of(notebook, profile):
    """An executed notebook as a page: named by its profile, of the code the parameters alone."""
    cells = notebook["cells"]
    title, *rest = "".join(cells[0]["source"]).split("\n")
    cells[0]["source"] = "\n".join([f"{title} ({profile})", *rest])
    for cell in cells:
        source = "".join(cell["source"])
        cell["source"] = source.replace("](../docs/", "](/docs/")  # as seen from notebooks/
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "code" and not {"parameters", "injected-parameters"} & {*tags}:
            tags.append("remove-input")
    return notebook


def images_here():
    return prepared.exists("cifar10", None, None)


def curves():
    """Precision by recall with 500 labels a class: mean over trials, a panel a held-out class."""
    given = read_parameters("params/cpu/few_labels.yaml")
    experiment = several(given | {"epochs_by_labels": {500: 100}, "scores": ["msp", "odin"]})[0]
    recall = np.linspace(0, 1, 101)
    parts = []
    for record in store.finished(experiment):
        for score in experiment.scores:
            ranking = plots.Ranking(*record.scores("is_anomaly", score).values())
            exact = plots.precisions(ranking)
            at = np.ceil(recall * (len(exact) - 1)).astype(int)
            which = {"held out": record.hold_out, "method": label(record.method)}
            which |= {"score": label(score), "recall": recall, "precision": exact.to_numpy()[at]}
            parts.append(pd.DataFrame(which))
    keys = ["held out", "method", "score", "recall"]
    table = pd.concat(parts).groupby(keys, sort=False).precision.mean().reset_index()
    colour = {label(m): to_hex(c) for m, c in plots.colours(experiment.methods).items()}
    look = {"color": "method", "line_dash": "score", "color_discrete_map": colour}
    panels = {"facet_col": "held out", "facet_col_wrap": 5, "facet_row_spacing": 0.12}
    highest = table.precision[table.recall > 0.05].max()  # the first few jump
    look |= {"range_y": [0, 1.15 * highest]}
    figure = px.line(table, x="recall", y="precision", height=560, **look, **panels)
    figure.for_each_annotation(lambda note: note.update(text=note.text.split("=")[1]))
    figure.update_layout(legend={"orientation": "h", "y": -0.15, "title": None})
    return figure.update_layout(hovermode="x unified", margin={"l": 40, "r": 10, "t": 30, "b": 30})


def finished(app, error):
    """The site's front page is README's; where the images are here, the map of one run."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    shutil.copy(folder / "README.html", folder / "index.html")
    if MAPPED and images_here():
        record = store.read_record(MAPPED[0].parent)
        data = prepared.load(record.dataset)
        plots.image_map(record, data, statistics="mixed").save(folder / "map.html")


def setup(app):
    app.connect("source-read", as_pages)
    app.connect("build-finished", finished)
