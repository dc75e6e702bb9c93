from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.knowledge_base import KnowledgeBaseError
from langchain_bge_medical.vectorstores import IndexMismatchError, build_index, load_index, stored_documents
from tests.conftest import HashEmbeddings, record_documents

LAUGHING_ROW = b'<row><c t="inlineStr"><is><t>&j;</t></is></c></row></sheetData>'
KB = Path(__file__).parent / "data" / "kb"
FILES = sorted(path for path in KB.rglob("*") if path.is_file() and path.suffix != ".md")
RECORD = {"name": "甲", "symptom": ["痛"], "desc": "说"}
MIB = 1 << 20


def workbook(change: Callable[[bytes], bytes] = bytes, parts: dict[str, bytes] | None = None) -> bytes:
    """A workbook of one record, its sheet's XML changed and parts added."""
    from openpyxl import Workbook

    plain, out = io.BytesIO(), io.BytesIO()
    book = Workbook()
    for row in (["name", "symptom", "desc"], ["甲", "痛", "说"]):
        book.active.append(row)
    book.save(plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name == "xl/worksheets/sheet1.xml" else content)
        for name, content in (parts or {}).items():
            new.writestr(name, content)
    return out.getvalue()


def zipped(*parts: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as stream:
        for part in parts:
            stream.write(part)
    return out.getvalue()


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(KnowledgeBaseError) as caught:
        MedicalKBLoader(path, **options).load()
    return str(caught.value).replace(str(path), "FILE")


def index_refusal(index: Path) -> str | None:
    """What `load_index` says against it, or `None` if it loads."""
    try:
        load_index(index, HashEmbeddings())
    except IndexMismatchError as error:
        return str(error)
    return None


# --- damage


def damaged(content: bytes, kind: str, random_: random.Random) -> bytes:
    at = random_.randrange(len(content))
    if kind == "truncated":
        return content[:at]
    changed = bytearray(content)
    for _ in range(random_.randint(1, 8)):
        a, b = random_.randrange(len(changed)), random_.randrange(len(changed))
        if kind == "flipped":
            changed[a] ^= 1 << random_.randrange(8)
        elif kind == "swapped":
            changed[a], changed[b] = changed[b], changed[a]
        elif kind == "moved":
            changed[a:a], changed[b:] = changed[b : b + 50], changed[b:]
        else:
            changed[a:a] = random_.choice(
                [b"\xef\xbb\xbf", b"\xff\xfe", b"\0", "甲".encode("gbk"), b'"', b"NaN", b"[" * 99]
            )
    return bytes(changed)


KINDS = ("truncated", "flipped", "swapped", "moved", "strewn")


def attack_loader(seed: int) -> None:
    random_ = random.Random(seed)
    whole = random_.choice([path.read_bytes() for path in FILES] + [workbook(), zipped(FILES[0].read_bytes())])
    content = damaged(whole, random_.choice(KINDS), random_)
    content = zipped(content) if random_.random() < 0.2 else content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / random_.choice(["kb", "kb.json", "kb.csv.gz", "kb.xlsx"])
        path.write_bytes(content)
        documents, said = [], str(path)
        try:
            documents = MedicalKBLoader(path, on_error=random_.choice(["raise", "skip"])).load()
        except KnowledgeBaseError as error:
            said = str(error)
        assert said.startswith(str(path))
    for document in documents:
        json.dumps(document.metadata, allow_nan=False)
        document.page_content.encode()


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 40))
def test_a_damaged_knowledge_base_loads_or_is_refused_by_its_path(seed: int) -> None:
    attack_loader(seed)


@pytest.mark.long
@settings(deadline=None, max_examples=5_000)
@given(st.integers(0, 1 << 40))
def test_a_knowledge_base_damaged_in_5000_ways_loads_or_is_refused(seed: int) -> None:
    attack_loader(seed)


# --- what is larger than it looks


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(
            lambda: zipped(json.dumps(RECORD).encode() + b"\n", b'{"a":"', *[b"a" * MIB] * 40, b'"}\n'),
            "FILE, line 2: is a record of more than 16,777,216 characters", id="a JSON line",
        ),
        pytest.param(
            lambda: zipped(b"name,symptom,desc\n", *[b"a" * MIB] * 40),
            "FILE, line 2: is a record of more than 16,777,216 characters", id="a CSV line",
        ),
        pytest.param(
            lambda: zipped(b"name,symptom,desc\n", *[b'a,"\n",' * 200_000] * 20),
            "FILE, line 2796205: is a record of more than 16,777,216 characters", id="a CSV row of many lines",
        ),
        pytest.param(
            lambda: zipped(b"[\n", *[b" " * MIB] * 140, b"]"),
            "FILE, line 2: is a record of more than 134,217,728 characters", id="JSON in one line",
        ),
        pytest.param(
            lambda: zipped(b"[\n", *[b"1,\n" * (MIB // 3)] * 140, b"1]"),
            "FILE: is JSON of more than 134,217,728 characters; make it JSON Lines", id="JSON in many lines",
        ),
        pytest.param(
            lambda: json.dumps([{**RECORD, "desc": "a" * (MIB + 1)}]).encode(),
            "FILE, record 1: field 'desc': has a text of more than 1,048,576 characters", id="a text",
        ),
        pytest.param(
            lambda: workbook(parts={"xl/media/image.png": bytes(65 * MIB)}),
            "other parts; at most 67,108,864 are read", id="a workbook",
        ),
        pytest.param(
            lambda: workbook(lambda sheet: sheet.replace(b'<row r="2"', b'<row r="999999999999"')),
            "FILE: has more than 1,048,576 rows", id="a row number",
        ),
        pytest.param(
            lambda: workbook(
                lambda sheet: b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 1_000 + b'">'
                + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
                + b"]>" + sheet.replace(b"</sheetData>", LAUGHING_ROW)
            ),
            "FILE: is not an Excel workbook", id="XML entities",
        ),
    ],
)  # fmt: skip
def test_what_unpacks_to_more_than_memory_should_hold_is_refused_by_name(
    content: Callable[[], bytes], says: str, tmp_path: Path
) -> None:
    (tmp_path / "kb").write_bytes(content())
    assert says in refusal(tmp_path / "kb")


@pytest.mark.long
def test_a_gigabyte_in_one_line_takes_less_than_half_a_gigabyte_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "kb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(json.dumps(RECORD).encode() + b"\n")
        for _ in range(1_024):
            stream.write(b"a" * MIB)
    code = (
        "import sys, resource\n"
        "from langchain_bge_medical import MedicalKBLoader\n"
        "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = most()\n"
        "try: MedicalKBLoader(sys.argv[1]).load()\n"
        "except ValueError as error: print(most() - before, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    megabytes, _, error = run.stdout.partition(" ")
    assert int(megabytes) < 512
    assert "line 2: is a record of more than" in error


# --- what JSON, text and folders allow


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"name":"a","symptom":["x"],"desc":"b","w":NaN}]', "FILE: is not JSON (got 'NaN')"),
        ('[{"name":"a","symptom":["x"],"desc":"b","w":1e999}]', "holds a number that is too large (got '1e999')"),
        ('[{"name":"a","name":"b","symptom":["x"],"desc":"b"}]', "field 'name': stands twice in one object"),
        ("[" * 100_000 + "]" * 100_000, "FILE: is nested too deeply"),
        ('[{"name":"a","symptom":["x"],"desc":"b","w":' + "[" * 500 + "]" * 500 + "}]", "depth"),
        (
            json.dumps(RECORD, ensure_ascii=False).encode() + b"\n" + "{甲".encode("gb18030"),
            "neither UTF-8 nor GB18030",
        ),
        (b"\xef\xbb\xbf" * 2 + b"[]", "FILE, line 1: is neither JSON nor a table"),
        (b"\xff\xfe\x00\xd8", "is not utf-16-le text"),
    ],
)
def test_what_would_change_a_value_in_silence_is_refused(content: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "kb").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert says in refusal(tmp_path / "kb")


def test_thousands_of_keys_of_which_two_are_the_same_are_found_in_linear_time(tmp_path: Path) -> None:
    keys = ",".join(f'"k{i}":1' for i in range(200_000))
    (tmp_path / "kb").write_text(f'[{{{keys},"last":1,"last":2}}]')  # in quadratic time this takes minutes
    assert "field 'last': stands twice" in refusal(tmp_path / "kb")


def test_a_folder_s_links_are_followed_within_it_and_refused_out_of_it(tmp_path: Path) -> None:
    outside, folder = tmp_path / "secret.json", tmp_path / "kb"
    folder.mkdir()
    for file in (outside, folder / "a.json"):
        file.write_text(json.dumps([{**RECORD, "name": file.stem}]), "utf-8")
    (folder / "b.json").symlink_to("a.json")
    assert [document.metadata["disease"] for document in MedicalKBLoader(folder).load()] == ["a"]
    (folder / "c.json").symlink_to(outside)
    assert "c.json: is a link that leaves the folder" in refusal(folder)
    (folder / "c.json").unlink()
    (folder / "c.json").symlink_to("nowhere.json")
    assert "c.json: is a link to nothing" in refusal(folder)
    (folder / "c.json").unlink()
    (folder / "c.json").symlink_to("c.json")
    assert "c.json: is a link to nothing" in refusal(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_what_never_ends_is_not_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert refusal(tmp_path / "pipe.json") == "FILE: is neither a file nor a folder"
    (tmp_path / "kb.json").write_text(json.dumps([RECORD]))
    assert len(MedicalKBLoader(tmp_path).load()) == 1
    assert "left alone, not a known kind: pipe.json" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_name_in_another_encoding_is_shown_and_does_no_harm(tmp_path: Path) -> None:
    name = os.fsdecode("疾病.json".encode("gbk"))
    (tmp_path / name).write_text(json.dumps([RECORD]))
    [document] = MedicalKBLoader(tmp_path).load()
    assert document.metadata["source"] == str(tmp_path / r"\xbc\xb2\xb2\xa1.json")
    (tmp_path / name).write_text("[")
    refusal(tmp_path).encode()


# --- an index


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_index(record_documents(), HashEmbeddings(), tmp_path / "index")
    return tmp_path / "index"


def reseal(index: Path, **changes: Any) -> None:
    """Write the digests of the files as they are now: somebody who may write there can do that too."""
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    manifest["files"] = {name: hashlib.sha256((index / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (index / "manifest.json").write_text(json.dumps({**manifest, **changes}), "utf-8")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["manifest", "documents", "index"]), st.integers(0, 1 << 20), st.integers(1, 255))
def test_any_altered_byte_of_any_file_is_refused_by_name(index: Path, which: str, position: int, change: int) -> None:
    [file] = index.glob(f"{which}*")
    content = file.read_bytes()
    said = json.loads((index / "manifest.json").read_text("utf-8"))
    altered = bytearray(content)
    altered[position % len(content)] ^= change
    try:
        file.write_bytes(altered)
        refused = index_refusal(index)
        if refused is None:
            assert json.loads((index / "manifest.json").read_text("utf-8")) == said  # white space for white space
            assert which == "manifest"
        else:
            assert str(index if which == "manifest" else file) in refused
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    "line",
    [b"x", b"[]", b"{}", b'{"lc":1,"type":"constructor","id":["os","system"],"kwargs":{}}', b"\xff\xff",
     b'{"page_content":"a","metadata":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"],
)  # fmt: skip
def test_a_documents_file_that_lies_and_has_the_right_digest_is_refused_by_line(line: bytes, index: Path) -> None:
    [documents] = index.glob("documents-*")
    documents.write_bytes((line + b"\n") * 6)
    reseal(index)
    with pytest.raises(IndexMismatchError, match=rf"{documents.name}, line 1: is no document"):
        load_index(index, HashEmbeddings())
    assert len(stored_documents(build_index(record_documents(), HashEmbeddings(), index))) == 6  # and built again


def attack_vectors(index: Path, seed: int) -> None:
    random_ = random.Random(seed)
    [vectors] = index.glob("index-*")
    whole = vectors.read_bytes()
    if random_.random() < 0.3:
        content = whole[: random_.randrange(len(whole))]
    else:
        content_ = bytearray(whole)
        # Where its sizes are. Of the length of all (bytes 37 to 44), which FAISS fills with zeros before it reads, the
        # low bytes only: whoever can write the digests too may also fill the memory. README, Security, says so.
        content_[random_.choice([*range(40), *range(45, 120)])] = random_.randrange(256)
        content = bytes(content_)
    try:
        vectors.write_bytes(content)
        reseal(index)
        assert str(index) in (index_refusal(index) or str(index))
    finally:
        vectors.write_bytes(whole)
        reseal(index)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 40))
def test_vectors_that_lie_and_have_the_right_digest_load_or_are_refused(index: Path, seed: int) -> None:
    attack_vectors(index, seed)


@pytest.mark.long
@settings(deadline=None, max_examples=1_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 40))
def test_vectors_that_lie_in_1000_ways_load_or_are_refused(index: Path, seed: int) -> None:
    attack_vectors(index, seed)


@pytest.mark.parametrize(
    "changes",
    [{"count": 1e300}, {"count": "6"}, {"count": 10**30}, {"count": True}, {"dimension": None}, {"dimension": 10**9},
     {"files": {"a\0": "x"}}, {"files": {"x" * 5_000: "x"}}, {"files": {"..": "x"}}, {"files": {"index.pkl": "x"}}],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused_by_its_folder(changes: dict[str, Any], index: Path) -> None:
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    (index / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    with pytest.raises(IndexMismatchError) as caught:
        load_index(index, HashEmbeddings())
    assert str(index) in str(caught.value)


def test_a_manifest_can_not_have_a_pickle_read(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (ran,))

    for pattern in ("index-*", "documents-*"):
        [file] = index.glob(pattern)
        file.write_bytes(pickle.dumps(Malicious()))
    reseal(index)
    with pytest.raises(IndexMismatchError):
        load_index(index, HashEmbeddings())
    assert not ran.exists()


def test_no_descriptor_is_left_open_by_files_that_are_refused(index: Path, tmp_path: Path) -> None:
    (tmp_path / "kb").write_bytes(workbook()[:-40])
    (tmp_path / "kb.gz").write_bytes(zipped(b"[" * 99)[:-9])
    (index / "manifest.json").write_text("[")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        refusal(tmp_path / "kb")
        refusal(tmp_path / "kb.gz")
        with pytest.raises(IndexMismatchError):
            load_index(index, HashEmbeddings())
    assert not before or len(list(Path("/proc/self/fd").iterdir())) <= before
