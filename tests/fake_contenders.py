"""Stand-ins for libraries in the benchmark, which runs each in a process of its own and finds it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from langchain_bge_medical.evaluation.contenders import Pairs, Score


def slow(model: Path, made: Path, setting: float) -> Score:
    """Takes the setting's time, and scores in the opposite order of length."""

    def score(pairs: Pairs) -> list[float]:
        time.sleep(setting)
        return [-float(len(document)) for _, document in pairs]

    return score


def broken(model: Path, made: Path, setting: Any) -> Score:
    raise OSError("its licence has run out")


def killed(model: Path, made: Path, setting: Any) -> Score:
    """As by a kernel that is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def made_before(model: Path, made: Path, pairs: Pairs) -> None:
    (made / "converted").write_text(str(len(pairs)))


def converted(model: Path, made: Path, setting: Any) -> Score:
    number = float((made / "converted").read_text())
    return lambda pairs: [number] * len(pairs)
