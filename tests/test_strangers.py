"""Records, names and folders that others made: nothing of them is believed, run or imported."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import made_up, parameters, refused, tiny
from nbconvert.filters import markdown2html

from semlib.datasets import Dataset, ImageSet
from workbench import results, runs
from workbench.images import prepared
from workbench.results import show, stats, tables
from workbench.runs import plan, store

pytestmark = pytest.mark.usefixtures("one_thread")
EVIL = "<img src=x onerror=alert(1)>[a](javascript:b)![c](d)`<b>`$\\href{javascript:e}{f}$|<i>"
LINES = ("device", "precision", "commit", "finished", "method", "dataset", "hold_out", "address")


def change(home, **fields):
    """Write other fields into a record."""
    path = home / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class Tags(HTMLParser):
    """The tags and attributes of a page, but for those of MathJax and tables."""

    def handle_starttag(self, tag, attrs):
        self.found = [*getattr(self, "found", []), tag]
        assert not any(name.startswith("on") for name, _ in attrs), (tag, attrs)


def check_harmless(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert not {*tags.found} & {"img", "script", "a", "b", "i", "iframe"}, page
    outside = re.sub(r"<code>.*?</code>|<pre.*?</pre>|<table.*?</table>", "", page, flags=re.S)
    assert not re.search(r"\$[^<]*\$|\\\w", outside), outside


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Runs of a data set, classes and devices with such a name; the experiment."""
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path / "data"))
    names = (EVIL, "other", "third")
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    part = ImageSet(images, np.arange(60) % 3)
    prepared.write(tmp_path / "data" / f"{EVIL}.npz", Dataset(EVIL, part, part, names))
    return made_up(tmp_path / "outputs", 60, dataset=EVIL, data_root=None, trials=1)


def test_no_name_or_field_of_a_record_is_html_a_link_or_a_formula_on_a_page(evil):
    """In what notebooks show as Markdown and as tables, of which the site is made too."""
    found = store.finished(evil)
    versions = {"versions": {"torch": EVIL}, "device": EVIL, "precision": EVIL, "commit": EVIL}
    for record in found[:1]:
        change(record.home, **versions)
    records = store.finished(evil)
    assert len(records) == 6 and records[0].device == EVIL
    pair = (evil, records)
    texts = [show.opening("holdout", evil), show.summaries([pair]), show.heading(evil)]
    texts += [show.summary(evil, records)]
    assert sum("javascript" in text for text in texts) == 4
    for text in texts:
        check_harmless(markdown2html(text))
    for table in (show.formatted(tables.by_class(*pair)), results.frame([pair])):
        page = table._repr_html_()
        check_harmless(page)
        assert "mathjax_ignore" in page
    assert stats.gains([pair]).notna().gain.all()


@pytest.mark.parametrize("field", [*LINES, "classes", "settings", "versions"])
def test_no_text_of_a_record_has_control_characters_or_is_a_path(tmp_path, field):
    experiment = made_up(tmp_path, 60, dataset="digits", hold_out="3", trials=1)
    record, _ = store.finished(experiment)
    for text in ("a\nb", "\x1b[2Ja", "../up"):
        value = {"classes": [text], "settings": {"data_root": text}, "versions": {"torch": text}}
        change(record.home, **{field: value.get(field, text)})
        if text != "../up" or field in ("dataset", "classes", "settings"):
            with pytest.warns(UserWarning, match="not shown"):
                assert record.home not in [r.home for r in store.collect(experiment.folder)]


LIES = {
    "an average precision": {"metrics": {"msp": 0.99}},
    "accuracy": {"metrics": {"accuracy@upright": 0.99}},
    "the skew": {"skew": 0.3},
    "classes in another order": {"classes": [*"1023456789"], "hold_out": "3"},
    "fewer classes": {"classes": [*"01234567"]},
    "another class of the same number": {"classes": [*"0132456789"]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_record_that_differs_from_its_scores_is_damaged(tmp_path, monkeypatch, lie):
    """Also once it was compared, and in another process: what is known is by the record's text."""
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    experiment = made_up(tmp_path, 100, dataset="digits", hold_out=["3", "4"], trials=1)
    record, *others = store.finished(experiment)
    assert len((tmp_path / "compared_runs.jsonl").read_text().splitlines()) == 4
    metrics = {"metrics": record.metrics | LIES[lie].get("metrics", {})}
    change(record.home, **LIES[lie] | metrics)
    with pytest.warns(UserWarning, match=r"not used: .*record.json is damaged|not shown: .*differ"):
        assert store.finished(experiment) == others
    with pytest.warns(UserWarning, match=r"not shown: .*record.json"):
        assert store.collect(experiment.folder) == others


def test_averages_over_epochs_are_compared_with_the_history(folder):
    how = {"methods": "classification", "average_last_epochs": 2}
    experiment = tiny(folder, **how)
    (record,) = runs.complete(experiment)
    assert store.finished(experiment) == [record]
    change(record.home, metrics=record.metrics | {"msp": record.metrics["msp"] + 0.01})
    with pytest.warns(UserWarning, match="damaged: msp differ"):
        assert not store.finished(experiment)


FUNCTION = "def function(net, images): return 0\n"
SCRIPT = "from pathlib import Path\nPath({!r}).touch()\n" + FUNCTION


@pytest.mark.parametrize("names", ["method", "architecture", "score", "package"])
def test_scoring_imports_nothing_that_a_record_names(folder, monkeypatch, names):
    (record,) = runs.complete(tiny(folder, methods="classification", epochs=1))
    proof = folder / "proof"
    for place in (folder / "foreign", folder):
        place.mkdir(exist_ok=True)
        name = "__init__" if place != folder else "stranger"
        (place / f"{name}.py").write_text(SCRIPT.format(str(proof)))
    (folder / "foreign" / "below.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(folder)
    score = {"score": "stranger:function", "version": 1, "source": "0" * 16}
    lies = {"method": {"method": "stranger:function", "sources": {"stranger:function": "0" * 16}}}
    lies["package"] = {"method": "foreign.below:function"}
    settings = record.settings | {"architecture": "stranger:function"}
    lies["architecture"] = {"settings": settings, "sources": {"stranger:function": "0" * 16}}
    lies["score"] = {"scoring": record.scoring | {"stranger:function": score}}
    home = folder / "home"
    shutil.copytree(record.home, home)
    change(home, **lies[names])
    lied = store.read_record(home)
    given = (lied.settings, lied.sources, lied.train_digest, lied.recipe)
    change(home, address=plan.address(lied, *given))
    words = [str(home), str(folder / "data"), *parameters(data_root=folder / "data")]
    said = "isn't here as it was" if names == "score" else "another version of"
    refused("score", *words, said=[said])
    assert not proof.exists()
