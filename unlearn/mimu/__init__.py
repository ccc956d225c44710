"""MIMU: a graph network reads one layer and says which few weights serve what is to be forgotten."""

from unlearn.mimu import method

__all__ = ["method"]
