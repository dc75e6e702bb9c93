"""Documents ↔ a FAISS index on disk, without pickle. The one file that knows langchain-community and faiss."""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_bge_medical.digests import file_sha256, text_digest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from langchain_community.vectorstores import FAISS

logger = logging.getLogger(__name__)

_FORMAT = 1
# Numbers in the vectors of an index that is searched exactly: 40 MB, which one core reads in a few milliseconds.
_EXACT_NUMBERS = 10_000_000
# Of an approximate index: lists per square root of the vectors, as FAISS' guidelines have it, and vectors per list that
# the lists are made from.
_LISTS, _TRAINING_VECTORS_PER_LIST = 4, 64
# Recall is measured on as many stored vectors if no queries are given, among as many neighbours as get reranked.
_TUNING_QUERIES, _TUNING_NEIGHBOURS = 256, 50
# By how much of the recall that is missing the index is tuned to be better than asked for.
_SPARE = 0.25
_WRITTEN_AT_ONCE = 1 << 20
_MANIFEST = "manifest.json"
# What a save writes beside the manifest, and an interrupted one leaves behind.
_GENERATION = "[0-9a-f]" * 12
_GENERATED = (f"index-{_GENERATION}.faiss", f"documents-{_GENERATION}.jsonl", f"{_MANIFEST}.{_GENERATION}")


class Recall(NamedTuple):
    """How an approximate index does beside an exact search over the same vectors.

    Attributes:
        recall: Share of the exact 50 nearest that it finds, averaged over the queries.
        lists: Lists that it looks into for each query.
        lists_in_all: Lists that there are.
        milliseconds: Median of a search for one query.
        queries: How many were asked.
    """

    recall: float
    lists: int
    lists_in_all: int
    milliseconds: float
    queries: int


class IndexMismatchError(ValueError):
    """An index folder that is incomplete, was altered, or belongs to another embedding model."""


def build_index(
    documents: Iterable[Document],
    embeddings: Embeddings,
    path: str | Path | None = None,
    *,
    batch_size: int = 256,
    recall: float = 0.98,
    queries: Sequence[str] = (),
) -> FAISS:
    """Embed documents into a FAISS index, and save it if `path` is given.

    Up to ten million numbers (e.g. 52,000 vectors of 192) are searched exactly. More are sorted into lists by
    their nearest of many centres (FAISS' IVF), and a search looks into as many lists as were needed, when the
    index was built, for `recall` of the exact 50 nearest; `tune_recall` measures and changes that. Documents
    leave such an index by building it again; loaded, it stays in its files and is only read from.

    If `path` already holds an index of the same embedding model, only texts that are not in it are embedded;
    documents that are gone from `documents` leave the index. Vectors are scaled to length 1, and the store's
    scores are squared L2 distances: 0 to 4, lower is nearer. Its relevance scores, which a `score_threshold` is
    held against, are (1 + cosine) / 2.

    The documents are read once, in batches; memory holds the index and the documents, nothing else that grows.
    Writing is atomic: whenever it is interrupted, the folder holds the old index or the new one. Processes take turns
    at a folder (not on Windows, where there is nothing to lock a folder with).

    Args:
        documents: What to index, e.g. `loader.lazy_load()`. One without an `id` gets one from its text. To be
            saved, their metadata must be what JSON can hold.
        embeddings: Any LangChain embeddings.
        path: Folder; made if it is not there.
        batch_size: Documents embedded at a time.
        recall: Of an index too large for exact search; 1.0 keeps any index exact.
        queries: What users will ask, to measure the recall with, a hundred or more; without them it is measured
            with documents, whose neighbours are a little easier to find.

    Returns:
        The vector store, ready for `as_retriever`.

    Raises:
        ValueError: If there are no documents, two have the same id, the vectors differ in length or are not
            finite, metadata cannot be saved as JSON, `batch_size` is less than 1, or `recall` is not in (0, 1].
        IndexMismatchError: If `path` holds something else than an index, or vectors of other dimensions than a model
            gives that has not changed by anything that it says.
        OSError: If the folder cannot be written to, or the disk is full.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1], got {recall}")
    folder = None if path is None else Path(path)
    known = None
    if folder is not None:
        with _turn_at(folder, to_write=False):
            known = _VectorsByText(folder, identity(embeddings))
        if known.dimension is not None:
            embeddings = FittingEmbeddings(embeddings, known.dimension, folder)
    store: FAISS | None = None
    ids: set[str] = set()
    embedded = 0
    for batch in batches(documents, batch_size):
        kept = [document if document.id else document.model_copy(update={"id": _id_of(document)}) for document in batch]
        for id_ in (document.id or "" for document in kept):
            if id_ in ids:
                raise ValueError(f"two documents have the id {id_!r}")
            ids.add(id_)
        texts = [document.page_content for document in batch]
        vectors, fresh = _embed(texts, embeddings, known)
        embedded += fresh
        if store is None:
            store = _empty_store(embeddings, vectors.shape[1])
        if vectors.shape[1] != store.index.d:
            raise ValueError(f"the embeddings gave vectors of {store.index.d} and of {vectors.shape[1]} dimensions")
        _add(store, kept, vectors)
    if store is None:
        raise ValueError("there are no documents to index")
    logger.info("indexed %d documents, embedded %d", len(ids), embedded)
    if recall < 1 and store.index.ntotal * store.index.d > _EXACT_NUMBERS:
        store.index = _approximate(store.index)
        tune_recall(store, recall, queries=queries)
    if folder is not None:
        _save(store, identity(embeddings), folder)
    return store


def load_index(path: str | Path, embeddings: Embeddings) -> FAISS:
    """Load an index that `build_index` saved. Nothing in it is unpickled.

    An index too large for exact search is mapped into memory, documents and all, instead of read: it is there
    at once, costs what is used of it, and cannot be added to.

    Args:
        path: The folder.
        embeddings: The same model that the index was built with.

    Returns:
        The vector store.

    Raises:
        FileNotFoundError: If `path` holds no index.
        IndexMismatchError: If a file is missing or was altered (each is checked against its SHA-256), the
            parts do not belong together, or the index was built with another embedding model. Names the
            file or both models. The first search says it if only the vectors' dimensions tell them apart, and the
            model has no `dimensions` or `size`.
    """
    folder = Path(path)
    with _turn_at(folder, to_write=False):
        return _load(folder, embeddings)


def _load(folder: Path, embeddings: Embeddings) -> FAISS:
    import faiss

    manifest = _read_manifest(folder)
    own, built_with = identity(embeddings), manifest["embeddings"]
    if own != built_with:
        raise IndexMismatchError(
            f"{folder}: built with {_shown(built_with)}, but asked to load with {_shown(own)}; "
            f"pass the model it was built with, or build the index again"
        )
    index_file, documents_file = _checked_files(folder, manifest)
    large = manifest["dimension"] * manifest["count"] > _EXACT_NUMBERS
    # Mapped, a large index is there at once, and processes that load it share its memory.
    index = _read_vectors(index_file, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if large else 0)
    documents: _StoredDocuments | list[Document]
    documents = _StoredDocuments(documents_file) if large else list(_read_documents(documents_file))
    for what, number, expected in (
        ("vectors", index.ntotal, manifest["count"]),
        ("documents", len(documents), manifest["count"]),
        ("dimensions", index.d, manifest["dimension"]),
    ):
        if number != expected:
            raise IndexMismatchError(f"{folder}: {number} {what} where {_MANIFEST} says {expected}")
    store = _empty_store(FittingEmbeddings(embeddings, index.d, folder), index.d)
    store.index = index
    if isinstance(documents, list):
        _register(store, documents)
    else:
        _make_addressable(index)
        store.docstore, store.index_to_docstore_id = documents, documents.ids
    return store


def tune_recall(
    store: FAISS, recall: float = 0.98, *, queries: Sequence[str] = (), lists: int | None = None
) -> Recall | None:
    """Look into as many lists of an approximate index as give a recall, or as told, and measure it.

    Args:
        store: From `build_index` or `load_index`; searches from now on look into so many lists.
        recall: Of the exact 50 nearest, at least.
        queries: As for `build_index`.
        lists: Take this number instead.

    Returns:
        What was measured, or `None` if the index is exact.

    Raises:
        ValueError: If `recall` is not in (0, 1] or `lists` is less than 1.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1], got {recall}")
    if lists is not None and lists < 1:
        raise ValueError(f"lists must be at least 1, got {lists}")
    index = store.index
    if not hasattr(index, "nprobe"):
        return None
    asked = _tuning_vectors(store, queries)
    neighbours = min(_TUNING_NEIGHBOURS, index.ntotal)
    index.nprobe = index.nlist
    exact = index.search(asked, neighbours)[1]
    index.nprobe = lists or 1
    if lists is None:
        # Other queries than these will find a little less.
        aim = recall + (1 - recall) * _SPARE
        while index.nprobe < index.nlist and _overlap(exact, index.search(asked, neighbours)[1]) < aim:
            index.nprobe = min(2 * index.nprobe, index.nlist)
        _trim(index, asked, exact, aim)
    measured = _overlap(exact, index.search(asked, neighbours)[1])
    times = []
    for row in asked:
        start = time.perf_counter()
        index.search(row[None], neighbours)
        times.append(time.perf_counter() - start)
    found = Recall(measured, index.nprobe, index.nlist, float(np.median(times)) * 1_000, len(asked))
    logger.info(
        "recall %.3f of the exact %d, looking into %d of %d lists, %.2f ms",
        found.recall, neighbours, found.lists, found.lists_in_all, found.milliseconds,
    )  # fmt: skip
    return found


def relevance_of_squared(distance: float) -> float:
    """Return (1 + cosine) / 2 of vectors of length 1, in [0, 1], from the square of their distance."""
    return relevance_of_cosine(1 - distance / 2)


def relevance_of_cosine(cosine: float) -> float:
    """Return (1 + cosine) / 2, in [0, 1] whatever was rounded."""
    return min(1.0, max(0.0, (1 + float(cosine)) / 2))


def stored_documents(store: FAISS) -> list[Document]:
    """Return the documents of a store, in the order of their vectors, e.g. for a second, lexical index."""
    return [store.docstore.search(store.index_to_docstore_id[i]) for i in range(store.index.ntotal)]


def identity(embeddings: Embeddings) -> dict[str, str]:
    """Return what tells an embedding model from another: class, model, revision, dimensions, as far as it says."""
    if isinstance(embeddings, FittingEmbeddings):
        return identity(embeddings.embeddings)
    name = getattr(embeddings, "model_name", None) or getattr(embeddings, "model", None)
    revision = getattr(embeddings, "resolved_revision", None) or getattr(embeddings, "revision", None)
    dimensions = getattr(embeddings, "dimensions", None) or getattr(embeddings, "size", None)
    size = str(dimensions) if isinstance(dimensions, int) else None
    said = {"class": type(embeddings).__name__, "model_name": name, "revision": revision, "dimensions": size}
    return {key: value for key, value in said.items() if isinstance(value, str)}


def batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Yield the documents in lists of a size.

    Raises:
        ValueError: If the size is less than 1.
    """
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


class FittingEmbeddings(Embeddings):
    """An embedding model whose vectors must fit those of an index on disk. FAISS itself says nothing when they do not.

    Each method raises `IndexMismatchError` then.

    Attributes:
        embeddings: The model.
    """

    def __init__(self, embeddings: Embeddings, dimension: int, place: str | Path) -> None:
        """Take the model, the length of the index' vectors, and where it is."""
        self.embeddings = embeddings
        self._dimension = dimension
        self._place = place

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """As the model's own."""
        return self._fitting(self.embeddings.embed_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """As the model's own."""
        return self._fitting([self.embeddings.embed_query(text)])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As the model's own."""
        return self._fitting(await self.embeddings.aembed_documents(texts))

    async def aembed_query(self, text: str) -> list[float]:
        """As the model's own."""
        return self._fitting([await self.embeddings.aembed_query(text)])[0]

    def _fitting(self, vectors: list[list[float]]) -> list[list[float]]:
        other = next((len(vector) for vector in vectors if len(vector) != self._dimension), None)
        if other is not None:
            raise IndexMismatchError(
                f"{self._place}: holds vectors of {self._dimension} dimensions, but {_shown(identity(self))} now gives "
                f"{other}; pass the model it was built with, or delete it and build it again"
            )
        return vectors


class _VectorsByText:
    """The vectors of an index on disk, by their text; empty if there is none that can be used."""

    def __init__(self, folder: Path, embeddings: Mapping[str, str]) -> None:
        self.dimension: int | None = None
        self._rows: dict[bytes, int] = {}
        if not (folder / _MANIFEST).exists():
            if folder.exists() and any(not any(map(file.match, _GENERATED)) for file in folder.iterdir()):
                raise IndexMismatchError(f"{folder}: is not empty and holds no {_MANIFEST}; choose another folder")
            return
        try:
            manifest = _read_manifest(folder)
            index_file, documents_file = _checked_files(folder, manifest)
            if manifest["embeddings"] != embeddings:
                logger.warning(
                    "%s: was built with %s; everything is embedded again", folder, _shown(manifest["embeddings"])
                )
                return
            self._index = _read_vectors(index_file)
            rows = {
                text_digest(document.page_content): row for row, document in enumerate(_read_documents(documents_file))
            }
        except IndexMismatchError as error:
            logger.warning("%s; everything is embedded again", error)
            return
        _make_addressable(self._index)
        self._rows = rows
        self.dimension = self._index.d

    def get(self, text: str) -> np.ndarray[Any, Any] | None:
        row = self._rows.get(text_digest(text))
        return None if row is None else np.asarray(self._index.reconstruct(row))


def _embed(texts: list[str], embeddings: Embeddings, known: _VectorsByText | None) -> tuple[np.ndarray[Any, Any], int]:
    """Return a vector of length 1 per text, and how many were not known before."""
    import faiss

    vectors = [None if known is None else known.get(text) for text in texts]
    missing = list(dict.fromkeys(text for text, vector in zip(texts, vectors, strict=True) if vector is None))
    fresh = dict(zip(missing, embeddings.embed_documents(missing) if missing else [], strict=True))
    rows = [fresh[text] if vector is None else vector for text, vector in zip(texts, vectors, strict=True)]
    try:
        matrix = np.array(rows, dtype=np.float32)
    except ValueError:
        raise ValueError(f"the embeddings gave vectors of {sorted({len(row) for row in rows})} dimensions") from None
    if not np.isfinite(matrix).all():
        raise ValueError("the embeddings gave a vector that is not all finite numbers")
    faiss.normalize_L2(matrix)
    return matrix, len(missing)


def _empty_store(embeddings: Embeddings, dimension: int) -> FAISS:
    import faiss

    with warnings.catch_warnings():
        # langchain-community announces its sunset at import. It is what holds LangChain's FAISS store all the same.
        warnings.filterwarnings("ignore", message=".*langchain-community.*", category=DeprecationWarning)
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS
    return FAISS(
        embeddings, faiss.IndexFlatL2(dimension), InMemoryDocstore(), {}, relevance_of_squared, normalize_L2=True
    )


def _approximate(exact: Any) -> Any:
    """Return an index of lists with the vectors of an exact one."""
    import faiss

    number, dimension = exact.ntotal, exact.d
    lists = 1 << round(math.log2(_LISTS * math.sqrt(number)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimension), dimension, lists)
    index.cp.max_points_per_centroid = _TRAINING_VECTORS_PER_LIST
    vectors = faiss.rev_swig_ptr(exact.get_xb(), number * dimension).reshape(number, dimension)
    index.train(vectors)
    index.add(vectors)
    _make_addressable(index)
    return index


def _make_addressable(index: Any) -> None:
    """Let an index of lists say which vector a row has, as an exact one can."""
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()


def _tuning_vectors(store: FAISS, queries: Sequence[str]) -> np.ndarray[Any, Any]:
    import faiss

    if queries:
        vectors = np.array([store.embedding_function.embed_query(query) for query in queries], dtype=np.float32)
        faiss.normalize_L2(vectors)
        return vectors
    rows = np.random.default_rng(0).choice(store.index.ntotal, min(_TUNING_QUERIES, store.index.ntotal), replace=False)
    return np.stack([store.index.reconstruct(int(row)) for row in rows])


def _trim(index: Any, asked: np.ndarray[Any, Any], exact: np.ndarray[Any, Any], recall: float) -> None:
    """Between a number of lists that was too small and its double, find about the least that is enough."""
    low, high = index.nprobe // 2, index.nprobe
    while high - low > max(1, high // 16):
        index.nprobe = (low + high) // 2
        if _overlap(exact, index.search(asked, exact.shape[1])[1]) >= recall:
            high = index.nprobe
        else:
            low = index.nprobe
    index.nprobe = high


def _overlap(exact: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]))


class _StoredDocuments:
    """Documents that stay in their file until they are asked for: what LangChain calls a docstore, to read from."""

    def __init__(self, file: Path) -> None:
        self._place = str(file)
        if not file.stat().st_size:
            raise IndexMismatchError(f"{file}: is empty")
        with file.open("rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = _line_starts(self._bytes)
        self._row_of: dict[str, int] | None = None
        self._last_ids: dict[str, int] = {}
        self.ids = _RowIds(self)
        self._document = lru_cache(maxsize=1_024)(self._read)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, row: int) -> Document:
        document = self._document(row)
        # The store turns a row into an id and the id into a document: the id comes back in a moment.
        if len(self._last_ids) > 10_000:
            self._last_ids.clear()
        self._last_ids[str(document.id)] = row
        return document

    def search(self, search: str) -> Document | str:
        """Return the document of an id, or a sentence that there is none, as LangChain's docstores do."""
        row = self._last_ids.get(search)
        if row is None:
            if self._row_of is None:
                self._row_of = {str(self._read(row).id): row for row in range(len(self))}
            row = self._row_of.get(search)
        return f"ID {search} not found." if row is None else self._document(row).model_copy(deep=True)

    def _read(self, row: int) -> Document:
        return _as_document(self._bytes[self._starts[row] : self._starts[row + 1]], f"{self._place}, line {row + 1}")


class _RowIds(Mapping[int, str]):
    """Row → id of stored documents."""

    def __init__(self, documents: _StoredDocuments) -> None:
        self._documents = documents

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise KeyError(row)
        return str(self._documents.row(int(row)).id)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._documents)


def _line_starts(text: mmap.mmap) -> np.ndarray[Any, Any]:
    """Return where each line starts, and where the last one ends."""
    ends = [np.zeros(1, dtype=np.int64)]
    step = 1 << 24
    for start in range(0, len(text), step):
        chunk = np.frombuffer(text[start : start + step], dtype=np.uint8)
        ends.append(np.flatnonzero(chunk == ord("\n")) + start + 1)
    return np.concatenate(ends)


def _add(store: FAISS, documents: list[Document], vectors: np.ndarray[Any, Any]) -> None:
    store.index.add(vectors)
    _register(store, documents)


def _register(store: FAISS, documents: list[Document]) -> None:
    first = len(store.index_to_docstore_id)
    for row, document in enumerate(documents, start=first):
        store.docstore._dict[document.id] = document  # add() refuses nothing, but copies the whole dict each time
        store.index_to_docstore_id[row] = document.id


@contextmanager
def _turn_at(folder: Path, *, to_write: bool) -> Iterator[None]:
    """Wait for whoever writes to the folder, or to write for all who read it: a save removes what they read."""
    if fcntl is None or not folder.is_dir():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if to_write else fcntl.LOCK_SH)
        except OSError as error:  # some network file systems have no locks
            logger.debug("%s: cannot be locked: %s", folder, error)
        yield
    finally:
        os.close(descriptor)


def _save(store: FAISS, embeddings: Mapping[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generation = uuid.uuid4().hex[:12]
    with _turn_at(folder, to_write=True):
        try:
            _write(store, embeddings, folder, generation)
        except Exception as error:
            for file in folder.glob(f"*{generation}*"):  # a disk that is full should not stay so
                file.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno is not None:
                raise type(error)(
                    error.errno, f"{error.strerror}; what the folder held before is still there", str(folder)
                ) from None
            raise


def _write(store: FAISS, embeddings: Mapping[str, str], folder: Path, generation: str) -> None:
    """Write new files beside the old ones, then switch by replacing the manifest, then clean up."""
    import faiss

    index_file, documents_file = (
        folder / f"index-{generation}.faiss",
        folder / f"documents-{generation}.jsonl",
    )
    with index_file.open("wb") as stream:
        # Not by its name: FAISS does not notice when the last few kilobytes do not fit on the disk.
        writer = faiss.PyCallbackIOWriter(stream.write, _WRITTEN_AT_ONCE)  # type: ignore[attr-defined]  # no types
        faiss.write_index(store.index, writer)
    with documents_file.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        for document in stored_documents(store):
            raw = {"id": document.id, "page_content": document.page_content, "metadata": document.metadata}
            try:
                stream.write(json.dumps(raw, ensure_ascii=False) + "\n")
            except TypeError as error:
                raise ValueError(f"the metadata of document {document.id!r} cannot be saved as JSON: {error}") from None
    manifest = {
        "format": _FORMAT,
        "embeddings": embeddings,
        "dimension": store.index.d,
        "count": store.index.ntotal,
        "files": {file.name: file_sha256(file) for file in (index_file, documents_file)},
    }
    new_manifest = folder / f"{_MANIFEST}.{generation}"
    new_manifest.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")
    for file in (index_file, documents_file, new_manifest):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    new_manifest.replace(folder / _MANIFEST)
    for pattern in _GENERATED:
        for file in folder.glob(pattern):
            if generation not in file.name:
                file.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / _MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: holds no index ({_MANIFEST} is not there)")
    try:
        manifest = json.loads(file.read_text("utf-8"))
        format_, files, embeddings = manifest["format"], manifest["files"], manifest["embeddings"]
        complete = all(type(manifest[key]) is int for key in ("dimension", "count"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IndexMismatchError(f"{file}: is damaged; build the index again") from None
    if not (complete and isinstance(files, dict) and isinstance(embeddings, dict)):
        raise IndexMismatchError(f"{file}: is damaged; build the index again")
    if format_ != _FORMAT:
        raise IndexMismatchError(f"{file}: is of format {format_!r}, this version reads {_FORMAT}")
    return dict(manifest)


def _checked_files(folder: Path, manifest: Mapping[str, Any]) -> tuple[Path, Path]:
    """Return the index and the documents file after comparing them with their digests."""
    found: dict[str, Path] = {}
    for name, digest in manifest["files"].items():
        file = folder / name
        if Path(name).name != name:
            raise IndexMismatchError(f"{folder}: {_MANIFEST} names {name!r}, which is not in this folder")
        if not any(map(Path(name).match, _GENERATED)):
            raise IndexMismatchError(f"{folder}: {_MANIFEST} names {name!r}, which is no part of an index")
        if not file.is_file():
            raise IndexMismatchError(f"{file}: is missing")
        if file_sha256(file) != digest:
            raise IndexMismatchError(f"{file}: was altered (SHA-256 differs from {_MANIFEST})")
        found[file.suffix] = file
    if set(found) != {".faiss", ".jsonl"}:
        raise IndexMismatchError(f"{folder}: {_MANIFEST} does not name an index and a documents file")
    return found[".faiss"], found[".jsonl"]


def _read_vectors(file: Path, flags: int = 0) -> Any:
    import faiss

    try:
        return faiss.read_index(str(file), flags)
    except (RuntimeError, MemoryError):  # a size in it that cannot be is memory that is not there
        raise IndexMismatchError(f"{file}: is no index; build it again") from None


def _read_documents(file: Path) -> Iterator[Document]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            yield _as_document(line, f"{file}, line {number}")


def _as_document(line: bytes, place: str) -> Document:
    try:
        return Document(**json.loads(line.decode("utf-8", "surrogatepass")))
    except (ValueError, TypeError, RecursionError):
        raise IndexMismatchError(f"{place}: is no document; build the index again") from None


def _id_of(document: Document) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, document.page_content.encode("utf-8", "replace").decode()))


def _shown(embeddings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in embeddings.items())
