"""Indexes too large for exact search, made small: the bound is lowered, everything else is as it is."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_bge_medical import vectorstores
from langchain_bge_medical.embeddings import BGEEmbeddings
from langchain_bge_medical.vectorstores import build_index, load_index, stored_documents, tune_recall
from tests.conftest import HashEmbeddings

COUNT = 3_000


class Cloud(HashEmbeddings):
    """A vector per text from its number: clusters, as texts on one subject make them."""

    def _vector(self, text: str) -> list[float]:
        number = int(text.split()[-1])
        centre = np.random.default_rng(number % 100).standard_normal(16)
        noise = np.random.default_rng(number).standard_normal(16)
        return [float(x) for x in centre + 0.7 * noise]


def some(count: int = COUNT) -> list[Document]:
    return [
        Document(id=f"id-{i}", page_content=f"text {i}", metadata={"n": i, "词": "头\u2028痛"}) for i in range(count)
    ]


QUERIES = [f"query {i}" for i in range(10_000, 10_200)]


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorstores, "_EXACT_NUMBERS", 20_000)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "kb.index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectorstores, "_EXACT_NUMBERS", 20_000)
        build_index(some(), Cloud(), folder, queries=QUERIES[:100])
    return folder


def exact_ids(query: str, k: int) -> list[str]:
    """The oracle: all of them, sorted."""
    vectors = np.array(Cloud().embed_documents([document.page_content for document in some()]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = np.array(Cloud().embed_query(query))
    return [f"id-{i}" for i in np.argsort(-(vectors @ asked) / np.linalg.norm(asked), kind="stable")[:k]]


def test_a_large_index_finds_what_it_promises_of_the_exact_nearest_for_queries_it_was_not_tuned_on(saved: Path) -> None:
    store = load_index(saved, Cloud())
    assert store.index.nprobe < store.index.nlist
    found = [{document.id for document in store.similarity_search(query, k=50)} for query in QUERIES[100:130]]
    exact = [set(exact_ids(query, 50)) for query in QUERIES[100:130]]
    assert np.mean([len(a & b) / 50 for a, b in zip(found, exact, strict=True)]) >= 0.96


def test_a_small_index_and_one_that_was_asked_to_be_exact_are_exact(tmp_path: Path) -> None:
    assert tune_recall(build_index(some(1_000), Cloud())) is None
    store = build_index(some(), Cloud(), tmp_path / "kb.index", recall=1.0)
    assert tune_recall(store) is None
    for loaded in (store, load_index(tmp_path / "kb.index", Cloud())):
        assert [document.id for document in loaded.similarity_search(QUERIES[0], k=50)] == exact_ids(QUERIES[0], 50)


def test_recall_can_be_asked_for_measured_and_set_by_hand(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = load_index(saved, Cloud())
    caplog.set_level(logging.INFO)
    measured = {recall: tune_recall(store, recall, queries=QUERIES) for recall in (0.6, 0.9, 0.999)}
    assert all(found is not None and found.recall >= recall for recall, found in measured.items())
    lists = [found.lists for found in measured.values() if found is not None]
    assert lists == sorted(lists)
    assert lists[0] < lists[-1]
    assert "recall 0.9" in caplog.text
    assert "query" not in caplog.text
    by_hand = tune_recall(store, lists=2)
    assert by_hand is not None
    assert (by_hand.lists, store.index.nprobe) == (2, 2)
    everything = tune_recall(store, 1.0)
    assert everything is not None
    assert everything.recall == 1.0


@pytest.mark.parametrize(("settings", "says"), [({"recall": 0.0}, "recall must lie"), ({"lists": 0}, "lists must be")])
def test_a_setting_out_of_range_is_named(saved: Path, settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tune_recall(load_index(saved, Cloud()), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recall must lie"):
        build_index(some(3), Cloud(), recall=1.1)


def test_documents_that_stay_in_their_file_come_back_whole_by_rank_and_by_id(saved: Path) -> None:
    store = load_index(saved, Cloud())
    expected = some()
    assert stored_documents(store) == expected
    assert store.get_by_ids(["id-7", "id-2999", "nobody"]) == [expected[7], expected[2_999]]
    assert load_index(saved, Cloud()).get_by_ids(["id-7"]) == [expected[7]]
    found = store.similarity_search("text 7", k=1)[0]
    assert found == expected[7]
    found.metadata["n"] = "changed"
    assert store.similarity_search("text 7", k=1)[0] == expected[7]
    assert len(store.max_marginal_relevance_search("text 7", k=3, fetch_k=20)) == 3


def test_a_loaded_large_index_is_only_read_from_and_says_so(saved: Path) -> None:
    store = load_index(saved, Cloud())
    with pytest.raises(ValueError, match="docstore should support"):
        store.add_documents([Document(page_content="text 5000")])


def test_a_large_index_is_built_anew_from_its_own_vectors(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kb.index"
    build_index(some(), Cloud(), folder)
    embeddings = Cloud()
    changed = [*some()[5:], Document(id="new", page_content="text 20001")]
    store = build_index(changed, embeddings, folder)
    assert embeddings.embedded == ["text 20001"]
    assert store.index.ntotal == COUNT - 4
    assert load_index(folder, Cloud()).similarity_search("text 20001", k=1)[0].id == "new"


def test_a_query_asked_again_is_not_embedded_again_and_nobody_can_spoil_its_vector(tiny_embedding_model: Path) -> None:
    embeddings = BGEEmbeddings(str(tiny_embedding_model))
    first = embeddings.embed_query("头痛")
    model, embeddings._model = embeddings._model, None
    embeddings._load = lambda: pytest.fail("the model was wanted")  # type: ignore[method-assign]
    again = embeddings.embed_query("头痛")
    assert again == first
    again[0] = 9.0
    assert embeddings.embed_query("头痛") == first
    assert all("头痛".encode() not in key for key in embeddings._queries)
    del embeddings._load
    embeddings._model = model
    assert embeddings.embed_query("耳痛") != first
