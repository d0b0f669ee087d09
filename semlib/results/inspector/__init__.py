"""The precision-recall inspector: `results` computes, `page` draws, `widget` has the controls. Nothing here trains."""

from semlib.results.inspector.widget import Inspector

__all__ = ["Inspector"]
