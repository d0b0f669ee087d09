"""Experiment: every choice behind a table's runs, typed, checked and frozen.

One path leads in, whether the values come from a notebook's parameters cell, from papermill -f or
-p, or from Python: an unknown name or a value of the wrong type is an error that names the choices.
"""

import ast
import csv
import difflib
import math
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from workbench.files import file_name, folder_name, one_line, resolve

METHODS = ("classification", "rotation", "center_mask", "cpc")
PAPERS_SCORES = ("msp", "odin")
RANKED = (  # the others, of which records keep the ranks
    *(
        "msp_t1000",
        "max_logit",
        "energy",
        "entropy",
        "gen",
        "mahalanobis",
        "rmd",
        "knn",
        "cosine",
        "vim",
    ),
    *("react", "scale", "fdbd", "nnguide"),
)
SCORES = (*PAPERS_SCORES, *RANKED)
USERS = r"\w+(\.\w+)*:\w+"  # package.module:function
EXTERNAL = (
    "external:"  # begins the names of methods and scores that were imported (runs/external.py)
)
CHOSEN_WEIGHTS = "auxiliary_weights.csv"
UNCHOSEN = {"cpc": 10.0}
_short = reprlib.Repr()  # of a value in a message
_short.maxlevel, _short.maxstring, _short.maxother = 2, 200, 200


class ConfigError(ValueError):
    """An invalid parameter. The message is one line and lists the valid values."""


def _number(value: Any) -> float:
    # PyYAML reads 5e-5 (no dot) as text, so text that is a number is a number, by every way in.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("should be a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError("should be a number") from None
    if not math.isfinite(number):
        raise ValueError("should be a finite number")
    return number


def _text(value: Any) -> Any:
    if isinstance(value, str) and re.search(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", value
    ):
        raise ValueError("should be one line without control characters")
    if isinstance(value, bool | float | date | None):  # YAML's no, 1.50, 2024-01-01 and null
        raise ValueError("should be text: put it in quotes")
    return str(value) if isinstance(value, int) else value  # class 3 of the digits


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(values) != len(set(values)):
        raise ValueError("should name each only once")
    return values


def _none(value: Any) -> Any:
    return None if value in ("none", "None") else value


def _distinct(value: Any) -> Any:
    if isinstance(value, dict) and len({_none(_labels(key)) for key in value}) < len(value):
        raise ValueError("should name each number only once")
    return _none(value)


def _labels(value: Any) -> Any:
    return (
        None
        if value == "all"
        else int(value)
        if isinstance(value, str) and value.isdecimal()
        else value
    )


Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
ClassName = Annotated[
    Text, AfterValidator(lambda name: unicodedata.normalize("NFC", name))
]  # as data sets have them
MOST = (
    10**6
)  # of anything that is counted: more is a slip, and could fill the memory before it is noticed
Count = Annotated[int, Field(ge=1, le=MOST)]
Weight = Annotated[Number, Field(ge=0)]
T = TypeVar("T")
Listed = Annotated[
    tuple[T, ...], BeforeValidator(_tuple), Field(min_length=1), AfterValidator(_once)
]  # or one alone
Names = Listed[Text]
OrNone = Annotated[T | None, BeforeValidator(_none)]  # or the text none
OptionalCount = OrNone[Annotated[int, Field(ge=0, le=MOST)]]
OptionalSide = OrNone[Annotated[int, Field(ge=8, le=10**4)]]
PerClass = OrNone[Count]
Labels = Annotated[PerClass, BeforeValidator(_labels)]
EpochsByLabels = Annotated[
    Annotated[dict[Labels, Count], Field(min_length=1)] | None, BeforeValidator(_distinct)
]


def _check_names(field: str, names: Iterable[str], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known and not re.fullmatch(rf"{USERS}|{EXTERNAL}[\w-]+", name):
            choices = (
                f"{', '.join(known)}, package.module:function, {EXTERNAL}name of what was imported"
            )
            raise ValueError(f"{field}: {_shown(name)} is unknown; choose from {choices}")


class Group(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Which(Group):
    """Which runs"""

    profile: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9_-]$", max_length=100)] = (
        "paper"
    )
    """Results lie in `outputs/<profile>/`."""
    dataset: Text = "cifar10"
    """A name, or a folder with `train/<class>/*` and `test/<class>/*`."""
    hold_out: Listed[ClassName] = ("all",)
    """Class names; all: each class in turn; none: no class."""
    methods: Names = ("classification", "rotation")
    """classification, rotation, center_mask, cpc, package.module:function, or external:name of
    imported scores.
    """
    trials: Count = 3
    """Trainings of each class and method; trial k has the seed k."""
    first_trial: Annotated[int, Field(ge=0, le=MOST)] = 0
    """Number of the first: 3 with trials 2 makes trials 3 and 4."""
    missing: Literal["skip", "train"] = "skip"
    """What to do about a run that isn't in outputs/ yet."""
    data_digest: OrNone[Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{8}$")]] = None
    """The version of the data set that runs are of; None: the one that is here."""


class Data(Group):
    """The images"""

    image_side: OptionalSide = None
    """Pixels a side of prepared images; None: 32 for own ones, 256 for ImageNet's."""
    train_per_class: PerClass = None
    """Training images of each class, drawn anew for each trial and hold-out; None: all."""
    fold: OrNone[Annotated[int, Field(ge=0, le=9)]] = None
    """STL-10: one of its 10 predefined folds of 1,000 training images."""
    evaluate_on: Literal["test", "validation"] = "test"
    """validation: images kept from training; no test image is loaded."""


class Network(Group):
    """The network"""

    architecture: Text = "wrn-28-10"
    """A network of semlib, or package.module:function."""
    stem_stride: Annotated[int, Field(ge=1, le=4)] = 1
    """2 halves the resolution: a network for CPUs."""
    widen_factor: PerClass = None
    """None: the architecture's own."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.3
    """Between the two convolutions of a block."""
    norm_batch: OptionalCount = 128
    """Images that share batch-norm statistics; None: the batch."""


class Training(Group):
    """Training"""

    epochs: Count = 200
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 512
    """Images in a step."""
    learning_rate: Annotated[Number, Field(gt=0)] = 0.1
    """The schedule's peak."""
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    """Of all weights."""
    schedule: Literal["step", "one_cycle"] = "step"
    """step: the paper's, times 0.2 at 30, 60, 80 % of the epochs; one_cycle: up in a quarter of the
    steps, then down to 0.
    """
    crop_side: OptionalSide = None
    """Pixels a side of training crops, and of the test images' centre; None: the whole image."""
    crop_padding: OptionalCount = None
    """Reflected pixels for random crops; None: an eighth of the side, 0 with crop_side."""
    flip: bool = True
    """Random horizontal reflection."""
    auxiliary_weight: Weight = 0.5
    """The paper's lambda."""
    auxiliary_augment: bool = False
    """Crop and flip the auxiliary task's images too."""
    cpc_negatives: Literal["image", "batch"] = "image"
    """Negatives: other patches of the same image (Appendix C), or of the whole batch."""
    cpc_augment: bool = False
    """Each patch in one colour, flipped and shifted."""
    mask_fill: OrNone[Number] = None
    """Value in [0, 1] of center_mask's blanked pixels; None: the training mean."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor has it."""
    average_last_epochs: Count = 1
    """AP and accuracy: mean over the last epochs (the authors' code: 10)."""


class Scoring(Group):
    """Scoring"""

    scores: Names = PAPERS_SCORES
    """msp, odin, the names in metrics.DETECTORS, package.module:function, or external:name."""
    temperature: Annotated[Number, Field(gt=0)] = 1000.0
    """ODIN's temperature."""
    epsilon: Annotated[Number, Field(ge=0)] = 5e-5
    """ODIN's step, of pixels in [0, 1]."""
    statistics: Literal["mixed", "upright"] = "mixed"
    """Batch norm's, as trained or over upright training images."""


class Machine(Group):
    """This machine: where things lie, how often something is written. In no address; numbers differ
    by rounding
    """

    device: Annotated[Text, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """cpu, cuda, cuda:1; auto: a GPU if there is one."""
    threads: OptionalCount = None
    """CPU threads; None: PyTorch's choice."""
    compile: bool = False
    """torch.compile: a minute to begin with, faster steps on a GPU."""
    evaluate_every: Annotated[Number, Field(ge=1, le=MOST)] = 10
    """Epochs between two points of a learning curve."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    keep_weights: bool = True
    """weights.pt beside a record, so that a new score needs no training."""
    score_batch: Count = 500
    """Images in a forward pass when scoring."""
    data_root: OrNone[Text] = None
    """None: $SEMLIB_DATA, else data/."""
    ilsvrc: OrNone[Text] = None
    """ImageNet's subsets: the ILSVRC2012 folder; None: $SEMLIB_ILSVRC."""
    outputs: Text = "outputs"
    """The folder of results."""


class Experiment(Machine, Scoring, Training, Network, Data, Which):
    """The runs of a table and how each is made. The defaults are the paper's settings for CIFAR-10
    (Sec. 5.1).

    Flat, for notebooks and the command line; code takes the group of settings that it needs.
    """

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        _check_names("methods", self.methods, METHODS)
        _check_names("scores", self.scores, SCORES)
        if len(self.hold_out) > 1 and {"all", "none"} & set(self.hold_out):
            raise ValueError(
                "hold_out: all and none stand alone; choose one of them or class names"
            )
        own = ":" in self.architecture  # the user's network, to which norm_batch is nothing
        if (
            not own
            and self.norm_batch
            and self.batch_size > self.norm_batch
            and self.batch_size % self.norm_batch
        ):
            raise ValueError(
                f"batch_size: {self.batch_size} isn't a multiple of norm_batch = {self.norm_batch}"
            )
        if not self.dataset_name:
            raise ValueError(
                f"dataset: {_shown(self.dataset)} has no name; choose a folder below it"
            )
        if self.average_last_epochs > self.epochs:
            raise ValueError(
                f"average_last_epochs: {self.average_last_epochs} is more than epochs = {self.epochs}"
            )
        return self

    @property
    def dataset_name(self) -> str:
        """cifar10 for "cifar10", birds for "/data/birds": records hold no paths of one machine."""
        return folder_name(self.dataset)

    @property
    def trained(self) -> tuple[str, ...]:
        """The methods that semlib trains: all but those whose scores were imported."""
        return tuple(method for method in self.methods if not method.startswith(EXTERNAL))

    @property
    def few(self) -> list[str]:
        """500_a_class, in names of files; empty where all training images are used."""
        return [f"{self.train_per_class}_a_class"] if self.train_per_class else []

    @property
    def folder(self) -> Path:
        """outputs/<profile>: executed notebooks, tables as CSV, and runs/."""
        return resolve(self.outputs) / self.profile

    def output(self, notebook: str, ending: str) -> Path:
        """Where a notebook's results go: benchmark-digits.csv, holdout-cifar10-cat.ipynb,
        few_labels-cifar10-20_a_class.csv.
        """
        dataset = (
            [] if notebook.partition("_")[2] == self.dataset_name else [self.dataset_name]
        )  # table3_cifar10.csv
        which = [] if self.hold_out == ("all",) else self.hold_out
        return self.folder / (file_name(notebook, *dataset, *self.few, *which) + ending)


def documented() -> str:
    """Every parameter with its type, default and meaning, as Markdown."""
    lines = ["# Parameters", "", "`python -m semlib parameters` prints this page.", ""]
    types = {
        "array": "list",
        "integer": "whole number",
        "string": "text",
        "null": "none",
        "boolean": "true or false",
    }

    def kind(schema: dict[str, Any]) -> str:
        if "enum" in schema:
            return " or ".join(schema["enum"])
        return (
            " or ".join(map(kind, schema["anyOf"]))
            if "anyOf" in schema
            else types.get(schema["type"], schema["type"])
        )

    for group in (Which, Data, Network, Training, Scoring, Machine):
        schemas = group.model_json_schema()["properties"]
        lines += [
            f"## {group.__doc__}",
            "",
            "| name | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for name, field in group.model_fields.items():
            default = (
                ", ".join(field.default)
                if isinstance(field.default, tuple)
                else str(field.default).lower()
            )
            lines.append(f"| `{name}` | {kind(schemas[name])} | {default} | {field.description} |")
        lines.append("")
    return "\n".join(lines).rstrip()


class Several(Group):
    """Parameters that make several experiments out of one notebook."""

    settings: OrNone[Names] = None  # files of parameters; the notebook's own go over them
    dataset: OrNone[Names] = None  # a list of names: the same settings for each
    labels: EpochsByLabels = None  # train_per_class or all: epochs
    auxiliary_weights: OrNone[dict[Text, Listed[Weight]]] = None  # of each method, to compare

    @model_validator(mode="after")
    def _consistent(self) -> "Several":
        _check_names("auxiliary_weights", self.auxiliary_weights or (), METHODS)
        return self


def create(parameters: Mapping[str, Any]) -> Experiment:
    """An Experiment, or a ConfigError whose one line says what is wrong with which parameter."""
    return _checked(Experiment, parameters)


def several(parameters: Mapping[str, Any]) -> tuple[Experiment, ...]:
    """All experiments that a notebook's parameters describe; without the parameters of Several the
    one that `create` makes.

    settings: one for each file; epochs and labels are the file's where the notebook leaves them
    None. labels: one for each number of images a class, with its epochs and ten evaluations.
    auxiliary_weights: plain classification, then each method alone with each of its weights.
    auxiliary_weight None: the one that `lambda_search` chose.
    """
    lists = {
        name
        for name in Several.model_fields
        if name != "dataset" or isinstance(parameters.get(name), list | tuple)
    }
    by = _checked(Several, {name: value for name, value in parameters.items() if name in lists})
    if by.settings:
        own = [name for name in ("epochs", "labels") if parameters.get(name) is None]
        over = {name: value for name, value in parameters.items() if name not in ("settings", *own)}
        files = {file: read_parameters(file) for file in by.settings}
        if nested := [
            file for file, values in files.items() if "settings" in values
        ]:  # perhaps its own
            raise ConfigError(
                f"settings: {nested[0]} has settings itself; name files that have none"
            )
        return tuple(e for values in files.values() for e in several(values | over))
    if by.dataset:
        return tuple(e for name in by.dataset for e in several({**parameters, "dataset": name}))
    if by.labels:
        if parameters.get("epochs") is not None:
            raise ConfigError(
                "epochs: labels has epochs for each number of images; leave one of the two out"
            )
        points = [
            {"train_per_class": n, "epochs": e, "evaluate_every": max(1, e / 10)}
            for n, e in by.labels.items()
        ]
        return tuple(
            e for point in points for e in several({**parameters, **point, "labels": None})
        )
    given = {name: value for name, value in parameters.items() if name not in lists}
    if by.auxiliary_weights:
        base = create(given | {"auxiliary_weight": 0})
        pairs = [
            (method, weight)
            for method in base.methods
            for weight in by.auxiliary_weights.get(method, ())
        ]
        pairs = [("classification", 0), *pairs]
        return tuple(
            create(given | {"methods": method, "auxiliary_weight": weight})
            for method, weight in pairs
        )
    if given.get("auxiliary_weight", 0) is None:
        given["auxiliary_weight"] = chosen_weight(create(given | {"auxiliary_weight": 0}))
    return (create(given),)


def chosen_weight(experiment: Experiment) -> float:
    """The auxiliary weight that lambda_search.ipynb chose for this data set, method and number of
    images a class.

    It lies in outputs/<profile>/auxiliary_weights.csv. Until it is chosen the weight is 1.0, for
    CPC 10.0.
    """
    path, method = (
        experiment.folder / CHOSEN_WEIGHTS,
        next((m for m in experiment.trained if m != "classification"), None),
    )
    wanted, unchosen = (
        (experiment.dataset_name, method, str(experiment.train_per_class or "")),
        UNCHOSEN.get(method, 1.0),
    )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                r
                for r in csv.DictReader(file)
                if (r["dataset"], r["method"], r.get("train_per_class") or "") == wanted
            ]
        weight = _number(rows[0]["auxiliary_weight"]) if rows else unchosen
        if weight < 0:
            raise ValueError(f"auxiliary_weight is {weight}")
        return weight
    except FileNotFoundError:
        return unchosen
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path} can't be read ({one_line(error)}); lambda_search.ipynb writes it"
        ) from None


def _checked(model: type[BaseModel], parameters: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        # one of each parameter, and one name that is unknown
        first = {
            e["type"] == "extra_forbidden" or e["loc"][:1]: e for e in reversed(error.errors())
        }
        raise ConfigError("; ".join(_sentence(e) for e in reversed(first.values()))) from None


def _sentence(error: Any) -> str:
    name = error["loc"][0] if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return unknown(name)
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{name}: {message}, not {_shown(error['input'])}" if name else message


def _shown(value: object) -> str:
    try:
        return one_line(_short.repr(value))
    except ValueError:  # Python writes no number of 5,000 digits
        return "a number too long to print"


def unknown(name: object, also: tuple[str, ...] = ()) -> str:
    names = sorted({*Experiment.model_fields, *also})
    close = difflib.get_close_matches(str(name)[:100], names, 1)
    return f"unknown parameter {_shown(name)}{f' ({close[0]}?)' if close else ''}; choose from {', '.join(names)}"


def from_parameters(namespace: dict[str, Any], also: tuple[str, ...] = ()) -> Experiment:
    """The Experiment that a notebook's parameters cell describes: `experiment =
    config.from_parameters(globals())`.

    also: further parameters of that notebook. Names that no cell has set (a start-up file's) are
    ignored. In a fresh kernel any other plain value is taken for a misspelt parameter, of which
    Papermill would only warn; once `experiment` exists, the user's own variables are left alone.
    """
    made = several(_given(namespace, also, "experiment"))
    if len(made) > 1:
        raise ConfigError(
            f"dataset: this notebook is about one; choose from {', '.join(e.dataset for e in made)}"
        )
    return made[0]


def several_from_parameters(
    namespace: dict[str, Any], also: tuple[str, ...] = ()
) -> tuple[Experiment, ...]:
    """The experiments of a notebook about several: `experiments =
    config.several_from_parameters(globals())`.
    """
    return several(_given(namespace, (*also, *Several.model_fields), "experiments"))


def _given(namespace: dict[str, Any], also: tuple[str, ...], made: str) -> dict[str, Any]:
    if cells := namespace.get("In"):  # IPython's: the code of the cells so far
        mine = {"In", "Out", made}.union(*map(_assigned, cells))
        namespace = {name: value for name, value in namespace.items() if name in mine}
    if made not in namespace:
        plain = {
            k
            for k, v in namespace.items()
            if isinstance(v, str | int | float | list | tuple | None) and not k.startswith("_")
        }
        for name in sorted(plain - {"In", "Out", *Experiment.model_fields, *also}):
            raise ConfigError(unknown(name, also))
    return {
        name: namespace[name]
        for name in (*Experiment.model_fields, *Several.model_fields)
        if name in namespace
    }


def _assigned(cell: str) -> set[str]:
    """The names that a cell's code sets."""
    with suppress(SyntaxError):  # a cell that failed
        targets = [
            target
            for s in ast.parse(cell).body
            if isinstance(s, ast.Assign)
            for target in s.targets
        ]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def from_yaml(text: str) -> Any:
    """The value of a YAML text; ValueError, one line, if it isn't YAML or has a name twice."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        names = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is there twice")
        return yaml.safe_load(text)
    except Exception as error:  # PyYAML raises many kinds: a KeyError of !!bool x, a RecursionError of a thousand brackets
        raise ValueError(one_line(error)) from None


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters in a YAML file (params/<profile>/<notebook>.yaml), not yet checked."""
    try:
        parameters = from_yaml(resolve(path).read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: isn't YAML ({one_line(error)})") from None
    if not isinstance(parameters, dict) or not all(isinstance(name, str) for name in parameters):
        raise ConfigError(f"{path}: should be lines of name: value")
    return parameters
