from __future__ import annotations

from pathlib import Path

import pytest

from tests.failures import HEAD, ROWS, seen

TABLE = (Path(__file__).parents[1] / "examples" / "failures.md").read_text("utf-8")


@pytest.mark.parametrize("what", ROWS)
def test_what_fails_shows_what_the_table_says(what: str) -> None:
    [line] = [line for line in TABLE.splitlines() if line.startswith(f"| {what} |")]
    assert line == f"| {what} | {seen(ROWS[what])} |"


def test_the_table_has_no_other_lines() -> None:
    assert TABLE.startswith(HEAD)
    assert len(TABLE.removeprefix(HEAD).splitlines()) == len(ROWS)
