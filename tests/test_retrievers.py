from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import Field

from langchain_bge_medical.clinical.lexicon import SymptomLexicon
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.retrievers import (
    BGERerankRetriever,
    BM25Retriever,
    HybridRetriever,
    build_hybrid_retriever,
    searchable_text,
    tokens_of,
)
from langchain_bge_medical.vectorstores import build_index
from tests.conftest import HashEmbeddings, TableCrossEncoder


class Listed(BaseRetriever):
    """Recall that always finds the same, and notes what it was asked with."""

    documents: list[Document]
    asked: list[dict[str, Any]] = Field(default_factory=list)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        self.asked.append({"query": query, **kwargs})
        return self.documents


class Started(BaseCallbackHandler):
    """Notes which run started inside which."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.nested: list[tuple[str | None, str]] = []

    def _start(self, serialized: Any, given: Any, *, run_id: Any, parent_run_id: Any = None, **kwargs: Any) -> None:
        self.names[run_id] = kwargs.get("name") or ""
        self.nested.append((self.names.get(parent_run_id), self.names[run_id]))

    on_chain_start = on_retriever_start = _start


def plain(*texts: str) -> list[Document]:
    return [Document(id=str(i), page_content=text) for i, text in enumerate(texts)]


def ids(found: list[Document]) -> list[str | None]:
    return [document.id for document in found]


def bm25_scores(corpus: list[list[str]], query: list[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """The oracle: BM25 as in Lucene, idf = ln(1 + (N - df + ½) / (df + ½)), word by word."""
    average = sum(map(len, corpus)) / len(corpus)
    scores = []
    for words in corpus:
        counts, score = Counter(words), 0.0
        for word in query:
            frequency = sum(word in other for other in corpus)
            idf = math.log(1 + (len(corpus) - frequency + 0.5) / (frequency + 0.5))
            tf = counts[word]
            score += idf * tf / (tf + k1 * (1 - b + b * len(words) / average))
        scores.append(score)
    return scores


def assert_ranked_as(found: list[Document], documents: list[Document], scores: list[float]) -> None:
    """Best first, all of them; equal scores may stand in any order."""
    by_id = {document.id: score for document, score in zip(documents, scores, strict=True)}
    expected = sorted((score for score in scores if score > 0), reverse=True)
    assert [by_id[document.id] for document in found] == pytest.approx(expected, rel=1e-4)
    assert len({document.id for document in found}) == len(found)


@pytest.mark.parametrize("query", ["发热咳嗽三天", "头痛", "头痛头痛头痛", "崴脚后脚踝肿痛", "孩子耳朵痛,发烧"])
def test_bm25_ranks_as_a_plain_bm25_written_out(query: str, documents: list[Document]) -> None:
    corpus = [tokens_of(document.page_content) for document in documents]
    found = BM25Retriever(documents=documents).invoke(query)
    assert_ranked_as(found, documents, bm25_scores(corpus, tokens_of(query)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("发热咳嗽头痛ab 0", max_size=10), min_size=1, max_size=12), st.text("发热痛ab 0不", max_size=6))
def test_bm25_ranks_any_texts_as_a_plain_bm25_written_out(texts: list[str], query: str) -> None:
    corpus = [tokens_of(text) for text in texts]
    scores = bm25_scores(corpus, tokens_of(query)) if any(corpus) else [0.0] * len(texts)
    assert_ranked_as(BM25Retriever(documents=plain(*texts)).invoke(query), plain(*texts), scores)


def test_bm25_returns_at_most_k_and_a_k_of_the_call_goes_first(documents: list[Document]) -> None:
    retriever = BM25Retriever(documents=documents, k=2)
    best = [document.id for document in BM25Retriever(documents=documents).invoke("发热头痛")]
    assert len(best) > 3
    assert [document.id for document in retriever.invoke("发热头痛")] == best[:2]
    assert [document.id for document in retriever.invoke("发热头痛", k=3)] == best[:3]
    assert [document.id for document in retriever.invoke("发热头痛", k=99)] == best


def test_bm25_returns_equal_documents_in_the_order_of_the_knowledge_base() -> None:
    documents = plain(*["头痛"] * 100, "咳嗽", *["头痛"] * 100, "头痛头痛")
    assert [document.id for document in BM25Retriever(documents=documents, k=4).invoke("头痛")] == [
        "201",
        "0",
        "1",
        "2",
    ]
    assert len(BM25Retriever(documents=documents, k=300).invoke("头痛")) == 201
    assert BM25Retriever(documents=documents).invoke("腹泻") == []


@pytest.mark.parametrize("k", [0, -1])
async def test_a_k_below_1_is_refused(k: int, documents: list[Document], compressor: BGERerankerCompressor) -> None:
    lexical = BM25Retriever(documents=documents)
    reranked = BGERerankRetriever(base_retriever=lexical, compressor=compressor)
    for retriever in (lexical, reranked):
        with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
            retriever.invoke("发热", k=k)
    with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
        await reranked.ainvoke("发热", k=k)


def test_bm25_returns_only_documents_that_share_something_with_the_query() -> None:
    retriever = BM25Retriever(documents=plain("发热", "头痛", "发炎"))
    assert [document.id for document in retriever.invoke("发热")] == ["0", "2"]


@pytest.mark.parametrize("query", ["", "  ", "!?。,", "😀", "ぁ", "魑魅", "zzz"])
def test_bm25_finds_nothing_for_words_that_no_document_has(query: str, documents: list[Document]) -> None:
    assert BM25Retriever(documents=documents).invoke(query) == []


def test_bm25_over_documents_without_a_word_finds_nothing() -> None:
    assert BM25Retriever(documents=plain("!!!", "…", "")).invoke("发热") == []


def test_bm25_searches_the_aliases_in_the_metadata_too() -> None:
    documents = [
        Document(page_content="踝关节扭伤", metadata={"aliases": ["崴脚"]}),
        Document(page_content="偏头痛"),
    ]
    assert BM25Retriever(documents=documents).invoke("崴脚") == documents[:1]


def test_bm25_searches_only_what_document_to_text_returns() -> None:
    documents = [Document(page_content="头痛", metadata={"other": "发热"}), Document(page_content="发热")]
    retriever = BM25Retriever(documents=documents, document_to_text=lambda document: document.metadata.get("other", ""))
    assert retriever.invoke("发热") == documents[:1]
    assert retriever.invoke("头痛") == []


async def test_bm25_async_equals_sync(documents: list[Document]) -> None:
    retriever = BM25Retriever(documents=documents)
    assert await retriever.ainvoke("发热头痛") == retriever.invoke("发热头痛")


@pytest.mark.parametrize("wrong", [{"documents": []}, {"k": 0}, {"top_k": 3}])
def test_bm25_refuses_settings_that_make_no_sense(wrong: dict[str, Any], documents: list[Document]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BM25Retriever(**{"documents": documents, **wrong})


def test_tokens_are_characters_pairs_and_latin_words_in_order() -> None:
    assert tokens_of("发热39.5度,CRP高") == ["发", "热", "发热", "39.5", "度", "crp", "高"]


@pytest.mark.parametrize(
    ("text", "twin"), [("頭痛", "头痛"), ("ＣＲＰ", "crp"), ("３９．５", "39.5"), ("COVID", "covid")]
)
def test_tokens_of_wide_capital_and_traditional_characters_are_those_of_their_twins(text: str, twin: str) -> None:
    assert tokens_of(text) == tokens_of(twin)


def test_hybrid_order_is_reciprocal_rank_fusion_computed_by_hand(documents: list[Document]) -> None:
    query, fetch_k = "发热头痛恶心", 4
    store = build_index(documents, HashEmbeddings())
    dense = [d.id for d in store.similarity_search(query, k=fetch_k)]
    to_text = searchable_text(SymptomLexicon.load())
    found_by_words = BM25Retriever(documents=documents, k=fetch_k, document_to_text=to_text).invoke(query)
    lexical = [d.id for d in found_by_words]
    said = [set(tokens_of(to_text(document))) for document in documents]
    rarity = {}
    for token in set(tokens_of(query)):
        held_by = sum(token in tokens for tokens in said)
        rarity[token] = math.log(1 + (len(documents) - held_by + 0.5) / (held_by + 0.5))
    best = said[documents.index(found_by_words[0])]
    share = sum(rarity[token] for token in rarity if token in best) / sum(rarity.values())
    assert 0.1 < share < 1
    fused = {
        id_: sum(
            weight / (60 + ranks.index(id_) + 1)
            for weight, ranks in ((1 - share**3, dense), (share**3, lexical))
            if id_ in ranks
        )
        for id_ in [*dense, *lexical]
    }
    found = [d.id for d in build_hybrid_retriever(store, documents, fetch_k=fetch_k).invoke(query)]
    assert dense != lexical
    assert sorted(found) == sorted(fused)
    assert [fused[id_] for id_ in found] == sorted(fused.values(), reverse=True)


def test_a_document_that_both_halves_rank_second_beats_one_that_a_single_half_ranks_first() -> None:
    documents = plain("腹泻", "头痛发热咳", "头痛发热咳嗽流涕鼻塞咽痛乏力")
    store = InMemoryVectorStore(HashEmbeddings())
    store.add_documents(documents)
    found = build_hybrid_retriever(store, documents, fetch_k=2).invoke("头痛发热")
    # 2 / 62 > 1 / 61, and 腹泻 is in neither half
    assert [document.id for document in found] == ["1", "2"]


def test_a_query_of_which_words_explain_everything_is_answered_by_words_and_one_of_which_they_know_little_is_not() -> (
    None
):
    documents = plain("头痛发热", "头痛发热咳", "鼻塞", "腹泻")
    words = {"鼻塞": "头痛发热", "腹泻": "头痛发热乏力很久了"}
    retriever = build_hybrid_retriever(
        build_index(documents, HashEmbeddings()),
        documents,
        fetch_k=2,
        document_to_text=lambda document: words.get(document.page_content, "无"),
    )
    # vectors find 0 and 1, words find 2 and 3
    assert ids(retriever.invoke("头痛发热")) == ["2", "3", "0", "1"]
    assert ids(retriever.invoke("头痛发热咳嗽流涕鼻塞咽痛乏力恶心呕吐"))[:2] != ["2", "3"]


def test_what_of_a_query_a_document_says_is_counted_by_rarity() -> None:
    documents = plain("头痛", "头痛发热", "咳嗽")
    words = BM25Retriever(documents=documents)
    assert words.share_said("头痛", documents[0]) == pytest.approx(1)
    assert words.share_said("头痛", documents[2]) == 0
    assert words.share_said("。", documents[0]) == 0
    # 咳嗽 is rarer than 头痛, and what no document says is rarest.
    assert 0 < words.share_said("头痛咳嗽", documents[0]) < words.share_said("头痛咳嗽", documents[2]) < 1
    assert 0 < words.share_said("头痛zzz", documents[0]) < 0.5


def test_hybrid_searches_everyday_ways_to_say_a_listed_symptom_unless_told_otherwise() -> None:
    lexicon = SymptomLexicon.load()
    form = next(form for form in lexicon.forms("发热") if not set(tokens_of(form)) & set(tokens_of("发热")))
    document = Document(id="fever", page_content="肺炎", metadata={"symptoms": ["发热"]})
    assert BM25Retriever(documents=[document]).invoke(form) == []
    assert BM25Retriever(documents=[document], document_to_text=searchable_text(lexicon)).invoke(form) == [document]
    both = [*plain(form, f"{form}了"), document]  # vectors find the first
    hybrid = build_hybrid_retriever(build_index(both, HashEmbeddings()), both, fetch_k=3)
    assert isinstance(hybrid, HybridRetriever)
    found = hybrid.lexical.invoke(form)
    assert "fever" in ids(found)


def test_what_is_searchable_does_not_depend_on_how_a_store_keeps_lists() -> None:
    to_text = searchable_text(SymptomLexicon.load())

    def said(symptoms: object, aliases: object) -> str:
        return to_text(Document(page_content="肺炎", metadata={"symptoms": symptoms, "aliases": aliases}))

    assert "\n发烧\n" in said(["发热", "咳嗽"], None)
    assert said("发热、咳嗽", "CAP,社区肺炎") == said(["发热", "咳嗽"], ["CAP", "社区肺炎"])
    assert said("发热、咳嗽", None) == said(["发热", "咳嗽"], [])


async def test_hybrid_async_equals_sync(documents: list[Document]) -> None:
    retriever = build_hybrid_retriever(build_index(documents, HashEmbeddings()), documents, fetch_k=3)
    for query in ("发热咳嗽", "头痛", "崴脚"):
        assert await retriever.ainvoke(query) == retriever.invoke(query)


def test_hybrid_returns_what_only_words_find() -> None:
    documents = [Document(id="a", page_content="踝关节扭伤", metadata={"aliases": ["崴脚"]}), *plain("发热", "头痛")]
    retriever = build_hybrid_retriever(build_index(documents, HashEmbeddings()), iter(documents), fetch_k=1)
    assert "a" in [document.id for document in retriever.invoke("崴脚")]


def test_hybrid_hands_document_to_text_to_bm25(documents: list[Document]) -> None:
    store = build_index(documents, HashEmbeddings())
    retriever = build_hybrid_retriever(store, documents, fetch_k=1, document_to_text=lambda document: document.id or "")
    for number in range(6):
        assert f"id-{number}" in ids(retriever.invoke(str(number)))


@pytest.mark.parametrize(("given", "fetch_k"), [([], 5), (None, 0)])
def test_hybrid_refuses_no_documents_and_no_candidates(
    given: list[Document] | None, fetch_k: int, documents: list[Document]
) -> None:
    with pytest.raises(ValueError, match=r"documents|k"):
        build_hybrid_retriever(
            build_index(documents, HashEmbeddings()), documents if given is None else given, fetch_k=fetch_k
        )


@pytest.fixture
def compressor(documents: list[Document]) -> BGERerankerCompressor:
    """Likes the documents the better the later they come."""
    table = {document.page_content: i / 10 for i, document in enumerate(documents)}
    return BGERerankerCompressor(cross_encoder=TableCrossEncoder(table), top_n=None)


def test_candidates_come_back_in_the_order_of_the_compressor(
    documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    retriever = BGERerankRetriever(base_retriever=Listed(documents=documents), compressor=compressor, k=3)
    found = retriever.invoke("发热")
    assert ids(found) == ["id-5", "id-4", "id-3"]
    assert [document.metadata["recall_rank"] for document in found] == [6, 5, 4]


def test_only_the_first_fetch_k_candidates_are_looked_at(
    documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    retriever = BGERerankRetriever(base_retriever=Listed(documents=documents), compressor=compressor, fetch_k=2)
    assert ids(retriever.invoke("发热")) == ["id-1", "id-0"]
    encoder = compressor.cross_encoder
    assert isinstance(encoder, TableCrossEncoder)
    assert sum(map(len, encoder.calls)) == 2


def test_a_k_of_the_call_goes_before_the_setting_and_does_not_reach_recall(
    documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    recall = Listed(documents=documents)
    retriever = BGERerankRetriever(base_retriever=recall, compressor=compressor, k=1)
    assert len(retriever.invoke("发热", k=4)) == 4
    assert len(retriever.invoke("发热")) == 1
    assert recall.asked == [{"query": "发热"}] * 2


def test_the_compressors_top_n_goes_before_k(documents: list[Document], compressor: BGERerankerCompressor) -> None:
    compressor.top_n = 2
    retriever = BGERerankRetriever(base_retriever=Listed(documents=documents), compressor=compressor, k=5)
    assert len(retriever.invoke("发热")) == 2


def test_recall_that_finds_nothing_gives_nothing(compressor: BGERerankerCompressor) -> None:
    retriever = BGERerankRetriever(base_retriever=Listed(documents=[]), compressor=compressor)
    assert retriever.invoke("发热") == []


async def test_reranked_async_equals_sync(documents: list[Document], compressor: BGERerankerCompressor) -> None:
    base = build_hybrid_retriever(build_index(documents, HashEmbeddings()), documents)
    retriever = BGERerankRetriever(base_retriever=base, compressor=compressor, fetch_k=4, k=3)
    assert await retriever.ainvoke("发热头痛") == retriever.invoke("发热头痛")
    assert len(await retriever.ainvoke("发热头痛", k=1)) == 1


async def test_in_async_what_is_made_of_a_long_query_is_made_on_a_thread_so_that_the_loop_does_not_wait_for_it(
    documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    places: list[bool] = []

    def note(given: Any) -> str:
        places.append(threading.current_thread() is threading.main_thread())
        return str(getattr(given, "page_content", given))

    store = build_index(documents, HashEmbeddings())
    base = build_hybrid_retriever(store, documents, document_to_text=note)
    retriever = BGERerankRetriever(base_retriever=base, compressor=compressor, query_to_text=note)
    places.clear()
    assert await retriever.ainvoke("发热头痛")
    assert places == [False, False]  # what recall searches for, and what its first document by words says of it


@pytest.mark.parametrize("wrong", [{"k": 0}, {"fetch_k": 0}, {"top_n": 3}])
def test_rerank_retriever_refuses_settings_that_make_no_sense(
    wrong: dict[str, int], documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BGERerankRetriever(base_retriever=Listed(documents=documents), compressor=compressor, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("run", ["invoke", "ainvoke"])
async def test_recall_and_compressor_are_traced_inside_the_retriever(
    run: str, documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    retriever = BGERerankRetriever(base_retriever=Listed(documents=documents), compressor=compressor)
    handler = Started()
    if run == "invoke":
        retriever.invoke("发热", config={"callbacks": [handler]})
    else:
        await retriever.ainvoke("发热", config={"callbacks": [handler]})
    assert handler.nested == [
        (None, "BGERerankRetriever"),
        ("BGERerankRetriever", "Listed"),
        ("BGERerankRetriever", "BGERerankerCompressor"),
    ]


async def test_langchains_own_compression_retriever_gives_the_same_documents(
    documents: list[Document], compressor: BGERerankerCompressor
) -> None:
    recall = build_index(documents, HashEmbeddings()).as_retriever(search_kwargs={"k": 4})
    theirs = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=recall)
    ours = BGERerankRetriever(base_retriever=recall, compressor=compressor, fetch_k=4, k=4)
    assert theirs.invoke("发热头痛") == ours.invoke("发热头痛")
    assert await theirs.ainvoke("发热头痛") == ours.invoke("发热头痛")
    assert len(ours.invoke("发热头痛")) == 4


def test_the_query_is_in_no_log_record(
    documents: list[Document], compressor: BGERerankerCompressor, caplog: pytest.LogCaptureFixture
) -> None:
    base = build_hybrid_retriever(build_index(documents, HashEmbeddings()), documents)
    retriever = BGERerankRetriever(base_retriever=base, compressor=compressor)
    with caplog.at_level(logging.DEBUG, "langchain_bge_medical"):
        retriever.invoke("canary7741 发热")
    assert "canary7741" not in caplog.text


class TestBGERerankRetriever(RetrieversIntegrationTests):
    """LangChain's own five tests for retrievers."""

    @property
    def retriever_constructor(self) -> type[BGERerankRetriever]:
        return BGERerankRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        documents = plain("发热", "咳嗽", "头痛", "腹泻")
        encoder = TableCrossEncoder({document.page_content: 0.5 for document in documents})
        return {
            "base_retriever": build_hybrid_retriever(build_index(documents, HashEmbeddings()), documents),
            "compressor": BGERerankerCompressor(cross_encoder=encoder, top_n=None),
        }

    @property
    def retriever_query_example(self) -> str:
        return "发热咳嗽"
