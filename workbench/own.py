"""A user's own functions, named package.module:function: finding them, and a digest of the source
that they depend on.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.experiment import ConfigError
from workbench.files import ROOT, one_line, stamp

PACKAGE = Path(__file__).resolve().parent
INSTALLED = {"site-packages", "dist-packages"}
# by these a function reaches names and modules that it doesn't say
DYNAMIC = {"globals", "locals", "vars", "eval", "exec", "modules", "__subclasses__"}
DYNAMIC |= {"import_module", "__import__", "run_path", "run_module"}
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

Files = dict[
    str, tuple[Path, tuple | None, bytes]
]  # modules: where their sources lie, stamps, and what they said

_loaded: dict[str, Files] = {}  # a module and the user's that it imports, as they were imported
_digests: dict[str, tuple[Files, str]] = {}


def function(name: str) -> Callable[..., Any]:
    """The function named package.module:function, looked for in the checkout's root too;
    ConfigError if there is none.

    If it or a module that it imports was edited since its import, as in a kernel that lives on,
    they are imported again.
    """
    module, _, attribute = name.partition(":")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # a kernel's own folder is notebooks/ in Lab
    try:
        found = getattr(_imported(module), attribute)
    except Exception as error:  # a user's module can raise any
        raise ConfigError(
            f"{name}: {one_line(error)}; name a Python function as package.module:function"
        ) from error
    if not inspect.isfunction(found):
        raise ConfigError(f"{name} isn't a Python function")
    return found


def digest(name: str) -> str:
    """16 hex digits of the source that a user's function depends on, without comments, docstrings
    and layout.

    Covered are the statements of its own module that it can reach, and all of each module that this
    imports, except Python's, semlib's and those in site-packages. Files that the function reads are
    not covered.
    """
    function(name)
    module, _, attribute = name.partition(":")
    if module == "__main__" or _file(module) is None:
        raise ConfigError(
            f"{name}: its source can't be read, so edits can't be told; put it into a .py file"
        )
    known = _digests.get(name)
    if known is None or known[0] != _loaded[module]:
        parts = [
            [where, [plain(s) for s in statements]]
            for where, statements in sorted(_closure(module, attribute).items())
        ]
        known = _digests[name] = (
            _loaded[module],
            hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16],
        )
    return known[1]


def _imported(module: str) -> Any:
    before = _loaded.get(module)
    if (
        before
        and module in sys.modules
        and all(stamp(path) == then for path, then, _ in before.values())
    ):
        return sys.modules[module]
    importlib.invalidate_caches()
    now = _files(module)
    known = {name: file for files in _loaded.values() for name, file in files.items()}
    if before or any(
        name in sys.modules and known.get(name) != file
        for name, file in now.items()
        if _is_users(file[0])
    ):
        for name, (path, *_) in ((before or {}) | now).items():
            if _is_users(path):
                sys.modules.pop(name, None)
                # compiled in the same second, of the same size: Python would take it for the new
                # one
                Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    loaded = importlib.import_module(module)
    _loaded[module] = (
        _files(module) | now
    )  # it may have found further ones, by a path that it added itself
    return loaded


def _files(module: str) -> Files:
    """A module and the user's that it imports."""
    paths = [(name, path) for name in _closure(module, None) if (path := _file(name))]
    return {name: (path, stamp(path), path.read_bytes()) for name, path in paths}


def _closure(module: str, attribute: str | None) -> dict[str, list[ast.stmt]]:
    """The statements that matter, by module: of the first one those that `attribute` can reach
    (None: all).
    """
    found: dict[str, list[ast.stmt]] = {}
    queue: list[tuple[str, str | None]] = [(module, attribute)]
    whole: set[str] = set()
    while queue:
        name, wanted = queue.pop()
        path = None if name in whole else _file(name)
        if path is None or (name != module and not _is_users(path)):
            continue
        if not wanted:
            whole.add(name)
        if path.suffix != ".py":
            found[name] = [ast.Expr(ast.Constant(hashlib.sha256(path.read_bytes()).hexdigest()))]
            continue
        body = [s for s in ast.parse(path.read_bytes()).body if not _is_idle(s)]
        package = path.stem == "__init__"
        found[name] = _reached(body, wanted, name, package) if wanted else body
        imported = {i for statement in found[name] for i in _imports(statement, name, package)}
        packages = {
            other[:k]
            for other in (name, *imported)
            for k, letter in enumerate(other)
            if letter == "."
        }
        queue += [(other, None) for other in imported | packages - {name}]
    return found


def _file(module: str) -> Path | None:
    """Where a module's source lies; None for what is built in, a folder without __init__.py, or not
    there.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (
        Exception
    ):  # a parent that isn't a package, one that raises, a module without a specification
        return None
    return (
        Path(spec.origin)
        if spec and spec.has_location and spec.origin and Path(spec.origin).is_file()
        else None
    )


def _is_users(path: Path) -> bool:
    places = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")] + [
        PACKAGE,
        PACKAGE.with_name("semlib"),
    ]
    places += [place.resolve() for place in places]  # a Python may be reached through a link
    return not INSTALLED & set(path.parts) and not any(
        p.is_relative_to(q) for p in (path, path.resolve()) for q in places
    )


def _imports(statement: ast.stmt, module: str, is_package: bool) -> Iterator[str]:
    """The modules that a statement can import, at once or when a function in it is called."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(statement):
        with suppress(ImportError):  # beyond the top: it fails when it is imported
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                yield from (
                    base,
                    *(f"{base}.{alias.name}" for alias in node.names),
                )  # of a package also its modules
            elif isinstance(node, ast.Call) and _last(node.func) in ("import_module", "__import__"):
                texts = [
                    a.value
                    for a in node.args
                    if isinstance(a, ast.Constant) and isinstance(a.value, str)
                ]
                if texts:
                    yield importlib.util.resolve_name(texts[0], texts[1] if texts[1:] else package)


def _reached(body: list[ast.stmt], attribute: str, module: str, is_package: bool) -> list[ast.stmt]:
    """The statements of a module on which one of its names depends, in their order.

    Left out are only definitions, constants and imports of installed modules whose names are not
    reached, as they do nothing by themselves. A module whose function looks names up at run time is
    taken whole.
    """
    defined = {s.name for s in body if isinstance(s, DEFINITIONS)}
    imports = {k: s for k, s in enumerate(body) if isinstance(s, ast.Import | ast.ImportFrom)}
    users = {
        k
        for k, s in imports.items()
        if any((path := _file(m)) and _is_users(path) for m in _imports(s, module, is_package))
    }
    known = set(dir(builtins)) | {
        a.asname or a.name.split(".")[0]
        for k, s in imports.items()
        if k not in users
        for a in s.names
    }
    binds = [_binds(s, defined, known) for s in body]
    uses = [{n.id for n in ast.walk(s) if isinstance(n, ast.Name)} for s in body]
    if not any(b and attribute in b for b in binds):
        return body
    kept = {k for k, names in enumerate(binds) if names is None} | users
    while True:
        wanted = {attribute}.union(*(uses[k] for k in kept))
        more = {k for k, names in enumerate(binds) if names and names & wanted} - kept
        if not more:
            break
        kept |= more
    dynamic = wanted & DYNAMIC or any(
        isinstance(n, ast.Attribute) and n.attr in DYNAMIC for k in kept for n in ast.walk(body[k])
    )
    return body if dynamic else [body[k] for k in sorted(kept)]


def _binds(statement: ast.stmt, defined: set[str], known: set[str]) -> set[str] | None:
    """The names that a statement binds; None if it may do more than that.

    defined: functions and classes of the module; known: builtins and what is imported from
    installed modules.
    """
    if isinstance(statement, DEFINITIONS):
        also = [
            *statement.decorator_list,
            *getattr(statement, "bases", ()),
            *getattr(statement, "keywords", ()),
        ]
        names = {n.id for part in also for n in ast.walk(part) if isinstance(n, ast.Name)}
        return (
            {statement.name} if names <= known else None
        )  # a decorator or base of the user's may keep what it is given
    if isinstance(statement, ast.Import | ast.ImportFrom):
        names = {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
        return None if "*" in names else names
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        roots = {_root(target) for target in targets}
        if all(
            isinstance(target, ast.Attribute) and _root(target) in defined for target in targets
        ):
            return roots  # loss.heads = ...
        quiet = not any(isinstance(n, ast.Call | ast.Await) for n in ast.walk(statement))
        return roots if quiet and all(isinstance(target, ast.Name) for target in targets) else None
    return None


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_idle(statement: ast.stmt) -> bool:
    """Whether an import runs nothing of it: a docstring, or if __name__ == "__main__"."""
    if isinstance(statement, ast.If):
        return (
            ast.unparse(statement.test) in ("__name__ == '__main__'", "'__main__' == __name__")
            and not statement.orelse
        )
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def plain(node: Any) -> Any:
    """A syntax tree as lists, without docstrings: equal on every Python from 3.11 on, which
    ast.dump isn't.
    """
    if isinstance(node, ast.AST):
        fields = {
            name: plain(value)
            for name, value in ast.iter_fields(node)
            if name not in ("ctx", "kind", "type_comment")
        }
        if (
            isinstance(node, DEFINITIONS | ast.Module)
            and ast.get_docstring(node, clean=False) is not None
        ):
            fields["body"] = fields["body"][1:]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty texts into some
            fields["values"] = [
                value for value in fields["values"] if value != ["Constant", {"value": "''"}]
            ]
        return [
            type(node).__name__,
            {name: value for name, value in fields.items() if value not in (None, [])},
        ]
    if isinstance(node, list):
        return [plain(item) for item in node]
    return None if node is None else ascii(node)
