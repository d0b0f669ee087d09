"""Experiment: every choice behind a table's runs, typed, checked and frozen.

A notebook's parameters cell, a YAML file, the command line and Python all end in `create`: an
unknown name or an invalid value is a ConfigError of one line that lists the choices.
"""

import ast
import difflib
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from yaml.resolver import Resolver

from semlib.datasets import CLASSES
from semlib.metrics import DETECTORS
from workbench.files import ROOT, file_name, folder_name, one_line, resolve

METHODS = ("classification", "rotation", "center_mask", "cpc")
PAPERS_SCORES = ("msp", "odin")
RANKED = tuple(DETECTORS)  # scores of which records keep only the ranks
SCORES = (*PAPERS_SCORES, *RANKED)
EXTERNAL = "external:"  # prefix of imported methods and scores (runs/external.py)
MOST = 10**6  # of anything counted: more is a slip that could fill the memory
_short = reprlib.Repr()  # of a value in a message
_short.maxlevel = 2
_short.maxstring = _short.maxother = 200


class ConfigError(ValueError):
    """An invalid parameter. The message is one line and lists the valid values."""


def _number(value: Any) -> Any:
    """Text that is a number is that number: PyYAML reads 5e-5 (no dot) as text."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


def _one_line(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text):
        raise ValueError("should be one line without control characters")
    return text


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(values) != len(set(values)):
        raise ValueError("should name each only once")
    return values


def _one_of(*names: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names and not re.fullmatch(rf"\w+(\.\w+)*:\w+|{EXTERNAL}[\w-]+", name):
            choices = f"{', '.join(names)}, package.module:function, {EXTERNAL}an imported name"
            raise ValueError(f"should be one of {choices}")
        return name

    return AfterValidator(check)


T = TypeVar("T")
Names = tuple[str, ...]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Index = Annotated[int, Field(ge=0, le=MOST)]
Side = Annotated[int, Field(ge=8, le=10**4)]  # pixels
# The digits' classes are whole numbers
_as_text = BeforeValidator(lambda value: str(value) if type(value) is int else value)
Text = Annotated[str, _as_text, Field(min_length=1), AfterValidator(_one_line)]
Profile = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9_-]$", max_length=100)]
ClassName = Annotated[Text, AfterValidator(lambda name: unicodedata.normalize("NFC", name))]
# Classes held out together, [truck, automobile], are the text automobile/truck: no class has a /
_as_group = BeforeValidator(lambda v: "/".join(map(str, v)) if isinstance(v, list | tuple) else v)
_in_order = AfterValidator(lambda names: "/".join(sorted({*names.split("/")})))
Anomaly = Annotated[ClassName, _in_order, _as_group]
Method = Annotated[Text, _one_of(*METHODS)]
Score = Annotated[Text, _one_of(*SCORES)]
_as_tuple = BeforeValidator(lambda v: tuple(v) if isinstance(v, list | tuple) else (v,))
Listed = Annotated[tuple[T, ...], _as_tuple, Field(min_length=1), AfterValidator(_once)]
_as_none = BeforeValidator(lambda value: None if value in ("none", "None") else value)
OrNone = Annotated[T | None, _as_none]


def _count_or_all(value: Any) -> Any:
    """A number of images, None for all. Papermill passes numbers on as text."""
    text = str(value)
    if text in ("all", "None", "none"):
        return None
    return int(text) if text.isdecimal() else value


def _each_once(value: Any) -> Any:
    """500 and "500" are one number: of two entries one would be lost without a word."""
    if isinstance(value, dict) and len({*map(_count_or_all, value)}) < len(value):
        raise ValueError("should name each number only once")
    return value


PerClass = Annotated[Count | None, BeforeValidator(_count_or_all)]
EpochsByLabels = Annotated[dict[PerClass, Count], Field(min_length=1), BeforeValidator(_each_once)]


class Group(pydantic.BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    model_config |= ConfigDict(use_attribute_docstrings=True)


class Which(Group):
    """Which runs"""

    profile: Profile = "paper"
    """Results lie in `outputs/<profile>/`."""
    dataset: Text = "cifar10"
    """A name, or a folder with `train/<class>/*` and `test/<class>/*`."""
    hold_out: Listed[Anomaly] = ("all",)
    """Class names; a list of them in the list: held out together; all: each in turn; none."""
    methods: Listed[Method] = ("classification", "rotation")
    """classification, rotation, center_mask, cpc, package.module:function, or external:name."""
    trials: Count = 3
    """Trainings of each class and method; trial k has the seed k."""
    first_trial: Index = 0
    """Number of the first: 3 with trials 2 makes trials 3 and 4."""
    missing: Literal["skip", "train"] = "skip"
    """What to do about a run that isn't in outputs/ yet."""
    allow_duplicates: bool = False
    """Train although pictures of a held-out class are among the training images of others."""


class Data(Group):
    """The images"""

    image_side: OrNone[Side] = None
    """Pixels a side of prepared images; None: 32 for own ones, 256 for ImageNet's."""
    train_per_class: OrNone[Count] = None
    """Training images of each class, drawn anew for each trial and hold-out; None: all."""
    subset_seed: OrNone[Index] = None
    """Seed of that draw, the same for all trials; None: the trial."""
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
    widen_factor: OrNone[Count] = None
    """None: the architecture's own."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.3
    """Between the two convolutions of a block."""
    norm_batch: OrNone[Index] = 128
    """Ghost batch normalisation's batch: images whose statistics are shared; None: batch_size."""


class Training(Group):
    """Training"""

    epochs: Count = 200
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 512
    """Images in a step."""
    learning_rate: Positive = 0.1
    """The schedule's peak."""
    weight_decay: NotNegative = 5e-4
    """Of all weights."""
    schedule: Literal["step", "one_cycle"] = "step"
    """step: times 0.2 at 30, 60, 80 % of the epochs; one_cycle: up in a quarter, then down to 0."""
    crop_side: OrNone[Side] = None
    """Pixels a side of training crops, and of the test images' centre; None: the whole image."""
    crop_padding: OrNone[Index] = None
    """Reflected pixels for random crops; None: an eighth of the side, 0 with crop_side."""
    flip: bool = True
    """Random horizontal reflection."""
    auxiliary_weight: NotNegative = 0.5
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

    scores: Listed[Score] = PAPERS_SCORES
    """msp, odin, the names in metrics.DETECTORS, package.module:function, or external:name."""
    temperature: Positive = 1000.0
    """ODIN's temperature."""
    epsilon: NotNegative = 5e-5
    """ODIN's step, of pixels in [0, 1]."""
    statistics: Literal["mixed", "upright"] = "mixed"
    """mixed: batch-norm statistics as trained; upright: re-estimated on upright training images."""


class Machine(Group):
    """This machine: paths, devices and how often files are written; not part of a run's address"""

    device: Annotated[Text, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """cpu, cuda, cuda:1; auto: a GPU if there is one."""
    threads: OrNone[Index] = None
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
    """The folder of prepared data sets; None: $SEMLIB_DATA, else data/."""
    ilsvrc: OrNone[Text] = None
    """ImageNet's subsets: the ILSVRC2012 folder; None: $SEMLIB_ILSVRC."""
    outputs: Text = "outputs"
    """The folder of results."""


class Experiment(Machine, Scoring, Training, Network, Data, Which):
    """The runs of a table and how each is made. The defaults are the paper's for CIFAR-10.

    Flat, for notebooks and the command line; code takes the group of settings that it needs.
    """

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        if len(self.hold_out) > 1 and {"all", "none"} & set(self.hold_out):
            raise ValueError("hold_out: all and none stand alone; choose one of them or classes")
        size = self.batch_size
        group = self.norm_batch or size
        own = ":" in self.architecture  # a user's network, which norm_batch doesn't reach
        if not own and size > group and size % group:
            raise ValueError(f"batch_size: {size} isn't a multiple of norm_batch = {group}")
        if not self.dataset_name:
            raise ValueError(f"dataset: {self.dataset!a} has no name; choose a folder below it")
        if (last := self.average_last_epochs) > self.epochs:
            raise ValueError(f"average_last_epochs: {last} is more than epochs = {self.epochs}")
        return self

    @property
    def dataset_name(self) -> str:
        """cifar10 for "cifar10", birds for "/data/birds": records hold no paths of one machine."""
        return folder_name(self.dataset)

    @property
    def trained_methods(self) -> tuple[str, ...]:
        """The methods that semlib trains: all but those whose scores were imported."""
        return tuple(method for method in self.methods if not method.startswith(EXTERNAL))

    @property
    def images_a_class(self) -> list[str]:
        """500_a_class, in names of files; empty where all training images are used."""
        return [f"{self.train_per_class}_a_class"] if self.train_per_class else []

    @property
    def folder(self) -> Path:
        """outputs/<profile>: executed notebooks, tables as CSV, and runs/."""
        return resolve(self.outputs) / self.profile

    def output(self, notebook: str, ending: str) -> Path:
        """The path of a notebook's results: benchmark-digits.csv, holdout-cifar10-cat.ipynb."""
        words = [notebook]
        if notebook.partition("_")[2] != self.dataset_name:  # table3_cifar10 names it already
            words.append(self.dataset_name)
        words += self.images_a_class
        if self.hold_out != ("all",):
            words += self.hold_out
        return self.folder / (file_name(*words) + ending)


class Several(Group):
    """Parameters that make several experiments out of one notebook."""

    settings: OrNone[Listed[Text]] = None
    """Files of parameters, an experiment each; the notebook's own go over them, those of epochs
    unless they are None."""
    dataset: Listed[Text] = (Which.model_fields["dataset"].default,)
    """The same settings for each."""
    epochs_by_labels: OrNone[EpochsByLabels] = None
    """For each number of training images a class its epochs; each is evaluated ten times."""
    auxiliary_weights: OrNone[dict[Method, Listed[NotNegative]]] = None
    """Plain classification, then each method alone with each of its weights."""
    arms: OrNone[dict[Text, dict[str, Any]]] = None
    """An experiment for each arm, with its own settings over all others."""


def create(parameters: Mapping[str, Any]) -> Experiment:
    """An Experiment, or a ConfigError whose one line says what is wrong with which parameter."""
    return _checked(Experiment, parameters)


def several(parameters: Mapping[str, Any]) -> tuple[Experiment, ...]:
    """All experiments of a notebook's parameters: one, unless Several's are among them."""
    given = dict(parameters)
    names = [name for name in Several.model_fields if name in given]
    by = _checked(Several, {name: given.pop(name) for name in names})
    if by.settings:
        return _of_files(by.settings, parameters)
    if by.epochs_by_labels and given.get("epochs") is not None:
        raise ConfigError("epochs: epochs_by_labels has epochs of its own; leave out one of both")
    experiments = []
    for dataset in by.dataset:
        for budget in _budgets(by.epochs_by_labels):
            for choice in [*(by.arms or {}).values()] or _weights(by.auxiliary_weights, given):
                experiments.append(create(given | {"dataset": dataset} | budget | choice))
    return tuple(experiments)


def _of_files(files: tuple[str, ...], parameters: Mapping[str, Any]) -> tuple[Experiment, ...]:
    unset = {name for name in ("epochs", "epochs_by_labels") if parameters.get(name) is None}
    unset.add("settings")
    over = {name: value for name, value in parameters.items() if name not in unset}
    experiments = []
    for file in files:
        values = read_parameters(file)
        if "settings" in values:  # perhaps its own
            raise ConfigError(f"settings: {file} has settings itself; name files that have none")
        experiments += several(values | over)
    return tuple(experiments)


def _budgets(epochs_by_labels: dict[int | None, int] | None) -> list[dict[str, Any]]:
    if not epochs_by_labels:
        return [{}]
    return [
        {"train_per_class": count, "epochs": epochs, "evaluate_every": max(1, epochs / 10)}
        for count, epochs in epochs_by_labels.items()
    ]


def _weights(weights: dict[str, tuple[float, ...]] | None, given: dict) -> list[dict[str, Any]]:
    if weights is None:
        return [{}]
    choices = [{"methods": "classification", "auxiliary_weight": 0}]
    for method in create({name: given[name] for name in ("methods",) if name in given}).methods:
        for weight in weights.get(method, ()):
            choices.append({"methods": method, "auxiliary_weight": weight})
    return choices


def _checked(model: type[Group], parameters: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(dict(parameters))
    except pydantic.ValidationError as error:
        sentences: dict[Any, str] = {}  # one for each parameter, and for unknown names together
        for part in error.errors():
            unknown_name = part["type"] == "extra_forbidden"
            sentences.setdefault(unknown_name or part["loc"][:1], _sentence(part))
        raise ConfigError("; ".join(sentences.values())) from None


def _sentence(error: Any) -> str:
    name = error["loc"][0] if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return unknown_parameter(name)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    hint = ": put it in quotes" if error["type"] == "string_type" else ""  # YAML's no, 1.5, null
    return f"{name}: {message}, not {_shown(error['input'])}{hint}" if name else message


def _shown(value: object) -> str:
    try:
        return one_line(_short.repr(value))
    except ValueError:  # Python writes no number of 5,000 digits
        return "a number too long to print"


def unknown_parameter(name: object, also: Names = ()) -> str:
    """The message about an unknown parameter; also: further valid names."""
    names = sorted({*Experiment.model_fields, *also})
    close = difflib.get_close_matches(str(name)[:100], names, 1, 0.5)
    likely = f" ({close[0]}?)" if close else ""
    return f"unknown parameter {_shown(name)}{likely}; choose from {', '.join(names)}"


def from_parameters(namespace: dict[str, Any], notebook: str = "", also: Names = ()) -> Experiment:
    """A notebook's one Experiment: `experiment = from_parameters(globals(), "paper/table4_stl10")`.

    Parameters as in `several_from_parameters`.
    """
    made = several_from_parameters(namespace, notebook, also)
    if len(made) > 1:
        names = ", ".join(experiment.dataset for experiment in made)
        raise ConfigError(f"dataset: this notebook is about one; choose from {names}")
    return made[0]


def several_from_parameters(
    namespace: dict[str, Any], notebook: str = "", also: Names = ()
) -> tuple[Experiment, ...]:
    """A notebook's experiments: `experiments = several_from_parameters(globals())`.

    notebook: the params file with the values that the parameters cell leaves None (`with_file`).
    also: parameters of the notebook that are none of Experiment's. In a fresh kernel any other
    plain value is taken for a misspelt parameter, of which Papermill would only warn; once
    `experiment` or `experiments` exists, the user's own variables are left alone.
    """
    known = [*Experiment.model_fields, *Several.model_fields]
    names = set(namespace) - {"In"}
    if cells := namespace.get("In"):  # IPython's cells so far: start-up files set other names
        names &= _assigned(cells, {*known, *also})
    if not {"experiment", "experiments"} & set(namespace):
        for name in sorted(names - {*known, *also}):
            plain = isinstance(namespace[name], str | int | float | list | tuple | None)
            if plain and not name.startswith("_"):
                raise ConfigError(unknown_parameter(name, (*also, *Several.model_fields)))
    return several(with_file({name: namespace[name] for name in known if name in names}, notebook))


def with_file(parameters: Mapping[str, Any], notebook: str) -> dict[str, Any]:
    """The parameters; those that are None or left out have the values of the notebook's file.

    notebook: as of `parameters_file`. None stays where no file has a value and a field can be None.
    Of another profile's file the settings of the machine are not taken.
    """
    if not notebook:
        return dict(parameters)
    values = dict(parameters)
    profile = values.get("profile")
    file = parameters_file(notebook, profile)
    given = read_parameters(file) if file else {}
    taken = {*Experiment.model_fields, *Several.model_fields}
    if profile not in (None, given.get("profile")):
        taken -= {*Machine.model_fields}
    if values.get("settings"):  # the files that it names have their own
        taken -= {"epochs", "train_per_class"}
    for name in taken & {*given}:
        if values.get(name) is None:
            values[name] = given[name]
    return {name: value for name, value in values.items() if value is not None or nullable(name)}


def parameters_file(notebook: str, profile: Any) -> str | None:
    """params/<profile>/table3_cifar10.yaml, or that of "paper/table3_cifar10" if there is none.

    None where there is neither: of "holdout", no profile before it, another profile has no file.
    """
    name = notebook.rpartition("/")[2]
    of_profile = f"params/{create({'profile': profile or 'paper'}).profile}/{name}.yaml"
    files = [of_profile, f"params/{notebook}.yaml"]
    return next((file for file in files if resolve(file).is_file()), None)


def nullable(name: str) -> bool:
    """Whether a parameter of Experiment can be None."""
    field = Experiment.model_fields.get(name)
    return field is not None and type(None) in get_args(field.annotation)


def _assigned(cells: list[str], known: set[str]) -> set[str]:
    """The names that are set by cells of parameters: those that set one, and Papermill's.

    If none sets one, it may be misspelt: then the names of all cells.
    """
    found: set[str] = set()
    every: set[str] = set()
    for cell in cells:
        names: set[str] = set()
        with suppress(SyntaxError):  # %magic, or a cell that failed
            for statement in ast.parse(cell).body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
        every |= names
        if names & known or cell.startswith("# Parameters"):
            found |= names
    return found or every


def from_yaml(text: str) -> Any:
    """The value of a YAML text; ValueError, one line, if it isn't YAML or has a name twice."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        value = yaml.safe_load(text)
    except Exception as error:  # PyYAML raises many: KeyError (!!bool x), RecursionError ([[[...)
        raise ValueError(one_line(error)) from None
    names = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is there twice")
    _check_numbers(text)
    return value


def _check_numbers(text: str) -> None:
    """ValueError for whole numbers that YAML reads in a way of its own: 010 is 8, 1:30 is 90."""
    tag = partial(Resolver().resolve, yaml.ScalarNode, implicit=(True, False))
    for token in yaml.scan(text):
        value = token.value if isinstance(token, yaml.ScalarToken) and token.plain else ""
        if tag(value).endswith("int") and not re.fullmatch("[-+]?(0|[1-9][0-9]*)", value):
            raise ValueError(f"{value} isn't written as a number is; of a name put it in quotes")


def from_here(name: str, value: Any) -> Any:
    """A parameter of the command line, where relative paths count from the current folder."""
    if name == "dataset" and isinstance(value, list):
        return [from_here(name, part) if isinstance(part, str) else part for part in value]
    if not isinstance(value, str) or value[:1] in ("", "~") or Path.cwd() == ROOT:
        return value
    is_path = name in ("data_root", "ilsvrc") and value not in ("none", "None")
    if name == "dataset":  # of others' texts, which can be long, is_dir may raise
        is_path = "/" in value or (value not in CLASSES and Path(value).is_dir())
    return str(Path(value).absolute()) if is_path else value


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


def documented() -> str:
    """Every parameter with its type, default and meaning, as Markdown."""
    lines = ["# Parameters", "", "`python -m semlib parameters` prints this page."]
    for group in (Which, Data, Network, Training, Scoring, Machine):
        schemas = group.model_json_schema()["properties"]
        lines += ["", f"## {group.__doc__}", ""]
        lines += ["| name | type | default | meaning |", "|---|---|---|---|"]
        for name, field in group.model_fields.items():
            default = str(field.default).lower()
            if isinstance(field.default, tuple):
                default = ", ".join(field.default)
            lines.append(f"| `{name}` | {_kind(schemas[name])} | {default} | {field.description} |")
    return "\n".join(lines)


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    words = {"array": "list", "integer": "whole number", "string": "text", "null": "none"}
    words["boolean"] = "true or false"
    return " or ".join(schema.get("enum", [])) or words.get(schema["type"], schema["type"])
