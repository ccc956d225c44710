"""The mask of a run: how many weights it switches off, and whether they are off in the unlearned model."""

from __future__ import annotations

from torch import nn

from audits.recorded_run import RecordedRun
from audits.verified import Check, Verification
from identity import MASKED
from training import load_mask
from training.storage import read_header

MASK_FILE = "mask.safetensors"


def check_mask(run: RecordedRun, done: Verification, unlearned: nn.Module) -> None:
    """Nothing for a run that has none."""
    if not run.has(MASK_FILE):
        if MASKED in run.record.params:
            done.checks.append(Check(MASK_FILE, f"{run.param(MASKED)} weights switched off", None))
        return
    run.params_seen.add(MASKED)
    path = run.artifact(MASK_FILE)
    try:
        mask, header = load_mask(path), read_header(path)
        weight = unlearned.get_parameter(f"{mask.layer}.weight").detach()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        done.checks.append(Check(MASK_FILE, "a mask that can be read", " ".join(str(error).split())))
        return
    named = run.record.params.get(MASKED, "none")
    done.checks.append(Check(f"{MASK_FILE}: weights switched off", named, str(mask.kappa_count)))
    done.checks.append(Check(f"{MASK_FILE}: shape", str(tuple(weight.shape)), str(tuple(mask.keep.shape))))
    if weight.shape == mask.keep.shape:
        left = int(weight.cpu()[~mask.keep].count_nonzero())
        done.checks.append(
            Check(f"{MASK_FILE}: weights under it that the unlearned model still has", "0", str(left))
        )
    recorded = {name: str(header.get(name)) for name in ("run_id", "method", "request", "dataset")}
    expected = {
        "run_id": run.record.run_id,
        "method": run.param("unlearn"),
        "request": run.param("request"),
        "dataset": run.param("dataset"),
    }
    done.checks.append(Check(f"{MASK_FILE}: what it is of", _words(expected), _words(recorded)))


def _words(values: dict[str, str]) -> str:
    return ", ".join(values.values())
