"""Every shape of file gives the same documents; what is broken is named; nothing is lost without a word."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import logging
import re
import tempfile
import textwrap
import tracemalloc
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from openpyxl import Workbook

from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.knowledge_base import DiseaseRecord, KnowledgeBaseError
from tests.conftest import HashEmbeddings

KB = Path(__file__).parent / "data" / "kb"
SHAPES = sorted(path.name for path in KB.iterdir() if path.is_file())
RECORDS: list[dict[str, str]] = json.loads((KB / "array.json").read_text("utf-8"))
CARDS = [f"疾病名称:{r['disease']}\n症状表现:{r['symptoms']}\n简要描述:{r['description']}" for r in RECORDS]


def write(path: Path, content: str | bytes | Any) -> Path:
    """Write bytes as they are, text as UTF-8, and anything else as JSON."""
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content, ensure_ascii=False)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(*records: object) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in records)


def workbook(rows: list[list[object]], *more_sheets: str) -> bytes:
    book, stream = Workbook(), io.BytesIO()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    for title in more_sheets:
        book.create_sheet(title).append(["left", "alone"])
    book.save(stream)
    return stream.getvalue()


def records_workbook(*more_sheets: str) -> bytes:
    return workbook([list(RECORDS[0]), *(list(record.values()) for record in RECORDS)], *more_sheets)


def edit_zip(archive: bytes, member: str, edit: Callable[[bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, edit(old.read(name)) if name == member else old.read(name))
    return out.getvalue()


def load(path: Path, **options: Any) -> list[Document]:
    return MedicalKBLoader(path, **options).load()


def refusal(path: Path, **options: Any) -> KnowledgeBaseError:
    with pytest.raises(KnowledgeBaseError) as caught:
        load(path, **options)
    return caught.value


def names(documents: list[Document]) -> list[str]:
    return [document.metadata["disease"] for document in documents]


# --- formats: the same records in every shape are the same documents


@pytest.mark.parametrize("shape", [*SHAPES, "xlsx"])
@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["kb", "kb.json"])
def test_the_same_records_in_every_shape_are_the_same_documents(
    shape: str, gzipped: bool, name: str, tmp_path: Path
) -> None:
    content = records_workbook() if shape == "xlsx" else (KB / shape).read_bytes()
    documents = load(write(tmp_path / name, gzip.compress(content) if gzipped else content))
    reference = load(write(tmp_path / name, (KB / "array.json").read_bytes()))
    assert [document.page_content for document in documents] == CARDS
    assert [document.id for document in documents] == [document.id for document in reference]
    for document, same in zip(documents, reference, strict=True):
        assert document.metadata.items() >= same.metadata.items()


def test_the_fixtures_hold_one_of_each_shape() -> None:
    assert SHAPES == [
        "array.json", "bom.csv", "by_disease.json", "by_number.json", "gb18030.csv", "lines.jsonl", "mongo_lines.json",
        "nested.json", "tabs.tsv", "wrapped.json",
    ]  # fmt: skip
    assert (KB / "bom.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    with pytest.raises(UnicodeDecodeError):
        (KB / "gb18030.csv").read_text("utf-8")


def test_a_mongo_export_keeps_its_id_and_its_other_fields() -> None:
    first = load(KB / "mongo_lines.json")[0].metadata
    assert first["_id"] == "5bb578b6831b973a137e3ee6"
    assert (first["department"], first["complications"]) == ("皮肤科", ["带状疱疹后神经痛"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "gbk"])
@pytest.mark.parametrize("shape", ["array.json", "lines.jsonl", "tabs.tsv"])
def test_the_encoding_is_found_by_itself(shape: str, encoding: str, tmp_path: Path) -> None:
    content = (KB / shape).read_text("utf-8").encode(encoding)
    assert [d.page_content for d in load(write(tmp_path / "kb", content))] == CARDS


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-8-sig"])
def test_a_bom_is_no_part_of_the_text_when_utf8_is_asked_for(encoding: str) -> None:
    assert [d.page_content for d in load(KB / "bom.csv", encoding=encoding)] == CARDS


def test_encoding_reads_what_detection_cannot_know(tmp_path: Path) -> None:
    record = {"disease": "感冒", "symptoms": "鼻塞、打噴嚏", "description": "數日自癒。"}
    path = write(tmp_path / "kb", json.dumps([record], ensure_ascii=False).encode("big5"))
    assert load(path, encoding="big5")[0].page_content == "疾病名称:感冒\n症状表现:鼻塞、打噴嚏\n简要描述:數日自癒。"
    assert "kb, line 1: is neither UTF-8 nor GB18030 text; pass encoding=" in str(refusal(path))


def test_what_is_taken_for_gb18030_is_reported_once_without_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "kb", "name,symptom,desc\nMénière,vertigo,ear\n".encode("latin-1"))
    assert names(load(path)) != ["Ménière"]
    assert caplog.messages == [f"{path}: read as GB18030, since it is not UTF-8; pass encoding= if that is wrong"]
    assert names(load(path, encoding="latin-1")) == ["Ménière"]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_cell_may_hold_the_delimiter_quotes_and_line_breaks(delimiter: str, tmp_path: Path) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerows(
        [["name", "symptom", "desc"], ["甲", "发热、咳嗽", f'一"引"{delimiter}二\n三'], [], ["乙", "痛", "四"]]
    )
    documents = load(write(tmp_path / "kb", stream.getvalue()))
    expected = f'一"引"{delimiter}二 三' if delimiter != "\t" else '一"引" 二 三'
    assert [d.metadata["description"] for d in documents] == [expected, "四"]


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    long = "长" * 200_000
    path = write(tmp_path / "kb", f"name,symptom,desc\n甲,痛,{long}\n")
    assert load(path)[0].metadata["description"] == long


def test_a_higher_csv_limit_of_the_program_is_left_alone() -> None:
    before = csv.field_size_limit(1 << 24)
    try:
        load(KB / "bom.csv")
        assert csv.field_size_limit() == 1 << 24
    finally:
        csv.field_size_limit(before)


def test_blank_lines_and_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    lines = json_lines(*RECORDS).splitlines()
    path = write(tmp_path / "kb.jsonl", "\n\n" + "\r\n\n".join(lines))
    assert [d.page_content for d in load(path)] == CARDS


def test_a_wrapped_list_of_one_record_on_its_own_line_is_not_taken_for_json_lines(tmp_path: Path) -> None:
    line = json.dumps(RECORDS[0], ensure_ascii=False)
    assert names(load(write(tmp_path / "kb", '{"data": [\n' + line + "\n]}"))) == [RECORDS[0]["disease"]]


@pytest.mark.parametrize("key", ["records", "items", "whatever"])
def test_a_list_under_any_single_key_is_found(key: str, tmp_path: Path) -> None:
    assert len(load(write(tmp_path / "kb", {"version": 2, key: RECORDS}))) == 3


KEYED = {record["disease"]: {"症状": record["symptoms"], "desc": record["description"]} for record in RECORDS[:2]}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"diseases": RECORDS[:2], "rare_diseases": RECORDS[2:]}, ["diseases", "rare_diseases"]),
        ({"items": RECORDS[:2], "data": RECORDS[2:]}, ["data", "items"]),
        ({"data": KEYED, "result": {"肺炎": RECORDS[2]}}, ["data", "result"]),
        ({"data": RECORDS[:2], "more": {"total": 1, "list": RECORDS[2:]}}, ["data", "more"]),
        ({"code": 0, "data": {"list": RECORDS[:2], "rare": RECORDS[2:]}}, ["list", "rare"]),
        ({**RECORDS[0], "diseases": RECORDS[1:2], "rare": RECORDS[2:]}, ["diseases", "rare"]),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_records_under_several_keys_are_refused_with_the_keys_named(
    content: object, keys: list[str], on_error: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "kb.json", content)
    for error in (refusal(path, on_error=on_error), refused_attempts(path)):
        assert str(error).startswith(f"{path}: has records under several keys; put them into one list")
        assert error.value == keys


def refused_attempts(path: Path) -> KnowledgeBaseError:
    with pytest.raises(KnowledgeBaseError) as caught:
        list(MedicalKBLoader(path).lazy_attempts())
    return caught.value


@pytest.mark.parametrize("around", [{}, {"name": "某院知识库", "description": "2024版", "symptoms": ["发热", "咳嗽"]}])
@pytest.mark.parametrize("key", ["diseases", "data"])
def test_a_wrapped_list_goes_before_what_is_said_of_it_though_that_looks_like_a_record(
    key: str, around: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "kb", {**around, key: RECORDS})
    assert [document.page_content for document in load(path)] == CARDS
    said = f"{path}: reading the records under {key!r}; left alone: name, description, symptoms"
    assert caplog.messages == [said] * bool(around)


def test_a_record_with_objects_in_it_stays_one_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inside = {"items": [{"name": "血常规"}], "related": [RECORDS[1]], "data": {"x": {"y": 1}}}
    [document] = load(write(tmp_path / "kb", {**RECORDS[0], **inside}))
    assert document.page_content == CARDS[0]
    assert document.metadata.items() >= inside.items()
    assert caplog.messages == []


def test_objects_beside_the_records_are_named_when_they_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = {
        "version": 2, "tags": ["a"], "meta": {"by": "x"}, "errors": [{"code": 1}], "rare": [{"name": "卟啉病"}],
        "fields": {"name": "疾病名", "symptoms": "症状"},
    }  # fmt: skip
    path = write(tmp_path / "kb", {**beside, "data": RECORDS})
    assert [document.page_content for document in load(path)] == CARDS
    assert caplog.messages == [f"{path}: reading the records under 'data'; left alone: errors, rare, fields"]


def test_the_key_that_holds_records_is_read_and_not_the_first_known_one(tmp_path: Path) -> None:
    path = write(tmp_path / "kb", {"data": {"total": 3}, "tags": ["a"], "result": {"list": RECORDS}})
    assert [document.page_content for document in load(path)] == CARDS


@pytest.mark.parametrize("field_map", [None, {"诊": "disease", "状": "symptoms"}])
def test_json_lines_of_a_single_record_are_read(field_map: dict[str, str] | None, tmp_path: Path) -> None:
    name, symptoms = ("诊", "状") if field_map else ("name", "症状")
    path = write(tmp_path / "kb.jsonl", json_lines({name: "甲", symptoms: "痛", "desc": "说明。"}))
    assert names(load(path, field_map=field_map)) == ["甲"]


def test_field_map_also_names_the_records_of_an_object_keyed_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "kb", {"1": {"诊": "甲", "symptom": "痛", "desc": "说明。"}})
    document = load(path, field_map={"诊": "disease"})[0]
    assert set(document.metadata) == {"disease", "symptoms", "description", "source", "seq_num"}
    assert document.metadata["disease"] == "甲"


def test_a_number_is_not_taken_for_the_name_of_a_disease(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "kb", {"7": {"symptom": "痛", "desc": "说明。"}}))
    assert "kb, record 1: field 'disease': is missing" in str(error)


def test_a_csv_with_unknown_headers_is_read_with_field_map(tmp_path: Path) -> None:
    path = write(tmp_path / "kb", "诊,状,说,年份\n甲,痛,说明。,2020\n")
    document = load(path, field_map={"诊": "disease", "状": "symptoms", "说": "description"})[0]
    assert document.page_content == "疾病名称:甲\n症状表现:痛\n简要描述:说明。"
    assert document.metadata["年份"] == "2020"


def test_cells_under_no_header_are_reported_once_for_each_column(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "kb", ",name,symptom,desc,\n,甲,痛,说明。,\n1,乙,痒,说明。,\n2,丙,红,说明。,注\n")
    assert names(load(path)) == ["甲", "乙", "丙"]
    assert caplog.messages == [
        f"{path}, line {line}: column {column} has no name in the header; left alone"
        for line, column in ((3, 1), (4, 5))
    ]


def test_only_the_first_sheet_is_read_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(load(write(tmp_path / "kb.xlsx", records_workbook("草稿", "旧")))) == 3
    assert "left alone: 草稿, 旧" in caplog.text


def test_a_sheet_whose_exporter_wrote_the_wrong_size_is_read_whole(tmp_path: Path) -> None:
    lying = edit_zip(
        records_workbook(),
        "xl/worksheets/sheet1.xml",
        lambda xml: re.sub(rb'<dimension ref="[^"]+"', b'<dimension ref="A1"', xml),
    )
    assert [d.page_content for d in load(write(tmp_path / "kb.xlsx", lying))] == CARDS


def test_blank_cells_and_rows_of_a_sheet_do_no_harm(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        [None],
        ["name", "symptom", "desc", "年份", None],
        [None, None],
        ["甲", "痛", "说明。", None, None],
        ["乙", "痒", "说明。", 2020, " "],
    ]
    documents = load(write(tmp_path / "kb", workbook(rows)))
    assert [(d.metadata["disease"], d.metadata.get("年份")) for d in documents] == [("甲", None), ("乙", "2020")]


# --- folders


def test_a_folder_is_read_in_sorted_order_below_it_too(caplog: pytest.LogCaptureFixture) -> None:
    documents = load(KB / "folder")
    assert [document.page_content for document in documents] == CARDS
    assert [document.metadata["seq_num"] for document in documents] == [1, 1, 1]
    assert [Path(d.metadata["source"]).relative_to(KB / "folder").as_posix() for d in documents] == [
        "a.json",
        "b.jsonl",
        "more/c.csv",
    ]
    assert "left alone, not a known kind: README.md" in caplog.text


def test_moving_a_folder_does_not_change_its_ids(tmp_path: Path) -> None:
    for file in ("a.json", "b.jsonl", "more/c.csv"):
        (tmp_path / "moved" / file).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "moved" / file, (KB / "folder" / file).read_bytes())
    assert [d.id for d in load(tmp_path / "moved")] == [d.id for d in load(KB / "folder")]


@pytest.mark.parametrize("hidden", [".draft.json", ".ipynb_checkpoints/kb.json", "~$kb.xlsx"])
def test_hidden_files_and_folders_and_excels_locks_are_not_read(hidden: str, tmp_path: Path) -> None:
    write(tmp_path / "kb.json", RECORDS)
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    write(tmp_path / hidden, b"\x01broken")
    assert len(load(tmp_path)) == 3


def test_gzip_files_of_a_folder_are_found_by_the_suffix_below_gz(tmp_path: Path) -> None:
    write(tmp_path / "kb.json.gz", gzip.compress((KB / "array.json").read_bytes()))
    write(tmp_path / "notes.txt.gz", b"\x1f\x8bbroken")
    assert len(load(tmp_path)) == 3


def test_a_folder_without_a_knowledge_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "x")
    error = refusal(tmp_path)
    assert "no .json, .jsonl" in str(error)
    assert str(tmp_path) in str(error)


def test_an_id_in_a_folder_does_not_depend_on_the_other_files(tmp_path: Path) -> None:
    write(tmp_path / "b.json", RECORDS)
    alone = {document.id for document in load(tmp_path)}
    write(tmp_path / "a.json", [{**RECORDS[0], "description": "另一种写法。"}])
    together = load(tmp_path)
    assert alone < {document.id for document in together}
    assert len({document.id for document in together}) == 4


# --- documents


def test_a_document_knows_its_file_and_its_number() -> None:
    documents = load(KB / "array.json")
    assert [document.metadata["seq_num"] for document in documents] == [1, 2, 3]
    assert {document.metadata["source"] for document in documents} == {str(KB / "array.json")}
    assert documents[0].metadata["symptoms"] == ["单侧成簇水疱", "烧灼样疼痛", "局部皮肤麻木"]


def test_a_records_own_fields_stay_beside_those_of_the_loader(tmp_path: Path) -> None:
    own = {"sources": ["《内科学》"], "source": "院内", "seq_num": 77, "source_seq_num": "旧", "symptoms_text": "甲乙"}
    path = write(tmp_path / "kb.json", [RECORDS[0], {**RECORDS[1], **own}])
    metadata = load(path)[1].metadata
    assert (metadata["source"], metadata["seq_num"], metadata["sources"]) == (str(path), 2, ["《内科学》"])
    assert (metadata["source_source"], metadata["source_source_seq_num"], metadata["source_seq_num"]) == (
        "院内", 77, "旧",
    )  # fmt: skip
    assert metadata["source_symptoms_text"] == "甲乙"


def test_ids_are_stable_uuids_of_name_and_file_name(tmp_path: Path) -> None:
    changed = [{**record, "description": "改写了。"} for record in reversed(RECORDS)]
    ids = [document.id for document in load(write(tmp_path / "array.json", changed))]
    assert ids[::-1] == [document.id for document in load(KB / "array.json")]
    assert all(uuid.UUID(identity).version == 5 for identity in ids)
    assert not set(ids) & {document.id for document in load(write(tmp_path / "other.json", RECORDS))}


def test_content_may_be_a_function_of_the_record() -> None:
    documents = load(KB / "array.json", content=lambda record: f"{record.disease}|{len(record.symptoms)}")
    assert [document.page_content for document in documents] == ["带状疱疹|3", "腕管综合征|3", "急性阑尾炎|3"]
    assert [document.id for document in documents] == [document.id for document in load(KB / "array.json")]


@pytest.mark.parametrize("nothing", ["", " \n", None, 5])
def test_content_that_gives_no_text_is_a_bad_record(nothing: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert "array.json, record 1: content() must return some text" in str(
        refusal(KB / "array.json", content=lambda record: nothing)
    )

    def only_migraine(record: DiseaseRecord) -> str:
        return nothing if record.disease == "带状疱疹" else record.card()

    assert len(load(KB / "array.json", content=only_migraine, on_error="skip")) == 2
    assert "loaded 2 records, skipped 1 bad ones" in caplog.text


async def test_documents_are_the_same_asynchronously() -> None:
    assert [d async for d in MedicalKBLoader(KB / "array.json").alazy_load()] == load(KB / "array.json")


def test_lazy_records_are_the_records_of_the_documents() -> None:
    records = list(MedicalKBLoader(str(KB / "folder")).lazy_records())
    assert [record.card() for record in records] == CARDS


def test_lazy_records_raises_whatever_on_error_says(tmp_path: Path) -> None:
    path = write(tmp_path / "kb", [*RECORDS, {"disease": "甲"}])
    with pytest.raises(KnowledgeBaseError, match="kb, record 4: field 'description': is missing"):
        list(MedicalKBLoader(path, on_error="skip").lazy_records())


def test_a_loader_can_be_used_twice() -> None:
    loader = MedicalKBLoader(KB / "lines.jsonl")
    assert loader.load() == loader.load()


def test_nothing_is_opened_before_the_first_document(tmp_path: Path) -> None:
    documents = MedicalKBLoader(tmp_path / "later.json").lazy_load()
    write(tmp_path / "later.json", RECORDS)
    assert next(documents).metadata["disease"] == "带状疱疹"
    documents.close()  # a generator; the file that it holds is closed with it


# --- streaming and indexing


def test_json_lines_of_20000_records_are_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "kb.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(20_000):
            record = {"disease": f"病{number}", "symptoms": "痛", "description": "说明。", "note": "x" * 1000}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    next(MedicalKBLoader(KB / "lines.jsonl").lazy_load())  # what the first load imports does not count
    tracemalloc.start()
    try:
        count = sum(1 for _ in MedicalKBLoader(path).lazy_load())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 20_000 * 350 < path.stat().st_size / 2


def test_indexing_again_as_the_loader_says_skips_what_is_unchanged_and_re_adds_what_changed(tmp_path: Path) -> None:
    [key] = re.findall(r" {8}def key.*\n.*\n", MedicalKBLoader.__doc__ or "")
    names_of_it: dict[str, Any] = {"Document": Document, "json": json, "sha256": hashlib.sha256}
    exec(textwrap.dedent(key), names_of_it)
    path = write(tmp_path / "kb.json", RECORDS)
    embeddings = HashEmbeddings()
    store = InMemoryVectorStore(embeddings)
    manager = InMemoryRecordManager("kb")
    manager.create_schema()

    def indexed() -> dict[str, int]:
        return dict(
            index(
                MedicalKBLoader(path), manager, store,
                cleanup="full", source_id_key="source", key_encoder=names_of_it["key"],
            )
        )  # fmt: skip

    assert indexed() == {"num_added": 3, "num_updated": 0, "num_skipped": 0, "num_deleted": 0}
    assert indexed() == {"num_added": 0, "num_updated": 0, "num_skipped": 3, "num_deleted": 0}
    write(path, [RECORDS[0], {**RECORDS[1], "description": "改写了。"}, RECORDS[2]])
    assert indexed() == {"num_added": 1, "num_updated": 0, "num_skipped": 2, "num_deleted": 1}
    assert len(embeddings.embedded) == 4
    assert embeddings.embedded[-1].endswith("简要描述:改写了。")
    write(path, [{**RECORDS[0], "disease": "新病"}, RECORDS[0], {**RECORDS[1], "description": "改写了。"}, RECORDS[2]])
    assert indexed() == {"num_added": 1, "num_updated": 0, "num_skipped": 3, "num_deleted": 0}
    assert len(store.store) == 4


# --- duplicates


def test_a_second_record_of_a_name_is_kept_with_its_own_id_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"disease": "急性 阑尾炎", "symptoms": "高热", "description": "另一条。"}
    documents = load(write(tmp_path / "array.json", [*RECORDS, other]))
    assert [document.page_content for document in documents[:3]] == CARDS
    assert documents[3].metadata["symptoms"] == ["高热"]
    assert len({document.id for document in documents}) == 4
    assert [document.id for document in documents[:3]] == [document.id for document in load(KB / "array.json")]
    [message] = caplog.messages
    assert message.endswith("array.json, record 4: '急性 阑尾炎' has an earlier record; both are kept")


def test_a_second_copy_of_a_record_is_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = load(write(tmp_path / "kb.jsonl", json_lines(*RECORDS, RECORDS[0])))
    assert [document.page_content for document in documents] == CARDS
    [message] = caplog.messages
    assert message.endswith("kb.jsonl, line 4: left out, a copy of an earlier record of '带状疱疹'")


@pytest.mark.parametrize("more", [{"department": "急诊科"}, {"red_flags": ["胸痛"]}, {"note": {"a": 1}}])
def test_a_record_of_the_same_text_and_other_fields_is_no_copy(
    more: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = load(write(tmp_path / "kb.json", [{**RECORDS[0], "department": "内科"}, {**RECORDS[0], **more}]))
    assert len({document.id for document in documents}) == len(documents) == 2
    assert documents[1].metadata.items() >= more.items()
    [message] = caplog.messages
    assert message.endswith("kb.json, record 2: '带状疱疹' has an earlier record; both are kept")


def test_copies_are_found_across_the_files_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.json", RECORDS)
    write(tmp_path / "b.csv", (KB / "bom.csv").read_bytes())
    assert len(load(tmp_path)) == 3
    assert len([message for message in caplog.messages if "b.csv" in message and "a copy" in message]) == 3


# --- errors


def test_a_bad_line_is_named_with_file_line_field_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "kb.jsonl", json_lines(RECORDS[0], "", {**RECORDS[1], "sex": "外星人"}))
    error = refusal(path)
    assert error.place == f"{path}, line 3"
    assert (error.field, error.value) == ("sex", "外星人")
    assert str(error) == f"{path}, line 3: field 'sex': must be male, female or any (男, 女, 不限) (got '外星人')"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([RECORDS[0], {**RECORDS[1], "icd10": "坏"}], "record 2"),
        ({"data": [RECORDS[0], {**RECORDS[1], "icd10": "坏"}]}, "record 2"),
        ({"甲": RECORDS[0], "乙": {**RECORDS[1], "icd10": "坏"}}, "record 2"),
        ("name,symptom,desc,icd10\n甲,痛,说,\n\n乙,痒,说,坏\n", "line 4"),
        ("name\tsymptom\tdesc\ticd10\n甲\t痛\t说\t坏\n", "line 2"),
        (
            workbook([["name", "symptom", "desc", "icd10"], ["甲", "痛", "说", None], ["乙", "痒", "说", "坏"]]),
            "line 3",
        ),
    ],
    ids=["array", "wrapped", "keyed", "csv", "tsv", "xlsx"],
)
def test_every_format_names_the_place_field_and_value_of_a_bad_record(
    content: object, place: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "kb", content)
    error = refusal(path)
    assert (error.place, error.field, error.value) == (f"{path}, {place}", "icd10", "坏")
    assert f"{path}, {place}: field 'icd10': " in str(error)
    assert "(got '坏')" in str(error)


GOOD = json.dumps(RECORDS[0], ensure_ascii=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "kb: is empty"),
        (" \n\t\n", "kb: is empty"),
        ([], "kb: holds no disease record"),
        ("name,symptom,desc\n", "kb: holds no disease record"),
        ({}, "kb: is JSON, but neither a list of records"),
        ({"data": []}, "kb: is JSON, but neither a list of records"),
        ({"a": [RECORDS[0]], "b": [RECORDS[1]]}, "(got ['a', 'b'])"),
        ({"version": 1, "甲": RECORDS[0]}, "(got ['version', '甲'])"),
        (["甲"], "kb, record 1: a record must be an object (got '甲')"),
        (f"{GOOD}\n5\n", "kb, line 2: a record must be an object (got 5)"),
        (f"{GOOD}\nnull\n", "kb, line 2: a record must be an object"),
        (f"{GOOD}\n{{]\n", "kb, line 2: is not JSON: Expecting property name"),
        (f'{{"name": "甲}}\n{GOOD}\n', "kb, line 1: is not JSON: Invalid control character"),
        (f"[{GOOD},\n{GOOD},\n]", "kb, line 3: is not JSON: "),
        (f"[{GOOD}", "kb, line 1: is not JSON: "),
        (f'[{GOOD[:-1]}, "n": NaN}}]', "kb: is not JSON (got 'NaN')"),
        (f'{GOOD}\n{GOOD[:-1]}, "n": -Infinity}}\n', "kb, line 2: is not JSON (got '-Infinity')"),
        (f'[{GOOD[:-1]}, "disease": "乙"}}]', "kb: field 'disease': stands twice in one object (got {'disease': '乙'"),
        (f'{GOOD}\n{GOOD[:-1]}, "x": 1, "x": 2}}\n', "kb, line 2: field 'x': stands twice in one object"),
        (f'{GOOD}\n{GOOD[:-1]}, "n": {"1" * 5000}}}\n', "kb, line 2: is not JSON: Exceeds the limit"),
        ("[" * 100_000, "kb: is nested too deeply"),
        (f'[{GOOD[:-1]}, "x": {"[" * 300}{"]" * 300}}}]', "kb, record 1: cannot become metadata"),
        ("只是一段文字\n第二行\n", "kb, line 1: is neither JSON nor a table with a header line (got '只是一段文字')"),
        ("name,symptom,name\n甲,痛,乙\n", "kb, line 1: two columns have the same name (got 'name')"),
        ("name,symptom,desc\n甲,痛,说\n乙,痒\n", "kb, line 3: has 2 cells where the header has 3 (got ['乙', '痒'])"),
        ('name,symptom,desc\n甲,痛,"说\n', "kb, line 2: is not CSV: unexpected end of data"),
        (f"name,symptom,desc\n甲,痛,{'x' * (1 << 20)}x\n", "kb, line 2: is not CSV: field larger than field limit"),
        (b"[\xff\xfe]", "kb, line 1: is neither UTF-8 nor GB18030 text; pass encoding= (got b'\\xff\\xfe]')"),
        (b"\xff\xfe[", "kb: is not utf-16"),
        (gzip.compress(b"[" * 9999, mtime=0)[:-9], "kb: is not a whole gzip file"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-8] + bytes(8), "kb: is not a whole gzip file: CRC check failed"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "kb: is not a whole gzip file: Error -3"),
        (b"\x1f\x8bnot gzip", "kb: is not a whole gzip file: "),
        (b"PK\x03\x04 not a zip", "kb: is not an Excel workbook: "),
        (records_workbook()[:-30], "kb: is not an Excel workbook: "),
        (edit_zip(records_workbook(), "xl/worksheets/sheet1.xml", lambda x: x[:300]), "kb: is not an Excel workbook: "),
        (edit_zip(records_workbook(), "xl/workbook.xml", lambda x: b""), "kb: is not an Excel workbook: "),
        (workbook([["title only"]]), "kb, line 1: is neither JSON nor a table with a header line (got 'title only')"),
        (workbook([["name", "symptom"], ["甲", "痛", "说"]]), "kb, line 2: has 3 cells where the header has 2"),
        (workbook([]), "kb: holds no disease record"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_place(content: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "kb", content)
    error = refusal(path)
    assert f"{tmp_path}/{message}" in str(error) if message.startswith("kb") else message in str(error)
    assert error.place.startswith(str(path))


@pytest.mark.parametrize("before", [0, 9_000])
def test_a_utf8_file_with_a_torn_character_is_refused_at_its_line_not_read_as_gibberish(
    before: int, tmp_path: Path
) -> None:
    content = "病痛\r\n".encode() * before + (KB / "array.json").read_bytes()
    torn = content.replace("疱疹".encode(), "疱疹".encode()[:-1], 1)
    line = content[: content.index("疱疹".encode())].count(b"\n") + 1
    assert f"kb, line {line}: is neither UTF-8 nor GB18030" in str(refusal(write(tmp_path / "kb", torn)))
    cut = write(tmp_path / "kb", content.rstrip() + "\n疹".encode()[:-1])
    assert f"kb, line {content.rstrip().count(bytes([10])) + 2}: is neither" in str(refusal(cut))


@pytest.mark.parametrize(
    ("encoding", "problem"),
    [
        ("ascii", "is not ascii text; pass encoding= (got b'"),
        ("utf-8", "is not utf-8 text; pass encoding= (got b'"),
        ("utf-16", "is not utf-16-le text; pass encoding= (got b'"),
        ("klingon", "cannot be read with encoding='klingon': unknown encoding"),
        ("hex", "cannot be read with encoding='hex': 'hex' is not a text encoding"),
    ],
)
def test_a_wrong_encoding_is_named(encoding: str, problem: str) -> None:
    error = refusal(KB / "gb18030.csv", encoding=encoding)
    assert f"gb18030.csv: {problem}" in str(error)


def test_utf16_that_does_not_say_which_way_round_it_is_can_be_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "kb", "[]  ")
    assert "kb: cannot be read with encoding='utf-16': UTF-16 stream does not start with BOM" in str(
        refusal(path, encoding="utf-16")
    )


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    loader = MedicalKBLoader(tmp_path / "nowhere.json", on_error="skip")
    for read in (loader.lazy_load, loader.lazy_records):
        with pytest.raises(FileNotFoundError, match=r"no knowledge base at '.*nowhere\.json'"):
            next(read())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field_map": {"诊": "diagnosis"}}, r"'diagnosis' \(for '诊'\) is none of disease, symptoms"),
        ({"content": "text"}, 'content must be "card" or a function'),
        ({"on_error": "ignore"}, 'on_error must be "raise", "warn" or "skip"'),
    ],
)
def test_wrong_settings_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedicalKBLoader("kb.json", **options)


# --- on_error


BAD_LINES = json_lines(
    RECORDS[0], "{broken", {"disease": "甲", "symptoms": "痛"}, RECORDS[1], 5, {**RECORDS[2], "sex": "?"}, RECORDS[2]
)


def test_skip_loads_the_rest_and_logs_only_the_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "kb.jsonl", BAD_LINES)
    documents = load(path, on_error="skip")
    assert [document.page_content for document in documents] == CARDS
    assert [document.metadata["seq_num"] for document in documents] == [1, 4, 7]
    assert caplog.messages == [f"{path}: loaded 3 records, skipped 4 bad ones"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_warn_loads_the_rest_and_logs_each_bad_record_and_the_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "kb.jsonl", BAD_LINES)
    assert [document.page_content for document in load(path, on_error="warn")] == CARDS
    assert [message.split(": ")[1] for message in caplog.messages[:-1]] == [f"{path}, line {n}" for n in (2, 3, 5, 6)]
    assert "field 'description': is missing" in caplog.messages[1]
    assert caplog.messages[-1] == f"{path}: loaded 3 records, skipped 4 bad ones"


def test_a_good_file_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    load(KB / "array.json", on_error="warn")
    assert caplog.messages == []


def test_skip_says_so_when_every_record_was_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(write(tmp_path / "kb", [{"disease": "甲"}, 5]), on_error="skip") == []
    assert caplog.messages[-1].endswith("loaded 0 records, skipped 2 bad ones")


@pytest.mark.parametrize("content", ["", "[", [], 'name,symptom,desc\n甲,痛,"说\n', b"\x1f\x8b", b"PK\x03\x04"])
@pytest.mark.parametrize("on_error", ["warn", "skip"])
def test_a_file_that_cannot_be_read_raises_whatever_on_error_says(
    content: object, on_error: str, tmp_path: Path
) -> None:
    refusal(write(tmp_path / "kb", content), on_error=on_error)


# --- anything at all

HEADS = st.sampled_from(
    [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"{", b'[{"name":',
     b"[" * 2000, b'{"a":{"name":"x","symptom":["a"],"desc":"b"', b"name,symptom,desc\n", GOOD.encode() + b"\n",
     GOOD.encode("gbk")]
)  # fmt: skip
WHOLE = [records_workbook(), gzip.compress((KB / "array.json").read_bytes()), (KB / "mongo_lines.json").read_bytes()]


def loads_or_is_refused(content: bytes, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "kb", content)
        try:
            documents = load(path, **options)
        except KnowledgeBaseError as error:
            refusal_text = str(error)  # either outcome is right
            assert refusal_text.startswith(str(path))
            return
    for document in documents:
        json.dumps(document.metadata)
        assert document.page_content.startswith("疾病名称:")


@settings(deadline=None)
@given(HEADS, st.binary(max_size=60), st.sampled_from(["raise", "skip"]))
def test_random_bytes_load_or_are_refused_by_name(head: bytes, tail: bytes, on_error: str) -> None:
    loads_or_is_refused(head + tail, on_error=on_error)


@settings(deadline=None)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(4, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_loads_or_is_refused_by_name(whole: bytes, damage: list[tuple[int, int]]) -> None:
    content = bytearray(whole)
    for position, byte in damage:
        content[4 + position % (len(content) - 4)] = byte
    loads_or_is_refused(bytes(content))


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "symptom", "desc", "data", "list", "1"]) | st.text(max_size=2), inner
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_loads_or_is_refused_by_name(document: object) -> None:
    loads_or_is_refused(json.dumps(document).encode())
