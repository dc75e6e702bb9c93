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
from langchain_bge_medical.clinical.polarity import Finding, findings
from langchain_bge_medical.clinical.triage import default_red_flags

DATA = Path(__file__).parent / "data"
MISREAD = DATA / "misread.json"
POLARITY = ["clinical_polarity_dev", *(f"clinical_polarity_dev{i}" for i in range(2, 10))]
TRIAGE = ["clinical_triage_dev", "clinical_triage_dev2", "clinical_triage_dev3"]


def lines(name: str) -> list[dict[str, Any]]:
    """The records of a file in tests/data."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]


def matched(mentions: list[dict[str, Any]], said: list[Finding], *, with_term: bool = False) -> int:
    """How many mentions a finding of the same status (and term) overlaps, each finding counted once."""
    left = list(said)
    for mention in mentions:
        for finding in left:
            overlap = finding.start < mention["end"] and mention["start"] < finding.end
            same = finding.status == mention["status"] and (not with_term or finding.term == mention["term"])
            if overlap and same:
                left.remove(finding)
                break
    return len(said) - len(left)


def alarms(name: str) -> list[tuple[bool, bool]]:
    """For each line of a file whether it is an emergency, and whether it is called one."""
    flags = default_red_flags()
    return [(line["triage"] == "emergency", flags.triage(line["query"]).level == "emergency") for line in lines(name)]


def misread(name: str) -> dict[str, int]:
    """How often each misread line of a file is: mentions missed, and findings that are none or of another status."""
    if name in TRIAGE:
        wrong = [int(truly != said) for truly, said in alarms(name)]
    else:
        lexicon, wrong = default_lexicon(), []
        for line in lines(name):
            said = findings(line["query"], lexicon)
            wrong.append(len(line["mentions"]) + len(said) - 2 * matched(line["mentions"], said))
    return {str(number): times for number, times in enumerate(wrong, start=1) if times}


if __name__ == "__main__":
    found = {name: misread(name) for name in (*POLARITY, *TRIAGE)}
    MISREAD.write_text(
        "{\n" + ",\n".join(f'"{name}": {json.dumps(numbers)}' for name, numbers in found.items()) + "\n}\n", "utf-8"
    )
    print({name: f"{len(numbers)} of {len(lines(name))}" for name, numbers in found.items()})  # noqa: T201 - a command
