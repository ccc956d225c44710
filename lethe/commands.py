"""The commands: `lethe forget`, and in a checkout the script `python -u mlflow_forget.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

SCRIPTS = {
    "forget": "mlflow_forget.py",
    "baseline": "main_baseline.py",
    "ideal": "main_ideal.py",
    "grid": "array_param_file.py",
    "parse": "mlruns_parser.py",
    "compare": "compare.py",
    "audit": "audit.py",
    "seal": "seal.py",
}
COMMANDS = {script: name for name, script in SCRIPTS.items()}
RUN_OF_GRID = "array_param_file.py run"  # `lethe run`
_NAMES = "|".join(map(re.escape, (RUN_OF_GRID, *COMMANDS)))
# Not a user's own file of that name: ./audit.py, audit.py:method or 'audit.py'.
_SCRIPT = re.compile(rf"(?<![\w./\\~-])(torchrun |python(?: -u)? |(?<![\"']))({_NAMES})(?!\w|\.\w|:\S)")


def has_scripts() -> bool:
    """Return whether Lethe is a checkout, with the scripts beside it, and was not started as `lethe`."""
    beside = Path(__file__).resolve().parent.parent / SCRIPTS["forget"]
    return beside.is_file() and not sys.argv[0].startswith("lethe ")


def as_started(text: str) -> str:
    """Return Lethe's text with the commands in it as they are started here.

    Where there are no scripts, `lethe forget` stands for `python -u mlflow_forget.py`. Leave a user's words
    out: a file of theirs may be called audit.py.
    """
    if has_scripts():
        return text
    return _SCRIPT.sub(_command, text)


def _command(found: re.Match[str]) -> str:
    before = "torchrun -m " if found[1] == "torchrun " else ""  # torchrun takes a file or a module
    return f"{before}lethe {COMMANDS.get(found[2], 'run')}"
