"""Functions defined in a notebook's cells as methods, scores and networks, and their digests.

A digest covers the function's source without comments and docstrings, its attributes and defaults,
and whatever it names in the notebook: functions, classes, constants, and what these name in turn.
"""

import ast
import functools
import hashlib
import inspect
import json
import linecache
import symtable
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from workbench import own
from workbench.experiment import ConfigError, Experiment, create

PLAIN = (str, bytes, int, float, complex, bool, type(None), range, slice)
OF_LIBRARIES = ("torch.dtype", "torch.device", "numpy.dtype", "pathlib.PosixPath")
Function = Callable[..., Any]
Parts = dict[tuple[str, int], Any]  # by name and id: two closures may use one name


def using(
    experiment: Experiment,
    methods: Mapping[str, Function] = {},
    scores: Mapping[str, Function] = {},
    network: Function | None = None,
) -> Experiment:
    """The experiment with these functions beside its methods and scores, and as its architecture.

    In it and in its records they are named cell:<name>. Call it again in each new kernel, and after
    a cell with one of the functions was run again. ConfigError if a change could not be told.
    """
    changes: dict[str, Any] = {}
    for field, functions in (("methods", methods), ("scores", scores)):
        added = [_register(name, function) for name, function in functions.items()]
        changes[field] = tuple(dict.fromkeys([*getattr(experiment, field), *added]))
    if network is not None:
        changes["architecture"] = _register(getattr(network, "__name__", ""), network)
    return create(experiment.model_dump() | changes)


def _register(name: str, function: Function) -> str:
    digest(function)  # an error here, and not after an hour
    own.of_cells[own.CELL + name] = (function, functools.partial(digest, function))
    return own.CELL + name


def digest(function: Function) -> str:
    """16 hex digits; ConfigError, one line, names what can't be covered and what to do."""
    if not inspect.isfunction(function):
        raise ConfigError(f"{type(function).__name__} is no function: write one with def instead")
    parts: Parts = {}
    _collect(function.__name__, function, parts, function.__name__)
    found = [[name, part] for (name, _), part in parts.items()]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def _collect(name: str, value: Any, parts: Parts, user: str) -> int:
    """Add what `value` is to `parts`, under the name by which `user` knows it; its place there."""
    key = (name, id(value))
    if key not in parts:
        parts[key] = None  # a function may name itself
        describe = _definition if isinstance(value, types.FunctionType | type) else _constant
        parts[key] = describe(name, value, parts, user)
    return list(parts).index(key)


def _definition(name: str, value: Any, parts: Parts, user: str) -> Any:
    if value.__module__ != "__main__":
        inside = _around(name, value, parts, user) if "<locals>" in value.__qualname__ else {}
        return [*_module(value.__module__), value.__qualname__, inside]
    if value.__name__ == "<lambda>":
        raise ConfigError(f"{user}: {name} is a lambda; write it with def")
    source = _source(value, user)
    functions = [_undecorated(value)] if inspect.isfunction(value) else _methods(value)
    namespace = next((function.__globals__ for function in functions), {})
    inside = _around(name, value, parts, user)
    for other in _global_names(symtable.symtable(source, value.__name__, "exec")):
        if other in namespace and other not in inside:
            _collect(other, namespace[other], parts, value.__name__)
    return [own.plain(ast.parse(source)), inside]


def _around(name: str, value: Any, parts: Parts, user: str) -> dict[str, Any]:
    """What a function has beside its source: closure, default values and attributes."""
    if not inspect.isfunction(value):
        return {}
    function = _undecorated(value)
    closure = inspect.getclosurevars(function).nonlocals
    inside = {key: _collect(key, its, parts, value.__name__) for key, its in closure.items()}
    defaults = {"(defaults)": [function.__defaults__, function.__kwdefaults__]}
    for key, its in (defaults | {f".{key}": its for key, its in vars(value).items()}).items():
        inside[key] = _constant(name + key, its, parts, user)
    return inside


def _undecorated(function: Any) -> Any:
    """A cell's function without the decorators of other modules, which its source names."""
    return inspect.unwrap(
        function, stop=lambda f: getattr(f, "__globals__", {}).get("__name__") == "__main__"
    )


def _methods(value: type) -> Iterator[types.FunctionType]:
    members = filter(inspect.isfunction, vars(value).values())
    return (member for member in members if member.__module__ == "__main__")


def _source(value: Any, user: str) -> str:
    """The source text of a function or class; inspect finds no class of a notebook."""
    try:
        if inspect.isfunction(value):
            return textwrap.dedent(inspect.getsource(_undecorated(value).__code__))
        file = next(_methods(value)).__code__.co_filename
        for node in ast.walk(ast.parse("".join(linecache.getlines(file)))):
            if isinstance(node, ast.ClassDef) and node.name == value.__name__:
                return ast.unparse(node)
        raise OSError("no such class")
    except (OSError, TypeError, StopIteration):
        raise ConfigError(
            f"{user}: the source of {value.__name__} can't be read, so a change could not be told; "
            "define it in a cell of its own or in a .py file"
        ) from None


def _global_names(scope: symtable.SymbolTable) -> Iterator[str]:
    """The global names that a scope refers to, also in functions and classes inside."""
    for symbol in scope.get_symbols():
        if symbol.is_referenced() and (scope.get_type() == "module" or symbol.is_global()):
            yield symbol.get_name()
    for inner in scope.get_children():
        yield from _global_names(inner)


def _constant(name: str, value: Any, parts: Parts, user: str) -> Any:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, PLAIN) or kind in OF_LIBRARIES:
        return repr(value)
    if isinstance(value, list | tuple):
        return [_constant(name, item, parts, user) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_constant(name, item, parts, user)) for item in value)
    if isinstance(value, dict):
        pairs = [_constant(name, [*item], parts, user) for item in value.items()]
        return sorted(pairs, key=str)
    if inspect.ismodule(value):
        return _module(value.__name__)
    if inspect.isbuiltin(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return _constant(name, [value.func, value.args, value.keywords], parts, user)
    if isinstance(value, types.FunctionType | type) and value.__name__ != "<lambda>":
        return _collect(value.__name__, value, parts, user)
    what = "a lambda in it" if inspect.isfunction(value) else f"of type {type(value).__name__}"
    raise ConfigError(
        f"{user} uses {name}, {what}, whose changes could not be told: make it a number, a text or "
        "a tuple of them, make it inside the function, or put both into a .py file"
    )


def _module(name: str) -> list[str]:
    """An installed module's name, or a user's with the digest of its source."""
    return [name, own.module_digest(name)]
