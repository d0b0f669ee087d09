"""Notebooks and grids of them, from the command line."""
