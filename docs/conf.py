"""Sphinx's settings of the site (`make docs`): Markdown files and executed notebooks."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("outputs/[cfp]*/*.ipynb"))  # of the profiles cpu, fast and paper
EXECUTED = [str(path.relative_to(ROOT).with_suffix("")) for path in NOTEBOOKS]
PAGES = ("explore", "notebooks", "running", "results", "claims", "findings", "registered")
PAGES += ("statistics",)
PAGES += ("own_images", "extending", "own_code", "own_network", "external", "parameters", "numbers")
PAGES += ("paper", "performance", "reference")
CONTENTS = {
    "Pages": [f"docs/{page}" for page in PAGES],
    "Executed notebooks": EXECUTED,
    "The project": ["CONTRIBUTING", "LOG"],
}

project = "semlib"
author = "the semlib authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["README.md", "LOG.md", "CONTRIBUTING.md"]
include_patterns += [f"docs/{page}.md" for page in PAGES]
include_patterns += [f"{page}.ipynb" for page in EXECUTED]
html_theme = "furo"
html_title = "semlib"
html_show_copyright = False
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


def prepared(app, name, source):
    """Fold the code of notebooks, and add the table of contents to README."""
    if name in EXECUTED:
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["metadata"].setdefault("tags", []).append("hide-input")
        source[0] = json.dumps(notebook)
    if name == "README":
        for title, names in CONTENTS.items():
            listed = "\n".join(f"/{name}" for name in names)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"


def setup(app):
    app.connect("source-read", prepared)
