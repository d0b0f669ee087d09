"""The table of the paper's claims: its verdicts, its numbers, and docs/claims.md."""

import math
import re
import shlex

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from helpers import ROOT, cells, semlib

from workbench.batch import notebooks
from workbench.results import tables

PAGE = ROOT / "docs" / "claims.md"


claims = cells("claims")


@pytest.fixture(scope="module")
def notebook():
    """The notebook run as far as the table of all claims, which it would write to files."""
    return cells("claims", run_before="claims-page")


@pytest.fixture(scope="module")
def found(notebook):
    return notebook.found


@pytest.fixture(scope="module")
def table(notebook):
    return pd.DataFrame(notebook.rows, columns=claims.COLUMNS)


@pytest.mark.parametrize(
    ("difference", "low", "high", "above", "sign", "said"),
    [
        (1, 0.1, 1.9, 8, 1, "reproduced"),
        (1, -0.1, 2.1, 7, 1, "direction only"),
        (1, -0.1, 2.1, 6, 1, "not seen"),
        (-1, -2.1, 0.1, 2, 1, "not seen"),
        (-1, -1.9, -0.1, 2, 1, "contradicted"),
        (-1, -1.9, -0.1, 2, -1, "reproduced"),
        (-1, -2.1, 0.1, 3, -1, "direction only"),
        (1, 0.1, 1.9, 8, -1, "contradicted"),
        (1, math.nan, math.nan, 1, 1, "not tried"),
    ],
)
def test_the_verdict_is_the_pages_rule(difference, low, high, above, sign, said):
    row = {"difference": difference, "low": low, "high": high, "above": above, "classes": 10}
    assert claims.verdict(row, sign) == said


def test_the_page_has_these_tables(table):
    text = PAGE.read_text()
    assert claims.in_page(text, table, claims.read_again()) == text
    assert claims.in_page(text, table[:1], claims.read_again()) != text


def test_each_row_says_what_was_run_and_by_which_command(table, found):
    verdicts = {"reproduced", "direction only", "not seen", "contradicted", "not tried"}
    assert {*table.Verdict} <= verdicts
    for row in table.itertuples():
        assert row.Claim and row.Where and row.Command
        tried = row.Verdict != "not tried"
        assert bool(row.Here) == tried, row
        words = shlex.split(row.Command.strip("`"))[3:]
        if words[0] == "grid":
            pairs = [words[k + 1 : k + 3] for k in range(len(words)) if words[k] == "-p"]
            assert notebooks.merged([ROOT / words[1]], pairs)


def test_every_table_of_the_paper_has_a_row(table):
    wanted = {f"Table {k}" for k in range(2, 7)} | {"Figure 1", "Sec. 5.2", "Appendix D"}
    assert wanted <= {*table.Where}


def test_the_papers_gains_against_literal_intervals():
    again = claims.read_again()
    clear = []
    for (name, measure), row in again.iterrows():
        number, _, subset = name.partition(", ")
        files = {"Table 3": "table3_cifar10", "Table 4": "table4_stl10"}
        files |= {"Table 5": f"appendix_b_imagenet_{subset}"}
        files |= {"Table 6": f"appendix_c_imagenet_{subset}"}
        csv = ROOT / "workbench" / "results" / "published" / f"{files[number]}.csv"
        printed = pd.read_csv(csv, index_col=0).drop(index="average")
        other = "cpc" if number == "Table 6" else "rotation"
        gained = (printed[f"{other}_{measure}"] - printed[f"classification_{measure}"]).to_numpy()
        n = len(gained)
        half = scipy.stats.t.ppf(0.975, n - 1) * gained.std(ddof=1) / math.sqrt(n)
        literal = [gained.mean(), gained.mean() - half, gained.mean() + half]
        assert [row.difference, row.low, row.high] == pytest.approx(literal)
        if measure == "msp" and subset and (row.low > 0 or row.high < 0):
            clear.append(name)
    assert clear == ["Table 5, snake", "Table 6, car"]


def test_a_rank_correlation_and_its_interval_against_the_formula():
    rng = np.random.default_rng(0)
    one = pd.Series(rng.normal(size=10))
    other = pd.Series(rng.normal(size=10))
    found = claims.rank_correlation(one, other)
    rho = scipy.stats.spearmanr(one, other).statistic
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 7)
    ends = [math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)]
    assert [found["difference"], found["low"], found["high"]] == pytest.approx([rho, *ends])


def test_a_second_methods_runs_are_compared_where_all_classes_of_a_trial_are_there(notebook):
    """By rotation's runs in the place of masking's, which may not be there yet."""
    experiment, records = notebook.first
    accuracy, msp = notebook.masked(experiment, records)
    assert (accuracy[3], msp[3]) == ("reproduced", "contradicted")
    assert msp[4] == "+1.36 (+0.38 to +2.34), 8 of 10"
    fewer = [r for r in records if (r.method, r.hold_out, r.trial) != ("rotation", "cat", 1)]
    assert "trials: 1" in notebook.masked(experiment, fewer)[1][2]
    rest = [r for r in fewer if (r.method, r.hold_out) != ("rotation", "cat")]
    assert notebook.masked(experiment, rest)[1][3] == "not tried"
    assert notebook.generalization(experiment, [])[3] == "not tried"


def test_hours_are_those_of_the_records(found):
    records = found["small"][0][1]
    literal = {"H100": 0.0, "AMD EPYC": 0.0}
    for record in records:
        literal["H100" if "H100" in record.device else "AMD EPYC"] += record.seconds / 3600
    text = f"AMD EPYC {literal['AMD EPYC']:.1f}, H100 {literal['H100']:.1f}"
    assert claims.hours(records) == text


def test_pixels_are_those_of_the_committed_table(table):
    rows = table[table.Where == "Appendix D"]
    paper = tables.published("appendix_d_baseline").average_precision
    assert [*rows["The paper"]] == [
        f"{paper.tiny_imagenet_crop}, {paper.tiny_imagenet_resize}",
        f"{paper.cifar10_hold_outs}",
    ]


@pytest.mark.notebook
def test_the_notebook_writes_the_page(tmp_path):
    text = PAGE.read_text()
    page = tmp_path / "page.md"
    page.write_text(re.sub(r"(?m)^\|.*\n", "", text))
    words = ["-p", "page", str(page), "-o", str(tmp_path / "claims.ipynb")]
    done = semlib("run", "notebooks/claims.ipynb", "-f", "params/cpu/claims.yaml", *words)
    assert done.returncode == 0, done.stderr
    assert page.read_text() == text
