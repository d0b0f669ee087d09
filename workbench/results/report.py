"""A profile's executed notebooks as one static HTML page that loads nothing: no script, no
stylesheet, no font.

A notebook that failed is included, and the contents lead to its traceback.
"""

import re
from contextlib import suppress
from html import escape
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from workbench.experiment import ConfigError
from workbench.files import one_line, save_atomically

STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 0 auto; padding: 0 20px 60px}
nav {background: #f5f6f8; padding: 12px 24px; border-radius: 6px} nav code {color: #555} nav ol {margin: 4px 0}
section {border-top: 2px solid #d5d8de; margin-top: 40px} .back, .anchor-link {font-size: 13px} .anchor-link {display: none}
blockquote {border-left: 4px solid #d5d8de; margin: 12px 0; padding: 0 16px; color: #444}
img, svg {max-width: 100%; height: auto} pre {white-space: pre-wrap} code {background: #f0f1f3; padding: 0 3px}
.output_html, .output_subarea {overflow-x: auto} .output_prompt, .prompt {display: none}
.output_error {border-left: 4px solid #b3261e; background: #fdf3f2; padding: 1px 16px; scroll-margin-top: 60px}
table {border-collapse: collapse; border: 0; font-size: 13px; font-variant-numeric: tabular-nums; margin: 10px 0}
th, td {padding: 3px 10px; text-align: right; border: 0; white-space: nowrap} tbody th {text-align: left}
thead tr:last-child > * {border-bottom: 1px solid #bbb} tbody tr:nth-child(even) {background: #f7f8fa}
"""
LIVE = {
    "application/vnd.jupyter.widget-view+json",
    "application/javascript",
}  # what needs a kernel or the net
UNFINISHED = "*.unfinished.ipynb"  # failed, or not at its end yet


def write(outputs: Path, profile: str) -> Path:
    """Write outputs/<profile>/report.html and return its path; ConfigError names the profiles that
    there are.
    """
    notebooks = [
        path
        for path in (outputs / profile).glob("*.ipynb")
        if not path.match(UNFINISHED) or _failed(path)
    ]
    notebooks.sort(key=lambda path: (path.stem.startswith("holdout"), path.stem))
    if not notebooks or outputs / profile == outputs:
        there = (
            ", ".join(sorted({path.parent.name for path in outputs.glob("*/*.ipynb")}))
            or "none yet"
        )
        raise ConfigError(
            f"profile {profile!r} has no executed notebooks; those that have some: {there}"
        )
    sections, contents = zip(*(_section(path) for path in notebooks), strict=True)
    title = f"semlib: results of the profile {escape(profile)}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    nav = f'<nav aria-label="Contents"><ol>{"".join(contents)}</ol></nav>'
    body = f'<body id="top"><h1>{title}</h1>{nav}{"".join(sections)}</body>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}</html>\n'
    path = outputs / profile / "report.html"
    save_atomically(path, lambda file: file.write(page.encode()))
    return path


def _failed(path: Path) -> bool:
    with suppress(Exception):  # it is being written
        return bool(_errors(nbformat.read(path, 4)))
    return False


def _errors(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]


def _section(path: Path) -> tuple[str, str]:
    """An executed notebook without its code, and its line of the contents."""
    try:
        notebook = nbformat.read(path, 4)
    except Exception as error:  # of JSON that isn't a notebook nbformat raises many kinds
        raise ConfigError(f"{path} can't be read as a notebook ({one_line(error)})") from None
    notebook.metadata.pop("widgets", None)
    errors = _errors(notebook)
    for cell in notebook.cells:
        cell.outputs = [
            _static(output)
            for output in cell.get("outputs", ())
            if set(output.get("data", "x")) - LIVE
        ]
    html, _ = HTMLExporter(
        template_name="basic", exclude_input=True, embed_images=True
    ).from_notebook_node(notebook)
    name = re.sub(r"\W", "-", path.stem)
    html = re.sub(
        r'(<(?:h[1-6]|span) id="|href="#)', rf"\g<1>{name}-", html
    )  # two notebooks have the same headings
    html = re.sub(
        '(<div class="[^"]*output_error")', rf'\g<1> id="{name}-traceback"', html, count=1
    )
    first = next((cell.source for cell in notebook.cells if cell.source.startswith("# ")), "")
    about = path.stem.removesuffix(".unfinished").partition("-")[
        2
    ]  # holdout-digits-8: the data set, the held-out class
    title = (
        ": ".join(filter(None, [first.partition("\n")[0].removeprefix("# "), about])) or path.stem
    )
    links = [f'<a href="#{name}">{escape(title)}</a>']
    links += [
        f'<a href="#{name}-traceback">failed: {escape(one_line(f"{e.ename}: {e.evalue}"))}</a>'
        for e in errors[:1]
    ]
    line = f"<li>{', '.join(links)}</li>"
    return (
        f'<section id="{name}">{html}<a class="back" href="#top">to the contents</a></section>',
        line,
    )


def _static(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for kind in LIVE:
        output.get("data", {}).pop(kind, None)
    return output
