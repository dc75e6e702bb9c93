"""Batches side by side on a CPU: a thread each with its share of the cores, instead of all cores on each operation."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")

# Python runs one thread at a time between operations; more than these would wait for each other.
_MOST_THREADS = 8


class Team:
    """Threads that each run whole batches, on `cores_each` cores.

    Within an operation, cores have to wait for the slowest of them a dozen times per layer, and when another
    process has one of them, all wait. Between batches they wait for nobody. What torch.get_num_threads() says to
    other threads stays as it was.
    """

    def __init__(self) -> None:
        """Start the threads, on as many cores as torch uses in this one."""
        cores = torch.get_num_threads()
        self.size = min(cores, _MOST_THREADS)
        self.cores_each = max(1, cores // self.size)
        self._pid = -1

    def map(self, function: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
        """Return what the function makes of each item, in order.

        Raises:
            Exception: What the function raised first, in the order of the items; the others are done by then.
        """
        if self.size == 1 or len(items) == 1:
            return [function(item) for item in items]
        if self._pid != os.getpid():  # threads do not survive a fork
            self._start()
        futures = [self._threads.submit(function, item) for item in items]
        for future in futures:
            future.exception()
        return [future.result() for future in futures]

    def _start(self) -> None:
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="bge-batch")
        all_there = threading.Barrier(self.size)
        kept = torch.get_num_threads()

        def settle() -> None:
            # Reading the number first makes torch initialise it for this thread; later it would undo the setting.
            torch.get_num_threads()
            torch.set_num_threads(self.cores_each)
            all_there.wait()

        for future in [self._threads.submit(settle) for _ in range(self.size)]:
            future.result()
        # The number is each thread's own, but what new threads begin with is the last one that was set.
        torch.set_num_threads(kept)
        self._pid = os.getpid()
