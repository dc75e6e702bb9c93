"""Texts that are emergencies and texts that are not → `resources/alarm.json`, what `clinical.alarm` hears by.

    python -m langchain_bge_medical.training.alarm [--out FILE]

Each writer of the texts is left out once and judged by what the others wrote; what that gives for the red-flag rules
alone, and for rules and model, is printed before the model of all texts is written. Not so the writers called `rules`,
on whose texts the rules were written, and `h`, who wrote everyday complaints only.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from langchain_bge_medical.clinical.alarm import Alarm, runs, units
from langchain_bge_medical.clinical.folding import folded
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import RedFlags
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from langchain_bge_medical.training.materials import CORPUS
from langchain_bge_medical.training.queries import read_complaints

_EMERGENCIES = Path(__file__).parent / "emergencies.jsonl"
_OUT = Path(__file__).parents[1] / "resources" / "alarm.json"
_C = 20.0  # of scikit-learn's: 3 to 30 do about as well on writers left out
_FEWEST_TEXTS = 3  # that a run must occur in: 2 is no better on writers left out, and twice as large
# Complaints of diseases that can wait, so that a long illness told at length is not heard as an emergency: how many of
# each disease from each file, and what one weighs. Nobody said of each that it is none.
_COMPLAINTS = ("complaints", "more_complaints", "other_words", "english", "english_more")
_CAN_WAIT = {"routine": (10, 0.2), "self_care": (10, 0.2), "urgent": (6, 0.1)}


class Text(NamedTuple):
    """One text to learn from."""

    query: str
    emergency: bool
    writer: str
    weight: float = 1.0


def read() -> list[Text]:
    """Return the texts of which somebody said what they are."""
    lines = _EMERGENCIES.read_text("utf-8").splitlines()
    return [Text(**json.loads(line)) for line in lines]


def read_others(rules: RedFlags) -> list[Text]:
    """Return other talk, and a sample of the complaints of diseases that can wait, without those that meet a rule."""
    urgency = {record.disease: record.urgency for record in MedicalKBLoader(bundled_knowledge_base()).lazy_records()}
    generator = random.Random(20261127)  # noqa: S311 - the same sample each time
    others = [Text(talk.query, False, "other talk") for talk in read_complaints(CORPUS / "off_topic.jsonl")]
    for file in _COMPLAINTS:
        of_disease: defaultdict[str, list[str]] = defaultdict(list)
        for complaint in read_complaints(CORPUS / f"{file}.jsonl"):
            of_disease[complaint.disease].append(complaint.query)
        for disease, queries in of_disease.items():
            number, weight = _CAN_WAIT.get(urgency.get(disease) or "", (0, 0.0))
            for query in generator.sample(queries, min(number, len(queries))):
                if rules.triage(query).level != "emergency":
                    others.append(Text(query, False, "complaints", weight))
    return others


def fit(texts: Sequence[Text], others: Sequence[Text] = ()) -> Alarm:
    """Return the model learnt from texts: TF-IDF, unit length, logistic regression with balanced classes.

    Args:
        texts: They give the runs and their frequencies.
        others: They only say what is no emergency.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(analyzer=_runs_of, min_df=_FEWEST_TEXTS, sublinear_tf=True)
    vectorizer.fit([text.query for text in texts])
    everything = [*texts, *others]
    emergency = np.array([text.emergency for text in everything])
    weights = np.array([text.weight for text in everything])
    for kind in (True, False):
        weights[emergency == kind] /= weights[emergency == kind].sum() / len(texts)
    model: Any = LogisticRegression(C=_C, max_iter=3_000)
    model.fit(vectorizer.transform([text.query for text in everything]), emergency, sample_weight=weights / 2)
    columns = map(str, vectorizer.get_feature_names_out())
    # Three decimals: what they change is far below what an unknown writer changes.
    numbers = zip(vectorizer.idf_.round(3).tolist(), model.coef_[0].round(3).tolist(), strict=True)
    return Alarm(round(float(model.intercept_[0]), 3), dict(zip(columns, numbers, strict=True)))


def _runs_of(text: str) -> list[str]:
    return list(runs(units(folded(text)[0])))


def main() -> None:
    """Print how it does on each writer left out, and write the model of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=_OUT)
    options = parser.parse_args()
    rules = RedFlags.load(default_lexicon())
    texts, others = read(), read_others(rules)
    for writer in sorted({text.writer for text in texts} - {"rules", "h"}):
        rest = fit([text for text in texts if text.writer != writer], others)
        both = RedFlags.load(default_lexicon(), alarm=rest)
        mine = [text for text in texts if text.writer == writer]
        shares = [f"{name} {_share(flags, mine, True):.3f} of emergencies, {_share(flags, mine, False):.3f} of others"
                  for name, flags in (("rules", rules), ("both", both))]  # fmt: skip
        print(f"{writer} ({len(mine)} texts): {'; '.join(shares)}", flush=True)  # noqa: T201
    made = fit(texts, others)
    table = [[run, *pair] for run, pair in sorted(made.runs.items())]
    options.out.write_text(
        json.dumps({"bias": made.bias, "runs": table}, ensure_ascii=False, separators=(",", ":")), "utf-8"
    )
    print(f"{len(texts)} texts and {len(others)} others, {len(table)} runs → {options.out}")  # noqa: T201


def _share(flags: RedFlags, texts: Sequence[Text], emergency: bool) -> float:
    called = [flags.triage(text.query).level == "emergency" for text in texts if text.emergency == emergency]
    return sum(called) / len(called)


if __name__ == "__main__":
    main()
