"""What an experiment's runs are, how each is scored, and where each lies; read without torch.

A run's home is outputs/<profile>/runs/<data set>/<hold_out or none>/<method>/trial_<k>-<address8>/.
The address is a hash of everything that the weights depend on.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from semlib import datasets
from semlib.datasets import Dataset, Split
from workbench import own
from workbench.experiment import (
    EXTERNAL,
    RANKED,
    SCORES,
    ConfigError,
    Data,
    Experiment,
    Network,
    Scoring,
    Training,
)
from workbench.images import prepared
from workbench.images.digests import Digests, Duplicates
from workbench.runs import machine

# Raised when the meaning of training changes, so that runs of before are made anew
# (tests/test_golden.py).
RECIPE = 2
# Likewise of each built-in score, and of what all scores share: batches, precision, statistics
VERSIONS = dict.fromkeys(SCORES, 1)
SCORING = 1
# Of batch norm, as trained or re-estimated, and how the names of their arrays and metrics end
STATISTICS = {"mixed": "", "upright": "@upright"}

_USUAL = {"version": 1} | {
    name: Experiment.model_fields[name].default for name in ("temperature", "epsilon")
}

# A run's address has those of these settings that its method and network read, and of them those
# that are not at their default: a setting that is added later, with a default that changes
# nothing, leaves finished runs where they are.
WEIGHTS_DEPEND_ON = {*Data.model_fields, *Network.model_fields, *Training.model_fields}
_BUILT_IN_NETWORKS_READ = {"stem_stride", "widen_factor", "dropout", "norm_batch"}
_AUXILIARY_READS = {"auxiliary_weight", "auxiliary_augment"}
_READS = {
    "classification": set(),
    "center_mask": {"mask_fill"},
    "cpc": {*_AUXILIARY_READS, "cpc_negatives", "cpc_augment"},
}
_SOME_METHODS_READ = set.union(*_READS.values())


@dataclass(frozen=True)
class Run:
    """One training of a table. hold_out None: no class; data None: its data set is not here.

    hold_out: a class, or several held out together, with / between their names.
    """

    experiment: Experiment
    hold_out: str | None
    method: str
    trial: int
    data: Digests | None = None

    @cached_property
    def dataset(self) -> str:
        return self.experiment.dataset_name

    @property
    def title(self) -> str:
        images = self.experiment.train_per_class
        few = f", {images} images a class" if images else ""
        held_out = f"{self.hold_out or 'nothing'} held out"
        return f"{self.dataset}{few}, {held_out}, {self.method}, trial {self.trial}"

    @cached_property
    def external(self) -> bool:
        """Whether its scores are imported: semlib neither trains nor scores it."""
        return self.method.startswith(EXTERNAL)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the weights depend on; of an external run the images' alone."""
        if self.external:
            return self.experiment.model_dump(mode="json", include={*Data.model_fields})
        unread = _SOME_METHODS_READ - _READS.get(self.method, _AUXILIARY_READS)
        if ":" in self.experiment.architecture:
            unread |= _BUILT_IN_NETWORKS_READ
        settings = self.experiment.model_dump(mode="json", include=WEIGHTS_DEPEND_ON - unread)
        return settings | {"precision": machine.precision(self.experiment)}

    @cached_property
    def sources(self) -> dict[str, str]:
        """The digest of each of the user's functions that training calls."""
        names = () if self.external else (self.method, self.experiment.architecture)
        return {name: own.digest(name) for name in names if ":" in name}

    def address_for(self, train_digest: str) -> str:
        """Its address if it is trained on images of that digest."""
        return address(self, self.settings, self.sources, train_digest)

    @cached_property
    def address(self) -> str:
        return self.address_for(self.data.train if self.data else "")

    @cached_property
    def home(self) -> Path:
        return self.experiment.folder / "runs" / place(self, self.address)

    @property
    def homes(self) -> tuple[Path, Path]:
        """Where its record can lie: beside the weights, or for later test images below them."""
        home = self.home
        return home, home / f"test_{self.data.test[:8] if self.data else ''}"

    @property
    def subset(self) -> tuple[tuple[str, ...], int | None, int]:
        """The held-out classes, the training images of each other class, and their draw's seed."""
        e = self.experiment
        seed = self.trial if e.subset_seed is None else e.subset_seed
        return classes_of(self.hold_out), e.train_per_class, seed

    def split(self, data: Dataset) -> Split:
        """The data set with the run's class held out."""
        return datasets.hold_out(data, *self.subset)


def address(
    run: Any, settings: Mapping, sources: Mapping, train_digest: str, recipe: int | None = None
) -> str:
    """SHA-256 over everything that the weights of a Run, or of a Record's run, depend on."""
    which = [recipe or recipe_of(run.method), run.dataset, run.hold_out, run.method, run.trial]
    text = json.dumps([*which, non_default(settings), sources, train_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_of(method: str) -> int:
    """RECIPE; 0 for imported scores, which no change of semlib's training concerns."""
    return 0 if method.startswith(EXTERNAL) else RECIPE


def place(run: Any, address: str) -> Path:
    """The folder of a Run or its Record, as seen from its profile's runs/."""
    trial = f"trial_{run.trial}-{address[:8]}"
    held_out = "+".join(classes_of(run.hold_out)) or "none"
    return Path(run.dataset, held_out, run.method.replace(":", "."), trial)


def non_default(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not at their default. Older records lack the ones added later."""
    fields = Experiment.model_fields
    return {
        name: value
        for name, value in settings.items()
        if name not in fields or value != fields[name].default
    }


# --- scores and their names


def how_scored(settings: Scoring) -> dict[str, dict[str, Any]]:
    """How each of an experiment's scores is computed, as records keep it."""
    return {name: _how(name, settings) for name in settings.scores}


def _how(score: str, settings: Scoring) -> dict[str, Any]:
    how: dict[str, Any] = {"score": score}
    if score.startswith(EXTERNAL):
        return how
    if score not in VERSIONS:
        return how | {"version": SCORING, "source": own.digest(score)}
    how["version"] = VERSIONS[score]
    if score == "odin":
        how |= {"temperature": settings.temperature, "epsilon": settings.epsilon}
    if score in RANKED:
        how["stored"] = "ranks"
    return how


def score_key(how: Mapping[str, Any]) -> str:
    """A score's key in a record: msp, my_score:energy(version=1,source=1a2b3c4d5e6f7081).

    The plain name only where all settings are at their default.
    """
    settings = {name: value for name, value in how.items() if name not in ("score", "stored")}
    if settings.items() <= _USUAL.items():
        return how["score"]
    return f"{how['score']}({','.join(f'{name}={value}' for name, value in settings.items())})"


def array_name(key: str, statistics: str) -> str:
    """What the array or metric of a score (or predicted, accuracy) is called: msp, msp@upright."""
    return key + STATISTICS[statistics]


def key_and_statistics(name: str) -> tuple[str, str]:
    """What array_name was given: ("msp", "upright") for msp@upright."""
    key, _, statistics = name.partition("@")
    return key, statistics or "mixed"


# --- the runs and their data


def classes_of(hold_out: str | None) -> tuple[str, ...]:
    """The classes that a run holds out: none, one, or a group."""
    return tuple(hold_out.split("/")) if hold_out else ()


def held_out(experiment: Experiment) -> list[str | None]:
    """The classes or groups of them to hold out, [None] for none. ConfigError names the choices."""
    try:
        known = prepared.classes(experiment.dataset, experiment.data_root)
    except ValueError as error:
        known = _recorded_classes(experiment)  # the data may be elsewhere
        if not known:
            raise ConfigError(str(error)) from None
    if experiment.hold_out == ("all",):
        return list(known)
    if experiment.hold_out == ("none",):
        return [None]
    for name in itertools.chain(*map(classes_of, experiment.hold_out)):
        if name not in known:
            what = f"hold-out {name!r} is not a class of {experiment.dataset_name}"
            raise ConfigError(f"{what}; choose from {', '.join([*known, 'all', 'none'])}")
    return list(experiment.hold_out)


def _recorded_classes(experiment: Experiment) -> tuple[str, ...]:
    """The class names in the first record of the data set; none if there is none."""
    for path in (experiment.folder / "runs" / experiment.dataset_name).glob("**/record.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            return tuple(map(str, json.loads(path.read_text())["classes"]))
    return ()


def current_digests(experiment: Experiment) -> Digests | None:
    """The digests of the data set as it is on this machine; None if it has to be fetched first."""
    return prepared.digests(*which_data(experiment))


def duplicates(experiment: Experiment) -> Duplicates:
    """The identical pictures of the data set as it is on this machine."""
    return prepared.duplicates(*which_data(experiment))


def which_data(e: Experiment) -> tuple[Any, ...]:
    """Where the images of an experiment are and which of them, as of `prepared.digests`."""
    return e.dataset, e.data_root, e.image_side, e.fold, e.evaluate_on == "validation"


def load(experiment: Experiment) -> Dataset:
    """The experiment's data; with evaluate_on: validation, `test` holds training images instead."""
    return prepared.load(*which_data(experiment), ilsvrc=experiment.ilsvrc)


def planned(experiment: Experiment, data: Digests | None = None) -> list[Run]:
    """All runs, ordered by trial: every class gets its first trial before any gets a second.

    data: digests, those of the data that is here unless given.
    """
    classes = held_out(experiment)
    data = data or current_digests(experiment)
    runs = []
    for trial in range(experiment.first_trial, experiment.first_trial + experiment.trials):
        for hold_out in classes:
            for method in experiment.methods:
                runs.append(Run(experiment, hold_out, method, trial, data))
    return runs
