"""A user's own functions, named package.module:function, and a digest of the source they use."""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.experiment import ConfigError
from workbench.files import ROOT, fingerprint, one_line

CELL = "cell:"  # prefix of functions from a notebook's cells (workbench/cells.py)
PACKAGES = [Path(__file__).parent, Path(__file__).parents[1] / "semlib"]
INSTALLED = {"site-packages", "dist-packages"}
# A function that uses one of these may reach any name or module of its own without writing it.
DYNAMIC = {"globals", "locals", "vars", "eval", "exec", "modules", "__subclasses__"}
IMPORTERS = {"import_module", "__import__"}
DYNAMIC |= {*IMPORTERS, "run_path", "run_module"}
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

Files = dict[str, tuple[Path, tuple | None]]  # modules: where each lies, and its fingerprint

_loaded: dict[str, Files] = {}  # by module: it and the user's modules that it imports
_digests: dict[str, tuple[Files, str]] = {}
# Functions of a notebook's cells, by cell:name, each with a function that gives its digest now
of_cells: dict[str, tuple[Callable[..., Any], Callable[[], str]]] = {}
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # in JupyterLab a kernel's own folder is notebooks/


def function(name: str) -> Callable[..., Any]:
    """The function package.module:function or cell:function; ConfigError if there is none.

    Modules are looked for in the checkout's root too. In a kernel that lives on, a module is
    imported again if it, or a user's module that it imports, was edited.
    """
    if name.startswith(CELL):
        if name not in of_cells:
            raise ConfigError(f"{name} isn't defined here; run its cell and runs.using again")
        return of_cells[name][0]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(_imported(module), attribute)
    except Exception as error:  # a user's module can raise any
        advice = "name a Python function as package.module:function"
        raise ConfigError(f"{name}: {one_line(error)}; {advice}") from error
    if not inspect.isfunction(found):
        raise ConfigError(f"{name} isn't a Python function")
    return found


def digest(name: str) -> str:
    """16 hex digits of the source that a function depends on; comments and docstrings don't count.

    Included are the statements of its module that it can reach and the whole of each module that
    these import, except Python's, semlib's and installed ones. Files that it reads are not.
    """
    function(name)
    if name in of_cells:
        return of_cells[name][1]()
    module, _, attribute = name.partition(":")
    if module == "__main__" or _source(module) is None:
        raise ConfigError(f"{name}: its source can't be read; put it into a .py file")
    files, found = _digests.get(name, (None, ""))
    if files != _loaded[module]:
        found = _digest(_closure(module, attribute))
        _digests[name] = (_loaded[module], found)
    return found


def is_here(name: str, digest: str) -> bool:
    """Whether the source of a function has this digest here; nothing of it is imported."""
    if name in of_cells:
        return of_cells[name][1]() == digest
    module, _, attribute = name.partition(":")
    path = _source(module)
    return path is not None and _digest(_closure(module, attribute)) == digest


def module_digest(module: str) -> str:
    """16 hex digits of the source of a user's module and of those it imports; "" of others."""
    path = _source(module)
    return _digest(_closure(module, None)) if path and _is_users(path) else ""


def _digest(closure: dict[str, list[ast.stmt]]) -> str:
    parts = [[where, [plain(s) for s in body]] for where, body in sorted(closure.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _imported(module: str) -> Any:
    before = _loaded.get(module, {})
    unchanged = all(fingerprint(path) == then for path, then in before.values())
    if before and unchanged and module in sys.modules:
        return sys.modules[module]
    importlib.invalidate_caches()
    now = _files(module)
    known = set().union(*(files.items() for files in _loaded.values()))
    if before or any(name in sys.modules for name, _ in now.items() - known):
        for name, (path, _) in (before | now).items():
            sys.modules.pop(name, None)
            # Python would take a file compiled in the same second, of the same size, for the new
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    found = importlib.import_module(module)
    _loaded[module] = _files(module) | now  # a module may have extended sys.path itself
    return found


def _files(module: str) -> Files:
    """The user's modules among a module and what it imports."""
    paths = {name: _source(name) for name in _closure(module, None)}
    return {
        name: (path, fingerprint(path)) for name, path in paths.items() if path and _is_users(path)
    }


def _closure(module: str, attribute: str | None) -> dict[str, list[ast.stmt]]:
    """The statements on which `attribute` of a module depends, by module; None: on all of it."""
    found: dict[str, list[ast.stmt]] = {}
    whole: set[str] = set()
    queue: list[tuple[str, str | None]] = [(module, attribute)]
    while queue:
        name, wanted = queue.pop()
        path = None if name in whole else _source(name)
        if path is None or (name != module and not _is_users(path)):
            continue
        if not wanted:
            whole.add(name)
        if path.suffix != ".py":  # compiled: its bytes
            found[name] = [ast.Expr(ast.Constant(hashlib.sha256(path.read_bytes()).hexdigest()))]
            continue
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        body = [s for s in ast.parse(path.read_bytes()).body if not _is_idle(s)]
        found[name] = _reached(body, wanted, package) if wanted else body
        imported = set().union(*(_imports(statement, package) for statement in found[name]))
        packages = set()  # an import runs those that the module lies in, too
        for other in (name, *imported):
            packages |= {*itertools.accumulate(other.split("."), "{}.{}".format)} - {other}
        queue += [(other, None) for other in imported | packages - {name}]
    return found


def _source(module: str) -> Path | None:
    """The file of a module; None if it is built in, not there, or a folder without __init__.py."""
    with suppress(Exception):  # a parent that isn't a package, or one that raises
        spec = _spec(module)
        if spec and spec.has_location and spec.origin and Path(spec.origin).is_file():
            return Path(spec.origin)
    return None


def _spec(module: str) -> Any:
    """The spec of a module, as importlib's find_spec; packages that it lies in aren't imported."""
    if module in sys.modules:
        return sys.modules[module].__spec__
    package = module.rpartition(".")[0]
    above = _spec(package).submodule_search_locations if package else None
    found = (finder.find_spec(module, above) for finder in sys.meta_path)
    return next(filter(None, found), None)


def _is_users(path: Path) -> bool:
    python = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")]
    places = [place.resolve() for place in (*python, *PACKAGES)]  # may be links
    inside = any(path.resolve().is_relative_to(place) for place in places)
    return not inside and not INSTALLED & set(path.parts)


def _imports(statement: ast.stmt, package: str) -> Iterator[str]:
    """The modules that a statement can import, at once or when a function in it is called."""
    for node in ast.walk(statement):
        with suppress(ImportError):  # beyond the top: it fails when it is imported
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)  # modules of a package
            elif isinstance(node, ast.Call) and _last_name(node.func) in IMPORTERS:
                constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
                texts = [value for value in constants if isinstance(value, str)]
                if texts:
                    yield importlib.util.resolve_name(texts[0], (*texts, package)[1])


def _reached(body: list[ast.stmt], attribute: str, package: str) -> list[ast.stmt]:
    """The statements of a module on which one of its names depends, in their order.

    Only definitions, constants and imports of installed modules are left out, if nothing reaches
    their names: by themselves they do nothing. A function that looks names up at run time needs
    the whole module.
    """
    defined = {s.name for s in body if isinstance(s, DEFINITIONS)}
    known = set(dir(builtins))
    users = set()
    for k, statement in enumerate(body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            paths = map(_source, _imports(statement, package))
            if any(path and _is_users(path) for path in paths):
                users.add(k)
            else:
                known |= {a.asname or a.name.split(".")[0] for a in statement.names}
    binds = [_binds(s, defined, known) for s in body]
    uses = [_names(s) for s in body]
    if not any(b and attribute in b for b in binds):
        return body
    kept = {k for k, names in enumerate(binds) if names is None} | users
    while True:
        wanted = {attribute}.union(*(uses[k] for k in kept))
        more = {k for k, names in enumerate(binds) if names and names & wanted} - kept
        if not more:
            break
        kept |= more
    chosen = [body[k] for k in sorted(kept)]
    nodes = ast.walk(ast.Module(chosen, []))
    looked_up = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return body if (wanted | looked_up) & DYNAMIC else chosen


def _binds(statement: ast.stmt, defined: set[str], known: set[str]) -> set[str] | None:
    """The names that a statement binds; None if it may do more than that.

    defined: the module's own functions and classes; known: builtins and installed modules' names.
    """
    if isinstance(statement, DEFINITIONS):
        parts = list(statement.decorator_list)  # a user's decorator or base may keep what it gets
        parts += [*getattr(statement, "bases", ()), *getattr(statement, "keywords", ())]
        return {statement.name} if set().union(*map(_names, parts)) <= known else None
    if isinstance(statement, ast.Import | ast.ImportFrom):
        names = {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
        return None if "*" in names else names
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        roots = {ast.unparse(target).partition(".")[0] for target in targets}
        if all(isinstance(t, ast.Attribute) for t in targets) and roots <= defined:
            return roots  # loss.heads = ...
        calls = any(isinstance(n, ast.Call | ast.Await) for n in ast.walk(statement))
        return None if calls or not all(isinstance(t, ast.Name) for t in targets) else roots
    return None


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_idle(statement: ast.stmt) -> bool:
    """Whether an import runs nothing of it: a docstring, or if __name__ == "__main__"."""
    if isinstance(statement, ast.If) and not statement.orelse:
        test = ast.unparse(statement.test)
        return test in ("__name__ == '__main__'", "'__main__' == __name__")
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def plain(node: Any) -> Any:
    """A syntax tree as lists, without docstrings; unlike ast.dump's, equal from Python 3.11 on."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return None if node is None else ascii(node)
    skipped = ("ctx", "kind", "type_comment")
    fields = {name: plain(value) for name, value in ast.iter_fields(node) if name not in skipped}
    documented = isinstance(node, DEFINITIONS | ast.Module)
    if documented and ast.get_docstring(node, clean=False) is not None:
        del fields["body"][0]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty texts into some
        empty = ["Constant", {"value": "''"}]
        fields["values"] = [value for value in fields["values"] if value != empty]
    kept = {name: value for name, value in fields.items() if value not in (None, [])}
    return [type(node).__name__, kept]
