"""Readers of tracking stores, one kind of store per module. A new module registers itself."""

from lethe.registry import import_modules
from lethe.tracking.readers.impl import READERS, Store, open_store, register

import_modules(__name__, __path__)

__all__ = ["READERS", "Store", "open_store", "register"]
