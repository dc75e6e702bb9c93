"""Files of disease records → LangChain documents. Knows file formats; what a record is, `knowledge_base` knows."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import hashlib
import io
import json
import logging
import math
import os
import re
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document

from langchain_bge_medical.knowledge_base import (
    FIELD_ALIASES,
    DiseaseRecord,
    KnowledgeBaseError,
    kept_name,
    normalize_name,
    rename_fields,
)

logger = logging.getLogger(__name__)

# What a folder is searched for. A file given by itself is read whatever it is called.
FOLDER_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx")
# Keys under which a list of records is wrapped in API dumps; any other key works if it is the only list.
_WRAPPERS = ("data", "records", "diseases", "items", "list", "rows", "result", "results")
_ID_NAMESPACE = uuid.UUID("6f1c1f0e-6d0c-5e0c-9a53-3a0f6c0e2b11")
_CHUNK = 1 << 16
_PRIVATE = re.compile(r"[\ue000-\uf8ff]")
# csv refuses cells above 128 KiB by default; a description may be longer, a megabyte of it is a broken quote.
_MAX_CELL = 1 << 20
# What bounds the memory, whatever a file unpacks to: characters of one record's line or row, and of JSON read whole.
_MAX_RECORD, _MAX_WHOLE = 1 << 24, 1 << 27
# Bytes of a workbook, unpacked: its sheets, which are streamed, and the rest, which is not. Rows, as Excel has it.
_MAX_SHEETS, _MAX_REST_OF_WORKBOOK, _MAX_ROWS = 1 << 29, 1 << 26, 1 << 20
_Bytes: TypeAlias = gzip.GzipFile | io.BufferedReader


class _Raw(NamedTuple):
    """A record as its file has it, with the place to name when something is wrong."""

    place: str
    value: Any


class MedicalKBLoader(BaseLoader):
    """Load a disease knowledge base, one document per disease.

    Reads JSON arrays, JSON Lines (whatever the file is called), an object keyed by disease or number, a
    wrapped list (`{"data": [...]}`), CSV and TSV, XLSX, each also gzipped, or a folder of them. The format
    is found by looking at the content. Text is UTF-8 (with or without BOM), UTF-16 with BOM, or GB18030,
    which is reported as a WARNING, since text in other encodings may read as that.

    JSON Lines, CSV, TSV and XLSX are streamed: memory holds one record at a time plus about 250 bytes per
    record (digests, to report duplicates). Other JSON is read whole. Refused are, whatever a file unpacks to, a text
    of more than 1 Mi characters, a record of more than 16 Mi, JSON read whole of more than 128 Mi, and a workbook
    of more than 576 MiB or 1,048,576 rows. In a folder, links that lead nowhere or out of it are refused.

    Each document has `page_content` (see `content`), a stable `id` (UUIDv5 of the normalised name and the file's name)
    and as metadata every field of the record that has a value, plus `source` (the path as given) and `seq_num`
    (1-based); the record's own fields of these names become `source_source` and `source_seq_num`.

    Nothing is merged or dropped in silence. A second record of the same name is loaded with an id of its
    own and reported as a WARNING; a second copy of the same record, equal in every field, is left out, and reported
    too. JSON with records under several keys is refused; objects beside the records, and cells under no header, are
    reported when they are left alone.

    Example:
        ```python
        loader = MedicalKBLoader("medical_knowledge.json")
        documents = loader.load()
        ```

        `langchain_core.indexing.index` takes a document whose place in the file has shifted for a new one, unless it
        is told that `source` and `seq_num` do not count (those in the store then stay as they were):

        ```python
        def key(d: Document) -> str:
            return sha256(json.dumps([d.page_content, d.metadata | {"source": "", "seq_num": 0}]).encode()).hexdigest()


        index(loader, record_manager, vectorstore, cleanup="full", key_encoder=key)
        ```
    """

    def __init__(
        self,
        file_path: str | Path,
        *,
        field_map: Mapping[str, str] | None = None,
        content: Literal["card"] | Callable[[DiseaseRecord], str] = "card",
        encoding: str | None = None,
        on_error: Literal["raise", "warn", "skip"] = "raise",
    ) -> None:
        r"""Take the settings; nothing is opened before the first document is asked for.

        Args:
            file_path: A file, or a folder that is searched recursively, in sorted order.
            field_map: The file's field name → ours (`{"diagnosis": "disease"}`), for names not in
                `knowledge_base.FIELD_ALIASES`.
            content: `"card"` for `疾病名称:…\\n症状表现:…\\n简要描述:…`, or a function of the record.
            encoding: Skips detection.
            on_error: What to do with a bad record: raise; log a WARNING for each and go on; or only log
                the count at the end. A file that cannot be read at all always raises.

        Raises:
            ValueError: If `field_map` names a field that we do not have, or `content` or `on_error` is
                something else than described.
        """
        for key, field in (field_map or {}).items():
            if field not in FIELD_ALIASES:
                raise ValueError(
                    f"field_map maps your field names to ours; {field!r} (for {key!r}) is none of "
                    f"{', '.join(FIELD_ALIASES)}"
                )
        if content != "card" and not callable(content):
            raise ValueError(f'content must be "card" or a function of a DiseaseRecord, got {content!r}')
        if on_error not in ("raise", "warn", "skip"):
            raise ValueError(f'on_error must be "raise", "warn" or "skip", got {on_error!r}')
        self.file_path = Path(file_path)
        self._source = str(file_path)
        self._field_map = dict(field_map or {})
        self._content = content
        self._encoding = encoding
        self._on_error = on_error

    def lazy_load(self) -> Iterator[Document]:
        """Yield one document per record, in file order.

        Yields:
            Documents as the class describes them.

        Raises:
            FileNotFoundError: If `file_path` does not exist.
            OSError: If the operating system does not let a file be read.
            KnowledgeBaseError: If a file is not a knowledge base in a known format, is too large, holds no record,
                or (with `on_error="raise"`) has a bad record. Names file, line or record, field and value.
        """
        skipped = loaded = 0
        seen: set[bytes] = set()  # digests of the names, and of the records with their texts
        for file in self._files():
            in_file: Counter[bytes] = Counter()  # digest of a name → its records in this file
            for seq_num, raw in enumerate(self._read(file), start=1):
                try:
                    record = self._record(raw)
                    text = self._text(record)
                    metadata = record.metadata()
                except KnowledgeBaseError as error:
                    if self._on_error == "raise":
                        raise error.at(raw.place) from None
                    skipped += 1
                    if self._on_error == "warn":
                        logger.warning("skipped a record: %s", error.at(raw.place))
                    continue
                nth = self._count_repeats(seen, in_file, text, metadata, raw.place)
                if nth is None:
                    continue
                loaded += 1
                yield self._document(normalize_name(record.disease), nth, text, metadata, file, seq_num)
        if skipped:
            logger.warning("%s: loaded %d records, skipped %d bad ones", self._source, loaded, skipped)
        if not loaded and not skipped:
            raise KnowledgeBaseError("holds no disease record", place=self._source)

    def lazy_records(self) -> Iterator[DiseaseRecord]:
        """Yield the validated records themselves, in file order, for tools that need no documents.

        Yields:
            The records; duplicates are neither reported nor left out.

        Raises:
            FileNotFoundError: As `lazy_load`.
            KnowledgeBaseError: As `lazy_load` with `on_error="raise"`.
        """
        for _, record in self.lazy_attempts():
            if isinstance(record, KnowledgeBaseError):
                raise record
            yield record

    def lazy_attempts(self) -> Iterator[tuple[str, DiseaseRecord | KnowledgeBaseError]]:
        """Yield every record with its place in the files, or what is wrong with it, for tools that list all faults.

        Yields:
            `(place, record)` or `(place, error)`, in file order.

        Raises:
            FileNotFoundError: As `lazy_load`.
            KnowledgeBaseError: If a file as a whole is not a knowledge base in a known format.
        """
        for file in self._files():
            for raw in self._read(file):
                try:
                    yield raw.place, self._record(raw)
                except KnowledgeBaseError as error:
                    yield raw.place, error

    def _record(self, raw: _Raw) -> DiseaseRecord:
        if isinstance(raw.value, KnowledgeBaseError):
            raise raw.value
        if not isinstance(raw.value, Mapping):
            raise KnowledgeBaseError("a record must be an object", place=raw.place, value=raw.value)
        for field, value in raw.value.items():
            texts = value if isinstance(value, list) else [value]
            if any(isinstance(text, str) and len(text) > _MAX_CELL for text in texts):
                raise KnowledgeBaseError(
                    f"has a text of more than {_MAX_CELL:,} characters", place=raw.place, field=str(field)
                )
        try:
            return DiseaseRecord.from_raw(raw.value, field_map=self._field_map)
        except KnowledgeBaseError as error:
            raise error.at(raw.place) from None

    def _text(self, record: DiseaseRecord) -> str:
        if not callable(self._content):
            return record.card()
        text = self._content(record)
        if not isinstance(text, str) or not text.strip():
            raise KnowledgeBaseError("content() must return some text", value=text)
        return text

    @staticmethod
    def _count_repeats(
        seen: set[bytes], in_file: Counter[bytes], text: str, metadata: dict[str, Any], place: str
    ) -> int | None:
        """Return which record of this name in its file this is, or `None` for a copy; report what is not new."""
        disease = metadata["disease"]
        same_name = hashlib.blake2b(normalize_name(disease).encode(), digest_size=8).digest()
        whole = json.dumps([text, metadata], sort_keys=True)
        same_record = hashlib.blake2b(whole.encode(), digest_size=16).digest()
        if same_record in seen:
            logger.warning("%s: left out, a copy of an earlier record of %r", place, disease)
            return None
        if same_name in seen:
            logger.warning("%s: %r has an earlier record; both are kept", place, disease)
        seen.update((same_name, same_record))
        in_file[same_name] += 1
        return in_file[same_name]

    def _document(self, name: str, nth: int, text: str, metadata: dict[str, Any], file: Path, seq_num: int) -> Document:
        # The path below the folder, or the bare name: moving a knowledge base does not change its ids.
        inner = file.relative_to(self.file_path).as_posix() if self.file_path.is_dir() else file.name
        key = _printable(f"{name}\n{inner}" + (f"\n{nth}" if nth > 1 else ""))
        source = _printable(self._source if file == self.file_path else str(Path(self._source) / inner))
        ours = {"source": source, "seq_num": seq_num}
        for field in ours:
            if field in metadata:
                metadata[kept_name(field, metadata)] = metadata.pop(field)
        return Document(id=str(uuid.uuid5(_ID_NAMESPACE, key)), page_content=text, metadata={**metadata, **ours})

    def _files(self) -> list[Path]:
        if not self.file_path.exists():
            raise FileNotFoundError(f"no knowledge base at {self._source!r}")
        if self.file_path.is_file():
            return [self.file_path]
        if not self.file_path.is_dir():
            raise KnowledgeBaseError("is neither a file nor a folder", place=self._source)
        files: list[Path] = []
        others: list[Path] = []
        for path in sorted(self.file_path.rglob("*")):
            # .git, .ipynb_checkpoints, and ~$kb.xlsx, which Excel keeps while kb.xlsx is open, are nobody's data.
            inner = path.relative_to(self.file_path)
            if any(part.startswith((".", "~$")) for part in inner.parts):
                continue
            if path.is_symlink():
                self._check_link(path)
            if path.is_dir() and not path.is_symlink():
                continue
            suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
            (files if path.is_file() and suffix.lower() in FOLDER_SUFFIXES else others).append(path)
        if others:
            logger.warning("%s: left alone, not a known kind: %s", self._source, ", ".join(p.name for p in others))
        if not files:
            raise KnowledgeBaseError(f"no {', '.join(FOLDER_SUFFIXES)} in this folder", place=self._source)
        return files

    def _check_link(self, path: Path) -> None:
        """Refuse a link that leads nowhere, which would be left out in silence, or out of the folder."""
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # a loop is the one or the other, by the version of Python
            raise KnowledgeBaseError("is a link to nothing", place=str(path)) from None
        if not target.is_relative_to(self.file_path.resolve()):
            problem = "is a link that leaves the folder; put the file itself there, or load it by its own path"
            raise KnowledgeBaseError(problem, place=str(path))

    def _read(self, file: Path) -> Iterator[_Raw]:
        place = _printable(str(file))
        try:
            with _open_binary(file) as stream:
                if stream.read(4) == b"PK\x03\x04":
                    stream.seek(0)
                    yield from _read_xlsx(stream, place)
                    return
                encoding = self._encoding or _detect_encoding(stream, place)
                if codecs.lookup(encoding).name == "utf-8":
                    encoding = "utf-8-sig"  # the same, but a BOM is no part of the text
                stream.seek(0)
                # newline="": csv wants to see the line ends; json does not mind them.
                with io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
                    yield from _read_text(text, place, self._field_map)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise KnowledgeBaseError(f"is not a whole gzip file: {error}", place=place) from None
        except UnicodeDecodeError as error:
            raise KnowledgeBaseError(
                f"is not {error.encoding} text; pass encoding=",
                place=place,
                value=error.object[error.start : error.start + 8],
            ) from None
        except (UnicodeError, LookupError) as error:  # UTF-16 without BOM; a name that is no encoding's
            if self._encoding is None:
                raise
            raise KnowledgeBaseError(f"cannot be read with encoding={self._encoding!r}: {error}", place=place) from None


def _printable(path: str) -> str:
    """Return a path without what only file systems can hold: bytes that are no text in their encoding."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _open_binary(file: Path) -> _Bytes:
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if zipped else file.open("rb")


def _detect_encoding(stream: _Bytes, place: str) -> str:
    """Return the encoding by BOM, else the first of UTF-8 and GB18030 that makes text of the whole stream."""
    stream.seek(0)
    head = stream.read(4)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    line = 1
    try:
        for text in _decoded(stream, "utf-8-sig"):
            line += text.count("\n")
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        bad = error.object[error.start : error.start + 8]
    else:
        return "utf-8-sig"
    with contextlib.suppress(UnicodeDecodeError):
        # As GB18030 nearly all bytes can be read; those of Big5 give characters for private use among the wrong ones.
        if not any(map(_PRIVATE.search, _decoded(stream, "gb18030"))):
            logger.warning("%s: read as GB18030, since it is not UTF-8; pass encoding= if that is wrong", place)
            return "gb18030"
    problem = "is neither UTF-8 nor GB18030 text; pass encoding="
    raise KnowledgeBaseError(problem, place=f"{place}, line {line}", value=bad)


def _decoded(stream: _Bytes, encoding: str) -> Iterator[str]:
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    while chunk := stream.read(_CHUNK):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _read_text(text: IO[str], place: str, field_map: Mapping[str, str]) -> Iterator[_Raw]:
    first, second = _first_lines(text, place)
    text.seek(0)
    if not first:
        raise KnowledgeBaseError("is empty", place=place)
    # The first of several JSON Lines may be broken; one that just opens a bracket is the start of a longer JSON.
    if first[0] == "{" and second and (_is_object(first) or (first[-1] not in "[{,:" and _is_object(second))):
        yield from _read_json_lines(text, place)
    elif first[0] in "[{":
        yield from _read_json(text, place, field_map)
    else:
        yield from _read_table(_csv_rows(text, first, place), place)


class _Lines:
    """The lines of a text, none longer than memory should hold, nor more of them together without a `pause`."""

    def __init__(self, text: IO[str], place: str, limit: int = _MAX_RECORD) -> None:
        self._text, self._place, self._limit = text, place, limit
        self._number = self._since = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._limit + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self._since += len(line)
        if self._since > self._limit:
            where = f"{self._place}, line {self._number}"
            raise KnowledgeBaseError(f"is a record of more than {self._limit:,} characters", place=where)
        return line

    def pause(self) -> None:
        """Begin a new record."""
        self._since = 0


def _first_lines(text: IO[str], place: str) -> tuple[str, str]:
    """Return the first two lines that are not blank, stripped; empty strings where there are none."""
    found: list[str] = []
    lines = _Lines(text, place, _MAX_WHOLE)
    for line in lines:
        lines.pause()
        if line := line.strip():
            found.append(line)
            if len(found) == 2:
                break
    return (*found, "", "")[:2]  # type: ignore[return-value]  # always two


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parse_json(text: str, place: str, *, is_file: bool = False) -> Any:
    """Parse strictly: no NaN, and no key twice in an object (the first value would be lost)."""

    def no_constant(name: str) -> None:
        raise KnowledgeBaseError("is not JSON", place=place, value=name)

    def finite(number: str) -> float:
        if math.isinf(value := float(number)):
            raise KnowledgeBaseError("holds a number that is too large", place=place, value=number)
        return value

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise KnowledgeBaseError("stands twice in one object", place=place, field=twice, value=parsed)
        return parsed

    try:
        return json.loads(text, parse_constant=no_constant, parse_float=finite, object_pairs_hook=no_repeats)
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if is_file else place
        near = text[max(0, error.pos - 20) : error.pos + 20]
        raise KnowledgeBaseError(f"is not JSON: {error.msg}", place=where, value=near) from None
    except KnowledgeBaseError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise KnowledgeBaseError(f"is not JSON: {error}", place=place) from None
    except RecursionError:
        raise KnowledgeBaseError("is nested too deeply", place=place) from None


def _read_json_lines(text: IO[str], place: str) -> Iterator[_Raw]:
    lines = _Lines(text, place)
    for number, line in enumerate(lines, start=1):
        lines.pause()
        if line.strip():
            where = f"{place}, line {number}"
            try:
                yield _Raw(where, _parse_json(line, where))
            except KnowledgeBaseError as error:
                yield _Raw(where, error)


def _read_json(text: IO[str], place: str, field_map: Mapping[str, str]) -> Iterator[_Raw]:
    content = text.read(_MAX_WHOLE + 1)
    if len(content) > _MAX_WHOLE:
        raise KnowledgeBaseError(
            f"is JSON of more than {_MAX_WHOLE:,} characters; make it JSON Lines, a record a line", place=place
        )
    document = _parse_json(content, place, is_file=True)
    for number, value in enumerate(_unwrap(document, place, field_map), start=1):
        yield _Raw(f"{place}, record {number}", value)


def _unwrap(document: Any, place: str, field_map: Mapping[str, str], depth: int = 0) -> list[Any]:
    """Return the records of a list, a single record, a wrapped list, or an object keyed by disease."""
    if isinstance(document, list):
        return document
    is_record = _is_record(document, field_map)
    lists = [key for key, value in document.items() if isinstance(value, list) and value]
    wrappers = [key for key in _WRAPPERS if key in lists] or (lists if len(lists) == 1 and not is_record else [])
    wrappers += [key for key in _WRAPPERS if isinstance(document.get(key), dict) and depth < 3]
    holding = [key for key in wrappers if _holds_records(document[key], field_map)]
    # What describes a knowledge base may look like a record: it has a name, a description, a list of symptoms.
    if holding or (wrappers and not is_record):
        wrapped = (holding or wrappers)[0]
        _check_siblings(document, wrapped, place, field_map)
        return _unwrap(document[wrapped], place, field_map, depth + 1)
    if is_record:
        return [document]
    if records := _objects(document, field_map):
        return records
    raise KnowledgeBaseError(
        "is JSON, but neither a list of records, nor one under a key, nor an object of records",
        place=place,
        value=list(document)[:8],
    )


def _check_siblings(document: dict[str, Any], wrapped: str, place: str, field_map: Mapping[str, str]) -> None:
    """Refuse an object with records under other keys too, and name what else is left alone that may have been one."""
    others = [key for key in document if key != wrapped]
    if more := [key for key in others if _holds_records(document[key], field_map)]:
        problem = "has records under several keys; put them into one list, or each list into a file of its own"
        raise KnowledgeBaseError(problem, place=place, value=[wrapped, *more])
    if not _is_record(document, field_map):
        others = [k for k in others if _objects(document[k], field_map) or _is_record(document[k], field_map)]
    if others:
        logger.warning("%s: reading the records under %r; left alone: %s", place, wrapped, ", ".join(others))


def _is_record(value: Any, field_map: Mapping[str, str]) -> bool:
    return isinstance(value, dict) and {"disease", "symptoms"} <= rename_fields(value, field_map).keys()


def _objects(value: Any, field_map: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the objects in a list, or those of an object of nothing else."""
    if isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values()):
        return [_with_key_as_name(key, inner, field_map) for key, inner in value.items()]
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []


def _holds_records(value: Any, field_map: Mapping[str, str], depth: int = 0) -> bool:
    if any(_is_record(inner, field_map) for inner in _objects(value, field_map)):
        return True
    inside = value.values() if isinstance(value, dict) and depth < 3 else ()
    return any(_holds_records(inner, field_map, depth + 1) for inner in inside)


def _with_key_as_name(key: str, record: dict[str, Any], field_map: Mapping[str, str]) -> dict[str, Any]:
    named = "disease" in rename_fields(record, field_map)
    return record if named or key.strip().isdecimal() else {"disease": key, **record}


def _csv_rows(text: IO[str], header: str, place: str) -> Iterator[tuple[int, list[str]]]:
    delimiter = max("\t,;", key=header.count)
    csv.field_size_limit(max(_MAX_CELL, csv.field_size_limit()))  # one limit for the whole process: only raise it
    lines = _Lines(text, place)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.pause()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise KnowledgeBaseError(f"is not CSV: {error}", place=f"{place}, line {reader.line_num}") from None
        yield reader.line_num, row


def _read_table(rows: Iterator[tuple[int, list[str]]], place: str) -> Iterator[_Raw]:
    header: list[str] = []
    nameless: set[int] = set()
    for number, row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        where = f"{place}, line {number}"
        if not header:
            header = cells
            _check_header(header, where)
        elif len(cells) != len(header):
            problem = f"has {len(cells)} cells where the header has {len(header)}"
            yield _Raw(where, KnowledgeBaseError(problem, place=where, value=cells))
        else:
            for column, (key, cell) in enumerate(zip(header, cells, strict=True), start=1):
                if cell and not key and column not in nameless:
                    nameless.add(column)
                    logger.warning("%s: column %d has no name in the header; left alone", where, column)
            yield _Raw(where, {key: cell for key, cell in zip(header, cells, strict=True) if key})


def _check_header(header: list[str], where: str) -> None:
    named = [name for name in header if name]
    if len(named) < 2:
        raise KnowledgeBaseError("is neither JSON nor a table with a header line", place=where, value=header[0])
    if twice := next((name for name, times in Counter(named).items() if times > 1), None):
        raise KnowledgeBaseError("two columns have the same name", place=where, value=twice)


def _read_xlsx(stream: _Bytes, place: str) -> Iterator[_Raw]:
    """Read the first sheet; its first row that is not blank is the header."""
    from openpyxl import load_workbook

    def rows() -> Iterator[tuple[int, list[str]]]:
        _check_size(stream, place)
        workbook = load_workbook(stream, read_only=True, data_only=True)
        sheet, *others = workbook.worksheets
        if others:
            names = ", ".join(other.title for other in others)
            logger.warning("%s: reading the first sheet, %r; left alone: %s", place, sheet.title, names)
        sheet.reset_dimensions()  # some exporters write A1 there, whatever the sheet's size
        width = 0
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
            if number > _MAX_ROWS:  # openpyxl makes up each row that is left out, up to whatever number a row has
                raise KnowledgeBaseError(f"has more than {_MAX_ROWS:,} rows", place=place)
            cells = ["" if cell is None else str(cell) for cell in row]
            while len(cells) > width and not cells[-1].strip():
                cells.pop()  # Excel pads rows with empty cells, each row differently
            width = width or len(cells)
            yield number, cells + [""] * (width - len(cells))

    try:
        yield from _read_table(rows(), place)
    except KnowledgeBaseError:
        raise
    except Exception as error:  # for a broken workbook zipfile, zlib, expat and openpyxl raise a dozen kinds
        raise KnowledgeBaseError(f"is not an Excel workbook: {error}", place=place) from error


def _check_size(stream: _Bytes, place: str) -> None:
    """Refuse a workbook by the sizes that it says its parts have; unpacking gives no more than those."""
    sheets = rest = 0
    with zipfile.ZipFile(stream) as parts:
        for part in parts.infolist():
            if part.filename.startswith("xl/worksheets/"):
                sheets += part.file_size
            else:
                rest += part.file_size
    for what, size, limit in (("sheets", sheets, _MAX_SHEETS), ("other parts", rest, _MAX_REST_OF_WORKBOOK)):
        if size > limit:
            raise KnowledgeBaseError(f"unpacks to {size:,} bytes of {what}; at most {limit:,} are read", place=place)
