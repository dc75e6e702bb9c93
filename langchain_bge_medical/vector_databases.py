"""Documents ↔ a Chroma or Milvus collection, on disk or on a server. The one file that knows their clients."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_bge_medical.vectorstores import (
    FittingEmbeddings,
    IndexMismatchError,
    batches,
    identity,
    relevance_of_cosine,
)

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from langchain_milvus import Milvus

logger = logging.getLogger(__name__)

Database = Literal["chroma", "milvus"]

# Where a row keeps the document's metadata, since both take plain values only, and what tells whether it changed.
_RECORD, _TEXT_DIGEST, _ROW_DIGEST = "record", "text_digest", "row_digest"
_MODEL = "embedded_with"
_PLAIN = ("disease", "department", "urgency", "icd10")  # for filters
_MILVUS_BYTES = 65_535  # in one text
_PAGE = 1_000


class RecordStore(VectorStore):
    """A Chroma or Milvus collection of `build_database`, whose documents come back whole, with all their metadata.

    Its scores are cosines, -1 to 1, higher is nearer, whatever the database counts in. Its relevance scores, which a
    `score_threshold` is held against, are (1 + cosine) / 2.

    Attributes:
        store: LangChain's own store over the same collection. Its scores are Chroma's cosine distances (0 to 2, lower
            is nearer) or Milvus' cosines (-1 to 1, higher is nearer), and its documents hold rows as they are stored.
    """

    def __init__(self, store: Chroma | Milvus, collection: _Collection) -> None:
        """Made by `build_database` and `open_database`."""
        self.store = store
        self._collection = collection

    @property
    def embeddings(self) -> Embeddings | None:
        """What queries are embedded with."""
        return self.store.embeddings  # type: ignore[no-any-return]  # theirs says so

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` documents nearest to a query, nearest first; `kwargs` (filters, say) are the database's."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return the `k` documents nearest to a query, each with the cosine of the angle between them."""
        found = self.store.similarity_search_with_score(query, k=k, **kwargs)
        return [(self._collection.whole(document), self._collection.cosine(score)) for document, score in found]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return `k` of the `fetch_k` documents nearest to a query that differ from each other, as the database's."""
        found = self.store.max_marginal_relevance_search(query, k, fetch_k, lambda_mult, **kwargs)
        return [self._collection.whole(document) for document in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return relevance_of_cosine

    def documents(self) -> list[Document]:
        """Return all documents, in the order of their knowledge base, e.g. for a second, lexical index."""
        found = [self._collection.whole(document) for document in self._collection.rows()]
        return sorted(found, key=lambda d: (str(d.metadata.get("source")), d.metadata.get("seq_num", 0), d.id or ""))

    @classmethod
    def from_texts(cls, texts: Any, embedding: Any, metadatas: Any = None, **kwargs: Any) -> RecordStore:
        """Not this way.

        Raises:
            NotImplementedError: Always; `build_database` makes them.
        """
        raise NotImplementedError("a RecordStore is made by build_database(documents, embeddings, ...)")


class _Collection(Protocol):
    """What is done with either database."""

    def identity(self) -> dict[str, str] | None: ...
    def dimension(self) -> int | None: ...
    def create(self, dimension: int, embeddings: Mapping[str, str]) -> None: ...
    def drop(self) -> None: ...
    def rows(self) -> Iterator[Document]: ...
    def vectors(self, ids: list[str]) -> dict[str, list[float]]: ...
    def put(self, documents: list[Document], vectors: list[list[float]], embeddings: Mapping[str, str]) -> None: ...
    def remove(self, ids: list[str]) -> None: ...
    def opened(self, embeddings: Embeddings) -> Any: ...
    def whole(self, row: Document) -> Document: ...
    def cosine(self, score: float) -> float: ...


def build_database(
    documents: Iterable[Document],
    embeddings: Embeddings,
    location: str | Path,
    *,
    database: Database,
    collection: str = "diseases",
    token: str | None = None,
    batch_size: int = 256,
) -> RecordStore:
    """Embed documents into a Chroma or Milvus collection; those that are in it already stay as they are.

    Documents whose text is known are not embedded again, and those that are gone from `documents` leave the collection.
    Interrupted, it holds part of them; called again, it goes on from there. A collection of another embedding model is
    replaced once the first batch is embedded.

    Args:
        documents: What to index; read once. One without an `id` gets one from its text.
        embeddings: Any LangChain embeddings.
        location: Folder, made if it is not there, or the `http://` address of a server.
        database: Which one. Milvus in a folder is Milvus Lite, for one process at a time.
        collection: Its name.
        token: Of a Milvus server, `user:password` or an API key.
        batch_size: Documents embedded and written at a time.

    Returns:
        The store, ready for `as_retriever`.

    Raises:
        ValueError: If there are no documents, two have the same id, one is too large for the database, or `batch_size`
            is less than 1.
        IndexMismatchError: If the collection was not made by `build_database`, or has vectors of other dimensions than
            a model gives that has not changed by anything that it says.
        ConnectionError: If no server can be reached at the address.
        ModuleNotFoundError: Without the extra `chroma` or `milvus`.
    """
    target = _collection(location, database, collection, token)
    own = identity(embeddings)
    built_with = target.identity()
    is_new, replaces = built_with != own, built_with not in (None, own)
    if replaces:
        logger.warning("%s: was built with another embedding model; everything is embedded again", collection)
    if not is_new:
        embeddings = _fitting(embeddings, target, location, collection)
    known = {} if is_new else {row.id or "": row.metadata for row in target.rows()}
    seen: set[str] = set()
    embedded = 0
    for batch in batches(documents, batch_size):
        rows = [_row(document) for document in batch]
        for row in rows:
            if row.id in seen:
                raise ValueError(f"two documents have the id {row.id!r}")
            seen.add(row.id or "")
        changed = [row for row in rows if known.get(row.id or "", {}).get(_ROW_DIGEST) != row.metadata[_ROW_DIGEST]]
        if not changed:
            continue
        same_text = [
            row.id or ""
            for row in changed
            if known.get(row.id or "", {}).get(_TEXT_DIGEST) == row.metadata[_TEXT_DIGEST]
        ]
        vectors = target.vectors(same_text) if same_text else {}
        fresh = [row for row in changed if row.id not in vectors]
        embedded += len(fresh)
        made = embeddings.embed_documents([row.page_content for row in fresh]) if fresh else []
        vectors |= {row.id or "": vector for row, vector in zip(fresh, made, strict=True)}
        if is_new:
            if replaces:  # not before there is something to put in its place
                target.drop()
            target.create(len(made[0]), own)
            is_new = False
        target.put(changed, [vectors[row.id or ""] for row in changed], own)
    if not seen:
        raise ValueError("there are no documents to index")
    gone = [id_ for id_ in known if id_ not in seen]
    if gone:
        target.remove(gone)
    logger.info("indexed %d documents, embedded %d", len(seen), embedded)
    return RecordStore(target.opened(embeddings), target)


def open_database(
    embeddings: Embeddings,
    location: str | Path,
    *,
    database: Database,
    collection: str = "diseases",
    token: str | None = None,
) -> RecordStore:
    """Open a collection that `build_database` filled.

    Args:
        embeddings: The same model that it was built with.
        location: As `build_database`.
        database: As `build_database`.
        collection: As `build_database`.
        token: As `build_database`.

    Returns:
        The store.

    Raises:
        FileNotFoundError: If there is no such collection.
        IndexMismatchError: If it was built with another embedding model, or not by `build_database`. The first search
            says it if only the vectors' dimensions tell the models apart, and this one has no `dimensions` or `size`.
        ConnectionError: If no server can be reached at the address.
        ModuleNotFoundError: Without the extra `chroma` or `milvus`.
    """
    target = _collection(location, database, collection, token)
    built_with = target.identity()
    if built_with is None:
        raise FileNotFoundError(f"{location}: holds no {database} collection {collection!r}")
    if built_with != identity(embeddings):
        raise IndexMismatchError(
            f"{location}: built with {built_with}, but asked to open with {identity(embeddings)}; pass the model it "
            f"was built with, or build it again"
        )
    return RecordStore(target.opened(_fitting(embeddings, target, location, collection)), target)


class _Chroma:
    """A collection of Chroma's."""

    def __init__(self, location: str | Path, name: str) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        if _is_address(location):
            parts = urlsplit(str(location))
            self._client = chromadb.HttpClient(
                parts.hostname or "", parts.port or 8000, ssl=parts.scheme == "https", settings=settings
            )
        else:
            self._client = chromadb.PersistentClient(str(location), settings)
        self._name = name

    @property
    def _collection(self) -> Any:
        return self._client.get_collection(self._name, embedding_function=None)

    def identity(self) -> dict[str, str] | None:
        if self._name not in [collection.name for collection in self._client.list_collections()]:
            return None
        said = (self._collection.metadata or {}).get("embeddings")
        return _checked_identity(said, self._name)

    def dimension(self) -> int | None:
        found = self._collection.get(limit=1, include=["embeddings"])["embeddings"]
        return len(found[0]) if len(found) else None

    def create(self, dimension: int, embeddings: Mapping[str, str]) -> None:
        self._client.create_collection(
            self._name,
            metadata={"embeddings": json.dumps(embeddings)},
            # More neighbours than by default: a search for 50 should find the nearest 50.
            configuration={"hnsw": {"space": "cosine", "ef_search": 256, "ef_construction": 256, "max_neighbors": 32}},
            embedding_function=None,
        )

    def drop(self) -> None:
        self._client.delete_collection(self._name)

    def rows(self) -> Iterator[Document]:
        offset = 0
        while True:
            page = self._collection.get(limit=_PAGE, offset=offset, include=["documents", "metadatas"])
            for id_, text, metadata in zip(page["ids"], page["documents"], page["metadatas"], strict=True):
                yield Document(id=id_, page_content=text, metadata=metadata)
            offset += _PAGE
            if len(page["ids"]) < _PAGE:
                return

    def vectors(self, ids: list[str]) -> dict[str, list[float]]:
        found = self._collection.get(ids=ids, include=["embeddings"])
        return {id_: [float(x) for x in row] for id_, row in zip(found["ids"], found["embeddings"], strict=True)}

    def put(self, documents: list[Document], vectors: list[list[float]], embeddings: Mapping[str, str]) -> None:
        self._collection.upsert(
            ids=[document.id for document in documents],
            embeddings=vectors,
            documents=[document.page_content for document in documents],
            metadatas=[document.metadata for document in documents],
        )

    def remove(self, ids: list[str]) -> None:
        for start in range(0, len(ids), _PAGE):
            self._collection.delete(ids=ids[start : start + _PAGE])

    def opened(self, embeddings: Embeddings) -> Chroma:
        from langchain_chroma import Chroma

        return Chroma(
            self._name, embedding_function=embeddings, client=self._client, create_collection_if_not_exists=False
        )

    def whole(self, row: Document) -> Document:
        return _whole(row, row.id)

    def cosine(self, score: float) -> float:
        return 1 - score


class _Milvus:
    """A collection of Milvus', of a server or of Milvus Lite."""

    def __init__(self, location: str | Path, name: str, token: str | None) -> None:
        from pymilvus import MilvusClient

        self._lite = not _is_address(location)
        if self._lite:
            Path(location).mkdir(parents=True, exist_ok=True)
        self._connection = {"uri": str(Path(location) / "milvus.db") if self._lite else str(location)}
        if token:
            self._connection["token"] = token
        self._client = MilvusClient(**self._connection)
        self._name = name

    def identity(self) -> dict[str, str] | None:
        if not self._client.has_collection(self._name):
            return None
        self._client.load_collection(self._name)
        # Milvus Lite forgets a collection's description, so that each row says what it was embedded with.
        rows = self._client.query(self._name, filter='pk != ""', limit=1, output_fields=["*"])
        return _checked_identity(rows[0].get(_MODEL), self._name) if rows else None

    def dimension(self) -> int | None:
        fields = {field["name"]: field for field in self._client.describe_collection(self._name)["fields"]}
        return int(fields["vector"]["params"]["dim"])

    def create(self, dimension: int, embeddings: Mapping[str, str]) -> None:
        from pymilvus import DataType, MilvusClient

        if self._client.has_collection(self._name):  # an empty one, left by a build that failed at its first batch
            self.drop()
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=512)
        schema.add_field("text", DataType.VARCHAR, max_length=_MILVUS_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="FLAT" if self._lite else "AUTOINDEX", metric_type="COSINE")
        self._client.create_collection(self._name, schema=schema, index_params=index, consistency_level="Strong")

    def drop(self) -> None:
        self._client.drop_collection(self._name)

    def rows(self) -> Iterator[Document]:
        self._client.load_collection(self._name)
        fields = ["text", _RECORD, _TEXT_DIGEST, _ROW_DIGEST]
        for row in self._all_rows([*fields, "pk"]):
            yield Document(id=row["pk"], page_content=row["text"], metadata={name: row[name] for name in fields[1:]})

    def _all_rows(self, fields: list[str]) -> Iterator[dict[str, Any]]:
        if self._lite:  # it has no iterators, and no limit to what it gives at once
            [counted] = self._client.query(self._name, filter="", output_fields=["count(*)"])
            count = max(1, int(counted["count(*)"]))
            yield from self._client.query(self._name, filter='pk != ""', limit=count, output_fields=fields)
            return
        pages = self._client.query_iterator(self._name, batch_size=_PAGE, output_fields=fields)
        try:
            while page := pages.next():
                yield from page
        finally:
            pages.close()

    def vectors(self, ids: list[str]) -> dict[str, list[float]]:
        self._client.load_collection(self._name)
        found = self._client.get(self._name, ids=ids, output_fields=["pk", "vector"])
        return {row["pk"]: [float(x) for x in row["vector"]] for row in found}

    def put(self, documents: list[Document], vectors: list[list[float]], embeddings: Mapping[str, str]) -> None:
        for document in documents:
            size = max(len(text.encode()) for text in (document.page_content, document.metadata[_RECORD]))
            if size > _MILVUS_BYTES:
                raise ValueError(f"document {document.id!r} has {size} bytes; Milvus takes {_MILVUS_BYTES}")
        model = json.dumps(dict(embeddings))
        self._client.upsert(
            self._name,
            [
                {"pk": document.id, "text": document.page_content, "vector": vector, _MODEL: model, **document.metadata}
                for document, vector in zip(documents, vectors, strict=True)
            ],
        )

    def remove(self, ids: list[str]) -> None:
        for start in range(0, len(ids), _PAGE):
            self._client.delete(self._name, ids=ids[start : start + _PAGE])

    def opened(self, embeddings: Embeddings) -> Milvus:
        from langchain_milvus import Milvus

        return Milvus(
            embeddings,
            self._name,
            connection_args=dict(self._connection),
            consistency_level="Strong",
            primary_field="pk",
            text_field="text",
            vector_field="vector",
            enable_dynamic_field=True,
        )

    def whole(self, row: Document) -> Document:
        return _whole(row, row.id or row.metadata.get("pk"))

    def cosine(self, score: float) -> float:
        return score


def _collection(location: str | Path, database: Database, name: str, token: str | None) -> _Collection:
    if database not in ("chroma", "milvus"):
        raise ValueError(f"database must be chroma or milvus, got {database!r}")
    try:
        return _Chroma(location, name) if database == "chroma" else _Milvus(location, name, token)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        if not _is_address(location):
            raise
        # Each client has errors of its own for this, Chroma's a plain ValueError.
        raise ConnectionError(f"no {database} server can be reached at {location}: {error}") from None


def _fitting(embeddings: Embeddings, target: _Collection, location: str | Path, collection: str) -> Embeddings:
    dimension = target.dimension()
    if dimension is None:  # an empty one, left by a build that failed at its first batch
        return embeddings
    return FittingEmbeddings(embeddings, dimension, f"{location}, collection {collection!r}")


def _checked_identity(said: object, name: str) -> dict[str, str]:
    try:
        read = json.loads(str(said))
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise IndexMismatchError(f"the collection {name!r} was not made by build_database; choose another name")
    return read


def _row(document: Document) -> Document:
    """Return a document as it is stored."""
    text = document.page_content
    try:
        record = json.dumps(document.metadata, ensure_ascii=False, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"the metadata of document {document.id!r} cannot be saved as JSON: {error}") from None
    plain = {key: document.metadata[key] for key in _PLAIN if isinstance(document.metadata.get(key), str)}
    digests = {_TEXT_DIGEST: _digest(text), _ROW_DIGEST: _digest(text, record)}
    return Document(id=document.id or _digest(text), page_content=text, metadata={**plain, _RECORD: record, **digests})


def _whole(row: Document, id_: str | None) -> Document:
    return Document(id=id_, page_content=row.page_content, metadata=json.loads(row.metadata[_RECORD]))


def _is_address(location: str | Path) -> bool:
    return str(location).startswith(("http://", "https://"))


def _digest(*texts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


__all__: Sequence[str] = ["Database", "RecordStore", "build_database", "open_database"]
