"""How running times grow with the text, told apart from a busy machine: `takes_linear_time`."""

from collections.abc import Callable
from time import thread_time


def takes_linear_time(run: Callable[[str], object], unit: str, size: int) -> bool:
    """Whether a text of `size` characters takes about eight times as long as an eighth of it.

    Quadratic time takes 64 times as long. Only this thread's time counts, and others on the machine can but slow it
    down: one try of three is enough. What takes milliseconds may grow as it likes.
    """
    text = (unit * size)[:size]
    run(text[:100])  # what is made once

    def seconds(text: str) -> float:
        started = thread_time()
        run(text)
        return thread_time() - started

    return any(seconds(text) < 24 * seconds(text[: size // 8]) + 0.05 for _ in range(3))
