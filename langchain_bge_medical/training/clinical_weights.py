r"""Labelled queries → the numbers in `clinical/weights.py`, for the models and the knowledge base as they are now.

    python -m langchain_bge_medical.training.clinical_weights \
        --queries tests/data/dev_complaints.jsonl --queries tests/data/dev_short_complaints.jsonl \
        --queries tests/data/clinical_pairs_dev.jsonl \
        --unknown-kb tests/data/further_diseases.json --unknown-queries tests/data/dev_further_complaints.jsonl \
        --unknown-queries tests/data/dev_further_english.jsonl \
        --off-topic tests/data/clinical_off_topic_dev.jsonl --off-topic tests/data/dev_off_topic.jsonl

prints `BLEND`, `ABSTENTION` and `ABSTENTION_THRESHOLD` to be put there, each with how it does beside the one that
stands there now; complaints of one symptom each, drawn from the lexicon, and of nothing but a disease's everyday name
are added by themselves. The unknown knowledge base is one whose diseases the models were not taught, as a user's own
is. Give it queries that no model was trained on and that no figure is reported on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from langchain_core.documents import Document

from langchain_bge_medical.clinical.abstention import features
from langchain_bge_medical.clinical.coverage import AffirmedWords, Points, SymptomCoverage
from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.polarity import findings
from langchain_bge_medical.clinical.triage import RedFlags, default_red_flags
from langchain_bge_medical.clinical.weights import (
    ABSTENTION,
    ABSTENTION_THRESHOLD,
    BLEND,
    AbstentionWeights,
    BlendWeights,
)
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.evaluation.compare import LabelledQuery, NameIndex, read_queries
from langchain_bge_medical.model_files import bundled_knowledge_base

# What is tried for each weight in turn, until none gets better.
_GRID = {
    "affirmed": (0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 2.0, 2.5, 3.0),
    "denied": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "named": (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0),
    "recall": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0),
}
# Of 1 each; what else age takes off stays the part of what an impossible one does that it is: none of it is fitted.
_UNIT = BlendWeights(
    *(1.0, 1.0, 1.0, 1.0), impossible=1.0,
    unlikely=BLEND.unlikely / BLEND.impossible, no_child=BLEND.no_child / BLEND.impossible,
)  # fmt: skip
_FALSE_REFUSALS = 0.02  # of the complaints: under the 5 % that are allowed, since new ones are stranger than these
_NAMED = ("{}了", "我{}了,怎么办", "好像{}犯了", "{},两天了")  # how somebody speaks who knows what it is
_SHORT = 200  # complaints of one symptom and nothing else


class Candidates(NamedTuple):
    """What was found for one query, in order of recall."""

    group: int
    """The file that the query is from; each has equal say."""
    documents: list[Document]
    logits: list[float]
    units: list[Points]
    """The points that weights of 1 give."""
    relevant: list[bool]
    irrelevant: list[bool] | None


def observe(
    files: Sequence[Sequence[LabelledQuery]],
    search: Callable[[str], Sequence[Document]],
    names: NameIndex,
    lexicon: SymptomLexicon,
) -> list[Candidates]:
    """Search for every query that has a relevant disease.

    Args:
        files: Queries by file.
        search: A query → all reranked candidates, without adjustment.
        names: Of the knowledge base.
        lexicon: The terms to look for.
    """
    coverage = SymptomCoverage(_UNIT, lexicon)
    seen = []
    for group, queries in enumerate(files):
        for query in queries:
            if not query.relevant:
                continue
            found = sorted(search(query.query), key=lambda document: document.metadata["recall_rank"])
            found = [document for document in found if document.metadata["relevance_logit"] is not None]
            diseases = [document.metadata["disease"] for document in found]
            right, wrong = ({names.get(name) for name in group_} for group_ in (query.relevant, query.irrelevant))
            seen.append(
                Candidates(
                    group,
                    found,
                    [document.metadata["relevance_logit"] for document in found],
                    coverage.points(query.query, found),
                    [disease in right for disease in diseases],
                    [disease in wrong for disease in diseases] if query.irrelevant else None,
                )
            )
    return seen


def fit_blend(seen: Sequence[Candidates], start: BlendWeights = BLEND) -> BlendWeights:
    """Return the weights with the best `quality`, by coordinate search; what age and sex take off is not fitted."""
    best, best_quality = start, quality(seen, start)
    while True:
        before = best
        for name, values in _GRID.items():
            for value in values:
                tried = best._replace(**{name: value})
                if (reached := quality(seen, tried)) > best_quality + 1e-9:
                    best, best_quality = tried, reached
        if best == before:
            return best


def quality(seen: Sequence[Candidates], weights: BlendWeights) -> float:
    """Return the mean of `figures`."""
    values = figures(seen, weights).values()
    return sum(values) / len(values) if values else 0.0


def figures(seen: Sequence[Candidates], weights: BlendWeights) -> dict[str, float]:
    """Return MRR@10 and the share of right pairs, by number of the file."""
    values: dict[tuple[int, str], list[float]] = {}
    for one in seen:
        scores = [
            logit + weights.affirmed * p.affirmed + weights.denied * p.denied + weights.named * p.named
            + weights.recall * p.recall + weights.impossible * p.patient
            for logit, p in zip(one.logits, one.units, strict=True)
        ]  # fmt: skip
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        first = next((rank for rank, i in enumerate(order) if one.relevant[i]), None)
        values.setdefault((one.group, "mrr"), []).append(0.0 if first is None or first >= 10 else 1 / (first + 1))
        if one.irrelevant is not None:
            other = next((rank for rank, i in enumerate(order) if one.irrelevant[i]), len(order))
            values.setdefault((one.group, "pairs"), []).append(float(first is not None and first < other))
    return {f"{name} {group + 1}": round(sum(v) / len(v), 4) for (group, name), v in sorted(values.items())}


def fit_abstention(
    complaints: Iterable[list[float]], off_topic: Iterable[list[float]]
) -> tuple[AbstentionWeights, float, dict[str, float]]:
    """Fit the logistic regression of `clinical.abstention`.

    Args:
        complaints: Features of complaints that a document fits.
        off_topic: Features of other texts.

    Returns:
        The weights; the threshold that refuses 2 % of the complaints; and figures by cross-validation:
        `auroc`, `refused_real`, `refused_off_topic`.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    real, other = list(complaints), list(off_topic)
    x, y = np.array(real + other, dtype=float), np.array([1] * len(real) + [0] * len(other))
    # As many of either count, however many there are.
    model = LogisticRegression(C=3.0, class_weight="balanced", max_iter=1_000)
    chances = cross_val_predict(model, x, y, cv=10, method="predict_proba")[:, 1]
    threshold = float(np.quantile(chances[y == 1], _FALSE_REFUSALS))
    model.fit(x, y)
    weights = AbstentionWeights(round(float(model.intercept_[0]), 2), *(round(float(c), 2) for c in model.coef_[0]))
    # Whatever else an animal has, it is not our patient; there are too few of them to learn that from.
    weights = weights._replace(other_subject=min(weights.other_subject, -9.0))
    quality_of = {
        "auroc": float(roc_auc_score(y, chances)),
        "refused_real": float((chances[y == 1] < threshold).mean()),
        "refused_off_topic": float((chances[y == 0] < threshold).mean()),
    }
    return weights, round(threshold, 3), quality_of


def short_complaints(documents: Iterable[Document], lexicon: SymptomLexicon, *, seed: int = 3) -> list[str]:
    """Return complaints of one symptom and nothing else, which people write and query files seldom hold.

    Args:
        documents: Their symptoms are what is complained of.
        lexicon: Gives the ways to say them; one of them is drawn.
        seed: Of the draw.
    """
    rng = random.Random(seed)  # noqa: S311 - a sample
    terms = sorted({term for document in documents for term in document.metadata.get("symptoms") or ()})
    ways = {term: (term, *entry.colloquial) for term, entry in lexicon.entries.items()}
    return [rng.choice(ways.get(term, (term,))) for term in rng.sample(terms, min(_SHORT, len(terms)))]


def named_complaints(documents: Iterable[Document], *, seed: int = 5) -> list[LabelledQuery]:
    """Return complaints of nothing but a disease's everyday name, as 崴脚了.

    Args:
        documents: Their aliases are the names; one is drawn of each.
        seed: Of the draw.
    """
    rng = random.Random(seed)  # noqa: S311 - a sample
    queries = []
    for document in documents:
        names = [name for name in document.metadata.get("aliases") or () if not name.isascii()]
        if names:
            query = rng.choice(_NAMED).format(rng.choice(names))
            queries.append(LabelledQuery(query=query, relevant=(document.metadata["disease"],)))
    return rng.sample(queries, min(_SHORT, len(queries)))


def abstention_features(
    query: str, documents: Sequence[Document], lexicon: SymptomLexicon, flags: RedFlags
) -> list[float]:
    """Return what the abstention score is made of, for a query and what was found, best first."""
    flagged = bool(flags.triage(query).reasons)
    return features(query, findings(query, lexicon), documents, lexicon, flagged=flagged)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=Path, action="append", required=True, help="labelled complaints")
    parser.add_argument("--off-topic", type=Path, action="append", default=[], help='lines with "relevant": []')
    parser.add_argument("--kb", type=Path, default=bundled_knowledge_base())
    parser.add_argument("--unknown-kb", type=Path, help="another one, for the points alone")
    parser.add_argument(
        "--unknown-queries", type=Path, action="append", default=[], help="labelled complaints about it"
    )
    parser.add_argument("--reranker", default="bundled")
    parser.add_argument("--embeddings", default="bundled")
    given = parser.parse_args(arguments)
    files = [read_queries(path) for path in given.queries]
    other = [query.query for path in given.off_topic for query in read_queries(path)]
    lexicon, flags = default_lexicon(), default_red_flags()
    documents = MedicalKBLoader(given.kb).load()
    search = _search(documents, given.reranker, given.embeddings, lexicon)
    seen = _observe(documents, files, search, lexicon)
    if given.unknown_kb:
        unknown = MedicalKBLoader(given.unknown_kb).load()
        search_unknown = _search(unknown, given.reranker, given.embeddings, lexicon)
        asked = [read_queries(path) for path in given.unknown_queries]
        more = _observe(unknown, asked, search_unknown, lexicon)
        seen += [one._replace(group=one.group + len(files) + 1) for one in more]
    blend = fit_blend(seen)
    print(f"BLEND = {blend}")  # noqa: T201 - what it is for
    print(f"# {figures(seen, blend)}; as it stands {BLEND}: {figures(seen, BLEND)}")  # noqa: T201
    print(f"# without: {figures(seen, BlendWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))}", flush=True)  # noqa: T201
    if not other:
        return

    def best(query: str) -> list[Document]:
        found = sorted(search(query), key=lambda document: document.metadata["recall_rank"])
        points = SymptomCoverage(blend, lexicon)(query, found)
        logits = [document.metadata["relevance_logit"] or 0.0 for document in found]
        order = sorted(range(len(found)), key=lambda i: -(logits[i] + points[i]))
        return [found[i] for i in order[:5]]

    real = [query.query for queries in files for query in queries if query.relevant]
    real += short_complaints(documents, lexicon)
    weights, threshold, reached = fit_abstention(
        (abstention_features(query, best(query), lexicon, flags) for query in real),
        (abstention_features(query, best(query), lexicon, flags) for query in other),
    )
    print(f"ABSTENTION = {weights}\nABSTENTION_THRESHOLD = {threshold}")  # noqa: T201
    print(f"# {reached}; as it stands {ABSTENTION}, {ABSTENTION_THRESHOLD}")  # noqa: T201


def _observe(
    documents: Sequence[Document],
    files: Sequence[Sequence[LabelledQuery]],
    search: Callable[[str], Sequence[Document]],
    lexicon: SymptomLexicon,
) -> list[Candidates]:
    """Search a knowledge base for the queries of each file, and for its names as the last."""
    names = NameIndex(document.metadata for document in documents)
    return observe([*files, named_complaints(documents)], search, names, lexicon)


def _search(
    documents: list[Document], reranker: str, embeddings: str, lexicon: SymptomLexicon
) -> Callable[[str], Sequence[Document]]:
    from langchain_bge_medical.document_compressors import BGERerankerCompressor
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.retrievers import BGERerankRetriever, build_hybrid_retriever, searchable_text
    from langchain_bge_medical.vectorstores import build_index

    store = build_index(documents, BGEEmbeddings(embeddings))
    affirmed = AffirmedWords(lexicon)
    retriever = BGERerankRetriever(
        base_retriever=build_hybrid_retriever(store, documents, document_to_text=searchable_text(lexicon)),
        compressor=BGERerankerCompressor(model_name=reranker, top_n=None, query_to_text=affirmed),
        k=50,
        query_to_text=affirmed,
    )
    found: dict[str, Sequence[Document]] = {}

    def search(query: str) -> Sequence[Document]:
        if query not in found:
            found[query] = retriever.invoke(query)
        return found[query]

    return search


if __name__ == "__main__":
    main()
