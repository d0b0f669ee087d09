"""Each claim of the paper with what was run for it and a verdict: the tables of docs/claims.md.

Everything is computed from finished runs and from published/: mixed batch-norm statistics, the
authors'; means over trials; 95 % intervals over held-out classes.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.experiment import Experiment, read_parameters, several
from workbench.files import ROOT
from workbench.results import findings, show, stats, tables
from workbench.results.frame import Runs, frame
from workbench.results.names import AVERAGE, label, plain
from workbench.runs import store
from workbench.runs.store import Record

Pair = tuple[Experiment, Sequence[Record]]
Found = Mapping[str, float]  # difference, low, high, above, classes, as of stats.paired
COLUMNS = ["Claim", "Where", "What was run", "Verdict", "Here", "The paper", "Command", "Hours"]

FILES = {"small": "cpu/few_labels", "large": "fast/few_labels", "weight": "cpu/lambda_search"}
FILES |= {"table2": "cpu/table2_generalization", "masking": "cpu/table3_cifar10"}
MASKING = {"train_per_class": 500, "epochs": 100, "methods": ["classification", "center_mask"]}
NETWORKS = {"small": "wrn-10-2, half the resolution", "large": "wrn-16-4, full resolution"}
CLAIMS = pd.read_csv(str(files("workbench.results") / "claims.csv"), index_col="key")
PLAIN = "500 labels a class, plain classification"
PIXELS = "outputs/paper/appendix_d_baseline-cifar10.csv"


def read(outputs: str | Path = ROOT / "outputs") -> dict[str, Runs]:
    """The finished runs of FILES: small and large network, auxiliary weights, Table 2, masking."""
    found = {}
    for name, file in FILES.items():
        given = read_parameters(ROOT / "params" / f"{file}.yaml")
        given |= {"outputs": str(outputs), "missing": "skip"}
        given |= MASKING if name == "masking" else {}
        found[name] = [(e, store.finished(e)) for e in several(given)]
    return found


def verdict(found: Found | None, sign: int = 1) -> str:
    """By docs/claims.md's rule, for a claim that the difference is above (1) or below (-1) 0."""
    if found is None or math.isnan(found["low"]):
        return "not tried"
    low, high = sorted([sign * found["low"], sign * found["high"]])
    if low > 0:
        return "reproduced"
    if high < 0:
        return "contradicted"
    above = found["above"] if sign > 0 else found["classes"] - found["above"]
    towards = sign * found["difference"] > 0 and above >= 0.7 * found["classes"]
    return "direction only" if towards else "not seen"


def points(found: Found | None) -> str:
    """+1.36 (+0.38 to +2.34), 8 of 10; a correlation without the classes."""
    if found is None:
        return ""
    text = f"{found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
    return f"{text}, {found['above']:.0f} of {found['classes']:.0f}" if "above" in found else text


def rank_correlation(one: pd.Series, other: pd.Series) -> Found:
    """Spearman's over classes as `difference`, with its interval."""
    rho = one.corr(other, method="spearman")
    low, high = stats.rank_interval(rho, len(one))
    return {"difference": rho, "low": low, "high": high}


def hours(records: Iterable[Record]) -> str:
    """Of training, by device: "H100 0.4, AMD EPYC 0.9"."""
    table = pd.DataFrame([[r.device, r.seconds / 3600] for r in records], columns=["on", "hours"])
    spent = table.groupby(table.on.str.replace("NVIDIA H100.*", "H100", regex=True)).hours.sum()
    return ", ".join(f"{plain(device)} {of:.1f}" for device, of in spent.items())


def read_again() -> pd.DataFrame:
    """The gains of the paper's own tables, with intervals over their classes and Wilcoxon's p."""
    printed = {"Table 3": "table3_cifar10", "Table 4": "table4_stl10"}
    printed |= {f"Table 5, {s}": f"appendix_b_imagenet_{s}" for s in tables.SUBSETS}
    printed |= {f"Table 6, {s}": f"appendix_c_imagenet_{s}" for s in tables.SUBSETS}
    rows = []
    for shown, name in printed.items():
        of_paper = _paper(name)
        method = "cpc" if shown.startswith("Table 6") else "rotation"
        for measure in ("msp", "odin", "accuracy"):
            gained = of_paper[f"{method}_{measure}"] - of_paper[f"classification_{measure}"]
            rows.append({"table": shown, "measure": measure} | stats.paired(gained))
    return pd.DataFrame(rows).set_index(["table", "measure"])


def in_page(text: str, claims: pd.DataFrame, again: pd.DataFrame) -> str:
    """docs/claims.md's text with these tables, of `table` and `read_again`, in their places."""
    again = again.reset_index()
    again["gain"] = [points(row) for row in again.to_dict("records")]
    again["p"] = [show.p_value(p).removeprefix("= ") for p in again.p]
    again["measure"] = again.measure.map(label)
    again = again[["table", "measure", "gain", "p"]]
    for name, shown in {"claims": claims, "again": again}.items():
        start, _, rest = text.partition(f"<!-- {name} -->\n")
        _, end, rest = rest.partition("\n<!-- end -->")
        text = f"{start}<!-- {name} -->\n\n{markdown(shown)}\n{end}{rest}"
    return text


def markdown(table: pd.DataFrame) -> str:
    """A table of texts, without its index."""
    rows = [table.columns, ["---"] * table.shape[1], *table.to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# --- the rows


def table(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """A row a claim, COLUMNS as text; runs: `read`."""
    again = read_again()
    rows = [*_gains(runs, again), _generalization(*runs["table2"]), *_not_tried(again)]
    rows += [*_masked(*runs["masking"]), *_scores(runs["small"][0])]
    rows += [*_accuracy(runs["small"]), *_pixels(), _weight(runs["weight"])]
    what = "linear probes of 12 hounds, three seeds, without records"
    here = "the probe gains 15 points; 10 with the image's own negatives"
    rows.append(_row("negatives", what, said="direction only", here=here))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(
    claim: str,
    what: str,
    found: Found | None = None,
    records: Sequence[Record] = (),
    paper: str = "",
    **own: Any,
) -> list[str]:
    """A row of claims.csv, its key given, beside what was found.

    own: sign, as of `verdict`; said and here, where `verdict` and `points` don't say them; command.
    """
    row = CLAIMS.loc[claim]
    said = own.get("said") or verdict(found, own.get("sign", 1))
    here = own.get("here", points(found))
    command = own.get("command", row.command)
    return [row.claim, row["where"], what, said, here, paper, f"`{command}`", hours(records)]


def _paper(name: str) -> pd.DataFrame:
    return tables.published(name).drop(index=AVERAGE)


def _gains(runs: Mapping[str, Runs], again: pd.DataFrame) -> list[list[str]]:
    rows = []
    for measure in ("msp", "odin", "accuracy"):
        for name, count in (("small", 500), ("large", 500), ("small", None)):
            (pair,) = (pair for pair in runs[name] if pair[0].train_per_class == count)
            gains = stats.gains([pair]).set_index(["statistics", "measure"])
            gained = gains.loc["mixed", measure].rename({"gain": "difference"})
            if math.isnan(gained.difference):  # not all classes have both
                gained = None
            what = f"{label(measure)}, {count or 'all 5,000'} labels a class, {NETWORKS[name]}, "
            what += show.averaged(pair[1])
            paper = points(again.loc[("Table 3", measure)])
            command = f"python -m semlib grid params/{FILES[name]}.yaml"
            rows.append(_row("gain", what, gained, pair[1], paper, command=command))
    return rows


def _gained(experiment: Experiment, records: Sequence[Record], measure: str) -> pd.DataFrame:
    """The second method minus plain: a row a class, a column a trial that has all; else empty."""
    if {record.method for record in records} != {*experiment.methods}:
        return pd.DataFrame()
    found = findings.gains(frame([(experiment, records)]), experiment.methods[1])
    found = found.xs(("mixed", measure), level=["statistics", "measure"])
    whole = {record.hold_out for record in records}
    return found.dropna(axis=1) if len(found) == len(whole) in (1, 10) else pd.DataFrame()


def _generalization(pair: Pair) -> list[str]:
    gained = _gained(*pair, "accuracy")
    found = stats.paired(gained.iloc[0]) if gained.shape[1] > 1 else None
    what = "500 labels a class, nothing held out, "
    what += show.averaged(pair[1]) if found else "no runs"
    printed = tables.published("table2_generalization").cifar10
    paper = f"{printed.rotation - printed.classification:+.2f}"
    return _row("table2", what, found, pair[1] if found else (), paper)


def _masked(pair: Pair) -> list[list[str]]:
    printed = tables.published("masking_ablation")
    rows = []
    for measure, sign in (("accuracy", 1), ("msp", -1)):
        gained = _gained(*pair, measure)
        found = stats.paired(gained.mean(axis=1)) if gained.size else None
        what = f"{label(measure)}, 500 labels a class, "
        what += f"trials: {gained.shape[1]}" if found else "the runs of a control are under way"
        spent = pair[1] if found else ()
        paper = f"{printed[measure].center_mask - printed[measure].classification:+.2f}"
        rows.append(_row("masking", what, found, spent, paper, sign=sign))
    return rows


def _not_tried(again: pd.DataFrame) -> list[list[str]]:
    msp = again.xs("msp", level="measure")
    what = "STL-10 was not at hand; 500 labels a class are as many as it has"
    rows = [_row("table4", what, paper=f"MSP {points(msp.loc['Table 4'])}")]
    what = "ImageNet was not at hand but for a ninth of the hounds, too few for such gains"
    for number in (5, 6):
        found = msp[msp.index.str.startswith(f"Table {number}")]
        paper = f"MSP {found.difference.min():+.2f} to {found.difference.max():+.2f}; "
        paper += f"the interval above 0 in {(found.low > 0).sum()} of {len(found)} subsets"
        rows.append(_row(f"table{number}", what, paper=paper))
    return rows


def _plain(pair: Pair) -> tuple[pd.DataFrame, list[Record]]:
    """Of plain classification: percent, a row a measure, a column a class; and its records."""
    records = [record for record in pair[1] if record.method == "classification"]
    means = findings.by_class(frame([(pair[0], records)]))
    means = means.xs("mixed", level="statistics")
    return means.droplevel(["profile", "images", "method"]), records


def _scores(pair: Pair) -> list[list[str]]:
    means, records = _plain(pair)
    alike = []
    aurocs = []
    for record in records:
        of = record.scores("is_anomaly", "msp", "odin", "max_logit")
        alike.append(pd.Series(of["odin"]).corr(pd.Series(of["max_logit"]), method="spearman"))
        aurocs.append(100 * stats.Ranking(of["is_anomaly"], of["msp"]).auroc())
    printed = _paper("table3_cifar10")
    paper = points(stats.paired(printed.classification_odin - printed.classification_msp))
    above = stats.paired(means.loc["odin"] - means.loc["msp"])
    moved = stats.paired(means.loc["odin"] - means.loc["msp_t1000"])
    ranks = f"{points(moved)}, over T = 1000 alone; rank correlation of ODIN with max logit "
    ranks += f"{min(alike):.3f}"
    rare = f"MSP's AUROC {np.mean(aurocs):.1f}, average precision {means.loc['msp'].mean():.1f}; "
    rare += "chance has 50 and 10"
    return [
        _row("odin", PLAIN, above, records, paper),
        _row("perturbation", PLAIN, moved, records, here=ranks),
        _row("auroc", PLAIN, None, records, said="reproduced", here=rare),
    ]


def _accuracy(runs: Runs) -> list[list[str]]:
    found = []
    for pair in runs:
        means, _ = _plain(pair)
        found.append(rank_correlation(means.loc["accuracy"], means.loc["msp"]))
    across = f"rank correlation over classes {points(found[0])}; with other numbers of labels "
    others = [of["difference"] for of in found[1:]]
    across += f"{min(others):+.2f} to {max(others):+.2f}"
    papers = []
    for printed in (_paper("table3_cifar10"), _paper("table4_stl10")):
        rho = rank_correlation(printed.classification_accuracy, printed.classification_msp)
        papers.append(f"{rho['difference']:+.2f}")
    paper = f"Table 3 {papers[0]}, Table 4 {papers[1]}"
    said = "contradicted" if found[0]["low"] > 0 else "not seen"
    means, records = _plain(runs[0])
    curves: dict[str, list[float]] = {}
    for record in records:
        history = record.history()
        rho = history.accuracy.corr(history.msp, method="spearman")
        curves.setdefault(str(record.hold_out), []).append(rho)
    along = stats.paired(pd.DataFrame(curves).mean())
    here = f"rank correlation over epochs {points(along)}"
    order = rank_correlation(means.loc["msp"], _paper("table3_cifar10").classification_msp)
    alike = f"rank correlation with the paper's column {points(order)}"
    return [
        _row("uncorrelated", PLAIN, None, records, paper, said=said, here=across),
        _row("pattern", PLAIN, along, records, here=here),
        _row("order", PLAIN, order, records, here=alike),
    ]


def _pixels() -> list[list[str]]:
    found = pd.read_csv(ROOT / PIXELS, index_col=0).dropna()
    rows = []
    for claim, part in {"sets": found[:-1], "hold_outs": found[-1:]}.items():
        by = part.map("{:.2f}".format).agg(", ".join)
        here = f"{by['full-covariance Gaussian']} by one full-covariance Gaussian a channel; "
        here += f"{by['mixture over single pixels']} by the mixture that the paper names"
        said = "reproduced" if part.difference.abs().max() < 1 else "not seen"
        what = ", ".join(part.index)
        rows.append(_row(claim, what, paper=by["paper"], said=said, here=here))
    return rows


def _weight(runs: Runs) -> list[str]:
    found = tables.by_weight(runs).query("method == 'rotation'").set_index("weight").accuracy
    here = ", ".join(f"{accuracy:.2f} with {weight:g}" for weight, accuracy in found.items())
    said = "reproduced" if found.idxmax() == 0.5 else "contradicted"
    records = [*itertools.chain.from_iterable(of for _, of in runs)]
    what = "500 labels a class, nothing held out, 25 epochs, one seed; validation accuracy"
    return _row("weight", what, None, records, "0.5", said=said, here=here)
