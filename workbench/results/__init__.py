"""What records say: frame <- tables <- stats <- show, plots, inspector. No torch but in appendix_d.

`from workbench import results; frame = results.frame("cpu")` is where your own analysis begins.
"""

# imported here so that `results.frame` is the function, and not the module of its name
from workbench.results.frame import frame

__all__ = ["frame"]
