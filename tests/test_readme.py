"""What README.md shows is run as it stands there, from outside the package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import report

from semlib import config
from semlib.__main__ import main
from semlib.results import show, stats
from semlib.runs import store

ROOT = Path(__file__).resolve().parents[1]

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
SMALL = [word for name, value in (("epochs", "1"), ("trials", "1"), ("hold_out", "8")) for word in ("-p", name, value)]


def snippet(name: str) -> str:
    return next(text for text in PYTHON if text.startswith(f"# {name}"))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """README's files in a folder of their own on the Python path."""
    for name in ("my_score.py", "my_task.py"):
        (tmp_path / name).write_text(snippet(name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def command(name: str, outside: Path) -> list[str]:
    """README's command that names this file, at a budget of seconds."""
    line = next(
        line for line in README.replace("\\\n", " ").splitlines() if line.startswith("python -m semlib") and name in line
    )
    words = re.findall(r'"[^"]*"|\S+', line.removeprefix("python -m semlib "))
    return [*(word.strip('"') for word in words), *SMALL, "-p", "outputs", str(outside / "out")]


@pytest.mark.notebook
def test_own_score_and_own_task_run_as_shown_and_the_score_trains_nothing(outside):
    assert main(command("my_task:hidden_quadrant", outside)) == 0
    records = {path: store.read_record(path.parent) for path in outside.rglob("record.json")}
    assert {record.method for record in records.values()} == {"classification", "my_task:hidden_quadrant"}
    assert main([*command("my_score:energy", outside), "-p", "methods", "classification"]) == 0
    for path, before in records.items():
        after = store.read_record(path.parent)
        assert after.finished == before.finished, "trained again"
        if after.method == "classification":
            assert {name for name in after.metrics if "@" not in name} == {"accuracy", "msp", "odin", "my_score:energy"}


def test_the_lines_of_python_run(tmp_path):
    code = next(text for text in PYTHON if "metrics.score(" in text)
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert 0 < float(out) < 1


def test_readme_names_only_files_that_are_there():
    for path in re.findall(r"(?:notebooks|params|semlib|docs)/[\w/]+\.(?:ipynb|yaml|py|png)", README):
        assert (ROOT / path).exists(), path


def test_its_results_are_those_of_the_committed_records():
    runs = [(e, store.finished(e)) for e in config.several(config.read_parameters("params/cpu/few_labels.yaml"))]
    gains = stats.gains(runs)
    assert show.primary(gains, *runs[0]) in " ".join(README.split())
    rows = show.gains(gains[gains.measure.isin(["msp", "odin", "accuracy"])].dropna(subset="gain")).droplevel("Method")
    shown = [f"| {' | '.join([*index, *row])} |" for index, row in zip(rows.index, rows.to_numpy(), strict=True)]
    section = README[README.index("## Results beside the paper's") : README.index("Appendix D, average precision")]
    assert [line for line in section.splitlines() if line.startswith("|")][2:] == shown


def test_its_benchmarks_are_those_of_the_committed_files():
    found = "\n".join(report.markdown(json.loads(path.read_text())["rows"]) for path in (ROOT / "benchmarks").glob("*.json"))
    section = README[README.index("## How fast") : README.index("## Your own images")]
    rows = [line for line in section.splitlines() if line.startswith("|") and "---" not in line]
    assert len(rows) > 10 and set(rows) <= set(found.splitlines())
