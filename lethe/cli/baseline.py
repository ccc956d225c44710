"""Train the initial model: everything in the training split, whatever is to be forgotten later.

python -u main_baseline.py --dataset MNIST --arch mlp --seed 1
"""

from __future__ import annotations

from collections.abc import Sequence

from lethe import command_line
from lethe.experiment import base_model_command


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Load the checkpoint if it exists, else train and save it; print where it is and how good it is."""
    return base_model_command.train_base_model(argv, __doc__ or "", which="initial")
