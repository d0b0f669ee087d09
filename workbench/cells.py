"""A user's function that is defined in a notebook's cell: the digest of all that it depends on.

Covered are its source without comments and docstrings, its attributes, and whatever it names in the
notebook: functions, classes and constants, and what these name in turn.
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
from collections.abc import Callable, Iterator
from typing import Any

from workbench import own
from workbench.experiment import ConfigError

PLAIN = (str, bytes, int, float, complex, bool, type(None), range, slice)
OF_LIBRARIES = ("torch.dtype", "torch.device", "numpy.dtype", "pathlib.PosixPath")


def digest(function: Callable[..., Any]) -> str:
    """16 hex digits; ConfigError, one line, names what can't be covered and what to do."""
    if not inspect.isfunction(function):
        kind = type(function).__name__
        raise ConfigError(f"{kind} is no function: write a function with def, which calls it")
    parts: dict[str, Any] = {}
    _collect(function.__name__, function, parts, function.__name__)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _collect(name: str, value: Any, parts: dict[str, Any], user: str) -> None:
    """Add what `value` is to `parts`, under the name by which `user` knows it."""
    if name in parts:
        return
    parts[name] = None  # a function may name itself
    if inspect.isfunction(value) or inspect.isclass(value):
        parts[name] = _definition(name, value, parts, user)
    else:
        parts[name] = _constant(name, value, parts, user)


def _definition(name: str, value: Any, parts: dict[str, Any], user: str) -> Any:
    if value.__module__ != "__main__":
        return [*_module(value.__module__), value.__qualname__]
    if value.__name__ == "<lambda>":
        raise ConfigError(f"{user}: {name} is a lambda; write it with def")
    source = _source(value, user)
    inside = inspect.getclosurevars(value).nonlocals if inspect.isfunction(value) else {}
    for other, its in inside.items():
        _collect(other, its, parts, value.__name__)
    for other in _global_names(symtable.symtable(source, value.__name__, "exec")):
        namespace = _namespace(value)
        if other in namespace and other != value.__name__ and other not in inside:
            _collect(other, namespace[other], parts, value.__name__)
    attributes = {}
    if inspect.isfunction(value):
        for key, its in vars(value).items():
            attributes[key] = _constant(f"{name}.{key}", its, parts, user)
    return [own.plain(ast.parse(source)), attributes]


def _namespace(value: Any) -> dict[str, Any]:
    if inspect.isfunction(value):
        return value.__globals__
    return next((f.__globals__ for f in _methods(value)), {})


def _methods(value: type) -> Iterator[types.FunctionType]:
    for member in vars(value).values():
        if inspect.isfunction(member) and member.__module__ == "__main__":
            yield member


def _source(value: Any, user: str) -> str:
    """The source text of a function or class; inspect finds no class of a notebook."""
    try:
        if inspect.isfunction(value):
            return textwrap.dedent(inspect.getsource(value))
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
    at_top = scope.get_type() == "module"
    for symbol in scope.get_symbols():
        if symbol.is_referenced() and (at_top or symbol.is_global()):
            yield symbol.get_name()
    for inner in scope.get_children():
        yield from _global_names(inner)


def _constant(name: str, value: Any, parts: dict[str, Any], user: str) -> Any:
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
    if (inspect.isfunction(value) or inspect.isclass(value)) and value.__name__ != "<lambda>":
        _collect(value.__name__, value, parts, user)
        return value.__name__
    what = "a lambda in it" if inspect.isfunction(value) else f"of type {type(value).__name__}"
    raise ConfigError(
        f"{user} uses {name}, {what}, whose changes could not be told: make it a number, a text or "
        "a tuple of them, make it inside the function, or put both into a .py file"
    )


def _module(name: str) -> list[str]:
    """An installed module's name, or a user's with the digest of its source."""
    return [name, own.module_digest(name)]
