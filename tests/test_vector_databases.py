"""Real Chroma and real Milvus Lite beside FAISS: the same documents, in the same order, by the same cosines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

pytest.importorskip("langchain_chroma", reason="needs the extra `chroma`")
pytest.importorskip("langchain_milvus", reason="needs the extra `milvus`")

from langchain_bge_medical.clinical.coverage import AffirmedWords, SymptomCoverage
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from langchain_bge_medical.retrievers import BGERerankRetriever, build_hybrid_retriever
from langchain_bge_medical.vector_databases import Database, RecordStore, build_database, open_database
from langchain_bge_medical.vectorstores import IndexMismatchError, build_index, stored_documents
from tests.conftest import HashEmbeddings, record_documents
from tests.serving_kit import SharedCharacters

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside the two clients
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DATABASES: tuple[Database, ...] = ("chroma", "milvus")
QUERIES = ["发烧三天,咳嗽,痰很多", "头痛怕光恶心,没有发烧", "上吐下泻", "耳朵疼听不清", "burning when I pee"]


@pytest.fixture(scope="module")
def knowledge() -> list[Document]:
    return MedicalKBLoader(bundled_knowledge_base()).load()


@pytest.fixture(scope="module", params=DATABASES)
def filled(
    request: pytest.FixtureRequest, knowledge: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> RecordStore:
    folder = tmp_path_factory.mktemp(request.param)
    return build_database(knowledge, HashEmbeddings(), folder, database=request.param)


def test_the_nearest_are_the_same_as_in_faiss_and_scores_are_cosines_in_both(
    filled: RecordStore, knowledge: list[Document]
) -> None:
    exact = build_index(knowledge, HashEmbeddings())
    for query in QUERIES:
        there = filled.similarity_search_with_score(query, k=50)
        # FAISS gives squared distances of vectors of length 1: 2 - 2 cos.
        here = [(document, 1 - distance / 2) for document, distance in exact.similarity_search_with_score(query, k=50)]
        cosines = [score for _, score in there]
        assert cosines == sorted(cosines, reverse=True)
        assert cosines == pytest.approx([score for _, score in here], abs=1e-5)
        at = {document.id: score for document, score in here}
        # The same documents but for ties at the end, each with its own cosine, and whole.
        assert all(score == pytest.approx(at.get(document.id, cosines[-1]), abs=1e-5) for document, score in there)
        whole = {document.id: document for document in knowledge}
        assert all(document == whole[document.id] for document, _ in there)


def test_the_other_search_types_of_a_retriever_find_whole_documents_by_the_same_relevance_as_in_faiss(
    filled: RecordStore, knowledge: list[Document]
) -> None:
    exact = build_index(knowledge, HashEmbeddings())
    [query, *_] = QUERIES
    cosines = [cosine for _, cosine in filled.similarity_search_with_score(query, k=50)]
    threshold = (1 + cosines[9]) / 2 - 1e-4
    settings = {"k": 50, "score_threshold": threshold}
    whole = {document.id: document for document in knowledge}
    for store in (filled, exact):
        found = store.similarity_search_with_relevance_scores(query, k=50)
        assert [score for _, score in found] == pytest.approx([(1 + cosine) / 2 for cosine in cosines], abs=1e-5)
        kept = store.as_retriever(search_type="similarity_score_threshold", search_kwargs=settings).invoke(query)
        assert len(kept) == sum((1 + cosine) / 2 >= threshold for cosine in cosines)
        diverse = store.as_retriever(search_type="mmr", search_kwargs={"k": 5, "fetch_k": 30}).invoke(query)
        assert len({document.id for document in diverse}) == 5
        assert diverse[0] == found[0][0]
        assert all(document == whole[document.id] for document in [*kept, *diverse])


def test_both_stages_rank_as_over_faiss(filled: RecordStore, knowledge: list[Document]) -> None:
    exact = build_index(knowledge, HashEmbeddings())

    def ranked(store: RecordStore | object, documents: list[Document]) -> list[list[str]]:
        recall = build_hybrid_retriever(store, documents, fetch_k=30)  # type: ignore[arg-type]
        reranker = BGERerankerCompressor(cross_encoder=SharedCharacters(), adjust=SymptomCoverage(), top_n=5)
        retriever = BGERerankRetriever(base_retriever=recall, compressor=reranker, query_to_text=AffirmedWords())
        return [[document.metadata["disease"] for document in retriever.invoke(query)] for query in QUERIES[:3]]

    assert ranked(filled, filled.documents()) == ranked(exact, stored_documents(exact))


def test_all_documents_come_back_whole_in_the_order_of_the_knowledge_base(
    filled: RecordStore, knowledge: list[Document]
) -> None:
    assert filled.documents() == knowledge


@pytest.mark.parametrize("database", DATABASES)
def test_only_new_texts_are_embedded_and_what_is_gone_leaves(database: Database, tmp_path: Path) -> None:
    documents = record_documents()
    build_database(documents[:4], HashEmbeddings(), tmp_path, database=database)
    documents[0].metadata["department"] = "呼吸内科"
    documents[1].page_content += "冬季多见。"
    embeddings = HashEmbeddings()
    store = build_database(documents[:3] + documents[4:], embeddings, tmp_path, database=database)
    assert embeddings.embedded == [documents[i].page_content for i in (1, 4, 5)]
    stored = {document.id: document for document in store.documents()}
    assert stored == {document.id: document for document in documents[:3] + documents[4:]}
    assert store.similarity_search(documents[0].page_content, k=1) == [documents[0]]
    reopened = open_database(HashEmbeddings(), tmp_path, database=database)
    assert reopened.similarity_search(documents[1].page_content, k=1) == [documents[1]]


@pytest.mark.parametrize("database", DATABASES)
def test_another_embedding_model_is_refused_on_opening_and_embeds_anew_on_building(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=f"no {database} collection 'diseases'"):
        open_database(HashEmbeddings(), tmp_path, database=database)
    build_database(record_documents(), HashEmbeddings(), tmp_path, database=database)
    other = HashEmbeddings(dimension=32, model_name="other")
    with pytest.raises(IndexMismatchError, match=r"model_name.*hash.*other"):
        open_database(other, tmp_path, database=database)
    build_database(record_documents(), other, tmp_path, database=database)
    assert len(other.embedded) == len(record_documents())
    assert open_database(other, tmp_path, database=database).similarity_search("踝部肿痛", k=1)


@pytest.mark.parametrize("database", DATABASES)
def test_a_build_with_another_model_that_fails_before_its_first_vectors_leaves_the_collection(
    database: Database, tmp_path: Path
) -> None:
    documents = record_documents()
    build_database(documents, HashEmbeddings(), tmp_path, database=database)
    other = HashEmbeddings(dimension=32, model_name="other")

    def broken() -> Iterator[Document]:
        yield documents[0]
        raise ValueError("the knowledge base is broken")

    for nothing, says in ((broken(), "is broken"), (iter(()), "there are no documents to index")):
        with pytest.raises(ValueError, match=says):
            build_database(nothing, other, tmp_path, database=database)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        build_database(documents, other, tmp_path, database=database, batch_size=0)
    assert open_database(HashEmbeddings(), tmp_path, database=database).documents() == documents


@pytest.mark.parametrize("database", DATABASES)
def test_other_dimensions_are_refused_with_both_on_opening_if_the_model_says_them_or_when_they_do_not_fit(
    database: Database, tmp_path: Path
) -> None:
    documents = record_documents()
    build_database(documents, DeterministicFakeEmbedding(size=8), tmp_path, database=database, collection="said")
    with pytest.raises(IndexMismatchError, match=r"dimensions.*8.* but asked .*dimensions.*16"):
        open_database(DeterministicFakeEmbedding(size=16), tmp_path, database=database, collection="said")
    build_database(documents[:5], HashEmbeddings(), tmp_path, database=database)
    other = HashEmbeddings(dimension=16)
    says = "collection 'diseases': holds vectors of 64 dimensions, but .*=hash now gives 16; pass"
    with pytest.raises(IndexMismatchError, match=says):
        open_database(other, tmp_path, database=database).similarity_search("踝部肿痛")
    with pytest.raises(IndexMismatchError, match=says):
        build_database(documents, other, tmp_path, database=database)
    assert open_database(HashEmbeddings(), tmp_path, database=database).documents() == documents[:5]


def test_a_filter_of_the_database_is_handed_on(filled: RecordStore) -> None:
    chroma = type(filled.store).__name__ == "Chroma"
    settings = {"filter": {"department": "耳鼻喉科"}} if chroma else {"expr": 'department == "耳鼻喉科"'}
    found = filled.similarity_search("发烧", k=5, **settings)
    assert len(found) == 5
    assert {document.metadata["department"] for document in found} == {"耳鼻喉科"}


@pytest.mark.parametrize("database", DATABASES)
def test_what_cannot_be_indexed_is_named_and_a_build_that_failed_can_be_done_again(
    database: Database, tmp_path: Path
) -> None:
    def build(*documents: Document, **options: Any) -> RecordStore:
        return build_database(documents, HashEmbeddings(), tmp_path, database=database, **options)

    with pytest.raises(ValueError, match="there are no documents to index"):
        build()
    with pytest.raises(ValueError, match="metadata of document 'a' cannot be saved as JSON"):
        build(Document(id="a", page_content="头痛", metadata={"seen": {1, 2}}))
    one = Document(id="a", page_content="头痛", metadata={"disease": "偏头痛"})
    with pytest.raises(ValueError, match="two documents have the id 'a'"):
        build(one, one)
    if database == "milvus":
        long = Document(id="b", page_content="痛" * 30_000)
        with pytest.raises(ValueError, match="document 'b' has 90000 bytes; Milvus takes 65535"):
            build(long, collection="empty_after_that")
        assert build(one, collection="empty_after_that").documents() == [one]
    assert build(one).documents() == [one]
    with pytest.raises(FileNotFoundError, match=f"holds no {database} collection 'others'"):
        open_database(HashEmbeddings(), tmp_path, database=database, collection="others")


def test_a_collection_that_somebody_else_made_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    import chromadb

    settings = chromadb.Settings(anonymized_telemetry=False)
    theirs = chromadb.PersistentClient(str(tmp_path), settings).create_collection("diseases", embedding_function=None)
    theirs.add(ids=["1"], embeddings=[[1.0, 0.0]], documents=["theirs"])
    with pytest.raises(IndexMismatchError, match="'diseases' was not made by build_database"):
        build_database(record_documents(), HashEmbeddings(), tmp_path, database="chroma")
    assert theirs.count() == 1


def test_there_are_two_databases_and_one_way_to_make_a_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="database must be chroma or milvus, got 'pinecone'"):
        open_database(HashEmbeddings(), tmp_path, database="pinecone")  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="made by build_database"):
        RecordStore.from_texts(["头痛"], HashEmbeddings())
