"""Which development sentences the clinical rules misread; what they read right must stay right.

    python -m tests.readings

writes `data/misread.json` anew: for each file how often which line is not read as its author means it. Run it when a
rule got better, and look at the difference: a line that comes, or a number that grows, is a sentence that got worse.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.polarity import findings
from langchain_bge_medical.clinical.triage import default_red_flags

DATA = Path(__file__).parent / "data"
MISREAD = DATA / "misread.json"
POLARITY = ["clinical_polarity_dev", *(f"clinical_polarity_dev{i}" for i in range(2, 8))]
TRIAGE = ["clinical_triage_dev", "clinical_triage_dev2", "clinical_triage_dev3"]


def lines(name: str) -> list[dict[str, Any]]:
    """The records of a file in tests/data."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]


def misread(name: str) -> dict[str, int]:
    """How often each misread line of a file is: mentions missed, and findings that are none or of another status."""
    if name in TRIAGE:
        flags = default_red_flags()
        return {
            str(number): 1
            for number, line in enumerate(lines(name), start=1)
            if (flags.triage(line["query"]).level == "emergency") != (line["triage"] == "emergency")
        }
    lexicon = default_lexicon()
    wrong = {}
    for number, line in enumerate(lines(name), start=1):
        left = list(findings(line["query"], lexicon))
        missed = 0
        for mention in line["mentions"]:
            same = next(
                (
                    finding
                    for finding in left
                    if finding.start < mention["end"]
                    and mention["start"] < finding.end
                    and finding.status == mention["status"]
                ),
                None,
            )
            if same is None:
                missed += 1
            else:
                left.remove(same)
        if missed or left:
            wrong[str(number)] = missed + len(left)
    return wrong


if __name__ == "__main__":
    found = {name: misread(name) for name in (*POLARITY, *TRIAGE)}
    MISREAD.write_text(
        "{\n" + ",\n".join(f'"{name}": {json.dumps(numbers)}' for name, numbers in found.items()) + "\n}\n", "utf-8"
    )
    print({name: f"{len(numbers)} of {len(lines(name))}" for name, numbers in found.items()})  # noqa: T201 - a command
