"""Experiment: every choice behind a table's runs, typed, checked and frozen.

One path leads in, whether the values come from a notebook's parameters cell, from papermill -f or -p, or from Python:
an unknown name or a value of the wrong type is an error that names the choices.
"""

import csv
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from semlib.files import ROOT, resolve

METHODS = ("classification", "rotation", "center_mask", "cpc")
SCORES = ("msp", "odin")
CHOSEN_WEIGHTS = "auxiliary_weights.csv"
UNCHOSEN = {"cpc": 10.0}

_loaded_text: dict[str, str] = {}  # source of each module of a user's functions, as it was loaded


class ConfigError(ValueError):
    """A choice that can't be used; the message is one line that names the choices."""


def _number(value: Any) -> float:
    # PyYAML reads 5e-5 (no dot) as text, so text that is a number is a number, by every way in.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("should be a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError("should be a number") from None
    if not math.isfinite(number):
        raise ValueError("should be a finite number")
    return number


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # class 3 of the digits


def _names(value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) != len(set(map(str, values))):
        raise ValueError("should name each only once")
    return tuple(_text(v) for v in values)


def _none(value: Any) -> Any:
    return None if value in ("none", "None") else value


Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_names), Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
OptionalCount = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_none)]
OptionalSide = Annotated[Annotated[int, Field(ge=8)] | None, BeforeValidator(_none)]
Fold = Annotated[Annotated[int, Field(ge=0, le=9)] | None, BeforeValidator(_none)]
OptionalText = Annotated[str | None, BeforeValidator(_none)]


Weights = Annotated[tuple[Annotated[Number, Field(ge=0)], ...], BeforeValidator(_names), Field(min_length=1)]


class Experiment(BaseModel):
    """The runs of a table and how each is made. The defaults are the paper's settings for CIFAR-10 (Sec. 5.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # which runs
    profile: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9_-]$")] = "paper"  # outputs/<profile>/
    dataset: Text = "cifar10"  # a name, or a folder with train/<class>/* and test/<class>/*
    hold_out: Names = ("all",)  # class names; all: each class in turn; none: no class
    methods: Names = ("classification", "rotation")  # or center_mask, cpc, or package.module:function
    trials: Count = 3  # trial k is seeded with k
    first_trial: Annotated[int, Field(ge=0)] = 0  # 3 and trials 2: trials 3 and 4
    scores: Names = SCORES  # or package.module:function
    missing: Literal["skip", "train"] = "skip"  # what to do about a run that isn't in outputs/ yet

    # data
    image_side: OptionalSide = None  # pixels a side of prepared images; None: 32 for own ones, 256 for ImageNet's
    crop_side: OptionalSide = None  # pixels a side of training crops, and of the test images' centre; None: the whole image
    fold: Fold = None  # STL-10: one of its 10 predefined folds of 1,000 training images
    evaluate_on: Literal["test", "validation"] = "test"  # validation: images kept from training; no test image is loaded
    crop_padding: OptionalCount = None  # reflected pixels for random crops; None: an eighth of the side, 0 with crop_side
    flip: bool = True  # random horizontal reflection

    # network
    architecture: Text = "wrn-28-10"
    stem_stride: Annotated[int, Field(ge=1, le=4)] = 1  # 2 halves the resolution: a network for CPUs
    widen_factor: Annotated[Count | None, BeforeValidator(_none)] = None  # None: the architecture's own
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.3
    norm_batch: OptionalCount = 128  # images that share batch-norm statistics; None: the batch

    # training
    epochs: Count = 200
    batch_size: Annotated[int, Field(ge=2)] = 512
    learning_rate: Annotated[Number, Field(gt=0)] = 0.1
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    schedule: Literal["step", "one_cycle"] = "step"
    auxiliary_weight: Annotated[Number, Field(ge=0)] = 0.5  # the paper's lambda
    auxiliary_augment: bool = False  # crop and flip the auxiliary task's images too
    cpc_negatives: Literal["image", "batch"] = "image"  # whose patches a code is told from (Appendix C: the same image's)
    cpc_augment: bool = False  # each patch in one colour, flipped and shifted
    mask_fill: Annotated[Number | None, BeforeValidator(_none)] = None  # center_mask's pixels; None: the training mean
    recompute_statistics: bool = False  # batch-norm statistics over upright training images before scoring
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the processor has it

    # scoring
    temperature: Annotated[Number, Field(gt=0)] = 1000.0
    epsilon: Annotated[Number, Field(ge=0)] = 5e-5  # in [0, 1] pixel units
    average_last_epochs: Count = 1  # AP and accuracy: mean over the last epochs (the authors' code: 10)

    # this machine
    device: Annotated[Text, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: OptionalCount = None  # CPU threads; None: PyTorch's choice
    compile: bool = False  # torch.compile: a minute to begin with, faster steps on a GPU
    evaluate_every: Count = 10  # epochs between two points of a learning curve
    checkpoint_every: Count = 1  # epochs between two checkpoints
    keep_weights: bool = True  # weights.pt beside a record, so that a new score needs no training
    score_batch: Count = 500  # images a forward pass when scoring
    data_root: OptionalText = None  # None: $SEMLIB_DATA, else data/
    ilsvrc: OptionalText = None  # ImageNet's subsets: the ILSVRC2012 folder; None: $SEMLIB_ILSVRC
    outputs: Text = "outputs"

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        for field, known in (("methods", METHODS), ("scores", SCORES)):
            for name in getattr(self, field):
                if name not in known and name.count(":") != 1:
                    raise ValueError(f"{field}: {name!r} is unknown; choose from {', '.join(known)}, package.module:function")
        if len(self.hold_out) > 1 and {"all", "none"} & set(self.hold_out):
            raise ValueError("hold_out: all and none stand alone; choose one of them or class names")
        if self.norm_batch and self.batch_size > self.norm_batch and self.batch_size % self.norm_batch:
            raise ValueError(f"batch_size: {self.batch_size} isn't a multiple of norm_batch = {self.norm_batch}")
        if self.average_last_epochs > self.epochs:
            raise ValueError(f"average_last_epochs: {self.average_last_epochs} is more than epochs = {self.epochs}")
        return self

    @property
    def dataset_name(self) -> str:
        """cifar10 for "cifar10", birds for "/data/birds": records hold no paths of one machine."""
        return Path(self.dataset).name or self.dataset

    @property
    def folder(self) -> Path:
        """outputs/<profile>: executed notebooks, tables as CSV, and runs/."""
        return resolve(self.outputs) / self.profile

    def output(self, notebook: str, ending: str) -> Path:
        """Where a notebook's results go: benchmark-digits.csv, holdout-cifar10-cat.ipynb, table3_cifar10.ipynb."""
        dataset = [] if self.dataset_name in notebook else [self.dataset_name]
        which = [] if self.hold_out == ("all",) else self.hold_out
        return self.folder / (re.sub(r"[^\w.-]+", "_", "-".join([notebook, *dataset, *which])) + ending)


OptionalNames = Annotated[Names | None, BeforeValidator(_none)]


class Several(BaseModel):
    """What makes several experiments of one notebook's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    settings: OptionalNames = None  # files of parameters; the notebook's own go over them
    dataset: OptionalNames = None  # a list of names: the same settings for each
    auxiliary_weights: Annotated[dict[Text, Weights] | None, BeforeValidator(_none)] = None  # of each method, to compare


def function(name: str) -> Callable[..., Any]:
    """The user's function named package.module:function, found from the checkout's root too; ConfigError if there is none."""
    module, _, attribute = name.partition(":")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # a kernel's own folder is notebooks/ in Lab
    try:
        loaded = importlib.import_module(module)
        text = inspect.getsource(loaded)
        if _loaded_text.setdefault(module, text) != text:  # edited since: in Lab the kernel lives on
            loaded, _loaded_text[module] = importlib.reload(loaded), text
        found = getattr(loaded, attribute)
    except (ImportError, AttributeError, ValueError, TypeError, OSError, SyntaxError) as error:
        raise ConfigError(f"{name}: {error}; name a Python function as package.module:function") from error
    if not inspect.isfunction(found):
        raise ConfigError(f"{name} isn't a Python function")
    return found


def create(parameters: Mapping[str, Any]) -> Experiment:
    """An Experiment, or a ConfigError whose one line says what is wrong with which parameter."""
    return _checked(Experiment, parameters)


def several(parameters: Mapping[str, Any]) -> tuple[Experiment, ...]:
    """The experiments of a notebook about more than one: each of `settings`, of a list in `dataset`, of `auxiliary_weights`.

    With auxiliary_weights a data set has plain classification first, then each of its other methods alone with each weight.
    auxiliary_weight None is what `lambda_search` chose. Without any of these it is the one that `create` makes.
    """
    lists = {name for name in Several.model_fields if name != "dataset" or isinstance(parameters.get(name), list | tuple)}
    by = _checked(Several, {name: value for name, value in parameters.items() if name in lists})
    if by.settings:
        over = {name: value for name, value in parameters.items() if name != "settings"}
        return tuple(e for file in by.settings for e in several(read_parameters(file) | over))
    if by.dataset:
        return tuple(e for name in by.dataset for e in several({**parameters, "dataset": name}))
    given = {name: value for name, value in parameters.items() if name not in lists}
    if by.auxiliary_weights:
        base = create(given | {"auxiliary_weight": 0})
        pairs = [(method, weight) for method in base.methods for weight in by.auxiliary_weights.get(method, ())]
        pairs = [("classification", 0), *pairs]
        return tuple(create(given | {"methods": method, "auxiliary_weight": weight}) for method, weight in pairs)
    if given.get("auxiliary_weight", 0) is None:
        given["auxiliary_weight"] = chosen_weight(create(given | {"auxiliary_weight": 0}))
    return (create(given),)


def chosen_weight(experiment: Experiment) -> float:
    """The auxiliary weight that lambda_search.ipynb wrote into outputs/<profile>/; until it has, 1.0, of CPC 10.0."""
    path, method = experiment.folder / CHOSEN_WEIGHTS, next((m for m in experiment.methods if m != "classification"), None)
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["dataset"], row["method"]) == (experiment.dataset_name, method)]
        return _number(rows[0]["auxiliary_weight"]) if rows else UNCHOSEN.get(method, 1.0)
    except FileNotFoundError:
        return UNCHOSEN.get(method, 1.0)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} can't be read ({error}); lambda_search.ipynb writes it") from None


def _checked(model: type[BaseModel], parameters: Mapping[str, Any]) -> Any:
    try:
        return model(**parameters)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(e) for e in error.errors())) from None


def _sentence(error: Any) -> str:
    name = error["loc"][0] if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return unknown(name)
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{name}: {message}, not {error['input']!r}" if name else message


def unknown(name: object, also: tuple[str, ...] = ()) -> str:
    return f"unknown parameter {name!r}; choose from {', '.join(sorted({*Experiment.model_fields, *also}))}"


def from_parameters(namespace: dict[str, Any], also: tuple[str, ...] = ()) -> Experiment:
    """The Experiment that a notebook's parameters cell describes: `experiment = config.from_parameters(globals())`.

    also: further parameters of that notebook. In a fresh kernel any other plain value is a misspelt parameter, which
    Papermill would only warn about; once `experiment` exists, a user's own variables are left alone.
    """
    made = several(_given(namespace, also, "experiment"))
    if len(made) > 1:
        raise ConfigError(f"dataset: this notebook is about one; choose from {', '.join(e.dataset for e in made)}")
    return made[0]


def several_from_parameters(namespace: dict[str, Any], also: tuple[str, ...] = ()) -> tuple[Experiment, ...]:
    """The experiments of a notebook about several: `experiments = config.several_from_parameters(globals())`."""
    return several(_given(namespace, (*also, *Several.model_fields), "experiments"))


def _given(namespace: dict[str, Any], also: tuple[str, ...], made: str) -> dict[str, Any]:
    if made not in namespace:
        plain = {
            k for k, v in namespace.items() if isinstance(v, str | int | float | list | tuple | None) and not k.startswith("_")
        }
        for name in sorted(plain - {"In", "Out", *Experiment.model_fields, *also}):
            raise ConfigError(unknown(name, also))
    return {name: namespace[name] for name in (*Experiment.model_fields, *Several.model_fields) if name in namespace}


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters in a YAML file (params/<profile>/<notebook>.yaml), not yet checked."""
    try:
        parameters = yaml.safe_load(resolve(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: isn't YAML ({' '.join(str(error).split())})") from None
    if not isinstance(parameters, dict) or not all(isinstance(name, str) for name in parameters):
        raise ConfigError(f"{path}: should be lines of name: value")
    return parameters
