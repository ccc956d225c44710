"""Work for several models side by side: one thread each, in which torch uses no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

import torch

from training.loop import Progress

Result = TypeVar("Result")


class Stopped(Exception):
    """Another part has failed, or the user has had enough."""


def side_by_side(
    work: Callable[[slice, Progress], list[Result]], parts: Sequence[slice], steps: int, progress: Progress, label: str
) -> list[Result]:
    """The results of `work(part, ticking)` of all parts, in their order, as many at a time as torch has threads.

    Each part's `ticking` has to be asked for its `steps` steps, of which `progress` shows those of all parts. Where one part raises, the
    others end at their next step, and its error is raised. Two threads that do not wait for each other within an operation are
    faster than operations cut in two, the more so where other processes are at work.
    """
    threads, stopped, ticks = torch.get_num_threads(), Event(), SimpleQueue[bool]()

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

    try:
        with ThreadPoolExecutor(min(threads, len(parts))) as pool:
            try:
                futures = [pool.submit(in_one_thread, part) for part in parts]
                for future in futures:
                    future.add_done_callback(ended)
                for _ in progress(range(steps * len(parts)), label):
                    if not ticks.get() or stopped.is_set():
                        break
                for error in [future.exception() for future in futures]:
                    if error is not None and not isinstance(error, Stopped):
                        raise error
                return [result for future in futures for result in future.result()]
            finally:
                stopped.set()
    finally:
        torch.set_num_threads(threads)
