"""Tables as text, and sentences about the runs that a table is made of."""

import inspect
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from semlib.datasets import imagenet
from workbench import own
from workbench.experiment import (
    Data,
    Experiment,
    Network,
    Scoring,
    Several,
    Training,
    parameters_file,
    read_parameters,
    several,
    with_file,
)
from workbench.files import ROOT
from workbench.results import stats, tables
from workbench.results.frame import Runs
from workbench.results.names import code, label, plain, rows_of, without_average
from workbench.runs import machine, plan, store
from workbench.runs.estimate import duration
from workbench.runs.store import Record

# what the results depend on, besides the scores that are shown
DECISIVE = [*Data.model_fields, *Network.model_fields, *Training.model_fields]
DECISIVE += [name for name in Scoring.model_fields if name != "scores"]

# Each column of a table as text: a format that a row's values fill, where the table has them
FORMATS = {
    "Contrast": "{contrast}",
    "Data set": "{dataset}",
    "Images a class": "{images}",
    "Statistics": "{statistics}",
    "Arm": "{arm}",
    "Method": "{method}",
    "Measure": "{measure}",
    "Score": "{score}",
    "Against": "{against}",
    "At equal accuracy": "{way}",
    "Classification-only": "{plain:.2f}",
    "With the method": "{with:.2f}",
    "Gain (points)": "{gain:+.2f}",
    "Difference (points)": "{difference:+.2f}",
    "Average precision (%)": "{average_precision:.2f}",
    "95 % over held-out classes": "{low:+.2f} to {high:+.2f}",
    "95 % over test images": "{images_low:+.2f} to {images_high:+.2f}",
    "Std over trials": "{trial_std:.2f}",
    "AUROC (%)": "{auroc:.2f}",
    "FPR at 95 % recall (%)": "{fpr95:.2f}",
    "AUROC against right (%)": "{auroc_right:.2f}",
    "AUROC against mistaken (%)": "{auroc_mistaken:.2f}",
    "AURC (%)": "{aurc:.2f}",
    "AUGRC (%)": "{augrc:.2f}",
    "OSCR (%)": "{oscr:.2f}",
    "Oracle (%)": "{oracle:.2f}",
    "The paper": "{paper:.2f}",
    "Lacks": "{lacks}",
    "Above in": "{above:.0f} of {classes}",
    "p": "{p}",
    "p by Holm": "{holm}",
    "p by max-t": "{max_t}",
    "Trials": "{trials}",
    "Decision": "{decision}",
    "Auxiliary weight": "{weight:g}",
    "Validation accuracy": "{mean_std}",
    "For the params file": "{line}",
}
INDEX = [*FORMATS][:10]
DOUBTS = {
    "tied": "More than half of the images share a score (constant, float16, overflow?)",
    "below": "Average precision below the share of anomalies (should the sign be changed?)",
    "accuracy": "Accuracy at chance (are predicted and labels numbered alike?)",
}


# --- tables


def mean_std(mean: float, std: float, absent: str = "not run") -> str:
    """34.92 ± 0.41 as the paper prints it; of one trial the number alone."""
    if math.isnan(mean):
        return absent
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def p_value(value: float) -> str:
    """= 0.014, or < 0.001; "" for NaN."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def text(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `stats` (gains, leaderboard, contrasts), or with such columns, as text.

    Methods and measures by their labels; "-" for NaN.
    """
    if table.empty:
        return _sentence("Difference", "nothing to compare: one method, or none with every class")
    board = "average_precision" in table
    table = table.reset_index().rename(columns={"class_low": "low", "class_high": "high"})
    for name in table.columns.intersection(["method", "measure", "score", "against"]):
        table[name] = table[name].map(partial(label, among=table[name].unique()))
    for name in table.columns.intersection(["p", "holm", "max_t"]):
        table[name] = [p_value(p).removeprefix("= ") for p in table[name]]
    absent = table.columns[table.isna().all()]
    table = table.drop(columns=absent.intersection(["paper", "oracle"]))
    if "gain" in table:
        table["images"] = table.images.map("{:,.0f}".format)
    if "above" in table:
        table["above"] = table.above.where(table.classes > 0)  # of none: "-"
    shown = {}
    for title, how in FORMATS.items():
        fields = {field for _, field, _, _ in Formatter().parse(how)} - {None}
        if fields <= {*table}:
            how = how.replace("+", "") if board else how
            shown[title] = [how.format_map(row) for row in table.to_dict("records")]
    shown = pd.DataFrame(shown).replace(r".*\bnan\b.*", "-", regex=True)
    return shown.set_index([name for name in INDEX if name in shown])


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """A table of by_class as text: "mean ± std" here and in the paper, or "not run".

    Where nothing at all was run, the paper's numbers alone.
    """
    texts = {}
    printed = "paper" in table.columns.unique("statistic")
    only_papers = printed and _nothing_run(table)
    for column, part in _labelled(table).items():
        if not only_papers:
            texts[*column, "here"] = list(map(mean_std, part["mean"], part["std"]))
        if "paper" in part:
            paper = map(partial(mean_std, absent=""), part["paper"], part["paper_std"])
            texts[*column, "paper"] = list(paper)
    text = pd.DataFrame(texts, index=rows_of(table)).rename_axis(table.index.name or "Anomaly")
    return text if printed else text.droplevel(2, axis=1)


def _nothing_run(table: pd.DataFrame) -> bool:
    return bool(table.xs("mean", axis=1, level="statistic").isna().all(axis=None))


def _labelled(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The parts of a table of by_class by the labels of their method and measure."""
    methods, measures = (list(table.columns.unique(level)) for level in ("method", "measure"))
    parts = tables.parts(table).items()
    return {(label(m, methods), label(s, measures)): part for (m, s), part in parts}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Measured minus published in points; * where it is more than two deviations of both together.

    "?" where one trial gives no deviation.
    """
    texts = {}
    for column, part in _labelled(table).items():
        if "paper" in part:
            limit = 2 * np.hypot(part["std"], part.paper_std)
            points = part["mean"] - part.paper
            mark = np.select([limit.isna(), points.abs() > limit], [" ?", " *"], "")
            texts[column] = (points.map("{:+.2f}".format) + mark).where(points.notna(), "")
    if not texts:
        return _sentence("Difference", "the paper has no numbers of this data set")
    text = pd.DataFrame(texts).set_axis(rows_of(table))
    return text.rename_axis(table.index.name or "Anomaly")


def _sentence(column: str, text: str) -> pd.DataFrame:
    """What is shown in place of a table without rows."""
    return pd.DataFrame({column: [text]}, index=["-"])


def markdown(table: pd.DataFrame) -> str:
    """A table as text in Markdown, each column's title in one line."""
    flat = table.reset_index() if table.index.nlevels > 1 else table
    if flat.columns.nlevels > 1:
        flat = flat.set_axis([", ".join(filter(None, names)) for names in flat.columns], axis=1)
    return flat.to_markdown(index=table.index.nlevels == 1, disable_numparse=True)


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """The verdict: in how many classes a method beats plain classification, and ODIN beats MSP.

    Here and in the paper. Where six classes or more differ, with the mean difference in points, its
    95 % t-interval over classes, and the p of Wilcoxon's two-sided signed-rank test. The classes of
    a data set are not quite independent: their trainings share images. Of a part of the classes
    only how many there are.
    """
    parts = _labelled(without_average(table))
    odin, msp, plain = map(label, ("odin", "msp", "classification"))
    methods: dict[str, pd.DataFrame] = {}
    detectors: dict[str, pd.DataFrame] = {}
    for (method, measure), part in parts.items():
        if method != plain and (plain, measure) in parts:
            methods[f"{method}: {measure} above {plain}"] = part - parts[plain, measure]
        if measure == odin and (method, msp) in parts:
            detectors[f"{method}: {odin} above {msp}"] = part - parts[method, msp]
    if not {**methods, **detectors}:
        return _sentence("Verdict", "one method and one score: nothing is compared")
    text = pd.DataFrame("", index=[*methods, *detectors], columns=["here", "in the paper"])
    for name, gained in (methods | detectors).items():
        text.loc[name, "here"] = _wins(gained["mean"]) or "not run"
        if "paper" in gained:
            text.loc[name, "in the paper"] = _wins(gained["paper"])
    if not text["in the paper"].any():
        return text[["here"]]
    return text[["in the paper"]] if _nothing_run(table) else text


def _wins(gained: pd.Series) -> str:
    found = stats.paired(gained)
    if not found["classes"]:
        return ""
    if found["classes"] < len(gained):
        return f"no verdict from {found['classes']} of {len(gained)}"
    wins = f"{found['above']} of {found['classes']}"
    if math.isnan(found["p"]):
        return wins
    interval = f"{found['low']:+.2f} to {found['high']:+.2f}"
    return f"{wins}, {found['difference']:+.2f} ({interval}), p {p_value(found['p'])}"


def with_skew(summary: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """A table of by_subset as text with the skew, a random detector's average precision."""
    text = formatted(summary)
    skews = [100 * pd.Series([record.skew for record in records]).mean() for _, records in runs]
    column = ("Skew", *[""] * (text.columns.nlevels - 1))
    text.insert(0, column, [mean_std(skew, math.nan) for skew in skews])
    return text


def correlation(row: Any) -> str:
    """A row of `stats.correlations`: the correlation and its interval."""
    interval = f"{row.rho:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
    return "undefined" if math.isnan(row.rho) else interval


def print_all(experiments: Iterable[Experiment]) -> None:
    """Each experiment's table on the terminal."""
    for experiment in experiments:
        records = store.finished(experiment)
        print(f"\n{title(experiment)}: average precision{_chance(records)} and accuracy, %")
        if records:
            print(formatted(tables.by_class(experiment, records)).to_string(line_width=200))
        print(*remarks(experiment, records), sep="\n")


def _chance(records: Sequence[Record]) -> str:
    """The average precision of random scores, which is the share of anomalies."""
    skews = sorted({round(100 * record.skew, 1) for record in records if record.hold_out})
    if not skews:
        return ""
    several = f" to {skews[-1]}" if len(skews) > 1 else ""
    return f" (chance: {skews[0]}{several})"


# --- about the runs


def averaged(records: Sequence[Record], how: str = "mean of ") -> str:
    """mean of 3 trials, of 1 or 2 where some runs are missing, or one trial.

    how: what stands before several.
    """
    runs = Counter((record.dataset, record.hold_out, record.method) for record in records)
    fewest = min(runs.values(), default=0)
    most = max(runs.values(), default=0)
    if most == 1:
        return "one trial"
    between = {most: "", most - 1: f"{fewest} or "}.get(fewest, f"{fewest} to ")
    return f"{how}{between}{most} trials"


def title(experiment: Experiment) -> str:
    """Data set, profile, the auxiliary weight if a method has one, and the statistics."""
    parts = [experiment.dataset_name]
    if experiment.train_per_class:
        parts.append(f"{experiment.train_per_class} training images a class")
    parts.append(f"profile {experiment.profile}")
    if not {*experiment.trained_methods} <= {"classification", "center_mask"}:
        parts.append(f"auxiliary weight {experiment.auxiliary_weight:g}")
    return ", ".join([*parts, f"{experiment.statistics} batch-norm statistics"])


def heading(*experiments: Experiment) -> str:
    """Each experiment's title and training in a paragraph of Markdown, for a notebook's top."""
    paragraphs = []
    for e in experiments:
        training = f"{plain(e.architecture)}, {e.epochs} epochs of batches of {e.batch_size}"
        training += f", {e.schedule} schedule, {machine.precision(e)}"
        trials = "1 trial" if e.trials == 1 else f"{e.trials} trials"
        text = f"**{plain(title(e))}**: {training}, {trials}."
        if e.profile == "demo":
            text = f"**A demonstration in minutes, not the paper's experiment.** {text}"
        paragraphs.append(text)
    return "\n\n".join(paragraphs)


def opening(notebook: str, *experiments: Experiment, settings: Any = None) -> str:
    """A notebook's top as Markdown: its heading, where values come from, losses, what is not run.

    notebook: as of `parameters_file`. settings: the files that its cell names, None for those of
    the notebook's file. The headings of several experiments are in `summaries`.
    """
    file = parameters_file(notebook, experiments[0].profile)
    parts = [heading(*experiments)] if len(experiments) == 1 else []
    parts += [_origin(notebook, file, experiments, settings), *losses(*experiments)]
    if experiments[0].missing == "skip":
        parts.append(_not_run(notebook, file, experiments))
    return "\n\n".join(filter(None, parts))


def _origin(
    notebook: str, file: str | None, experiments: Sequence[Experiment], settings: Any = None
) -> str:
    if settings:
        return _over_settings(notebook, file, experiments, settings)
    if file is None:
        return "Settings: the defaults, and those of the cell; no file is for this profile."
    settings = read_parameters(file).get("settings", ())
    text = f"those of {code(file)}"
    if settings:
        text += f", which names {' and '.join(map(code, settings))}"
    changes = _changes(notebook, experiments)
    if changes.pop("experiments", None):
        text = f"a part of {text}"
    if f"/{experiments[0].profile}/" not in file:
        text += f" (params/{experiments[0].profile}/ has no such file)"
    if not changes:
        return f"The settings are {text}."
    return (
        f"Settings: {text}, but for {', '.join(code(f'{n} = {v!r}') for n, v in changes.items())}."
    )


def _over_settings(
    notebook: str, file: str | None, experiments: Sequence[Experiment], settings: Any
) -> str:
    """Of files that the cell names: what goes over their values, and from where."""
    files = [settings] if isinstance(settings, str) else settings
    filed = itertools.chain(*(several(read_parameters(name)) for name in files))
    over = _changes(notebook, experiments, tuple(filed))
    own = read_parameters(file) if file else {}
    said = f"Settings: those of {' and '.join(map(code, files))}, which the cell names."
    for where, names in ((f"`{file}`", [*over.keys() & own]), ("the cell", [*over.keys() - own])):
        if names:
            values = ", ".join(code(f"{name} = {over[name]!r}") for name in sorted(names))
            said += f" Over them go, of {where}: {values}."
    return f"{said} Results are those of `profile = {experiments[0].profile!r}`."


def _changes(
    notebook: str, experiments: Sequence[Experiment], filed: tuple[Experiment, ...] = ()
) -> dict[str, Any]:
    """The choices that are not those of the notebook's file; a list where experiments differ.

    Each experiment is compared with the one of the file, or of `filed`, that it is most like.
    """
    filed = filed or several(with_file({"profile": experiments[0].profile}, notebook))
    names = ["dataset", "hold_out", "methods", "trials", "first_trial", *DECISIVE, "scores"]
    found: dict[str, list[Any]] = {}
    for e in experiments:
        apart = ([n for n in names if getattr(e, n) != getattr(other, n)] for other in filed)
        for name in min(apart, key=len):
            found.setdefault(name, []).append(getattr(e, name))
    count = len(experiments)
    changes = {}
    for name, values in found.items():
        everywhere = len(values) == count and len({*values}) == 1
        changes[name] = values[0] if everywhere else values
    return changes if count == len(filed) else changes | {"experiments": [count]}


def losses(*experiments: Experiment) -> list[str]:
    """What each method does besides plain classification, with the source of the function."""
    from semlib import auxiliary  # PyTorch is slow to import
    from semlib.datasets import augmentation

    texts = []
    weights = {f"{e.auxiliary_weight:g}" for e in experiments}
    weight = weights.pop() if len(weights) == 1 else "the auxiliary weight"
    methods = dict.fromkeys(itertools.chain(*(e.trained_methods for e in experiments)))
    for method in methods:
        if method == "classification":
            continue
        name = label(method, methods)
        if method == "center_mask":
            function = augmentation.center_mask
            text = f"**{name}**: trained on classification alone, of images that this masks"
        else:
            function = own.function(method) if ":" in method else getattr(auxiliary, method)
            text = f"**{name}**: each iteration begins with a step on this loss, times {weight}"
        where = f"{function.__module__}.{getattr(function, '__name__', method)}"
        texts.append(f"{text} (`{where}`):\n\n```python\n{inspect.getsource(function)}```")
    return texts


def _not_run(notebook: str, file: str | None, experiments: Sequence[Experiment]) -> str:
    """How many runs are missing, the command that makes them, and what there is instead."""
    planned = sum(len(plan.planned(experiment)) for experiment in experiments)
    here = sum(len(store.finished(experiment)) for experiment in experiments)
    if here == planned:
        return ""
    profile = experiments[0].profile
    if here:
        some = f"**{planned - here} of {planned} runs are missing.**"
        return f"{some} {_command(notebook, file, experiments)} trains them."
    said = f"**Not run: none of the {planned} runs is in `outputs/{profile}/`.** "
    said += f"{_command(notebook, file, experiments)} trains them."
    name = notebook.rpartition("/")[2]
    where = experiments[0].model_dump(include={"outputs", "data_root"})
    found = []
    for path in sorted((ROOT / "params").glob(f"*/{name}.yaml")):
        others = several(with_file({"profile": path.parent.name} | where, notebook))
        count = sum(len(store.finished(experiment)) for experiment in others)
        if count:
            total = sum(len(plan.planned(experiment)) for experiment in others)
            found.append(f'`profile = "{path.parent.name}"` ({count} of {total} runs)')
    return f"{said} Finished here: {' and '.join(found)}." if found else said


def _command(notebook: str, file: str | None, experiments: Sequence[Experiment]) -> str:
    """The command that makes the runs; where it can't say all that the cell sets, the cell."""
    profile = experiments[0].profile
    changes = _changes(notebook, experiments) if file else {}
    if file is None or any(isinstance(value, list) for value in changes.values()):
        return 'This notebook with `missing = "train"`'
    if f"/{profile}/" not in file:
        changes["profile"] = profile
    words = [f"-p {name} {_word(value)}" for name, value in changes.items()]
    return code(" ".join(["python -m semlib grid", file, *words]))


def _word(value: Any) -> str:
    """A parameter's value on a command line."""
    if isinstance(value, tuple):
        return str(value[0]) if len(value) == 1 else f'"[{", ".join(map(str, value))}]"'
    return "none" if value is None else str(value)


def summary(experiment: Experiment, records: Sequence[Record]) -> str:
    """remarks as Markdown."""
    return "  \n".join(map(plain, remarks(experiment, records)))


def summaries(runs: Runs, notebook: str = "", settings: Any = None) -> str:
    """Each experiment's heading and summary as Markdown, then in what their runs differ.

    notebook, settings: `opening` of these experiments comes first, and alone if nothing is run.
    """
    first = [opening(notebook, *(e for e, _ in runs), settings=settings)] if notebook else []
    if first and not any(records for _, records in runs):
        return first[0]
    parts = [*first] + [f"{heading(e)}  \n{summary(e, records)}" for e, records in runs]
    every = list(itertools.chain.from_iterable(records for _, records in runs))
    among = unlike(every, one_data_set=False) if len(runs) > 1 else []
    return "\n\n".join([*parts, "  \n".join(map(plain, among))])


def unlike(records: Sequence[Record], one_data_set: bool = True) -> list[str]:
    """A line for each aspect in which runs differ and on which their numbers may depend."""
    own = [record for record in records if not record.external]
    torch = [record.versions.get("torch", "unknown").split(".")[:2] for record in own]
    aspects = {
        "Different precision": [record.precision for record in own],
        "Different torch": [".".join(version) for version in torch],
        "Different devices": [record.device for record in own],
    }
    if one_data_set:
        data = [str(record.data) for record in records]
        aspects = {"NOT COMPARABLE, runs on different data": data} | aspects
    return [f"{name}: {_counted(v)}." for name, v in aspects.items() if len({*v}) > 1]


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())


def remarks(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """What a reader must know of a table: how much was run, where, how long, what is missing."""
    own = [record for record in records if not record.external]
    lines = [f"{len(records)} of {len(plan.planned(experiment))} runs are finished."]
    if own:
        time = duration(sum(record.seconds for record in own))
        devices = _counted(record.device for record in own)
        lines = [f"{lines[0][:-1]}, trained in {time} on {devices}."]
    lines += _left_out(experiment, records)
    if len(own) < len(records):
        named = _counted(label(record.method) for record in records if record.external)
        lines.append(f"Trained elsewhere, their scores imported, how is not known here: {named}.")
    if n := experiment.train_per_class:
        drawn = "trial and held-out class, the same for each method"
        if experiment.subset_seed is not None:
            drawn = "held-out class, the same for each trial and method"
        lines.append(f"Trained on {n} images of each class, drawn anew for each {drawn}.")
    paper = imagenet.COUNTS.get(experiment.dataset, (0, 0))[0]
    for n in sorted({r.train_images for r in records if r.train_images} - {paper}) if paper else ():
        few = f"{n} of the {paper} training images"
        lines.append(f"The data set has {few} that it has in the paper.")
    if records and plan.current_digests(experiment) != records[0].data:
        gone = f"{experiment.dataset_name} is not here, or has changed"
        lines.append(f"{gone}: these runs used the version {records[0].data}.")
    if found := str(plan.duplicates(experiment)):
        lines.append(found)
    lines += _not_scored(experiment, records)
    lines += doubts(experiment, records)
    return lines + unlike(records) + store.unused_runs([experiment])


def _left_out(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """A line if methods have not the same runs: what they lack, and what averages are of."""
    chosen = tables.compared(experiment, records)
    lacks = chosen[chosen.why != ""].reset_index()
    if lacks.empty:
        return []
    counts = lacks[["method", "why"]].value_counts(sort=False).reset_index()
    said = [f"{label(method)} {n} ({why})" for method, why, n in counts.itertuples(index=False)]
    of = "no trial has every class"
    if trials := tables.trials_of_averages(chosen):
        there = chosen.index[chosen.whole].unique("method")
        methods = [label(name) for name in experiment.methods if name in there]
        of = f"averages are of {', '.join(methods)} in {trials}"
    lines = f"Runs that a method lacks and another has: {', '.join(said)}."
    return [f"{lines} Rows compare the same classes and trials; {of}."]


def doubts(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """What makes numbers doubtful: ties, accuracy at chance, scores below it in most runs."""
    found: dict[str, list[str]] = {kind: [] for kind in DOUBTS}
    end = plan.STATISTICS[experiment.statistics]
    for record in records:
        facts = record.check()
        chance = 1 / (len(record.classes) - len(plan.classes_of(record.hold_out)))
        normal = facts["images"] * (1 - record.skew)
        if record.metrics[f"accuracy{end}"] < chance + 2 * math.sqrt(chance / normal):
            found["accuracy"].append(label(record.method))
        for name, how in plan.how_scored(experiment).items():
            for kind in ("tied", "below"):
                if f"{record.key(how)}{end}" in facts[kind]:
                    found[kind].append(f"{label(name)} of {label(record.method)}")
    runs = Counter(label(record.method) for record in records)
    counts = Counter(found["below"])
    found["below"] = [n for n in found["below"] if 2 * counts[n] > runs[n.split(" of ")[-1]]]
    return [f"{DOUBTS[kind]}: {_counted(names)}." for kind, names in found.items() if names]


def _not_scored(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    wanted = plan.how_scored(experiment)
    missing = []
    for record in records:
        for name in store.missing_scores(record, experiment):
            missing.append(f"{label(name, wanted)} ({record.hold_out or 'none'}, {record.method})")
    if not missing:
        return []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    todo = "missing: train computes them from kept weights"
    return [f"Missing scores: {missing[0]}{more}; {todo}."]


def unlike_paper(notebook: str, *experiments: Experiment) -> pd.DataFrame:
    """The settings of the data, the network, training and scoring that are not params/paper's."""
    known = {*Experiment.model_fields, *Several.model_fields}
    given = read_parameters(f"params/paper/{notebook}.yaml")
    papers = several({name: value for name, value in given.items() if name in known})
    by_dataset = {paper.dataset: paper for paper in papers}
    rows = []
    for experiment in experiments:
        paper = by_dataset.get(experiment.dataset, papers[0])
        for name in ("dataset", "trials", *DECISIVE):
            row = [experiment.dataset_name, name, getattr(experiment, name), getattr(paper, name)]
            if row[2] != row[3]:
                rows.append(row)
    if not rows:
        return _sentence("Setting", f"every setting is that of params/paper/{notebook}.yaml")
    table = pd.DataFrame(rows, columns=["Data set", "Setting", "here", f"params/paper/{notebook}"])
    return table.set_index(["Data set", "Setting"]).map(str)
