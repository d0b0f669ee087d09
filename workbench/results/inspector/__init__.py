"""The precision-recall inspector: `selection` computes, `page` draws, `widget` has the controls."""

from workbench.results.inspector.widget import Inspector

__all__ = ["Inspector"]
