"""Verify the mask of a run: its size, and whether the unlearned model's weights are zero under it."""

from __future__ import annotations

from torch import nn

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.experiment.identity import CHOSEN_LAYER, MASKED
from lethe.training import load_mask
from lethe.training.storage import read_header

MASK_FILE = "mask.safetensors"


def check_mask(run: RecordedRun, done: Verification, unlearned: nn.Module) -> None:
    """Add the checks of the mask; none for a run without one."""
    masked = run.recorded(MASKED)
    if not run.has(MASK_FILE):
        if masked is not None:
            done.check(MASK_FILE, f"{masked} weights switched off", None)
        return
    path = run.artifact(MASK_FILE)
    try:
        mask, header = load_mask(path), read_header(path)
        weight = unlearned.get_parameter(f"{mask.layer}.weight").detach()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        done.check(MASK_FILE, "a mask that can be read", " ".join(str(error).split()))
        return
    done.check(
        f"{MASK_FILE}: weights switched off", "none" if masked is None else masked, str(mask.kappa_count)
    )
    chosen = run.recorded(CHOSEN_LAYER)
    if chosen is not None:
        done.check(f"{MASK_FILE}: layer", chosen, mask.layer)
    done.check(f"{MASK_FILE}: shape", str(tuple(weight.shape)), str(tuple(mask.keep.shape)))
    if weight.shape == mask.keep.shape:
        left = int(weight.cpu()[~mask.keep].count_nonzero())
        done.check(f"{MASK_FILE}: weights under it that are not zero", "0", str(left))
    expected = [run.record.run_id, *(run.param(name) for name in ("unlearn", "request", "dataset"))]
    found = [str(header.get(name)) for name in ("run_id", "method", "request", "dataset")]
    done.check(f"{MASK_FILE}: run, method, request, dataset", ", ".join(expected), ", ".join(found))
