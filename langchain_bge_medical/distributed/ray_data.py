"""Files too large for one process, on Ray Data: rerank them, or embed and index them; a job that was killed goes on."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_bge_medical.digests import file_sha256, text_digest
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.model_files import ModelNotFoundError
from langchain_bge_medical.well_formed import well_formed

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_MANIFEST = "job.json"


class JobMismatchError(ValueError):
    """A folder that holds the parts of another job."""


class SourceError(ValueError):
    """A file that does not hold what its name or its other rows say; the message names it and holds nothing of it."""


class JobFailedError(RuntimeError):
    """A part that could not be made; the message names it and holds no text. Parts that are written stay."""


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        done: Parts that are written, those of earlier runs among them.
        total: Parts that there are.
        rows: Rows in the parts that this run has written.
        resumed: Parts that an earlier run had written.
    """

    done: int
    total: int
    rows: int
    resumed: int


def rerank_file(
    source: str | Path,
    folder: str | Path,
    make_compressor: Callable[[], BGERerankerCompressor],
    *,
    settings: str = "",
    actors: int = 1,
    cpus: int = 1,
    gpus: float = 0.0,
    rows_per_part: int = 256,
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Rerank the documents of each query in a file, on as many actors as told, of whatever machines Ray has.

    The rows are cut into parts. Each is written whole (or not at all) when it is done, so that the same call after a
    kill does only what is missing; at the end the parts are put together, in the order of the file, whatever
    order they were done in.

    Args:
        source: JSON Lines, gzipped or not, or Parquet, of `query` (text) and `documents` (list of texts); other
            columns are kept.
        folder: For the parts and the result. On more than one machine it has to be one that all of them see.
        make_compressor: Makes the compressor in an actor. Must be picklable.
        settings: What identifies the model and its settings: a folder begun with others is refused.
        actors: Models at work at the same time.
        cpus: Of each, and threads of torch.
        gpus: Of each; a part of one is shared.
        rows_per_part: Queries in a part.
        on_progress: Called after each part.

    Returns:
        `folder/results.jsonl`: the rows of the file, with `results`, a list of `{"index", "relevance_score"}`, best
        first, instead of `documents`.

    Raises:
        JobMismatchError: If the folder belongs to another file or other settings.
        SourceError: If the file is not what its name says, a line no JSON object, or a row without query or documents;
            names the place. Nothing is begun.
        JobFailedError: If the model cannot be had or fails.
    """
    file, parts_in = Path(source), Path(folder)

    def taken(row: dict[str, Any], number: int) -> tuple[str, list[str]]:
        """Take query and documents out of a row."""
        query, documents = row.pop("query", None), row.pop("documents", None)
        if not isinstance(query, str) or not query.strip() or not isinstance(documents, list):
            raise SourceError(f"{file}: row {number}: needs a query that is not blank and documents, a list of texts")
        if not all(isinstance(text, str) for text in documents):
            raise SourceError(f"{file}: row {number}: documents must be texts")
        return query, documents

    starts = _begin(file, parts_in, f"rerank {settings}", rows_per_part, taken)
    missing = [part for part in range(len(starts)) if not _part(parts_in, part).exists()]
    told = _Told(len(starts), len(missing), on_progress)

    class Scorer:
        """Holds the model; one part at a time."""

        def __init__(self) -> None:
            import torch

            torch.set_num_threads(cpus)
            self._compressor = make_compressor()

        def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
            return _done(batch, self._part)

        def _part(self, part: int) -> int:
            numbered = enumerate(_rows_of(file, starts[part], rows_per_part), start=part * rows_per_part + 1)
            lines = [self._row(row, number) for number, row in numbered]
            _write(_part(parts_in, part), lines)
            return len(lines)

        def _row(self, row: dict[str, Any], number: int) -> str:
            query, documents = taken(row, number)
            results = self._compressor.rerank(query, documents)
            line = json.dumps({"query": query, **row, "results": results}, ensure_ascii=False, default=_plain)
            # A half of an emoji, which JSON can hold and no file of text, becomes U+FFFD, as the model has read it.
            return well_formed(line)

    for rows in _mapped(missing, Scorer, actors=actors, cpus=cpus, gpus=gpus):
        told.part(rows)
    result = parts_in / "results.jsonl"
    _join([_part(parts_in, part) for part in range(len(starts))], result)
    return result


def embed_documents(
    documents: Iterable[Document],
    folder: str | Path,
    make_embeddings: Callable[[], Embeddings],
    *,
    settings: str = "",
    actors: int = 1,
    cpus: int = 1,
    gpus: float = 0.0,
    documents_per_part: int = 1_024,
    on_progress: Callable[[Progress], None] | None = None,
) -> EmbeddedDocuments:
    """Embed documents on as many actors as told; the vectors go into an index as if one process had made them.

    Args:
        documents: Read once, e.g. `loader.lazy_load()`; copied to the folder, in parts.
        folder: As for `rerank_file`.
        make_embeddings: Makes the embeddings in an actor. Must be picklable.
        settings: As for `rerank_file`.
        actors: As for `rerank_file`.
        cpus: As for `rerank_file`.
        gpus: As for `rerank_file`.
        documents_per_part: Documents in a part.
        on_progress: As for `rerank_file`.

    Returns:
        The embeddings of these documents, for `build_index` or `build_database`: they look a text up that was embedded
        here, and make queries' vectors themselves.

    Raises:
        JobMismatchError: As for `rerank_file`.
        JobFailedError: As for `rerank_file`.
        ValueError: If there are no documents.
    """
    parts_in = Path(folder)
    parts_in.mkdir(parents=True, exist_ok=True)
    source = parts_in / "texts.jsonl"
    _write(source, (json.dumps({"text": document.page_content}) for document in documents))
    starts = _begin(source, parts_in, f"embed {settings}", documents_per_part)
    if not starts:
        raise ValueError("there are no documents to embed")
    missing = [part for part in range(len(starts)) if not _part(parts_in, part).with_suffix(".npy").exists()]
    told = _Told(len(starts), len(missing), on_progress)

    class Embedder:
        """Holds the model; one part at a time."""

        def __init__(self) -> None:
            import torch

            torch.set_num_threads(cpus)
            self._embeddings = make_embeddings()

        def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
            return _done(batch, self._part)

        def _part(self, part: int) -> int:
            import numpy

            texts = [row["text"] for row in _rows_of(source, starts[part], documents_per_part)]
            vectors = numpy.array(self._embeddings.embed_documents(texts), dtype=numpy.float32)
            file = _part(parts_in, part).with_suffix(".npy")
            new = file.with_name(file.name + ".new")
            with new.open("wb") as stream:
                numpy.save(stream, vectors, allow_pickle=False)
            new.replace(file)
            return len(texts)

    for rows in _mapped(missing, Embedder, actors=actors, cpus=cpus, gpus=gpus):
        told.part(rows)
    return EmbeddedDocuments(parts_in, len(starts), make_embeddings)


class EmbeddedDocuments(Embeddings):
    """Embeddings that know the vectors that `embed_documents` made, and make those of queries."""

    def __init__(self, folder: Path, parts: int, make_embeddings: Callable[[], Embeddings]) -> None:
        """Made by `embed_documents`."""
        import numpy

        # Mapped into memory: only what is asked for is read.
        files = [_part(folder, part).with_suffix(".npy") for part in range(parts)]
        self._files = [numpy.load(file, mmap_mode="r", allow_pickle=False) for file in files]
        places = ((part, i) for part, vectors in enumerate(self._files) for i in range(len(vectors)))
        self._vectors = {
            text_digest(row["text"]): place for row, place in zip(_rows(folder / "texts.jsonl"), places, strict=True)
        }
        self._model = make_embeddings()
        # What an index remembers of the model that it was built with.
        for name in ("model_name", "model", "revision", "resolved_revision", "dimensions", "size"):
            if hasattr(self._model, name):
                setattr(self, name, getattr(self._model, name))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts: those that are known, and for others new ones."""
        places = [self._vectors.get(text_digest(text)) for text in texts]
        missing = list(dict.fromkeys(text for text, place in zip(texts, places, strict=True) if place is None))
        fresh = dict(zip(missing, self._model.embed_documents(missing) if missing else [], strict=True))
        return [
            fresh[text] if place is None else self._files[place[0]][place[1]].tolist()
            for text, place in zip(texts, places, strict=True)
        ]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return self._model.embed_query(text)


def _done(batch: dict[str, np.ndarray[Any, Any]], make: Callable[[int], int]) -> dict[str, Any]:
    """Make parts, and return the number of rows in each, or what went wrong."""
    done: dict[str, list[Any]] = {"rows": [], "problem": []}
    for part in batch["part"].tolist():
        rows, problem = 0, ""
        try:
            rows = make(part)
        except (ModelNotFoundError, SourceError) as error:  # their words hold no text
            problem = str(error)
        except Exception as error:
            problem = f"part {part}: {type(error).__name__}"
        done["rows"].append(rows)
        done["problem"].append(problem)
    return done


class _Told:
    """Counts parts and tells of them."""

    def __init__(self, total: int, missing: int, on_progress: Callable[[Progress], None] | None) -> None:
        self._progress = Progress(total - missing, total, 0, total - missing)
        self._on_progress = on_progress

    def part(self, rows: int) -> None:
        before = self._progress
        self._progress = Progress(before.done + 1, before.total, before.rows + rows, before.resumed)
        if self._on_progress is not None:
            self._on_progress(self._progress)


def _mapped(parts: Sequence[int], worker: type, *, actors: int, cpus: int, gpus: float) -> Iterator[int]:
    """Give each part to an actor and yield the number of its rows when it is done."""
    if not parts:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A result that is done is handed on, however long those before it take.
    context.execution_options.preserve_order = False
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    done = dataset.map_batches(
        worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
        num_cpus=cpus,
        num_gpus=gpus or None,
    )
    for row in done.iter_rows():
        if row["problem"]:
            raise JobFailedError(row["problem"])
        yield int(row["rows"])


def _begin(
    source: Path,
    folder: Path,
    settings: str,
    rows_per_part: int,
    check: Callable[[dict[str, Any], int], object] | None = None,
) -> list[int]:
    """Return where each part starts in the file, after looking that the folder is this job's, and each row sound."""
    job = json.dumps({"source": file_sha256(source), "settings": settings, "rows_per_part": rows_per_part})
    manifest = folder / _MANIFEST
    begun = manifest.exists()
    if begun and manifest.read_text("utf-8", errors="replace").strip() != job:
        raise JobMismatchError(f"{folder}: was begun with another file or other settings; take another folder")
    starts = []
    for i, (start, row) in enumerate(_placed(source)):
        if check is not None:
            check(row, i + 1)
        if i % rows_per_part == 0:
            starts.append(start)
    if not begun:  # only now that the file could be read: one that is repaired is another file
        folder.mkdir(parents=True, exist_ok=True)
        _write(manifest, [job])
    return starts


def _placed(source: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows, from the one that starts at `start` on, each with where it starts.

    That is a byte in JSON Lines, and the number of the row in Parquet.
    """
    if source.suffix == ".parquet":
        yield from _placed_in_parquet(source, start)
        return
    try:
        # In a gzipped file, getting to a place means reading what is before it.
        with gzip.open(source) if source.suffix == ".gz" else source.open("rb") as stream:
            stream.seek(start)
            place = start
            for line in stream:
                if line.strip():
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError):
                        row = None
                    if not isinstance(row, dict):
                        raise SourceError(f"{source}: what starts at byte {place} is no JSON object in a line")
                    yield place, row
                place += len(line)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise SourceError(f"{source}: is no gzip file, or a damaged one") from None


def _placed_in_parquet(source: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            place = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if place + size > start:
                    rows = (row for batch in file.iter_batches(1_024, row_groups=[group]) for row in batch.to_pylist())
                    for number, row in enumerate(rows, start=place):
                        if number >= start:
                            yield number, row
                place += size
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not one of many that Arrow has
            raise
        raise SourceError(f"{source}: is no Parquet file, or a damaged one") from None


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in _placed(source))


def _rows_of(source: Path, start: int, number: int) -> Iterator[dict[str, Any]]:
    return (row for _, row in islice(_placed(source, start), number))


def _part(folder: Path, part: int) -> Path:
    return folder / f"part-{part:08d}.jsonl"


def _write(file: Path, lines: Iterable[str]) -> None:
    """Write a file as a whole: it is there when it is complete, and not before."""
    new = file.with_name(file.name + ".new")
    with new.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    new.replace(file)


def _join(parts: Sequence[Path], result: Path) -> None:
    new = result.with_name(result.name + ".new")
    with new.open("wb") as stream:
        for part in parts:
            stream.write(part.read_bytes())
    new.replace(result)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
