"""What a disease record is: its fields, their validation, and the text it becomes. Reads no files."""

from __future__ import annotations

import ast
import copy
import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

# Spellings of our field names met in real knowledge bases. The first is ours; when a record has several
# spellings of one field, the earliest in the row is read and the others stay in the metadata.
FIELD_ALIASES: Mapping[str, tuple[str, ...]] = {
    "disease": ("disease", "disease_name", "diseasename", "name", "疾病名称", "疾病", "疾病名", "病名", "名称"),
    "symptoms": ("symptoms", "symptom", "症状表现", "症状", "临床表现", "主要症状", "clinical_manifestations"),
    "description": (
        "description", "desc", "intro", "summary", "overview",
        "简要描述", "描述", "简介", "疾病简介", "疾病描述", "概述",
    ),
    "aliases": ("aliases", "alias", "synonyms", "别名", "又名", "别称"),
    "department": ("department", "departments", "cure_department", "科室", "就诊科室", "挂号科室"),
    "icd10": ("icd10", "icd-10", "icd_10", "icd", "icd编码", "icd10编码", "疾病编码"),
    "age": ("age", "age_range", "年龄", "年龄段"),
    "sex": ("sex", "gender", "性别"),
    "urgency": ("urgency", "紧急程度"),
    "red_flags": ("red_flags", "redflags", "危险信号", "警示症状"),
    "complications": ("complications", "complication", "acompany", "并发症"),
    "differentials": ("differentials", "differential", "differential_diagnosis", "鉴别诊断", "易混淆疾病"),
    "sources": ("sources", "source", "references", "reference", "来源", "参考文献"),
}  # fmt: skip
_LIST_FIELDS = ("aliases", "red_flags", "complications", "differentials", "sources")

_SEPARATORS = re.compile(r"[、，,;；。\n|]+")
_EDGES = "、，,;；。| \t\r\n\u00a0\u3000"  # what may stand around a list of findings without meaning anything
_CJK = re.compile(r"[\u3400-\u9fff]")
# C0/C1 controls, zero-width and bidirectional marks, BOM, half surrogate pairs: never part of a disease's text.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_DETAIL_TAIL = re.compile(r"(?:\s*[\[［【](?:详细|查看详细|更多)[\]］】])+\s*$")
_ICD10 = re.compile(r"[A-Z]\d{2}(?:\.\d)?")
_UNIVERSAL_SEX = ("any", "all", "both", "不限", "男女", "均")


class KnowledgeBaseError(ValueError):
    """A knowledge base that cannot be read, or one record of it.

    Attributes:
        place: File and, where there is one, line or record number: `kb.jsonl, line 12`. Empty for a record
            that did not come from a file.
        field: The field at fault, or `None` when the whole record or file is.
        value: The offending value, or `None`.
    """

    def __init__(self, problem: str, *, place: str = "", field: str | None = None, value: object = None) -> None:
        self.problem, self.place, self.field, self.value = problem, place, field, value
        where = f"{place}: " if place else ""
        what = f"field {field!r}: " if field else ""
        shown = f" (got {_shorten(value)})" if value is not None else ""
        super().__init__(f"{where}{what}{problem}{shown}")

    def at(self, place: str) -> KnowledgeBaseError:
        """Return the same error with `place` filled in."""
        return KnowledgeBaseError(self.problem, place=place, field=self.field, value=self.value)


class AgeRange(BaseModel):
    """Ages in years, both ends included, to which a disease is practically confined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float = Field(default=0, ge=0, le=150)
    max: float = Field(default=150, ge=0, le=150)

    @model_validator(mode="after")
    def _ordered(self) -> AgeRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")
        return self


class DiseaseRecord(BaseModel):
    """One disease. `disease`, `symptoms` and `description` are required; unknown fields are kept.

    Immutable. Build one from a record as it stands in a file with `from_raw`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    disease: str
    """Canonical name."""
    symptoms: tuple[str, ...]
    """Single findings, most typical first."""
    symptoms_text: str
    """The findings as the document shows them: the source's own string, or the list joined by `、`."""
    description: str
    """A few sentences: what it is, who gets it, what tells it from its neighbours."""
    aliases: tuple[str, ...] = ()
    """Everyday, foreign and former names."""
    department: str = ""
    """Where to go, e.g. `呼吸内科`; several are joined by `、`."""
    icd10: str | None = None
    """WHO ICD-10 code, or a national extension of one."""
    age: AgeRange | str | None = None
    """Ages it is confined to, if any; free text of other knowledge bases is kept as it is."""
    sex: Literal["male", "female", "any"] = "any"
    urgency: Literal["emergency", "urgent", "routine", "self_care"] | None = None
    """How soon somebody with the typical picture should be seen: now, today, by appointment, or not at all."""
    red_flags: tuple[str, ...] = ()
    """Findings that mean: go now."""
    complications: tuple[str, ...] = ()
    differentials: tuple[str, ...] = ()
    """Names of the diseases it is confused with."""
    sources: tuple[str, ...] = ()
    """Guidelines or textbooks that the text follows."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any], *, field_map: Mapping[str, str] | None = None) -> DiseaseRecord:
        """Build a record from a mapping with any of the known spellings of the field names.

        Text is cleaned: non-breaking and ideographic spaces become plain ones, control and zero-width
        characters and a `[详细]` at the end go away. `raw` is not modified.

        Args:
            raw: The record as its source has it. `symptoms`, and every other list, may be a list, a string
                separated by `、，,;；`, or the `repr` of a Python list; blanks too separate symptoms if each is of at
                least two Chinese characters (发热 咳嗽).
            field_map: The source's field name → ours, for names that `FIELD_ALIASES` does not know. It
                goes before `FIELD_ALIASES`.

        Returns:
            The validated record; fields that we do not know are in `record.model_extra`.

        Raises:
            KnowledgeBaseError: If a required field is missing or empty, or a field has a value that it
                cannot have. Names the field and the value.
        """
        fields = rename_fields(raw, field_map)
        if isinstance(oid := fields.get("_id"), Mapping) and "$oid" in oid:
            fields["_id"] = str(oid["$oid"])
        for name in ("disease", "description"):
            fields[name] = _required_text(fields, name)
        fields["symptoms"], fields["symptoms_text"] = _parse_symptoms(fields.get("symptoms"))
        for name in _LIST_FIELDS:
            if name in fields:
                fields[name] = _as_list(fields[name], name)
        if "department" in fields:
            fields["department"] = "、".join(_as_list(fields["department"], "department"))
        if "sex" in fields:
            fields["sex"] = _parse_sex(fields["sex"])
        for name in ("icd10", "age", "urgency"):
            if isinstance(fields.get(name), str):
                fields[name] = clean_text(fields[name])
            if fields.get(name) in ("", None):
                fields.pop(name, None)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            at = str(first["loc"][0]) if first["loc"] else None
            raise KnowledgeBaseError(first["msg"], field=at, value=fields.get(at or "", first.get("input"))) from None

    @field_validator("icd10")
    @classmethod
    def _icd10_form(cls, code: str | None) -> str | None:
        if code is not None and not _ICD10.match(code):
            raise ValueError("an ICD-10 code is a letter and two digits, like J18.9")
        return code

    def card(self) -> str:
        """Return the text that is embedded and reranked: name, symptoms, description, a line each."""
        return f"疾病名称:{self.disease}\n症状表现:{self.symptoms_text}\n简要描述:{self.description}"

    def metadata(self) -> dict[str, Any]:
        """Return every field that says something, as plain JSON types, for `Document.metadata`.

        Raises:
            KnowledgeBaseError: If an unknown field holds what JSON cannot say, or is nested too deeply.
        """
        try:
            dumped = self.model_dump(mode="json", exclude={"symptoms_text"}, exclude_defaults=True)
        except (ValueError, RecursionError) as error:
            raise KnowledgeBaseError(f"cannot become metadata: {error}", value=sorted(self.model_extra or {})) from None
        return {name: value for name, value in dumped.items() if value not in (None, "", [], {})}


def clean_text(text: str) -> str:
    """Return `text` on one line without invisible characters, odd blanks and a `[详细]` tail.

    Letters, digits and punctuation stay as they are (full-width ones too).
    """
    text = text.replace("\u00a0", " ").replace("\u3000", " ")
    text = _INVISIBLE.sub("", text.replace("\r", "\n"))
    return _DETAIL_TAIL.sub("", re.sub(r"\s+", " ", text).strip()).strip()


def normalize_name(name: str) -> str:
    """Return the form under which disease names and aliases are compared: NFKC, lower case, no blanks."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", name)).casefold()


def rename_fields(raw: Mapping[str, Any], field_map: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `raw` with our field names, found by `field_map` and then `FIELD_ALIASES`.

    What maps nowhere keeps its own name; if `field_map` gave that name to another field, or it is that of a field
    that is made from others, it becomes `kept_name`.
    """
    keys = [str(key) for key in raw]
    # An exact spelling goes before one in other letters (Disease, ｄｉｓｅａｓｅ).
    by_spelling = {unicodedata.normalize("NFKC", key).strip().casefold(): key for key in keys} | {k: k for k in keys}
    taken: dict[str, str] = {}  # the source's key → our field
    for spelling, ours in (field_map or {}).items():
        if spelling in raw and ours not in taken.values():
            taken[spelling] = ours
    for field, spellings in FIELD_ALIASES.items():
        found = (by_spelling[s] for s in spellings if s in by_spelling and by_spelling[s] not in taken)
        if field not in taken.values() and (key := next(found, None)) is not None:
            taken[key] = field
    filled = {*taken.values(), "symptoms_text"}
    return {
        taken.get(key) or (kept_name(key, keys) if key in filled else key): value
        for key, value in zip(keys, raw.values(), strict=True)
    }


def kept_name(field: str, fields: Collection[str]) -> str:
    """Return what a source's own field is called where its name means something of ours: `source_{field}`.

    The prefix is put there again as long as the source has a field of that name.
    """
    kept = f"source_{field}"
    while kept in fields:
        kept = f"source_{kept}"
    return kept


def listed(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return what a document's metadata list under `name`: symptoms, aliases, red flags.

    Args:
        metadata: From any vector store. A string is split as a record's is; what is neither text nor a list of texts
            counts for nothing.
        name: The field.
    """
    value = metadata.get(name)
    if isinstance(value, str):
        value = [clean_text(part) for part in _parts(value, name) if isinstance(part, str)]
    return tuple(part for part in value if isinstance(part, str) and part) if isinstance(value, (list, tuple)) else ()


def copied(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of a document's metadata; what cannot be copied, like a client's handle, stays itself."""
    copies: dict[str, Any] = {}
    for key, value in metadata.items():
        try:
            copies[key] = copy.deepcopy(value)
        except Exception:  # whatever a class of the caller's raises
            copies[key] = value
    return copies


def _required_text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        known = "/".join(FIELD_ALIASES[name][:4])
        raise KnowledgeBaseError(
            f"is missing; it may also be called {known}, or be named by field_map={{'your field': {name!r}}}",
            field=name,
            value=sorted(map(str, fields)),
        )
    paragraphs = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(part, str) for part in paragraphs):
        raise KnowledgeBaseError("must be text", field=name, value=value)
    if not (text := clean_text(" ".join(paragraphs))):
        raise KnowledgeBaseError("is empty", field=name, value=value)
    return text


def _parse_symptoms(value: Any) -> tuple[list[str], str]:
    """Return the single findings and the text that shows them."""
    if value is None:
        raise KnowledgeBaseError(
            "is missing; it may also be called symptom/症状, or be named by field_map={'your field': 'symptoms'}",
            field="symptoms",
        )
    items = _as_list(value, "symptoms")
    if not items:
        raise KnowledgeBaseError("is empty", field="symptoms", value=value)
    verbatim = isinstance(value, str) and _literal_list(value) is None
    return items, clean_text(value) if verbatim else "、".join(items)


def _as_list(value: Any, name: str) -> list[str]:
    """Split a string, or clean a list of strings; keep the order, drop repeats and blanks."""
    if isinstance(value, str):
        parts = _parts(value, name)
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif value is None:
        parts = []
    else:
        raise KnowledgeBaseError("must be text or a list of texts", field=name, value=value)
    for part in parts:
        if not isinstance(part, str):
            raise KnowledgeBaseError("must hold texts only", field=name, value=part)
    return list(dict.fromkeys(text for part in parts if (text := clean_text(part))))


def _parts(text: str, name: str) -> list[Any]:
    """Split the string that stands in the field `name`, or read it as the list that it is the `repr` of."""
    literal = _literal_list(text)
    if literal is not None:
        return literal
    text = text.strip(_EDGES)
    if _SEPARATORS.search(text):
        return _SEPARATORS.split(text)
    # Blanks separate Chinese findings (发热 咳嗽) but belong to English ones (chest pain), to numbers (体温 38.5 ℃)
    # and to names (《内科学》 第9版).
    words = text.split()
    return words if name == "symptoms" and all(len(_CJK.findall(word)) > 1 for word in words) else [text]


def _literal_list(text: str) -> list[Any] | None:
    """Return the list that `text` is the `repr` (or JSON) of, else `None`."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = json.loads(text)  # first: a JSON list may hold null and \/, which mean something else in Python
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _parse_sex(value: Any) -> str:
    text = "" if value is None else clean_text(str(value)).casefold()
    if not text or any(word in text for word in _UNIVERSAL_SEX):
        return "any"
    for sex, words in (("female", ("female", "女", "f")), ("male", ("male", "男", "m"))):
        if text in words or text == f"{words[1]}性":
            return sex
    raise KnowledgeBaseError("must be male, female or any (男, 女, 不限)", field="sex", value=value)


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
