"""Lethe: a tracked registry of machine-unlearning methods for image classifiers."""

import sys
from pathlib import Path

from lethe.checkout import MovedModules

__version__ = "0.2.0"

if not (Path(__file__).parent / "unlearn").is_dir():
    # A checkout without symbolic links, as on Windows: lethe/unlearn is a text file there, and the folder is
    # at the root.
    __path__.append(str(Path(__file__).resolve().parent.parent))

sys.meta_path.append(MovedModules())
