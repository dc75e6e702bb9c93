from __future__ import annotations

import pytest
from langchain_core.documents import Document

from langchain_bge_medical.clinical.coverage import SymptomCoverage
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from tests.conftest import TableCrossEncoder


def disease(name: str, *symptoms: str) -> Document:
    return Document(page_content=name, metadata={"symptoms": list(symptoms)})


def test_each_affirmed_symptom_gives_points_and_what_is_denied_or_past_gives_none() -> None:
    documents = [
        disease("a", "发热", "咳嗽", "咳痰"),
        disease("b", "发热"),
        disease("c", "头痛"),
        Document(page_content="d"),
    ]
    assert SymptomCoverage(weight=2)("发烧,痰很多,一直咳嗽,没有头痛", documents) == [6, 2, 0, 0]
    assert SymptomCoverage(weight=0)("发烧", documents) == [0, 0, 0, 0]


def test_points_change_the_order_and_stand_in_the_metadata_while_scores_stay_the_models_own() -> None:
    class Logits(TableCrossEncoder):
        def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return [self.scores[document] for _, document in text_pairs]

    documents = [disease("keyword", "皮疹"), disease("fits", "发热", "咳嗽")]
    encoder = Logits({"keyword": 2.0, "fits": 0.5})
    plain = BGERerankerCompressor(cross_encoder=encoder).compress_documents(documents, "发烧咳嗽")
    assert [document.page_content for document in plain] == ["keyword", "fits"]
    assert all("rerank_adjustment" not in document.metadata for document in plain)
    blended = BGERerankerCompressor(cross_encoder=encoder, adjust=SymptomCoverage()).compress_documents(
        documents, "发烧,咳嗽"
    )
    assert [(d.page_content, d.metadata["rerank_adjustment"]) for d in blended] == [("fits", 3.0), ("keyword", 0.0)]
    assert [d.metadata["relevance_logit"] for d in blended] == [0.5, 2.0]


@pytest.mark.parametrize("points", [[1.0], [float("nan"), 0.0]])
def test_points_that_are_missing_or_no_numbers_are_an_error(points: list[float]) -> None:
    compressor = BGERerankerCompressor(
        cross_encoder=TableCrossEncoder({"a": 0.1, "b": 0.2}), adjust=lambda query, documents: points
    )
    with pytest.raises(ValueError, match="finite number for each of the 2 documents"):
        compressor.compress_documents([disease("a"), disease("b")], "q")
