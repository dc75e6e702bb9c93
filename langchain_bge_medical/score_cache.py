"""Pair → logit, kept in memory. Holds digests and numbers, never a text."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping


class ScoreCache:
    """The logits of the pairs scored last, for any number of models and threads.

    Keys are digests that the scorer makes of its model, its settings and the pair's tokens, so that one
    cache may serve several models and no text is ever in it.
    """

    def __init__(self, max_entries: int = 100_000) -> None:
        """Take the bound; about 150 bytes an entry.

        Args:
            max_entries: How many pairs are kept; the one used longest ago goes first.

        Raises:
            ValueError: If `max_entries` is less than 1.
        """
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, got {max_entries}")
        self.max_entries = max_entries
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._logits: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logits)

    def __getstate__(self) -> dict[str, int]:
        return {"max_entries": self.max_entries}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["max_entries"])  # type: ignore[misc]  # a copy starts empty

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, float]:
        """Return the logits that are known, by key."""
        found = {}
        with self._lock:
            for key in keys:
                if key in self._logits:
                    self._logits.move_to_end(key)
                    found[key] = self._logits[key]
                    self.hits += 1
                else:
                    self.misses += 1
        return found

    def set_many(self, logits: Mapping[bytes, float]) -> None:
        """Remember logits, forgetting the ones used longest ago beyond `max_entries`."""
        with self._lock:
            self._logits.update(logits)
            while len(self._logits) > self.max_entries:
                self._logits.popitem(last=False)
