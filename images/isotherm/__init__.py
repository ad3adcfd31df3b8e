"""Isotherm: the programs behind the catalog's Tasks, the predictor and their shared contracts."""

__version__ = "0.1.0"
