"""Runs: what they are (plan), their records (store), and how they are made (execute)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.cells import using

if TYPE_CHECKING:
    from workbench.runs.execute import check, check_data, complete, finish, load, network

__all__ = ["check", "check_data", "complete", "finish", "load", "network", "using"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch is slow to import, and looking at results needs none
        return getattr(import_module("workbench.runs.execute"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
