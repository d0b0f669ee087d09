"""What README.md and docs/ show is run as it stands there, from outside the package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import report

from workbench.cli import main
from workbench.experiment import read_parameters, several
from workbench.results import show, stats, tables
from workbench.runs import store

ROOT = Path(__file__).resolve().parents[1]

README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
TEXT = "\n".join([README, *PAGES.values()])
PYTHON = re.findall(r"```python\n(.*?)```", PAGES["extending"], flags=re.S)
SMALL = [
    word
    for name, value in (("epochs", "1"), ("trials", "1"), ("hold_out", "8"))
    for word in ("-p", name, value)
]


def snippet(name: str) -> str:
    return next(text for text in PYTHON if text.startswith(f"# {name}"))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The pages' files in a folder of their own on the Python path."""
    for name in ("my_score.py", "my_task.py"):
        (tmp_path / name).write_text(snippet(name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def command(name: str, outside: Path) -> list[str]:
    """The page's command that names this file, at a budget of seconds."""
    lines = PAGES["extending"].replace("\\\n", " ").splitlines()
    line = next(line for line in lines if line.startswith("python -m semlib") and name in line)
    words = re.findall(r'"[^"]*"|\S+', line.removeprefix("python -m semlib "))
    return [*(word.strip('"') for word in words), *SMALL, "-p", "outputs", str(outside / "out")]


@pytest.mark.notebook
def test_own_score_and_own_task_run_as_shown_and_the_score_trains_nothing(outside):
    assert main(command("my_task:hidden_quadrant", outside)) == 0
    records = {path: store.read_record(path.parent) for path in outside.rglob("record.json")}
    assert {record.method for record in records.values()} == {
        "classification",
        "my_task:hidden_quadrant",
    }
    assert main([*command("my_score:energy", outside), "-p", "methods", "classification"]) == 0
    for path, before in records.items():
        after = store.read_record(path.parent)
        assert after.finished == before.finished, "trained again"
        if after.method == "classification":
            assert {name for name in after.metrics if "@" not in name} == {
                "accuracy",
                "msp",
                "odin",
                "my_score:energy",
            }


def test_the_lines_of_python_run(tmp_path):
    code = next(text for text in PYTHON if "metrics.score(" in text)
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert 0 < float(out) < 1


def test_every_file_and_heading_that_a_page_names_is_there():
    for path in re.findall(
        r"(?:notebooks|params|semlib|docs|outputs/(?:cpu|fast|paper))/[\w/-]+\.(?:ipynb|yaml|py|png|md)",
        TEXT,
    ):
        assert (ROOT / path).exists(), path
    pages = {ROOT / "README.md": README} | {
        ROOT / "docs" / f"{name}.md": text for name, text in PAGES.items()
    }
    for page, text in pages.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", prose):
            there = page.parent / link if link else page
            assert there.exists(), (page.name, link)
            names = re.findall(r"(?m)^#+ (.*)$", there.read_text()) if heading else ()
            slugs = [re.sub(r"[^\w-]", "", name.lower().replace(" ", "-")) for name in names]
            assert not heading or heading in slugs, (page.name, link, heading)


def test_readme_is_short():
    assert len(README.split()) <= 1000


def test_its_results_stand_beside_those_of_the_published_tables():
    """README's table of averages: here from the committed records, the paper's from its tables."""
    measures = [
        (method, measure)
        for measure in ("msp", "odin", "accuracy")
        for method in ("classification", "rotation")
    ]
    rows = []
    for profile in ("cpu", "fast"):
        gains = (
            stats.gains(few_labels(profile)[:1]).query("statistics == 'mixed'").set_index("measure")
        )
        rows.append(gains.loc[["msp", "odin", "accuracy"], ["plain", "with"]].to_numpy().ravel())
    for table in ("table4_stl10", "table3_cifar10"):
        average = tables.published(table).loc["average"]
        rows.append([average[f"{method}_{measure}"] for method, measure in measures])
    for row in rows:
        shown = [f"{a:.1f} → {b:.1f}" for a, b in zip(row[::2], row[1::2], strict=True)]
        assert f"| {' | '.join(shown)} |" in README


def few_labels(profile: str) -> list:
    """The committed runs of params/<profile>/few_labels.yaml, an experiment for each number of
    labels.
    """
    return [
        (e, store.finished(e))
        for e in several(read_parameters(f"params/{profile}/few_labels.yaml"))
    ]


def test_its_results_are_those_of_the_committed_records():
    shown = []
    for profile in ("cpu", "fast"):
        runs = few_labels(profile)
        gains = stats.gains(runs)
        if profile == "cpu":
            many = gains.query("images >= 2000 and statistics == 'mixed' and measure == 'msp'")
            said = [
                f"{row.gain:.1f} ({row.low:+.1f} to {row.high:+.1f})" for row in many.itertuples()
            ]
            for words in (show.primary(gains, *runs[0]), *said):
                assert len(said) == 2 and all(
                    words in " ".join(text.split()) for text in (README, PAGES["results"])
                )
        else:
            mixed = gains[gains.statistics == "mixed"].set_index("measure")
            for row in (mixed.loc[measure].iloc[0] for measure in ("msp", "odin")):
                interval = f"95 % {row.low:+.2f} to {row.high:+.2f}"
                assert f"{row.gain:+.2f} ({interval}, p = {row.p:.3f})" in " ".join(README.split())
        gains = gains[
            gains.measure.isin(["msp", "odin", "accuracy"]) & (gains.classes == gains.planned)
        ]
        rows = show.gains(gains).droplevel("Method")
        shown += [
            f"| {' | '.join([*index, *row])} |"
            for index, row in zip(rows.index, rows.to_numpy(), strict=True)
        ]
    section = PAGES["results"].partition("## Pixel statistics")[0]
    assert [line for line in section.splitlines() if re.match(r"\| [\d,]+ \|", line)] == shown


@pytest.mark.slow
def test_its_answer_about_detectors_is_that_of_the_committed_records():
    """Three sentences and no more, made of the committed runs by what the notebook calls."""
    (experiment,) = several(read_parameters("params/cpu/detectors.yaml"))
    records = store.finished(experiment)
    found = stats.measured([(experiment, records)])
    tested = stats.contrasts(found)
    best = tested[tested.family == "detectors"].set_index("score").difference.idxmax()
    other = experiment.model_copy(
        update={"statistics": "upright", "scores": ("msp", best)}
    )  # the sentences name no more
    gained = [
        stats.effects(those, "classification")
        for those in (found, stats.measured([(other, records)]))
    ]
    answer = show.answer(tested, *gained, experiment, records)
    assert len(re.findall(r"\.(?: |$)", answer)) == 3
    assert answer in " ".join(README.split())
    notebook = (ROOT / "outputs" / "cpu" / "detectors.ipynb").read_text()
    assert json.dumps(answer)[1:-1] in notebook
    assert re.search(r"rank correlation ([^)]*\))", " ".join(README.split()))[1] in notebook


def test_its_benchmarks_are_those_of_the_committed_files():
    found = "\n".join(
        report.markdown(json.loads(path.read_text())["rows"])
        for path in (ROOT / "benchmarks").glob("*.json")
    )
    rows = [
        line
        for line in PAGES["performance"].splitlines()
        if line.startswith("|") and "---" not in line
    ]
    assert len(rows) > 10 and set(rows) <= set(found.splitlines())


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_the_net(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--quiet",
        "-c",
        "docs",
        ".",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")
    }
    assert {"README.html", "docs/reference.html", "outputs/cpu/few_labels-cifar10.html"} <= set(
        pages
    )
    for name, text in pages.items():
        assert not re.search(r'(src|<link[^>]+href)="(https?:)?//', text), name
