"""MIMU: a graph network reads one layer and finds the few weights that the forget set alone needs."""

from lethe.unlearn.mimu import method

__all__ = ["method"]
