"""The commands: `lethe forget`, and in a checkout the script `python -u mlflow_forget.py`.

A message names a command by `named` or `started`. Text with a user's words in it is never searched for the
scripts: a file of theirs may be called audit.py.
"""

from __future__ import annotations

import re
import sys

from lethe.checkout import is_checkout

SCRIPTS = {
    "forget": "mlflow_forget.py",
    "baseline": "main_baseline.py",
    "ideal": "main_ideal.py",
    "grid": "array_param_file.py",
    "run": "array_param_file.py run",
    "parse": "mlruns_parser.py",
    "compare": "compare.py",
    "audit": "audit.py",
    "seal": "seal.py",
    "tune": "tune.py",
}
UNBUFFERED = ("forget", "baseline", "ideal", "compare", "audit", "seal")  # started as python -u
COMMANDS = {script: name for name, script in SCRIPTS.items()}
_LONGEST_FIRST = sorted(COMMANDS, key=len, reverse=True)
_SCRIPT = re.compile(rf"(?:python (?:-u )?)?({'|'.join(map(re.escape, _LONGEST_FIRST))})")


def has_scripts() -> bool:
    """Return whether Lethe is a checkout, with the scripts beside it, and was not started as `lethe`."""
    return is_checkout() and not sys.argv[0].startswith("lethe ")


def named(name: str) -> str:
    """Return the name of a command in a sentence: `audit.py`, or `lethe audit` where there are no scripts."""
    return SCRIPTS[name] if has_scripts() else f"lethe {name}"


def started(name: str) -> str:
    """Return how a command is started here: `python -u audit.py`, or `lethe audit`."""
    if not has_scripts():
        return f"lethe {name}"
    return f"python -u {SCRIPTS[name]}" if name in UNBUFFERED else f"python {SCRIPTS[name]}"


def as_started(docstring: str) -> str:
    """Return a docstring of Lethe's own with the commands in it as they are started here."""
    if has_scripts():
        return docstring
    return _SCRIPT.sub(lambda found: f"lethe {COMMANDS[found[1]]}", docstring)
