"""Work on several models in parallel: a thread for each, in which torch uses one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

import torch

from lethe.system.threads import computing_with, usable_cores
from lethe.training.loop import Progress

Result = TypeVar("Result")


class Stopped(Exception):
    """Another part failed, or the user interrupted."""


def side_by_side(
    work: Callable[[slice, Progress], list[Result]],
    parts: Sequence[slice],
    steps: int,
    progress: Progress,
    label: str,
) -> list[Result]:
    """Return the results of `work(part, ticking)` for all parts, in order, on a thread for each core.

    Each part iterates over `ticking(...)` of its `steps` steps; `progress` shows the steps of all parts. If a
    part raises, the others stop at their next step, and its error is raised. Independent threads are faster
    than operations divided among threads, all the more on a busy machine.
    """
    stopped, ticks = Event(), SimpleQueue[bool]()

    def ticking(every: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        for step in every:
            if stopped.is_set():
                raise Stopped
            yield step
            ticks.put(True)

    def in_one_thread(part: slice) -> list[Result]:
        if stopped.is_set():
            raise Stopped
        torch.set_num_threads(1)
        return work(part, ticking)

    def ended(part: Future[list[Result]]) -> None:
        if part.exception():
            stopped.set()
            ticks.put(False)

    pool = ThreadPoolExecutor(min(usable_cores(), len(parts)))
    with computing_with(1), pool:
        try:
            futures = [pool.submit(in_one_thread, part) for part in parts]
            for future in futures:
                future.add_done_callback(ended)
            _show(progress(range(steps * len(parts)), label), ticks)
            return _results(futures)
        finally:
            stopped.set()


def _show(steps: Iterable[int], ticks: SimpleQueue[bool]) -> None:
    """Advance a progress bar with each tick; stop at False."""
    for _ in steps:
        if not ticks.get():
            return


def _results(parts: Sequence[Future[list[Result]]]) -> list[Result]:
    """Return the results of all parts, or raise the error that stopped the others."""
    for error in [part.exception() for part in parts]:
        if error is not None and not isinstance(error, Stopped):
            raise error
    return [result for part in parts for result in part.result()]
