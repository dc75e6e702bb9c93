from __future__ import annotations

import asyncio
import json
import logging
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_bge_medical.vectorstores import (
    IndexMismatchError,
    build_index,
    identity,
    load_index,
    stored_documents,
)
from tests.conftest import HashEmbeddings


class Failing(HashEmbeddings):
    """Works for some texts, then no longer."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if len(self.embedded) + len(texts) > self.after:
            raise ConnectionError("the embedding service is down")
        return super().embed_documents(texts)


class Scripted(HashEmbeddings):
    """Gives the vectors it was told to, in order."""

    def __init__(self, vectors: list[list[float]]) -> None:
        super().__init__()
        self.vectors = list(vectors)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vectors.pop(0) for _ in texts]


class Interrupted(dict[str, int]):
    """Metadata during whose saving somebody presses Ctrl-C."""

    def items(self) -> None:  # type: ignore[override]
        raise KeyboardInterrupt


@pytest.fixture
def index(tmp_path: Path, documents: list[Document]) -> Path:
    folder = tmp_path / "kb.index"
    build_index(documents, HashEmbeddings(), folder)
    return folder


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def ranked_ids(folder: Path, query: str) -> list[str | None]:
    return [document.id for document in load_index(folder, HashEmbeddings()).similarity_search(query, k=50)]


def cosines(documents: list[Document], query: str) -> np.ndarray:
    """The oracle: brute force, in double precision, without faiss."""
    embeddings = HashEmbeddings()
    matrix = np.array([embeddings.embed_query(document.page_content) for document in documents])
    vector = np.array(embeddings.embed_query(query))
    return matrix @ vector / np.linalg.norm(matrix, axis=1) / np.linalg.norm(vector)


@pytest.mark.parametrize("query", ["发热咳嗽三天", "崴脚之后走不了路", "头痛恶心", "x"])
def test_ranking_and_scores_are_those_of_brute_force_cosine(query: str, index: Path, documents: list[Document]) -> None:
    similarity = cosines(documents, query)
    found = load_index(index, HashEmbeddings()).similarity_search_with_score(query, k=len(documents))
    by_id = {document.id: value for document, value in zip(documents, similarity, strict=True)}
    # |a - b|² = 2 - 2 cos for vectors of length 1
    assert [score for _, score in found] == pytest.approx(sorted(2 - 2 * similarity), abs=1e-5)
    assert [2 - 2 * by_id[document.id] for document, _ in found] == pytest.approx([s for _, s in found], abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text("发热咳嗽头痛ab ", min_size=2, max_size=12), min_size=1, max_size=30, unique=True), st.data())
def test_any_texts_are_ranked_as_brute_force_cosine_does(texts: list[str], data: st.DataObject) -> None:
    documents = [Document(page_content=text, id=str(i)) for i, text in enumerate(texts)]
    query = data.draw(st.sampled_from(texts))
    store = build_index(documents, HashEmbeddings(), batch_size=7)
    scores = [score for _, score in store.similarity_search_with_score(query, k=len(texts))]
    assert scores == pytest.approx(sorted(2 - 2 * cosines(documents, query)), abs=1e-5)


def test_vectors_have_length_one_whatever_the_embeddings_give(documents: list[Document]) -> None:
    store = build_index(documents, Scripted([[float(i), 10.0**i] for i in range(6)]))
    vectors = store.index.reconstruct_n(0, store.index.ntotal)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_a_saved_index_comes_back_with_the_same_documents_in_the_same_order(
    tmp_path: Path, documents: list[Document]
) -> None:
    documents[0].metadata |= {"名": {"nested": [1, 2.5, None, True]}, "line": "a\u2028b\r\nc"}
    documents[1].page_content = "x\u2028y\n\r\u0085z"
    build_index(documents, HashEmbeddings(), tmp_path / "a" / "b")
    assert stored_documents(load_index(tmp_path / "a" / "b", HashEmbeddings())) == documents


def test_a_loaded_index_has_the_vectors_that_were_saved_bit_for_bit(tmp_path: Path, documents: list[Document]) -> None:
    built = build_index(documents, HashEmbeddings(), tmp_path / "i")
    loaded = load_index(tmp_path / "i", HashEmbeddings())
    np.testing.assert_array_equal(built.index.reconstruct_n(0, 6), loaded.index.reconstruct_n(0, 6))


def test_a_document_without_an_id_gets_the_same_one_in_every_build() -> None:
    ids = [stored_documents(build_index([Document(page_content="偏头痛")], HashEmbeddings()))[0].id for _ in "12"]
    assert ids == ["ce71ba06-d692-57e3-98dd-0cfae3ef615f"] * 2


def test_the_documents_passed_in_are_not_changed() -> None:
    document = Document(page_content="偏头痛")
    build_index([document], HashEmbeddings())
    assert document.id is None


def test_a_lone_surrogate_survives_saving_and_loading(tmp_path: Path) -> None:
    build_index([Document(page_content="头\ud800痛", metadata={"a": "\udfff"})], HashEmbeddings(), tmp_path / "i")
    document = stored_documents(load_index(tmp_path / "i", HashEmbeddings()))[0]
    assert (document.page_content, document.metadata) == ("头\ud800痛", {"a": "\udfff"})


def test_no_file_of_an_index_is_a_pickle(index: Path) -> None:
    files = sorted(file.name for file in index.iterdir())
    assert [name.partition("-")[0] for name in files] == ["documents", "index", "manifest.json"]
    for file in index.iterdir():
        with pytest.raises(Exception), file.open("rb") as stream:  # noqa: B017, PT011 - whatever says that it is none
            pickle.load(stream)


@pytest.mark.parametrize("name", ["index.pkl", "index.faiss", "documents.pkl"])
def test_a_malicious_pickle_in_the_folder_is_neither_run_nor_removed(name: str, index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (ran,))

    (index / name).write_bytes(content := pickle.dumps(Malicious()))
    assert len(ranked_ids(index, "头痛")) == 6
    build_index([Document(page_content="新")], HashEmbeddings(), index)
    assert not ran.exists()
    assert (index / name).read_bytes() == content
    pickle.loads(content)
    assert ran.exists()  # so it was malicious


@pytest.mark.parametrize("pattern", ["index-*.faiss", "documents-*.jsonl"])
def test_any_altered_byte_of_a_data_file_is_refused_by_its_name(pattern: str, index: Path) -> None:
    [file] = index.glob(pattern)
    for position in range(0, file.stat().st_size, max(1, file.stat().st_size // 60)):
        flip(file, position)
        with pytest.raises(IndexMismatchError, match=f"{file.name}: was altered"):
            load_index(index, HashEmbeddings())
        flip(file, position)
    assert len(ranked_ids(index, "头痛")) == 6


def test_any_altered_byte_of_the_manifest_is_refused_or_changes_nothing_that_it_says(index: Path) -> None:
    manifest = index / "manifest.json"
    said, refusals = json.loads(manifest.read_text("utf-8")), []
    for position in range(manifest.stat().st_size):
        flip(manifest, position)
        try:
            load_index(index, HashEmbeddings())
        except IndexMismatchError as error:
            refusals.append(str(error))
        else:
            assert json.loads(manifest.read_text("utf-8")) == said  # white space
        flip(manifest, position)
    assert len(refusals) > 200
    assert all(str(index) in refusal for refusal in refusals)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "null", '{"format": 1}', "\x00", '"format"', "1"],
)
def test_a_manifest_that_is_something_else_is_called_damaged(content: str, index: Path) -> None:
    (index / "manifest.json").write_text(content)
    with pytest.raises(IndexMismatchError, match=r"manifest\.json: is damaged"):
        load_index(index, HashEmbeddings())


@pytest.mark.parametrize("key", ["files", "embeddings"])
@pytest.mark.parametrize("value", [None, [], ["a", "b"], "ab", 2])
def test_a_manifest_with_a_part_of_another_type_is_called_damaged(key: str, value: object, index: Path) -> None:
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    (index / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(IndexMismatchError, match=r"manifest\.json: is damaged"):
        load_index(index, HashEmbeddings())


def test_a_manifest_of_a_later_format_is_refused_with_both_numbers(index: Path) -> None:
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    (index / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(IndexMismatchError, match="is of format 2, this version reads 1"):
        load_index(index, HashEmbeddings())


@pytest.mark.parametrize("name", ["../outside.faiss", "/etc/hostname", "..\\x.faiss"])
def test_a_manifest_cannot_name_a_file_outside_its_folder(name: str, index: Path) -> None:
    (index.parent / "outside.faiss").write_bytes(b"x")
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    [jsonl] = [file for file in manifest["files"] if file.endswith("jsonl")]
    files = {jsonl: manifest["files"][jsonl], name: "0"}
    (index / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(IndexMismatchError, match=r"not in this folder|no part of an index"):
        load_index(index, HashEmbeddings())


def test_parts_that_do_not_belong_together_are_refused_with_both_counts(index: Path) -> None:
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    (index / "manifest.json").write_text(json.dumps({**manifest, "count": 7}))
    with pytest.raises(IndexMismatchError, match=r"6 vectors where manifest\.json says 7"):
        load_index(index, HashEmbeddings())


@pytest.mark.parametrize("pattern", ["index-*.faiss", "documents-*.jsonl"])
def test_a_missing_data_file_is_named(pattern: str, index: Path) -> None:
    [file] = index.glob(pattern)
    file.unlink()
    with pytest.raises(IndexMismatchError, match=f"{file.name}: is missing"):
        load_index(index, HashEmbeddings())


def test_a_folder_without_an_index_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=f"{folder.name}: holds no index"):
            load_index(folder, HashEmbeddings())


def test_another_embedding_model_is_refused_by_naming_both(index: Path) -> None:
    with pytest.raises(IndexMismatchError, match=r"model_name=hash, .* model_name=other; .* build the index again"):
        load_index(index, HashEmbeddings(model_name="other"))


def test_another_revision_of_the_same_model_is_another_model(index: Path) -> None:
    newer = HashEmbeddings()
    newer.revision = "2"  # type: ignore[attr-defined]
    assert identity(newer) == {**identity(HashEmbeddings()), "revision": "2"}
    with pytest.raises(IndexMismatchError, match="revision=2"):
        load_index(index, newer)


def test_the_same_model_in_other_dimensions_is_another_model(tmp_path: Path, documents: list[Document]) -> None:
    class Shortened(HashEmbeddings):
        """Cuts its vectors, as OpenAI's do."""

        def __init__(self, dimensions: int) -> None:
            super().__init__(dimensions)
            self.dimensions = dimensions

    for made in (lambda size: DeterministicFakeEmbedding(size=size), Shortened):
        folder = tmp_path / type(made(8)).__name__
        build_index(documents, made(8), folder)
        with pytest.raises(IndexMismatchError, match=r"built with .* dimensions=8, but asked to load with .*=16;"):
            load_index(folder, made(16))
        build_index(documents, made(16), folder)
        assert len(load_index(folder, made(16)).similarity_search("头痛", k=6)) == 6


def test_a_model_that_says_no_dimensions_is_refused_with_both_when_its_vectors_do_not_fit(
    index: Path, documents: list[Document]
) -> None:
    other = HashEmbeddings(dimension=16)
    new = [*documents, Document(page_content="新的")]
    ways: list[Callable[[], object]] = [
        lambda: load_index(index, other).similarity_search("头痛"),
        lambda: asyncio.run(load_index(index, other).asimilarity_search("头痛")),
        lambda: load_index(index, other).max_marginal_relevance_search("头痛"),
        lambda: load_index(index, other).add_texts(["新的"]),
        lambda: asyncio.run(load_index(index, other).aadd_texts(["新的"])),
        lambda: build_index(documents, other, index).similarity_search("头痛"),
        lambda: build_index(new, other, index),
        lambda: build_index(new, other, index, batch_size=1),
    ]
    for way in ways:
        with pytest.raises(IndexMismatchError, match=r"kb\.index: holds vectors of 64 .*=hash now gives 16; pass"):
            way()
    assert len(ranked_ids(index, "头痛")) == 6


def test_the_embeddings_of_a_store_are_known_as_the_model_that_it_was_loaded_with(
    index: Path, documents: list[Document]
) -> None:
    embeddings = load_index(index, HashEmbeddings()).embeddings
    assert identity(embeddings) == identity(HashEmbeddings())
    build_index(documents[:1], embeddings, index)
    assert load_index(index, HashEmbeddings()).index.ntotal == 1


def test_indexing_again_embeds_only_what_changed_and_drops_what_is_gone(
    index: Path, documents: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    changed = [
        d.model_copy(update={"page_content": d.page_content + "新"}) if i in (0, 2, 4) else d
        for i, d in enumerate(documents)
    ]
    again, embeddings = [changed[4], changed[0], *changed[2:4]], HashEmbeddings()
    with caplog.at_level(logging.INFO, "langchain_bge_medical"):
        build_index(again, embeddings, index)
    assert sorted(embeddings.embedded) == sorted(changed[i].page_content for i in (0, 2, 4))
    assert "indexed 4 documents, embedded 3" in caplog.text
    assert stored_documents(load_index(index, HashEmbeddings())) == again


def test_indexing_again_gives_the_same_ranking_as_indexing_afresh(
    index: Path, documents: list[Document], tmp_path: Path
) -> None:
    documents[3].page_content += "饭后加重"
    build_index(documents[::-1], HashEmbeddings(), index)
    build_index(documents[::-1], HashEmbeddings(), tmp_path / "fresh")
    for query in ("发热", "头痛恶心", "饭后腹痛"):
        assert ranked_ids(index, query) == ranked_ids(tmp_path / "fresh", query)


def test_new_metadata_is_stored_without_embedding_the_text_again(index: Path, documents: list[Document]) -> None:
    documents[0].metadata["department"] = "呼吸内科"
    embeddings = HashEmbeddings()
    build_index(documents, embeddings, index)
    assert embeddings.embedded == []
    assert stored_documents(load_index(index, HashEmbeddings()))[0].metadata["department"] == "呼吸内科"


def test_equal_texts_of_one_batch_are_embedded_once() -> None:
    embeddings = HashEmbeddings()
    store = build_index([Document(id=str(i), page_content="同样的话") for i in range(4)], embeddings)
    assert (len(embeddings.embedded), store.index.ntotal) == (1, 4)


def test_indexing_with_another_model_embeds_everything_and_says_so(
    index: Path, documents: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    other = HashEmbeddings(dimension=16, model_name="other")
    build_index(documents, other, index)
    assert len(other.embedded) == 6
    assert "was built with class=HashEmbeddings model_name=hash; everything is embedded again" in caplog.text
    assert load_index(index, HashEmbeddings(dimension=16, model_name="other")).index.d == 16


def test_an_altered_index_is_not_reused_when_indexing_again(
    index: Path, documents: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    [file] = index.glob("index-*.faiss")
    flip(file, -1)
    embeddings = HashEmbeddings()
    build_index(documents, embeddings, index)
    assert len(embeddings.embedded) == 6
    assert f"{file.name}: was altered" in caplog.text
    assert len(ranked_ids(index, "头痛")) == 6


def test_indexing_again_leaves_three_files(index: Path, documents: list[Document]) -> None:
    for _ in range(3):
        build_index(documents, HashEmbeddings(), index)
    assert len(list(index.iterdir())) == 3


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, documents: list[Document]) -> None:
    for name in ("documents-2024.jsonl", "index-old.faiss", "thesis.txt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        embeddings = HashEmbeddings()
        with pytest.raises(IndexMismatchError, match="choose another folder"):
            build_index(documents, embeddings, folder)
        assert embeddings.embedded == []
        assert [file.read_text() for file in folder.iterdir()] == ["mine"]


def test_a_file_of_the_users_that_looks_like_ours_survives_indexing_again(
    index: Path, documents: list[Document]
) -> None:
    (index / "documents-2024.jsonl").write_text("mine")
    (index / "manifest.json.bak").write_text("mine")
    build_index(documents, HashEmbeddings(), index)
    assert (index / "documents-2024.jsonl").exists()
    assert (index / "manifest.json.bak").exists()


def test_embeddings_that_fail_halfway_leave_the_old_index(index: Path, documents: list[Document]) -> None:
    before = ranked_ids(index, "头痛")
    changed = [Document(id=d.id, page_content=d.page_content + "变") for d in documents]
    with pytest.raises(ConnectionError):
        build_index(changed, Failing(after=4), index, batch_size=2)
    assert ranked_ids(index, "头痛") == before
    assert stored_documents(load_index(index, HashEmbeddings())) == documents


def test_a_save_that_is_interrupted_leaves_the_old_index_and_the_next_save_cleans_up(
    index: Path, documents: list[Document]
) -> None:
    changed = [*documents[:3], Document(page_content="新", metadata={"x": Interrupted(a=1)})]
    with pytest.raises(KeyboardInterrupt):
        build_index(changed, HashEmbeddings(), index)
    assert len(list(index.iterdir())) > 3
    assert stored_documents(load_index(index, HashEmbeddings())) == documents
    build_index(documents[:2], HashEmbeddings(), index)
    assert len(list(index.iterdir())) == 3


def test_a_first_save_that_is_interrupted_does_not_make_the_folder_useless(
    tmp_path: Path, documents: list[Document]
) -> None:
    interrupted = [*documents, Document(page_content="新", metadata={"x": Interrupted(a=1)})]
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted, HashEmbeddings(), tmp_path / "i")
    with pytest.raises(FileNotFoundError, match="holds no index"):
        load_index(tmp_path / "i", HashEmbeddings())
    build_index(documents, HashEmbeddings(), tmp_path / "i")
    assert len(list((tmp_path / "i").iterdir())) == 3


@pytest.mark.parametrize("limit", [0, 300, 1_500, 2_000])
def test_a_disk_that_is_full_leaves_the_old_index(limit: int, index: Path, documents: list[Document]) -> None:
    resource = pytest.importorskip("resource")
    # A file may grow to this many bytes: the vectors, or the documents, do not fit.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    changed = [Document(id=d.id, page_content=d.page_content + "变" * 200) for d in documents]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=f"still there: '{index}'"):
            build_index(changed, HashEmbeddings(), index)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stored_documents(load_index(index, HashEmbeddings())) == documents
    assert len(list(index.iterdir())) == 3


def test_a_path_where_no_folder_can_be_made_is_an_os_error(tmp_path: Path, documents: list[Document]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        build_index(documents, HashEmbeddings(), tmp_path / "file" / "index")


def test_metadata_that_json_cannot_hold_is_refused_by_the_documents_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metadata of document 'flu' cannot be saved as JSON: .*set"):
        build_index([Document(id="flu", page_content="x", metadata={"s": {1}})], HashEmbeddings(), tmp_path / "i")


def test_two_documents_with_one_id_are_refused_before_the_rest_is_embedded(
    index: Path, documents: list[Document]
) -> None:
    embeddings = HashEmbeddings()
    late = [Document(id=f"late-{i}", page_content=f"后来的{i}") for i in range(6)]
    with pytest.raises(ValueError, match="two documents have the id 'id-0'"):
        build_index([*documents, documents[0], *late], embeddings, index, batch_size=6)
    assert embeddings.embedded == []
    assert stored_documents(load_index(index, HashEmbeddings())) == documents


def test_relevance_goes_from_0_of_opposite_vectors_to_1_of_the_same_one() -> None:
    class Compass(HashEmbeddings):
        def _vector(self, text: str) -> list[float]:
            return {"north": [0.0, 3.0], "east": [2.0, 0.0], "south": [0.0, -1.0]}[text]

    store = build_index([Document(page_content=text) for text in ("south", "north", "east")], Compass())
    found = store.similarity_search_with_relevance_scores("north", k=3)
    assert [(document.page_content, score) for document, score in found] == [
        ("north", 1.0), ("east", pytest.approx(0.5, abs=1e-6)), ("south", 0.0),
    ]  # fmt: skip


def test_no_documents_are_refused_and_leave_the_old_index(index: Path, tmp_path: Path) -> None:
    for folder in (index, tmp_path / "new", None):
        with pytest.raises(ValueError, match="there are no documents to index"):
            build_index(iter(()), HashEmbeddings(), folder)
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            build_index([Document(page_content="头痛")], HashEmbeddings(), folder, batch_size=0)
    assert len(ranked_ids(index, "头痛")) == 6
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_vectors_that_are_not_finite_are_refused(value: float, tmp_path: Path, documents: list[Document]) -> None:
    vectors = [[1.0, 2.0]] * 5 + [[1.0, value]]
    with pytest.raises(ValueError, match="not all finite"):
        build_index(documents, Scripted(vectors), tmp_path / "i")
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_vectors_of_different_lengths_are_refused_with_the_lengths(batch_size: int, documents: list[Document]) -> None:
    vectors = [[1.0, 2.0]] * 3 + [[1.0, 2.0, 3.0]] * 3
    with pytest.raises(ValueError, match=r"vectors of \[2, 3\] dimensions|vectors of 2 and of 3 dimensions"):
        build_index(documents, Scripted(vectors), batch_size=batch_size)


def test_indexing_a_generator_holds_one_batch_of_vectors_besides_the_index(tmp_path: Path) -> None:
    count, dimension, taken = 5_000, 256, 0

    def generate() -> Iterator[Document]:
        nonlocal taken
        for taken in range(1, count + 1):
            yield Document(id=str(taken), page_content=f"疾病{taken}")

    class Ones(HashEmbeddings):
        furthest = 0

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.furthest = max(self.furthest, len(texts))
            self.embedded.append(str(taken))
            return [[1.0] * self.dimension for _ in texts]

    build_index([Document(page_content="warm")], HashEmbeddings())  # imports do not count
    embeddings = Ones(dimension)
    tracemalloc.start()
    try:
        store = build_index(generate(), embeddings, tmp_path / "i", batch_size=100)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.index.ntotal == count
    assert embeddings.furthest == 100
    assert embeddings.embedded[:3] == ["100", "200", "300"]  # documents are taken as they are needed
    all_vectors = count * dimension * np.dtype(np.float32).itemsize  # faiss' own are not Python's memory
    assert peak - kept < all_vectors * 0.7  # 2 MiB of it to read files for their digests


def test_a_loaded_index_takes_and_removes_documents_as_any_langchain_store_does(index: Path) -> None:
    store = load_index(index, HashEmbeddings())
    store.add_documents([Document(id="new", page_content="痛风:关节红肿")])
    store.delete(["id-0"])
    assert [document.id for document in stored_documents(store)] == ["id-1", "id-2", "id-3", "id-4", "id-5", "new"]
    assert store.similarity_search("痛风关节红肿", k=1)[0].id == "new"


def test_a_retriever_over_an_index_returns_no_more_documents_than_there_are(index: Path) -> None:
    retriever = load_index(index, HashEmbeddings()).as_retriever(search_kwargs={"k": 50})
    assert len(retriever.invoke("头痛")) == 6


def test_log_records_name_no_text(tmp_path: Path, documents: list[Document], caplog: pytest.LogCaptureFixture) -> None:
    documents[0].page_content = documents[0].metadata["disease"] = "金丝雀-canary"
    with caplog.at_level(logging.DEBUG, "langchain_bge_medical"):
        build_index(documents, HashEmbeddings(), tmp_path / "i")
        load_index(tmp_path / "i", HashEmbeddings()).similarity_search("金丝雀-canary")
    assert caplog.records
    assert "金丝雀" not in caplog.text


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "does not name an index and a documents file"),
        ({"../index.faiss": ""}, "which is not in this folder"),
        ({"manifest.json": ""}, "which is no part of an index"),
    ],
)
def test_a_manifest_that_names_other_files_is_refused(files: dict[str, str], says: str, tmp_path: Path) -> None:
    build_index([Document(page_content="头痛")], HashEmbeddings(), tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text("utf-8")), "files": files}), "utf-8")
    with pytest.raises(IndexMismatchError, match=says):
        load_index(tmp_path, HashEmbeddings())
