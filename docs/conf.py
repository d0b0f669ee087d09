"""Sphinx's settings of the site: `make docs`. Sources are the checkout's Markdown files and its
executed notebooks.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = sorted(
    str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("outputs/[cfp]*/*.ipynb")
)
PAGES = (
    "notebooks",
    "running",
    "results",
    "statistics",
    "own_images",
    "extending",
    "own_code",
    "own_network",
    "external",
    "parameters",
    "numbers",
    "paper",
    "performance",
    "reference",
)

project, author = "semlib", "the semlib authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = [
    "README.md",
    "LOG.md",
    "CONTRIBUTING.md",
    *(f"docs/{page}.md" for page in PAGES),
    *(f"{page}.ipynb" for page in EXECUTED),
]
html_theme, html_title = "furo", "semlib"
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
    """Notebooks with their code folded, and README with the table of contents, which GitHub would
    show as text.
    """
    if name in EXECUTED:
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            cell["metadata"]["tags"] = [
                *cell["metadata"].get("tags", []),
                *["hide-input"] * (cell["cell_type"] == "code"),
            ]
        source[0] = json.dumps(notebook)
    if name == "README":
        pages = [f"docs/{page}" for page in PAGES]
        for title, names in {
            "Pages": pages,
            "Executed notebooks": EXECUTED,
            "The project": ["CONTRIBUTING", "LOG"],
        }.items():
            listed = "\n".join(f"/{name}" for name in names)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"


def setup(app):
    app.connect("source-read", prepared)
