"""What README.md and docs/ show is run as it stands there, from outside the package."""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report
from helpers import cells

from workbench import results
from workbench.cli import main
from workbench.experiment import read_parameters, several
from workbench.results import show, stats, tables
from workbench.results.names import label
from workbench.runs import plan, store

ROOT = Path(__file__).resolve().parents[1]

README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
TEXT = "\n".join([README, *PAGES.values()])
PYTHON = re.findall(r"```python\n(.*?)```", PAGES["extending"], flags=re.S)
SMALL = ["-p", "epochs", "1", "-p", "trials", "1", "-p", "hold_out", "8"]
controls = cells("controls")
findings = cells("claims")
CLAIM = ["msp", "odin", "accuracy"]


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
    task = "my_task:hidden_quadrant"
    assert main(command(task, outside)) == 0
    records = {path: store.read_record(path.parent) for path in outside.rglob("record.json")}
    assert {record.method for record in records.values()} == {"classification", task}
    assert main([*command("my_score:energy", outside), "-p", "methods", "classification"]) == 0
    for path, before in records.items():
        after = store.read_record(path.parent)
        assert after.finished == before.finished, "trained again"
        if after.method == "classification":
            shown = {how["score"] for how in after.scoring.values()}
            assert shown == {"msp", "odin", "my_score:energy"}


def test_the_lines_of_python_run(tmp_path):
    code = next(text for text in PYTHON if "metrics.score(" in text)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 0.3 < float(done.stdout) < 1  # chance: 0.1


def test_every_file_and_heading_that_a_page_names_is_there():
    folders = "notebooks|params|semlib|workbench|docs|outputs/(?:cpu|fast|paper)"
    for path in re.findall(rf"(?:{folders})/[\w/-]+\.(?:ipynb|yaml|py|png|md)", TEXT):
        assert (ROOT / path).exists(), path
    pages = {ROOT / "docs" / f"{name}.md": text for name, text in PAGES.items()}
    for page, text in (pages | {ROOT / "README.md": README}).items():
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", prose):
            there = page.parent / link if link else page
            assert there.exists(), (page.name, link)
            names = re.findall(r"(?m)^#+ (.*)$", there.read_text()) if heading else ()
            slugs = [re.sub(r"[^\w-]", "", name.lower().replace(" ", "-")) for name in names]
            assert not heading or heading in slugs, (page.name, link, heading)


def test_readme_is_short():
    assert len(README.split()) <= 1000


# --- numbers, held to the committed records


@pytest.fixture(scope="module")
def gains():
    """Of the committed runs of params/<profile>/few_labels.yaml, by profile."""
    found = {}
    for profile in ("cpu", "fast"):
        experiments = several(read_parameters(f"params/{profile}/few_labels.yaml"))
        found[profile] = stats.gains([(e, store.finished(e)) for e in experiments])
    return found


def interval(row, decimals=2):
    return f"{row.low:+.{decimals}f} to {row.high:+.{decimals}f}"


def said(text):
    """The text in one line, for sentences that are broken anywhere."""
    return " ".join(text.split())


def test_its_results_stand_beside_those_of_the_published_tables(gains):
    """README's table of averages: here from the committed records, the paper's from its tables."""
    rows = []
    for profile, images in (("cpu", 500), ("fast", 500), ("cpu", 5000)):
        first = gains[profile].query(f"images == {images} and statistics == 'mixed'")
        rows.append(first.set_index("measure").loc[CLAIM, ["plain", "with"]].to_numpy())
    for table in ("table4_stl10", "table3_cifar10"):
        average = tables.published(table).loc["average"]
        pairs = [[f"classification_{name}", f"rotation_{name}"] for name in CLAIM]
        rows.append([average[pair] for pair in pairs])
    for row in rows:
        shown = " | ".join(f"{plain:.1f} → {better:.1f}" for plain, better in row)
        assert f"| {shown} |" in README


def test_the_numbers_in_its_sentences_are_those_of_the_committed_records(gains):
    """The primary result, and MSP's gain with many labels, in README and in results.md."""
    msp = gains["cpu"].query("statistics == 'mixed' and measure == 'msp'").set_index("images")
    first = msp.loc[500]
    numbers = [f"{first.gain:+.2f} points, 95 % interval over 10 classes {interval(first)}"]
    numbers += [f"Wilcoxon's p = {first.p:.3f}; above in {first.above} of {first.classes} classes"]
    numbers += [f"{row.gain:.1f} ({interval(row, 1)})" for row in msp.loc[2000:].itertuples()]
    assert len(numbers) == 4
    for number, page in itertools.product(numbers, (README, PAGES["results"])):
        assert number in said(page)
    upright = gains["cpu"].query("images == 500 and statistics == 'upright' and measure == 'msp'")
    assert f"{upright.gain.item():+.2f} ({interval(next(upright.itertuples()))})" in said(README)
    fast = gains["fast"].query("images == 500 and statistics == 'mixed'").set_index("measure")
    for row in fast.loc[["msp", "odin"]].itertuples():
        assert f"{row.gain:+.2f} ({interval(row)}, p = {row.p:.3f})" in said(README)


def test_the_tables_of_results_md_are_those_of_the_committed_records(gains):
    shown = []
    for table in gains.values():
        rows = table[table.measure.isin(CLAIM) & (table.classes == table.planned)]
        for row in show.text(rows).droplevel("Method").reset_index().to_numpy():
            shown.append(f"| {' | '.join(row)} |")
    section = PAGES["results"].partition("## Pixel statistics")[0]
    assert [line for line in section.splitlines() if re.match(r"\| [\d,]+ \|", line)] == shown


@pytest.mark.slow
def test_the_numbers_about_detectors_are_those_of_the_committed_records():
    (experiment,) = several(read_parameters("params/cpu/detectors.yaml"))
    records = store.finished(experiment)
    found = stats.measured([(experiment, records)])
    every = stats.contrasts(found).set_index("score")
    tested = every.query("family == 'detectors'")
    best = tested.difference.idxmax()
    upright = experiment.model_copy(update={"statistics": "upright", "scores": ("msp", best)})
    gained = every.query("against == 'classification'")
    other = stats.contrasts(stats.measured([(upright, records)])).set_index("score")
    other = other.query("against == 'classification'").loc[best]
    top = tested.loc[best]
    section = said(PAGES["results"]).partition("## Detectors")[2]
    images = f"{top.images_low:+.2f} to {top.images_high:+.2f}"
    for number in (
        f"{(tested.difference > 0).sum()} of {len(tested)} detectors are above MSP",
        f"{label(best)} highest: {top.difference:+.2f} points",
        f"held-out classes {interval(top)}, over test images {images}",
        f"{label(best)}: p = {top.holm:.3f}, above in {top.above} of {top.classes} classes",
        f"{gained.difference[best]:+.2f} points ({interval(gained.loc[best])}",
        f"{other.difference:+.2f}, {interval(other)}",
        f"{gained.difference['msp']:+.2f} ({interval(gained.loc['msp'])}) with MSP",
        f"{(gained.difference > 0).sum()} of {len(gained)} scores",
        f"its interval with {(gained.low > 0).sum()}.",
    ):
        assert number in section, number
    worse = tested[(tested.holm < 0.05) & (tested.difference < 0)].index
    assert f"significantly below: {', '.join(map(label, worse))}." in section
    assert not ((tested.holm < 0.05) & (tested.difference > 0)).any()
    highest = f"{label(best)} highest: {top.difference:+.2f} points ({interval(top)})"
    above = f"{(tested.difference > 0).sum()} of {len(tested)} are above MSP"
    assert f"{above}, {highest}" in said(README)
    assert f"({label(best)}: p = {top.holm:.3f})" in said(README)
    notebook = (ROOT / "outputs" / "cpu" / "detectors.ipynb").read_text()
    (claimed,) = re.findall(r"few edges, rank correlation ([^;]*);", said(PAGES["results"]))
    rho, low, high = (f"{float(number):.2f}" for number in re.findall(r"[+-][\d.]+", claimed))
    shown = f"classification +msp +edge energy +{rho} +{low} +{high} "  # a row of the table
    assert re.search(shown, notebook)


def max_t(runs):
    """By score, the exact p of a max-t test of its differences to MSP: all signs of the classes."""
    means = findings.by_class(results.frame(runs))
    means = means.xs(("classification", "mixed"), level=["method", "statistics"])
    means = means.droplevel(["profile", "images"]).drop(index="accuracy")
    differences = (means - means.loc["msp"]).drop(index="msp")
    signs = np.array([*itertools.product((1, -1), repeat=10)])

    def t(values):
        return abs(values.mean(-1) / values.std(-1, ddof=1) * math.sqrt(10))

    largest = t(signs[:, None] * differences.to_numpy()).max(1)
    found = zip(differences.index, t(differences.to_numpy()), strict=True)
    return {name: (largest >= value - 1e-9).mean() for name, value in found}


def test_an_exact_max_t_test_of_the_detectors(few):
    small = max_t(few[:1])
    large = max_t(few[-1:])
    numbers = f"ReAct p = {small['react']:.3f} and entropy p = {small['entropy']:.3f}"
    assert numbers in said(PAGES["results"]) and numbers in said(PAGES["findings"])
    assert f"the larger network ReAct p = {large['react']:.3f}" in said(PAGES["results"])


@pytest.fixture(scope="module")
def few():
    """The experiments of params/cpu and params/fast/few_labels.yaml that have committed runs."""
    found = findings.read()
    return [pair for pair in (*found["small"], *found["large"]) if pair[1]]


def test_devices_and_trials_are_those_of_the_records(few, gains):
    """Which classes have plain classification on a GPU and rotation on a CPU; the gain by trial."""
    other = []
    for _, records in few[:4]:
        on_gpu = {(r.method, r.hold_out, r.trial): "NVIDIA" in r.device for r in records}
        plain = [key for key in on_gpu if key[0] == "classification" and on_gpu[key]]
        other.append(sum(not on_gpu["rotation", *key[1:]] for key in plain))
    assert other == [0, 0, 7, 1]
    named = "at 2,000 labels seven classes have plain classification on a GPU"
    assert named in said(PAGES["results"])
    trials = findings.gains(results.frame(few[:1])).xs("msp", level="measure")
    trials = trials.groupby(level="statistics").mean()
    mixed = " and ".join(trials.loc["mixed"].map("{:+.1f}".format))
    upright = " and ".join(trials.loc["upright"].map("{:+.1f}".format))
    shown = f"By trial it is {mixed} with mixed statistics, {upright} with upright ones"
    assert shown in said(PAGES["results"])


def test_the_findings_are_those_of_the_records(few):
    """In README, results.md and findings.md; each function has its literal test elsewhere."""
    frame = results.frame(few)
    infinite = math.inf
    order = findings.order(frame).xs("msp", level="measure")
    scatter = findings.scatter(few)
    tells = findings.scatter_tells(scatter)
    plain = scatter.loc["cpu", 500, "classification", "mixed"]
    repeats = findings.repeats(frame).loc["cpu", 500]
    twins = findings.of_classes(frame, ["automobile", "truck"]).round(1)
    rmd = twins.xs("rmd", level="measure").xs("mixed", level="statistics")
    deviation = findings.between_trainings(frame).loc[:, 500, :, "mixed"]
    power = 100 * findings.power(frame).loc[:, 500].xs("msp", level="measure")
    first = order["cpu", 500, "classification", "mixed"]
    own = tells["cpu", 500, "classification", "mixed"]
    readme = said(README)
    page = said(PAGES["results"])
    list_of = said(PAGES["findings"])
    for text, number in (
        (readme, f"Table 3's (rank correlation {first:.2f})"),
        (readme, f"({own:.2f} with the entropy"),
        (readme, f"{plain['first'].automobile:.0f} % of the automobiles"),
        (readme, f"(r = {repeats.r['mixed', 'odin']:.2f})"),
        (readme, f"not with upright ones ({repeats.r['upright', 'odin']:.2f})"),
        (page, f"Table 3's {first:.2f} (plain"),
        (page, f"and {order['cpu', infinite, 'rotation', 'mixed']:.2f} of rotation with all"),
        (page, f"predicted labels {own:.2f}, in twenty settings"),
        (page, f"at least {tells.min():.2f}"),
        (page, f"{plain['first'].automobile:.0f} % of the automobiles are taken for trucks"),
        (page, f"{plain['first'].truck:.0f} % of the trucks"),
        (page, f"({plain.msp.automobile:.1f} and {plain.msp.truck:.1f} % average precision)"),
        (page, "{automobile} and {truck} %".format(**rmd.loc["cpu", 500, "classification"])),
        (list_of, "{automobile} and {truck} %, the best, too".format(
            **rmd.loc["fast", 500, "classification"])),
        (list_of, f"(r = {repeats.r['mixed', 'odin']:.2f}) and not with upright ones ("
            f"{repeats.r['upright', 'odin']:.2f}), MSP's {repeats.r['mixed', 'msp']:.2f} and "
            f"{repeats.r['upright', 'msp']:.2f}"),
        (list_of, f"({repeats.rho['mixed', 'msp']:.2f} and {repeats.rho['upright', 'msp']:.2f})"),
        (list_of, f"(rank correlation {repeats.paper['mixed', 'msp']:.2f}), with upright ones less "
            f"({repeats.paper['upright', 'msp']:.2f})"),
        (list_of, f"MSP {deviation['cpu', 'classification', 'msp']:.2f} points with plain "
            f"classification, {deviation['cpu', 'rotation', 'msp']:.2f} with rotation"),
        (list_of, f"{power['cpu', 'mixed']:.0f} % with mixed statistics and "
            f"{power['cpu', 'upright']:.0f} % with upright ones (larger network "
            f"{power['fast', 'mixed']:.0f} and {power['fast', 'upright']:.0f} %)"),
    ):  # fmt: skip
        assert number in text, number
    for profile in ("cpu", "fast"):  # RMD is the best on each of the two
        of_plain = twins.loc[profile, 500, "classification", "mixed"]
        assert [*of_plain.idxmax()[["automobile", "truck"]]] == ["rmd", "rmd"]
    others = order[(order.round(2) < 0.95) & (order.index.get_level_values("images") > 100)]
    assert f"other settings {others.min():.2f} to {others.max():.2f}" in list_of
    few_of = order[order.index.get_level_values("images") == 100]
    assert f"with 100 labels {few_of.min():.2f} to {few_of.max():.2f}" in list_of
    by = findings.between_trainings(frame).loc["cpu", 500].unstack("measure").round(2)
    upright = by.xs("upright", level="statistics").msp
    assert f"(upright {upright.classification:.2f} and {upright.rotation:.2f})" in list_of
    mixed = by.xs("mixed", level="statistics")
    pairs = [f"{mixed[name].classification:.2f} and {mixed[name].rotation:.2f}" for name in mixed]
    for name, pair in zip(mixed, pairs, strict=True):
        if name in ("odin", "accuracy"):
            assert f"{label(name) if name == 'odin' else name} {pair}" in list_of


@pytest.mark.slow
def test_unseen_against_mistaken_is_that_of_the_records(few):
    apart = findings.against_mistakes(few[:1]).xs("mixed", level="statistics").loc["cpu", 500]
    plain = apart.loc["classification"]
    highest = apart.mistaken.max()
    lead = plain.loc["react"] - plain.loc["msp"]
    assert apart.mistaken.idxmax() == ("rotation", "scale")
    numbers = f"MSP {plain.mistaken.msp:.1f}, the highest, SCALE with rotation, {highest:.1f}"
    assert f"(AUROC against them: {numbers})" in said(README)
    for page in ("results", "findings"):
        text = said(PAGES[page])
        for number in (
            f"{plain.mistaken.msp:.1f}",
            f"{plain.mistaken.max():.1f}",
            f"{plain.right.mahalanobis:.1f} against",
            f"{highest:.1f}",
            f"by {lead.mistaken:.1f} points",
            f"by {lead.right:.1f}",
            f"{plain.precision.react:.1f}",
            f"{plain.precision.msp:.1f}",
        ):
            assert number in text, number


def test_the_numbers_about_the_controls_are_those_of_the_records():
    file = read_parameters(ROOT / "params" / "cpu" / "controls.yaml") | {"missing": "skip"}
    by_arm = dict(zip(file["arms"], several(file), strict=True))
    longer = "(c) twice the epochs"
    still = "(a) weight 0"
    masked = "(d) center mask"
    decay = "(b) twice the decay"
    names = ("plain", "rotation", longer, still, masked, decay)
    arms = {arm: (by_arm[arm], store.finished(by_arm[arm])) for arm in names}
    pairs = [("1", "rotation", longer), ("2", "rotation", still)]
    pairs += [("7", longer, "plain"), ("7a", still, "plain"), ("4", masked, "plain")]
    pairs += [("6", "rotation", "plain", (2, 3)), ("3", "rotation", decay), ("7b", decay, "plain")]
    found = controls.contrasts(controls.measured(arms), pairs)
    of_controls = found[found.contrast.isin(["1", "2", "3"]) & (found.measure == "msp")]
    again = found.contrast == "6"
    assert set(found.trials[~again]) == {"0"} and (of_controls.holm > 0.05).all()
    assert set(found.trials[again]) == {"2"}
    found = found.set_index(["contrast", "statistics", "measure"])
    for pages, key in {
        (README, PAGES["results"]): ("mixed", "msp"),
        (PAGES["results"],): ("upright", "msp"),
    }.items():
        for contrast, page in itertools.product(found.index.unique("contrast"), pages):
            row = found.loc[(contrast, *key)]
            number = f"{row.difference:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
            assert number in said(page), number
    mixed, upright = (found.xs((s, "accuracy"), level=(1, 2)).difference for s in plan.STATISTICS)
    assert f"all of the accuracy, {mixed['7']:+.2f} and {mixed['7b']:+.2f};" in said(README)
    assert f"-0.35), accuracy {mixed['4']:+.2f}" in said(README)
    for contrast, after in {"7": "Rotation", "7a": "Rotation", "7b": "Rotation", "4": "So"}.items():
        assert f"and {mixed[contrast]:+.2f} of accuracy; with" in said(PAGES["results"])
        assert f"and {upright[contrast]:+.2f}. {after}" in said(PAGES["results"])
    groups = {arm: (e, store.finished(e)) for arm, e in by_arm.items() if arm.startswith("(g)")}
    table = controls.together_and_alone(arms["plain"][1], groups)
    table = table.pivot_table("difference", ["statistics", "class"], "arm")
    assert (table["(g) twins together"] > table["(g) others together"]).all() and len(table) == 8
    for statistics, arm in itertools.product(plan.STATISTICS, table):
        of = table.loc[statistics, arm]
        number = f"{of.min():+.1f} to {of.max():+.1f}"
        assert number in said(PAGES["results"])
        assert statistics == "upright" or number in said(README)


def test_frozen_features_are_those_of_the_committed_table():
    table = pd.read_csv(ROOT / "outputs/cpu/pretrained_classes-cifar10-500_a_class.csv")
    means = table.mean(numeric_only=True)
    assert f"reaches {means.oracle:.1f}, ViM {means.vim:.1f}, MSP {means.msp:.1f} (" in said(README)


def test_the_numbers_about_edges_are_those_of_the_executed_notebook():
    notebook = (ROOT / "outputs" / "cpu" / "claims.ipynb").read_text()
    for name, number in {
        "fewer: rank correlation": "+0.89 (+0.50 to +0.98",
        "apart: rank correlation": "-0.19",
        "either: rank correlation": "+0.04",
        "within unseen classes, mean:": "+0.01",
        "the gain at matched edges:": "+1.42 (+0.44 to +2.41)",
    }.items():
        assert f"{name} {number}" in notebook, name
        assert number in said(PAGES["results"]) and number in said(PAGES["findings"]), number


def test_its_benchmarks_are_those_of_the_committed_files():
    found = set()
    for path in (ROOT / "benchmarks").glob("*.json"):
        found |= {*report.markdown(json.loads(path.read_text())["rows"]).splitlines()}
    rows = [line for line in PAGES["performance"].splitlines() if line.startswith("|")]
    rows = [row for row in rows if "---" not in row]
    assert len(rows) > 10 and set(rows) <= found


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_the_net(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"]
    command += ["-c", "docs", ".", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    wanted = {"index.html", "docs/reference.html", "outputs/cpu/few_labels-cifar10.html"}
    assert wanted <= set(pages) and "Where to start" in pages["index.html"]
    titles = [re.search("<title>(.*?)</title>", pages[name])[1] for name in sorted(pages)]
    assert len({*titles}) == len(titles) - 1  # index.html is README.html
    profiles = {name.split("/")[1] for name in pages if name.startswith("outputs/")}
    assert profiles == {"cpu", "fast", "paper"}
    assert not [name for name, text in pages.items() if "Show code cell source" in text]
    assert "Plotly.newPlot" in pages["docs/curves.html"]
    for name, text in pages.items():
        assert not re.search(r'(src|<link[^>]+href)="(https?:)?//', text), name
