"""A file of queries × the stages of retrieval → a table of how well each stage does."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from langchain_bge_medical.evaluation.metrics import hit_at, outranks, recall_at, reciprocal_rank_at
from langchain_bge_medical.knowledge_base import normalize_name

Ranker = Callable[[str], Sequence[str]]
"""A query → disease names, best first."""


class LabelledQuery(BaseModel):
    """A line of a query file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: str
    relevant: tuple[str, ...] | None = None
    """Diseases, by name or alias; empty means that the right answer is to abstain; `None` says nothing."""
    irrelevant: tuple[str, ...] = ()
    triage: Literal["emergency", "urgent", "routine", "self_care", "not_emergency"] | None = None


class QueryFileError(ValueError):
    """A line of a query file that is not a labelled query."""


def read_queries(path: Path) -> list[LabelledQuery]:
    """Read JSON Lines of `{"query", "relevant", "irrelevant"?, "triage"?}`; other keys are ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        QueryFileError: If a line is something else, or there is none. Names the line, not its text.
    """
    queries = []
    # Bytes, since text would also be split at U+2028 and the like, which JSON allows inside a string.
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            try:
                queries.append(LabelledQuery.model_validate(json.loads(line.decode())))
            except ValidationError as error:
                first = error.errors()[0]
                raise QueryFileError(f"{path}, line {number}: {first['loc']}: {first['msg']}") from None
            except (ValueError, RecursionError):
                raise QueryFileError(f"{path}, line {number}: is not JSON") from None
    if not queries:
        raise QueryFileError(f"{path}: holds no query")
    return queries


class NameIndex:
    """Disease names and aliases → disease names, compared after NFKC, case folding and without blanks."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take records (or documents' metadata) with `disease` and maybe `aliases`; names go before aliases."""
        self._names: dict[str, str] = {}
        aliases: dict[str, str] = {}
        for record in records:
            self._names.setdefault(normalize_name(record["disease"]), record["disease"])
            for alias in record.get("aliases", ()):
                aliases.setdefault(normalize_name(alias), record["disease"])
        self._names = {**aliases, **self._names}

    def get(self, name: str) -> str | None:
        """Return the disease of that name or alias, or `None`."""
        return self._names.get(normalize_name(name))


def compare_stages(queries: Sequence[LabelledQuery], stages: Mapping[str, Ranker], names: NameIndex) -> dict[str, Any]:
    """Run every query with relevant diseases through every stage.

    Args:
        queries: Those without `relevant` are not counted here.
        stages: Name → ranker, each over the whole knowledge base or its best 50 at least.
        names: Of the knowledge base.

    Returns:
        `n`, `stages` (hit@1, hit@3, hit@5, mrr@10, recall@50 by stage), `pairwise` (share of the queries
        with `irrelevant` whose best relevant disease outranks all of those, by stage, with its `n`), and
        `missing_from_kb` (names that the knowledge base lacks; a query all of whose names are missing still
        counts, as a miss).
    """
    missing: dict[str, None] = {}
    judged = []
    for query in queries:
        if query.relevant:
            known = []
            for group in (query.relevant, query.irrelevant):
                found = {name: names.get(name) for name in group}
                missing.update(dict.fromkeys(name for name, disease in found.items() if disease is None))
                known.append(
                    {disease for disease in found.values() if disease is not None}
                    | {n for n, d in found.items() if d is None}
                )
            judged.append((query.query, known[0], known[1]))
    rows: dict[str, dict[str, float | None]] = {}
    pairwise: dict[str, Any] = {"n": sum(bool(irrelevant) for _, _, irrelevant in judged)}
    for stage, rank in stages.items():
        rankings = [rank(text) for text, _, _ in judged]
        both = list(zip(rankings, judged, strict=True))
        rows[stage] = {
            "hit@1": _mean(hit_at(ranking, relevant, 1) for ranking, (_, relevant, _) in both),
            "hit@3": _mean(hit_at(ranking, relevant, 3) for ranking, (_, relevant, _) in both),
            "hit@5": _mean(hit_at(ranking, relevant, 5) for ranking, (_, relevant, _) in both),
            "mrr@10": _mean(reciprocal_rank_at(ranking, relevant, 10) for ranking, (_, relevant, _) in both),
            "recall@50": _mean(recall_at(ranking, relevant, 50) for ranking, (_, relevant, _) in both),
        }
        pairwise[stage] = _mean(
            float(outranks(ranking, relevant, irrelevant)) for ranking, (_, relevant, irrelevant) in both if irrelevant
        )
    return {"n": len(judged), "stages": rows, "pairwise": pairwise, "missing_from_kb": list(missing)}


def abstention(queries: Sequence[LabelledQuery], abstains: Callable[[str], bool]) -> dict[str, Any]:
    """Return how often it is right to say nothing, and wrong.

    Returns:
        `refused_off_topic` (share of the queries with empty `relevant`) and `refused_real` (share of those
        with some), each with its count.
    """
    off_topic = [abstains(query.query) for query in queries if query.relevant == ()]
    real = [abstains(query.query) for query in queries if query.relevant]
    return {
        "n_off_topic": len(off_topic),
        "refused_off_topic": _mean(map(float, off_topic)),
        "n_real": len(real),
        "refused_real": _mean(map(float, real)),
    }


def triage_accuracy(queries: Sequence[LabelledQuery], level_of: Callable[[str], str]) -> dict[str, Any]:
    """Return how well emergencies are told from the rest.

    Returns:
        `emergency_recall` and `false_alarms` (share of the queries that are no emergency but are called one),
        each with its count, and `exact` for queries labelled with a level.
    """
    labelled = [(query.triage, level_of(query.query)) for query in queries if query.triage]
    emergencies = [level == "emergency" for label, level in labelled if label == "emergency"]
    others = [level == "emergency" for label, level in labelled if label != "emergency"]
    return {
        "n_emergency": len(emergencies),
        "emergency_recall": _mean(map(float, emergencies)),
        "n_other": len(others),
        "false_alarms": _mean(map(float, others)),
        "exact": _mean(float(label == level) for label, level in labelled if label != "not_emergency"),
    }


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return round(sum(listed) / len(listed), 4) if listed else None
