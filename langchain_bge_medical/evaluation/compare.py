"""A file of queries × the stages of retrieval → a table of how well each stage does."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from langchain_bge_medical.evaluation.intervals import Difference, difference, mean_interval
from langchain_bge_medical.evaluation.metrics import (
    Bin,
    expected_calibration_error,
    first_hit,
    hit_at,
    ndcg_at,
    outranks,
    recall_at,
    reciprocal_rank_at,
    reliability,
)
from langchain_bge_medical.knowledge_base import listed, normalize_name

Ranker = Callable[[str], Sequence[str]]
"""A query → disease names, best first."""

METRICS: Mapping[str, Callable[[Sequence[str], Collection[str]], float]] = {
    "hit@1": partial(hit_at, k=1),
    "hit@3": partial(hit_at, k=3),
    "hit@5": partial(hit_at, k=5),
    "mrr@10": partial(reciprocal_rank_at, k=10),
    "ndcg@10": partial(ndcg_at, k=10),
    "recall@50": partial(recall_at, k=50),
}
_SHORT = ("hit@1", "hit@5", "mrr@10")
# What decides whether a ranker is better than another: it moves with every rank that matters, hit@1 with one only.
_DECIDING = "mrr@10"


class LabelledQuery(BaseModel):
    """A line of a query file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: str
    relevant: tuple[str, ...] | None = None
    """Diseases, by name or alias; empty means that the right answer is to abstain; `None` says nothing."""
    irrelevant: tuple[str, ...] = ()
    triage: Literal["emergency", "urgent", "routine", "self_care", "not_emergency"] | None = None
    tags: tuple[str, ...] = ()
    """What kind of query it is, e.g. `typo`; figures are given for each."""
    line: int = 0
    """Of its file, from 1: how reports name a query without its words."""

    @field_validator("query")
    @classmethod
    def _says_something(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("is blank; there is nothing to rank by")
        return query


class QueryFileError(ValueError):
    """A line of a query file that is not a labelled query."""


def read_queries(path: Path) -> list[LabelledQuery]:
    """Read JSON Lines of `{"query", "relevant", "irrelevant"?, "triage"?, "tags"?}`; other keys are ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        QueryFileError: If a line is something else, or there is none. Names the line, not its text.
    """
    queries = []
    # Bytes, since text would also be split at U+2028 and the like, which JSON allows inside a string.
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            try:
                raw = json.loads(line.decode())
                queries.append(LabelledQuery.model_validate({**raw, "line": number} if isinstance(raw, dict) else raw))
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
            for alias in listed(record, "aliases"):
                aliases.setdefault(normalize_name(alias), record["disease"])
        self._names = {**aliases, **self._names}

    def get(self, name: str) -> str | None:
        """Return the disease of that name or alias, or `None`."""
        return self._names.get(normalize_name(name))


class JudgedQuery(NamedTuple):
    """A query with its right and wrong answers as the knowledge base names them."""

    line: int
    text: str
    relevant: frozenset[str]
    irrelevant: frozenset[str]
    tags: tuple[str, ...]


class Comparison:
    """What several stages make of the same queries, and how sure the differences between them are."""

    def __init__(self, queries: Sequence[JudgedQuery], rankings: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Take the queries, and by stage the ranking of each of them, best first."""
        self.queries = list(queries)
        self.rankings = {stage: [list(ranking) for ranking in found] for stage, found in rankings.items()}
        self._values = {
            stage: {
                name: [metric(ranking, query.relevant) for ranking, query in zip(found, self.queries, strict=True)]
                for name, metric in METRICS.items()
            }
            for stage, found in self.rankings.items()
        }

    def table(self, metrics: Iterable[str] = METRICS) -> dict[str, dict[str, float | None]]:
        """Return the mean of each metric by stage; `None` without queries."""
        names = list(metrics)
        return {stage: {name: _mean(values[name]) for name in names} for stage, values in self._values.items()}

    def intervals(self) -> dict[str, dict[str, list[float] | None]]:
        """Return the ends of each mean's 95 % bootstrap interval, by stage and metric."""
        found = {
            stage: {name: mean_interval(of_metric) for name, of_metric in values.items()}
            for stage, values in self._values.items()
        }
        return {
            stage: {name: ends and [round(end, 4) for end in ends] for name, ends in by_metric.items()}
            for stage, by_metric in found.items()
        }

    def difference(self, before: str, after: str, metric: str) -> Difference | None:
        """Return what `after` adds to `before`, paired by query, with its interval; `None` without queries.

        Args:
            before: A stage.
            after: Another.
            metric: A key of `METRICS`.
        """
        # Queries about one disease stand or fall together.
        groups = [min(query.relevant) for query in self.queries]
        return difference(self._values[before][metric], self._values[after][metric], groups=groups)

    def pairwise(self) -> dict[str, Any]:
        """Return the share of the queries with irrelevant names whose best relevant one outranks all of those.

        By stage, with the number of such queries as `n`.
        """
        result: dict[str, Any] = {"n": sum(bool(query.irrelevant) for query in self.queries)}
        for stage, found in self.rankings.items():
            result[stage] = _mean(
                float(outranks(ranking, query.relevant, query.irrelevant))
                for ranking, query in zip(found, self.queries, strict=True)
                if query.irrelevant
            )
        return result

    def parts(self, labels: Callable[[JudgedQuery], Iterable[str]]) -> dict[str, dict[str, Any]]:
        """Return `n` and a short table for every label, the most frequent first; a query may have several labels."""
        members: dict[str, list[int]] = {}
        for i, query in enumerate(self.queries):
            for label in dict.fromkeys(labels(query)):
                members.setdefault(label, []).append(i)
        result = {}
        for label, chosen in sorted(members.items(), key=lambda item: -len(item[1])):
            stages = {
                stage: {name: _mean(values[name][i] for i in chosen) for name in _SHORT}
                for stage, values in self._values.items()
            }
            result[label] = {"n": len(chosen), "stages": stages}
        return result

    def worse(self, before: str, after: str) -> list[dict[str, Any]]:
        """Return the queries whose best relevant disease `after` puts lower than `before`, the worst first.

        Returns:
            `line` of the query file, `before` and `after`: its rank, or `None` where it is not ranked, `first`:
            what stands on top now, and `relevant`. No patient's words.
        """
        fallen = []
        for query, old, new in zip(self.queries, self.rankings[before], self.rankings[after], strict=True):
            was, now = first_hit(old, query.relevant), first_hit(new, query.relevant)
            if was is not None and (now is None or now > was):
                loss = 1 / was - (0 if now is None else 1 / now)
                row = {
                    "line": query.line,
                    "before": was,
                    "after": now,
                    "first": new[0] if new else None,
                    "relevant": sorted(query.relevant),
                }
                fallen.append((loss, row))
        return [row for _, row in sorted(fallen, key=lambda item: -item[0])]


def judged(queries: Iterable[LabelledQuery], names: NameIndex) -> tuple[list[JudgedQuery], list[str]]:
    """Return the queries that have relevant diseases, and the names that the knowledge base lacks.

    A query all of whose relevant names are missing still counts, as a miss; irrelevant ones that are missing are left
    out, since nothing could rank them.
    """
    missing: dict[str, None] = {}
    found = []
    for query in queries:
        if query.relevant:
            known = {name: names.get(name) for name in (*query.relevant, *query.irrelevant)}
            missing.update(dict.fromkeys(name for name, disease in known.items() if disease is None))
            relevant = frozenset(known[name] or name for name in query.relevant)
            irrelevant = frozenset(disease for name in query.irrelevant if (disease := known[name]) is not None)
            found.append(JudgedQuery(query.line, query.query, relevant, irrelevant, query.tags))
    return found, list(missing)


def departments_of(departments: Mapping[str, str]) -> Callable[[JudgedQuery], list[str]]:
    """Return the departments of a query's relevant diseases, from disease → departments joined by `、`."""
    return lambda query: [
        part for disease in sorted(query.relevant) for part in departments.get(disease, "").split("、") if part
    ]


def compare(queries: Iterable[JudgedQuery], stages: Mapping[str, Ranker]) -> Comparison:
    """Run every query through every stage, query by query, so that stages may share what they find.

    Args:
        queries: Judged by the same knowledge base; read once.
        stages: Name → ranker, each over the whole knowledge base or its best 50 at least.

    Returns:
        The comparison.
    """
    asked: list[JudgedQuery] = []
    rankings: dict[str, list[Sequence[str]]] = {stage: [] for stage in stages}
    for query in queries:
        asked.append(query)
        for stage, rank in stages.items():
            rankings[stage].append(rank(query.text))
    return Comparison(asked, rankings)


def no_rerank_guard(comparison: Comparison, first_stage: str, stages: Sequence[str]) -> dict[str, Any]:
    """Return whether each of `stages` may be called better than the first stage alone on these queries.

    Returns:
        `first_stage`, `metric`, and by stage the paired difference with its interval and `verdict`.
    """
    found = {stage: comparison.difference(first_stage, stage, _DECIDING) for stage in stages}
    return {
        "first_stage": first_stage,
        "metric": _DECIDING,
        "stages": {stage: None if gain is None else gain.as_json() for stage, gain in found.items()},
    }


class Calibrated(NamedTuple):
    """How well a confidence in the disease ranked first keeps its word."""

    n: int
    ece: float | None
    bins: list[Bin]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON types."""
        bins = [
            {"n": bin_.n, "confidence": round(bin_.confidence, 4), "right": round(bin_.correct, 4)}
            for bin_ in self.bins
        ]
        return {"n": self.n, "ece": None if self.ece is None else round(self.ece, 4), "bins": bins}


def calibration_of(queries: Iterable[JudgedQuery], first: Callable[[str], tuple[str, float] | None]) -> Calibrated:
    """Compare the confidence in the disease ranked first with how often it is right.

    Args:
        queries: Not those that the confidence was fitted on.
        first: A query → the disease ranked first and the confidence in it, or `None`.
    """
    said = [(query, answer) for query in queries if (answer := first(query.text)) is not None]
    confidences = [confidence for _, (_, confidence) in said]
    right = [disease in query.relevant for query, (disease, _) in said]
    return Calibrated(len(said), expected_calibration_error(confidences, right), reliability(confidences, right))


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
