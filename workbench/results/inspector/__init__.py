"""The precision-recall inspector: `results` computes, `page` draws, `widget` has the controls.
Nothing here trains.
"""

from workbench.results.inspector.widget import Inspector

__all__ = ["Inspector"]
