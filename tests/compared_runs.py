"""Runs for tests of comparisons, made of a few numbers."""

from collections.abc import Mapping

from lethe.report.seeds_summary import SeedRun, Settings, Task, tasks_of

TASK: Settings = (("arch", "mlp"), ("dataset", "digits"), ("request", "class0"))


def run(
    method: str = "FT",
    seed: str = "1",
    own: Settings = (),
    task: Settings = TASK,
    status: str = "FINISHED",
    start: int = 0,
    metrics: Mapping[str, float] | None = None,
    forgotten: str = "",
) -> SeedRun:
    settings = tuple(sorted(task + own))
    return SeedRun(
        "digits-mlp", method, seed, settings, status, start, dict(metrics or {}), forgotten=forgotten
    )


def whole_class(forget: float, retain: float, gap: float = 1.0, seconds: float = 1.0) -> dict[str, float]:
    """A run's numbers where a class was forgotten, in percent, points or seconds, and the ideal model's."""
    own = {
        "test_forget_score": forget,
        "test_retain_score": retain,
        "avg_gap": gap,
        "unlearn_seconds": seconds,
    }
    own |= {
        f"test_{part}_{what}": forget / 100
        for part in ("forget", "retain")
        for what in ("loss", "probability")
    }
    base = {"ideal_test_forget_score": 0.0, "ideal_test_retain_score": 98.0, "ideal_seconds": 30.0}
    base |= {"initial_test_forget_score": 99.0, "initial_test_retain_score": 99.0}
    return own | base


def one(*runs: SeedRun) -> Task:
    (task,) = tasks_of(runs)
    return task
