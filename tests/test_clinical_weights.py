from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from scipy.optimize import minimize

from langchain_bge_medical.clinical.coverage import Points, SymptomCoverage
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import default_red_flags
from langchain_bge_medical.clinical.weights import BLEND, AbstentionWeights, BlendWeights
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.evaluation.compare import LabelledQuery, NameIndex
from langchain_bge_medical.evaluation.metrics import outranks, reciprocal_rank_at
from langchain_bge_medical.model_files import bundled_knowledge_base
from langchain_bge_medical.training.clinical_weights import (
    Candidates,
    abstention_features,
    figures,
    fit_abstention,
    fit_blend,
    main,
    named_complaints,
    observe,
    quality,
    short_complaints,
)
from tests.conftest import RECORDS

LEXICON = default_lexicon()
NOTHING = BlendWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
DISEASES: list[dict[str, object]] = [
    {"disease": "普通感冒", "symptoms": ["鼻塞", "流涕", "咽痛"], "aliases": ["伤风", "cold"]},
    {"disease": "偏头痛", "symptoms": ["头痛", "畏光", "恶心"]},
    {"disease": "川崎病", "symptoms": ["发热", "皮疹"], "age": {"min": 0, "max": 12}},
    {"disease": "前列腺增生", "symptoms": ["尿频", "排尿困难"], "sex": "male"},
    {"disease": "骨质疏松症", "symptoms": ["腰痛"], "age": {"min": 45, "max": 120}},
]


def candidates(query: str, seed: int = 0) -> list[Document]:
    """All diseases in an order of recall and with logits that depend on the query alone; in no order, as reranked."""
    rng = random.Random(f"{query}{seed}")
    found = [
        Document(
            page_content=str(disease["disease"]),
            metadata={**disease, "recall_rank": rank, "relevance_logit": rng.uniform(-6, 6)},
        )
        for rank, disease in enumerate(rng.sample(DISEASES, len(DISEASES)), start=1)
    ]
    return rng.sample(found, len(found))


def by_hand(logits: Sequence[float], units: Sequence[Points], right: int, group: int = 0) -> Candidates:
    documents = [Document(page_content=str(i)) for i in range(len(logits))]
    return Candidates(group, documents, list(logits), list(units), [i == right for i in range(len(logits))], None)


QUERIES = [
    LabelledQuery(query="鼻塞,流涕,伤风了", relevant=("伤风",), irrelevant=("偏头痛",)),
    LabelledQuery(query="头痛,怕光,不恶心", relevant=("偏头痛",), irrelevant=("普通感冒", "川崎病")),
    LabelledQuery(query="14岁,发热,起皮疹", relevant=("川崎病",)),
    LabelledQuery(query="女,60岁,尿频", relevant=("前列腺增生",)),
    LabelledQuery(query="40岁,腰痛", relevant=("骨质疏松症",)),
    LabelledQuery(query="今天天气不错", relevant=()),
    LabelledQuery(query="没有标注"),
]


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_order_that_the_compressor_would_give_with_the_same_weights(seed: int) -> None:
    rng = random.Random(seed)
    drawn = [rng.choice((0.0, 1.0, 2.5, 6.0)) for _ in range(4)]
    weights = BlendWeights(*drawn, impossible=BLEND.impossible, unlikely=BLEND.unlikely)
    names = NameIndex(DISEASES)
    seen = observe([QUERIES[:3], QUERIES[3:]], lambda query: candidates(query, seed), names, LEXICON)
    assert [one.group for one in seen] == [0, 0, 0, 1, 1]

    def ranked(query: str) -> list[str]:
        found = sorted(candidates(query, seed), key=lambda document: document.metadata["recall_rank"])
        points = SymptomCoverage(weights, LEXICON)(query, found)
        order = sorted(range(len(found)), key=lambda i: -(found[i].metadata["relevance_logit"] + points[i]))
        return [found[i].metadata["disease"] for i in order]

    def mean(values: list[float]) -> float:
        return round(sum(values) / len(values), 4)

    def right(query: LabelledQuery) -> set[str]:
        return {name for name in map(names.get, query.relevant or ()) if name}

    expected = {
        f"mrr {group}": mean([reciprocal_rank_at(ranked(q.query), right(q), 10) for q in some if q.relevant])
        for group, some in ((1, QUERIES[:3]), (2, QUERIES[3:]))
    }
    pairs = [float(outranks(ranked(q.query), right(q), set(q.irrelevant))) for q in QUERIES if q.irrelevant]
    assert figures(seen, weights) == pytest.approx({**expected, "pairs 1": mean(pairs)})
    assert quality(seen, weights) == pytest.approx(sum(figures(seen, weights).values()) / 3)


def test_what_was_not_reranked_is_not_observed() -> None:
    def search(query: str) -> list[Document]:
        found = candidates(query)
        found[0].metadata["relevance_logit"] = None
        return found

    (one,) = observe([QUERIES[:1]], search, NameIndex(DISEASES), LEXICON)
    assert len(one.documents) == len(one.logits) == len(one.units) == len(one.relevant) == len(DISEASES) - 1
    ranks = [document.metadata["recall_rank"] for document in one.documents]
    assert ranks == sorted(ranks)


def test_a_right_answer_past_the_tenth_place_counts_nothing_and_no_queries_have_no_quality() -> None:
    assert figures([by_hand([-i for i in range(12)], [Points()] * 12, right=9)], NOTHING) == {"mrr 1": 0.1}
    assert figures([by_hand([-i for i in range(12)], [Points()] * 12, right=10)], NOTHING) == {"mrr 1": 0.0}
    assert figures([by_hand([1.0], [Points()], right=5)], NOTHING) == {"mrr 1": 0.0}
    assert quality([], NOTHING) == 0.0


def test_the_least_weight_that_puts_the_right_answers_first_is_found() -> None:
    # The named disease is 3 behind, one more affirmed symptom has to outweigh 1 and no more than 1.4.
    named = by_hand([3.0, 0.0], [Points(), Points(named=1.0)], right=1)
    affirmed = by_hand([1.0, 0.0], [Points(affirmed=1.0), Points(affirmed=2.0)], right=1)
    too_much = by_hand([1.4, 0.0], [Points(), Points(affirmed=1.0)], right=0)
    best = fit_blend([named, affirmed, too_much], NOTHING)
    assert best == NOTHING._replace(named=4.0, affirmed=1.2)
    assert quality([named, affirmed, too_much], best) == 1.0
    # What already is best stays as it is.
    assert fit_blend([named], BLEND) == BLEND


@pytest.mark.parametrize("seed", range(4))
def test_a_fitted_blend_is_no_worse_than_its_start_and_no_change_of_one_weight_makes_it_better(seed: int) -> None:
    rng = random.Random(seed)
    seen = [
        by_hand(
            [rng.gauss(0, 3) for _ in range(6)],
            [Points(rng.randint(0, 3), -rng.random(), rng.random() > 0.8, -math.log(1 + i), 0.0) for i in range(6)],
            right=rng.randrange(6),
            group=i % 2,
        )
        for i in range(12)
    ]
    for start in (BLEND, NOTHING):
        best = fit_blend(seen, start)
        reached = quality(seen, best)
        assert reached >= quality(seen, start)
        assert (best.impossible, best.unlikely) == (start.impossible, start.unlikely)
        for name in ("affirmed", "denied", "named", "recall"):
            for value in (0.0, 1.0, 2.0):  # that are tried of each
                assert quality(seen, best._replace(**{name: value})) <= reached + 1e-9


def features_of(count: int, shift: float, seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    rows: list[list[float]] = (rng.normal(0, 1, (count, 10)) + shift * np.linspace(1, -0.5, 10)).tolist()
    return rows


def test_the_abstention_weights_minimise_the_balanced_penalised_loss_and_refuse_two_in_a_hundred() -> None:
    real, other = features_of(150, 0.8, 1), features_of(50, -0.8, 2)
    weights, threshold, reached = fit_abstention(real, other)
    x = np.array(real + other)
    sign = np.array([1.0] * 150 + [-1.0] * 50)
    share = np.where(sign > 0, 200 / (2 * 150), 200 / (2 * 50))  # each side has half of the say

    def loss(w: np.ndarray) -> float:
        return float(w[1:] @ w[1:] / 2 + 3.0 * (share * np.logaddexp(0, -sign * (w[0] + x @ w[1:]))).sum())

    expected = AbstentionWeights(*minimize(loss, np.zeros(11), method="BFGS").x)
    assert weights._replace(other_subject=0) == pytest.approx(expected._replace(other_subject=0), abs=0.011)
    # Few are told of animals: never less than this against them, whatever was seen.
    assert (weights.other_subject, expected.other_subject > -9.0) == (-9.0, True)
    assert reached["refused_real"] == pytest.approx(0.02, abs=0.01)
    assert 0.3 < reached["refused_off_topic"] < 1.0
    assert 0.9 < reached["auroc"] < 1.0
    assert 0.0 < threshold < 0.5


def test_short_complaints_are_one_finding_each_in_words_that_the_lexicon_has_for_it() -> None:
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    made = short_complaints(documents, LEXICON)
    assert len(made) == 200
    terms = {term for document in documents for term in document.metadata["symptoms"]}
    ways = {form for term, entry in LEXICON.entries.items() if term in terms for form in (term, *entry.colloquial)}
    assert set(made) <= ways | terms
    assert made == short_complaints(documents, LEXICON) != short_complaints(documents, LEXICON, seed=4)
    unknown = Document(page_content="", metadata={"symptoms": ["词典里没有的症状"]})
    assert short_complaints([unknown, Document(page_content="")], LEXICON) == ["词典里没有的症状"]


def test_named_complaints_say_an_everyday_name_of_the_disease_that_is_right_and_nothing_in_latin_letters() -> None:
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    aliases = {document.metadata["disease"]: document.metadata.get("aliases") or [] for document in documents}
    made = named_complaints(documents)
    assert 50 < len(made) <= 200
    for query in made:
        (disease,) = query.relevant or ()
        said = [name for name in aliases[disease] if name in query.query]
        assert any(not name.isascii() for name in said)
    few = [Document(page_content="", metadata=metadata) for metadata in DISEASES]
    assert [query.relevant for query in named_complaints(few)] == [("普通感冒",)]
    assert "伤风" in named_complaints(few)[0].query


def test_a_red_flag_counts_for_the_abstention_score() -> None:
    flagged, calm = (
        abstention_features(query, candidates(query), LEXICON, default_red_flags())
        for query in ("胸口压榨样疼,出冷汗,左胳膊发麻", "鼻塞")
    )
    place = AbstentionWeights._fields.index("flagged") - 1
    assert (flagged[place], calm[place]) == (1.0, 0.0)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str, list[dict[str, object]]], str]:
    def write(name: str, lines: list[dict[str, object]]) -> str:
        file = tmp_path / name
        file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
        return str(file)

    return write


def test_the_command_prints_weights_that_are_no_worse_than_those_that_stand_there(
    files: Callable[[str, list[dict[str, object]]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    kb = files("kb.jsonl", [{**record, "aliases": [f"{record['disease']}病"]} for record in RECORDS])
    queries = files("q.jsonl", [{"query": f"我{r['symptoms']}", "relevant": [r["disease"]]} for r in RECORDS])
    talk = ["股票跌了", "今天吃什么", "写一首诗", "明天天气", "手机没电了", "几点开门", "猫不吃东西"]
    off_topic = files("o.jsonl", [{"query": f"{text}{end}", "relevant": []} for text in talk for end in ("", "呢")])
    main(["--kb", kb, "--queries", queries, "--off-topic", off_topic])
    printed = capsys.readouterr().out
    known = {"BlendWeights": BlendWeights, "AbstentionWeights": AbstentionWeights}
    lines = printed.splitlines()
    values = {
        name: eval(value, known)  # what was printed is to be pasted into a module
        for name, value in (line.split(" = ", 1) for line in lines if not line.startswith("#"))
    }
    assert list(values) == ["BLEND", "ABSTENTION", "ABSTENTION_THRESHOLD"]
    reached, before = (eval(figures_) for figures_ in re.findall(r"\{.*?\}", lines[1]))
    assert sum(reached.values()) >= sum(before.values())
    assert values["ABSTENTION"].other_subject <= -9.0
    assert 0.0 < values["ABSTENTION_THRESHOLD"] < 1.0
