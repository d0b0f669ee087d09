"""What an experiment's runs are, how each is scored, and where each lies; read without torch.

A run's home is outputs/<profile>/runs/<data set>/<hold_out or none>/<method>/trial_<k>-<address8>/.
The address is a hash of everything that the weights depend on.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from semlib.datasets import Dataset
from workbench import own
from workbench.experiment import (
    EXTERNAL,
    RANKED,
    SCORES,
    ConfigError,
    Data,
    Experiment,
    Network,
    Training,
)
from workbench.images import prepared
from workbench.images.prepared import Digests
from workbench.runs import machine

# Raised when the meaning of training changes, so that older runs aren't taken for new ones
# (tests/test_golden.py).
RECIPE = 2
VERSIONS = dict.fromkeys(SCORES, 1)  # likewise of each built-in score
SCORING = 1  # likewise of what all scores share: batches, precision, batch-norm statistics
STATISTICS = {
    "mixed": "",
    "upright": "@upright",
}  # of batch norm, and how arrays and metrics of either end
# Settings of these groups are in a run's address as far as its method and network read them, unless
# at their default: a setting that is added later, with a default that changes nothing, leaves
# finished runs where they are.
_WEIGHTS_DEPEND_ON = {*Data.model_fields, *Network.model_fields, *Training.model_fields}
_AUXILIARY = {
    "auxiliary_weight",
    "auxiliary_augment",
}  # nothing to methods without an auxiliary task
_NETWORK = {
    "stem_stride",
    "widen_factor",
    "dropout",
    "norm_batch",
}  # nothing to a user's own network


@dataclass(frozen=True)
class Run:
    """One training of a table: a held-out class (None: no class), a method, a trial; data: its
    digests (None: not here).
    """

    experiment: Experiment
    hold_out: str | None
    method: str
    trial: int
    data: Digests | None = None

    @property
    def dataset(self) -> str:
        return self.experiment.dataset_name

    @property
    def title(self) -> str:
        few = f", {self.experiment.train_per_class} images a class" * bool(
            self.experiment.train_per_class
        )
        return f"{self.dataset}{few}, {self.hold_out or 'nothing'} held out, {self.method}, trial {self.trial}"

    @property
    def external(self) -> bool:
        """Whether its scores are imported: semlib neither trains nor scores it, and knows of its
        settings the images' alone.
        """
        return self.method.startswith(EXTERNAL)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the run's training depends on, besides its data and the source of the user's
        functions.
        """
        if self.external:
            return self.experiment.model_dump(mode="json", include={*Data.model_fields})
        unread = {
            *(_AUXILIARY if self.method in ("classification", "center_mask") else ()),
            *(() if self.method == "center_mask" else ("mask_fill",)),
            *(() if self.method == "cpc" else ("cpc_negatives", "cpc_augment")),
            *(_NETWORK if ":" in self.experiment.architecture else ()),
        }
        return self.experiment.model_dump(mode="json", include=_WEIGHTS_DEPEND_ON - unread) | {
            "precision": machine.precision(self.experiment)
        }

    @cached_property
    def sources(self) -> dict[str, str]:
        """The digest of each function of the user's that training uses."""
        names = () if self.external else (self.method, self.experiment.architecture)
        return {name: own.digest(name) for name in names if ":" in name}

    def on(self, train_digest: str) -> str:
        """Its address if it is trained on images of that digest."""
        return address(self, self.settings, self.sources, train_digest)

    @cached_property
    def address(self) -> str:
        return self.on(self.data.train if self.data else "")

    @property
    def home(self) -> Path:
        return self.experiment.folder / "runs" / place(self, self.address)

    @property
    def homes(self) -> tuple[Path, Path]:
        """Where its record can lie: with its weights or, for other test images than the first,
        below them.
        """
        home = self.home
        return home, home / f"test_{self.data.test[:8] if self.data else ''}"


def address(
    run: Any, settings: Mapping, sources: Mapping, train_digest: str, recipe: int | None = None
) -> str:
    """SHA-256 over everything that a run's weights depend on; of a Run or its Record."""
    recipe = recipe or recipe_of(run.method)
    what = [
        recipe,
        run.dataset,
        run.hold_out,
        run.method,
        run.trial,
        chosen(settings),
        sources,
        train_digest,
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def recipe_of(method: str) -> int:
    """0 where the scores were imported: a change of semlib's training leaves them as they are."""
    return 0 if method.startswith(EXTERNAL) else RECIPE


def place(run: Any, address: str) -> Path:
    """The folder of a Run or its Record, as seen from its profile's runs/."""
    return Path(
        run.dataset,
        run.hold_out or "none",
        run.method.replace(":", "."),
        f"trial_{run.trial}-{address[:8]}",
    )


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that are not at their default; a default that came later is in no
    older record.
    """
    fields = Experiment.model_fields
    return {
        name: value
        for name, value in settings.items()
        if name not in fields or value != fields[name].default
    }


def scoring(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """How each of the experiment's scores is computed, as records keep it."""
    odin = {"temperature": experiment.temperature, "epsilon": experiment.epsilon}
    return {
        name: {"score": name}
        | _version(name)
        | (odin if name == "odin" else {"stored": "ranks"} if name in RANKED else {})
        for name in experiment.scores
    }


def _version(score: str) -> dict[str, Any]:
    if score.startswith(EXTERNAL):
        return {}
    return (
        {"version": VERSIONS[score]}
        if score in VERSIONS
        else {"version": SCORING, "source": own.digest(score)}
    )


def held_out(experiment: Experiment) -> list[str | None]:
    """The held-out classes that the experiment asks for, [None] for none. ConfigError names the
    choices.
    """
    try:
        known = prepared.classes(experiment.dataset, experiment.data_root)
    except ValueError as error:
        if not (known := _recorded_classes(experiment)):  # the data is elsewhere
            raise ConfigError(str(error)) from None
    if experiment.hold_out == ("all",):
        return list(known)
    if experiment.hold_out == ("none",):
        return [None]
    for name in experiment.hold_out:
        if name not in known:
            options = ", ".join([*known, "all", "none"])
            raise ConfigError(
                f"hold-out {name!r} is not a class of {experiment.dataset_name}; choose from {options}"
            )
    return list(experiment.hold_out)


def _recorded_classes(experiment: Experiment) -> tuple[str, ...]:
    """The class names in the first record of the data set; none if there is none."""
    for path in (experiment.folder / "runs" / experiment.dataset_name).glob("**/record.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            names = json.loads(path.read_text())["classes"]
            if names and all(isinstance(name, str) for name in names) and isinstance(names, list):
                return tuple(names)
    return ()


def here(experiment: Experiment) -> Digests | None:
    """The digests of the experiment's data as it is on this machine now; None if it would have to
    be fetched first.
    """
    e = experiment
    return prepared.digests(
        e.dataset, e.data_root, e.image_side, e.fold, e.evaluate_on == "validation"
    )


def load(experiment: Experiment) -> Dataset:
    """The experiment's data; with evaluate_on: validation, `test` is made of training images and no
    test image is read.
    """
    e, validation = experiment, experiment.evaluate_on == "validation"
    return prepared.load(e.dataset, e.data_root, e.image_side, e.fold, validation, e.ilsvrc)


def planned(experiment: Experiment, data: Digests | None = None) -> list[Run]:
    """All runs of the experiment on the data that is here, ordered by trial: every class's first
    trial comes first.
    """
    where, data = held_out(experiment), data or here(experiment)
    trials = range(experiment.first_trial, experiment.first_trial + experiment.trials)
    computed = tuple(name for name in experiment.scores if not name.startswith(EXTERNAL))
    own = experiment.model_copy(update={"scores": computed})
    of = {
        method: own if method in experiment.trained else experiment for method in experiment.methods
    }
    return [Run(of[m], h, m, t, data) for t in trials for h in where for m in experiment.methods]


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two ways of scoring differ in their source or version alone."""
    return all(one.get(name) == other.get(name) for name in {*one, *other} - {"source", "version"})
