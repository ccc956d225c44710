"""Eight processes that log into one store, which may be new, at the same time."""

import multiprocessing

WORKERS, RUNS, STEPS, SETS = 8, 2, 10, 4
EXPERIMENT = "together"


def params_of(name: str) -> dict[str, str]:
    return {f"param_{which}": f"{name}, {which}" for which in range(5)}


def metrics_of(name: str) -> dict[str, float]:
    return {f"metric_{which}": hash((which, *map(int, name.split()))) / 7 for which in range(10)}


def history_of(name: str) -> list[dict[str, float]]:
    return [{"loss": step + sum(map(int, name.split())) / 100} for step in range(1, STEPS + 1)]


def work(worker: int) -> None:
    from lethe.tracking.run import tracked_run

    for run in range(RUNS):
        name = f"{worker} {run}"
        with tracked_run(EXPERIMENT, name) as tracked:
            for which in range(SETS):
                tracked.image_set(f"set {which}", f"{run}{which}" * 16, "digits", "training")
            tracked.params(params_of(name))
            tracked.metrics(metrics_of(name))
            tracked.history(history_of(name), "train_")


def all_at_once() -> int:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(number,)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(abs(worker.exitcode or 0) for worker in workers)
