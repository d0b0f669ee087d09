"""python -m semlib report: one page of a profile's notebooks that opens from disk and loads
nothing.
"""

from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from workbench.cli import main

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "link": "href",
    "object": "data",
    "source": "src",
    "embed": "src",
}


class Page(HTMLParser):
    """The ids, the links within the page, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [given[LOADS[tag]]] if LOADS.get(tag) in given else []


def executed(path, title, *outputs):
    """A notebook as Papermill leaves it, with a widget's state."""
    cells = [
        new_markdown_cell(f"# {title}\n\nwords"),
        new_markdown_cell("## Curves"),
        new_code_cell("secret = 1"),
    ]
    cells[-1].outputs = [new_output("execute_result", data=data) for data in outputs]
    state = {
        "application/vnd.jupyter.widget-state+json": {
            "state": {},
            "version_major": 2,
            "version_minor": 0,
        }
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": state}), path)


@pytest.fixture
def outputs(tmp_path):
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "a"},
        "text/html": "<p>the static view</p>",
    }
    executed(tmp_path / "demo" / "holdout-digits-1.ipynb", "One class", {"image/png": PIXEL})
    executed(
        tmp_path / "demo" / "table.ipynb",
        "A <table>",
        widget,
        {"application/javascript": "alert(1)"},
    )
    executed(tmp_path / "cpu" / "table.ipynb", "Another")
    return tmp_path


def test_the_page_has_every_notebook_and_loads_nothing(outputs):
    assert main(["report", "demo", "--outputs", str(outputs)]) == 0
    text = (outputs / "demo" / "report.html").read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)) and {
        "table",
        "holdout-digits-1",
        "table-Curves",
    } <= set(page.ids)
    assert [link for link in page.links if link.removeprefix("#") not in page.ids] == []
    assert page.links.index("#table") < page.links.index(
        "#holdout-digits-1"
    )  # tables before single classes
    assert (
        '<ol><li><a href="#table">A &lt;table&gt;</a></li>' in text
        and ">One class: digits-1</a>" in text
    )
    assert page.loads == [f"data:image/png;base64,{PIXEL}"] and "script" not in page.tags
    assert "@import" not in text and "url(" not in text
    assert (
        "the static view" in text
        and "A &lt;table&gt;" in text
        and "secret" not in text
        and "Another" not in text
    )


def test_the_contents_lead_to_the_traceback_of_a_notebook_that_failed(outputs):
    path = outputs / "demo" / "table.unfinished.ipynb"
    error = new_output(
        "error",
        ename="ValueError",
        evalue="1 < 2",
        traceback=["\x1b[31mline 3 of the failing cell\x1b[0m"],
    )
    before, failing = (
        new_code_cell(outputs=[new_output("stream", text="well so far")]),
        new_code_cell(outputs=[error]),
    )
    link = new_markdown_cell('<a href="#papermill-error-cell">In [2]</a>')  # Papermill's
    mark = new_markdown_cell('<span id="papermill-error-cell">stopped here</span>')
    nbformat.write(
        new_notebook(cells=[link, new_markdown_cell("# A table"), before, mark, failing]), path
    )
    executed(outputs / "demo" / "still running.unfinished.ipynb", "Not at its end")
    (outputs / "demo" / "torn.unfinished.ipynb").write_text('{"cells": [')
    assert main(["report", "demo", "--outputs", str(outputs)]) == 0
    text = (outputs / "demo" / "report.html").read_text()
    page = Page(text)
    assert (
        len(page.ids) == len(set(page.ids))
        and [at for at in page.links if at.removeprefix("#") not in page.ids] == []
    )
    assert (
        page.links.count("#table-unfinished-traceback") == 1
        and "#table-unfinished-papermill-error-cell" in page.links
    )
    assert (
        '<a href="#table-unfinished-traceback">failed: ValueError: 1 &lt; 2</a>'
        in text.partition("</nav>")[0]
    )
    below = text.partition('id="table-unfinished-traceback"')[2]
    assert (
        below.index("line 3 of the failing cell") < below.index("</section>")
        and "well so far" not in below
    )
    assert "Not at its end" not in text and {"table", "holdout-digits-1"} <= set(page.ids)


@pytest.mark.parametrize("wrong", ["dmeo", "", "."])
def test_a_wrong_profile_is_one_line_that_names_those_there_are(outputs, wrong, capsys):
    assert main(["report", wrong, "--outputs", str(outputs)]) == 2
    said = f"error: profile {wrong!r} has no executed notebooks; those that have some: cpu, demo\n"
    assert capsys.readouterr().err == said
    assert not (outputs / "report.html").exists()


def test_a_notebook_that_cannot_be_read_is_named_in_one_line(outputs, capsys):
    (outputs / "demo" / "torn.ipynb").write_text('{"cells": [')
    assert main(["report", "demo", "--outputs", str(outputs)]) == 2
    said = capsys.readouterr().err
    assert "torn.ipynb can't be read" in said and said.count("\n") == 1
