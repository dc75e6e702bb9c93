"""Texts that are emergencies and texts that are not → `resources/alarm.json`, what `clinical.alarm` hears by.

    python -m langchain_bge_medical.training.alarm [--out FILE]

Each writer of the texts is left out once and judged by what the others wrote; what that gives for the red-flag rules
alone, and for rules and model, is printed before the model of all texts is written. Not so the writers called `rules`,
on whose texts the rules were written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from langchain_bge_medical.clinical.alarm import Alarm, runs, units
from langchain_bge_medical.clinical.folding import folded
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import RedFlags

CORPUS = Path(__file__).parent / "corpus" / "emergencies.jsonl"
_OUT = Path(__file__).parents[1] / "resources" / "alarm.json"
_C = 20.0  # of scikit-learn's: 3 to 30 do about as well on writers left out
_FEWEST_TEXTS = 2  # that a run must occur in


class Text(NamedTuple):
    """One text of the corpus."""

    query: str
    emergency: bool
    writer: str


def read(path: Path = CORPUS) -> list[Text]:
    """Read JSON Lines of `{"query", "emergency", "writer"}`."""
    return [Text(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def fit(texts: Sequence[Text]) -> Alarm:
    """Return the model learnt from `texts`: TF-IDF, unit length, logistic regression with balanced classes."""
    return Alarm(*_fitted(texts))


def _fitted(texts: Sequence[Text]) -> tuple[float, dict[str, tuple[float, float]]]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(analyzer=_runs_of, min_df=_FEWEST_TEXTS, sublinear_tf=True)
    x = vectorizer.fit_transform([text.query for text in texts])
    model: Any = LogisticRegression(C=_C, class_weight="balanced", max_iter=3_000)
    model.fit(x, [text.emergency for text in texts])
    columns = vectorizer.get_feature_names_out()
    # Three decimals: what they change is far below what an unknown writer changes.
    weights = [
        (round(float(idf), 3), round(float(w), 3)) for idf, w in zip(vectorizer.idf_, model.coef_[0], strict=True)
    ]
    return round(float(model.intercept_[0]), 3), dict(zip(map(str, columns), weights, strict=True))


def _runs_of(text: str) -> list[str]:
    return list(runs(units(folded(text)[0])))


def main() -> None:
    """Print how it does on each writer left out, and write the model of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=_OUT)
    options = parser.parse_args()
    texts = read()
    rules = RedFlags.load(default_lexicon(), alarm=None)
    for writer in sorted({text.writer for text in texts} - {"rules"}):
        rest = fit([text for text in texts if text.writer != writer])
        both = RedFlags.load(default_lexicon(), alarm=rest)
        mine = [text for text in texts if text.writer == writer]
        shares = [f"{name} {_share(flags, mine, True):.3f} of emergencies, {_share(flags, mine, False):.3f} of others"
                  for name, flags in (("rules", rules), ("both", both))]  # fmt: skip
        print(f"{writer} ({len(mine)} texts): {'; '.join(shares)}", flush=True)  # noqa: T201
    bias, weights = _fitted(texts)
    table = [[run, *pair] for run, pair in sorted(weights.items())]
    options.out.write_text(
        json.dumps({"bias": bias, "runs": table}, ensure_ascii=False, separators=(",", ":")), "utf-8"
    )
    print(f"{len(texts)} texts, {len(table)} runs → {options.out}")  # noqa: T201


def _share(flags: RedFlags, texts: Sequence[Text], emergency: bool) -> float:
    called = [flags.triage(text.query).level == "emergency" for text in texts if text.emergency == emergency]
    return sum(called) / len(called)


if __name__ == "__main__":
    main()
