"""What is wrong or doubtful in a knowledge base: a list of problems, each with its place. Reads no files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from langchain_bge_medical.knowledge_base import DiseaseRecord, KnowledgeBaseError, normalize_name

# Not required, but what an answer is poorer without, and why.
_WANTED = {
    "department": "the answer cannot say where to go",
    "urgency": "the answer cannot say how soon",
    "red_flags": "the answer cannot say when to go at once",
    "sources": "nobody can check where the text is from",
}
_FEWEST_SYMPTOMS = 3
_LONGEST_SYMPTOM = 20
_SHORTEST_DESCRIPTION = 15
# A reranker reads 512 tokens by default, the patient's words among them, and a Chinese character is about one token.
# The bundled one reads 320; what the bundled embedding model reads, 256, leaves room for those words too.
_LONGEST_CARD = 440
# Text that speaks to a model, not of a disease. A chat model gets the records as data, but may obey them all the same.
_INSTRUCTION = re.compile(
    r"(?:忽略|无视|忘记|不要理会)[^。;；\n]{0,12}(?:指令|指示|要求|提示|规则|设定)|系统提示|提示词|"
    r"(?:你|您)(?:现在|将|必须|应当)?(?:是|扮演|作为)(?:一[个名位])?[^。,，\n]{0,6}(?:助手|模型|机器人|专家|AI)|"
    r"作为(?:一[个名])?(?:AI|人工智能|语言模型)|(?:只|必须)(?:输出|回复|回答)|"
    r"\b(?:ignore|disregard|forget)\b.{0,30}\b(?:instructions?|prompts?|rules?|above|previous)\b|"
    r"\byou are (?:now )?(?:an? )?(?:ai|assistant|chatbot|language model)\b|\bsystem prompt\b|\bas an ai\b|"
    r"\b(?:respond|reply|answer) (?:only )?with\b|<\|[a-z_]+\|>|\[/?INST\]|^#+\s*(?:system|instruction)|"
    r"</?\s*(?:资料|records|system|assistant|user)\s*>",
    re.IGNORECASE | re.MULTILINE,
)
_DOSE = re.compile(
    r"\d\s*(?:mg|毫克|µg|μg|mcg|微克|ml|毫升|片|粒|单位|IU)\s*(?:/\s*(?:次|日|天|kg|公斤)|[,，]?\s*(?:每[日天次]|一[日天]|口服|静滴|肌注|tid|bid|qd))|"
    r"(?:每[日天次]|一[日天]|口服|静滴|肌注)[^。;；\n]{0,6}\d+(?:\.\d+)?\s*(?:mg|毫克|g|克|µg|μg|微克|片|粒|单位)",
    re.IGNORECASE,
)


class Problem(NamedTuple):
    """Something that a knowledge base's keeper should look at."""

    level: Literal["error", "warning"]
    """An error keeps records from being loaded, or told apart; a warning makes answers poorer."""
    place: str
    """File and record, or empty for what concerns all of them."""
    disease: str | None
    field: str | None
    message: str


class Report(NamedTuple):
    """All problems, and how much was looked at."""

    records: int
    problems: list[Problem]
    known_symptoms: float | None
    """Share of the symptom mentions that the lexicon has, in [0, 1]: only those have everyday wordings."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        levels = Counter(problem.level for problem in self.problems)
        return {
            "records": self.records,
            "errors": levels["error"],
            "warnings": levels["warning"],
            "known_symptoms": None if self.known_symptoms is None else round(self.known_symptoms, 4),
            "problems": [problem._asdict() for problem in self.problems],
        }


def check_records(
    attempts: Iterable[tuple[str, DiseaseRecord | KnowledgeBaseError]],
    *,
    terms: Collection[str] = (),
    unread: Callable[[str], int] | None = None,
) -> Report:
    """Look at every record by itself, and at all of them together.

    Args:
        attempts: What `MedicalKBLoader.lazy_attempts` yields.
        terms: The symptom lexicon's.
        unread: Says how many tokens of a text the embedding model does not read; `None` if that is not known.

    Returns:
        The report: problems of single records in their order, then those of several.
    """
    problems: list[Problem] = []
    records: list[tuple[str, DiseaseRecord]] = []
    for place, record in attempts:
        if isinstance(record, KnowledgeBaseError):
            problems.append(Problem("error", place, None, record.field, record.problem + _got(record.value)))
        else:
            records.append((place, record))
            problems += _of_one(place, record, unread)
    problems += [*_missing(records), *_names(records), *_references(records)]
    mentions = [symptom for _, record in records for symptom in record.symptoms]
    known = sum(symptom in terms for symptom in mentions) / len(mentions) if mentions and terms else None
    return Report(len(records), problems, known)


def _of_one(place: str, record: DiseaseRecord, unread: Callable[[str], int] | None) -> Iterator[Problem]:
    def warning(field: str, message: str) -> Problem:
        return Problem("warning", place, record.disease, field, message)

    if len(record.symptoms) < _FEWEST_SYMPTOMS:
        yield warning("symptoms", f"{len(record.symptoms)} only; too few to tell it from others")
    for symptom in record.symptoms:
        if len(symptom) > _LONGEST_SYMPTOM and not symptom.isascii():
            yield warning("symptoms", f"a sentence where a single finding should stand: {symptom[:24]!r}…")
    if len(record.description) < _SHORTEST_DESCRIPTION:
        yield warning("description", f"{len(record.description)} characters; nothing to rerank or to answer by")
    if unread and (tokens := unread(record.card())):
        yield warning("description", f"the embedding model does not read the last {tokens} tokens of the document")
    elif (length := len(record.card())) > _LONGEST_CARD:
        yield warning(
            "description", f"the document has {length} characters; what is beyond about {_LONGEST_CARD} is cut"
        )
    for field, text in _texts(record):
        if found := _INSTRUCTION.search(text):
            yield warning(field, f"reads like an instruction to a model: {found.group()[:40]!r}")
        if found := _DOSE.search(text):
            yield warning(field, f"reads like a dose: {found.group()[:40]!r}; answers quote this text")


def _texts(record: DiseaseRecord) -> Iterator[tuple[str, str]]:
    for field, value in record:
        if field != "symptoms_text":  # the symptoms once more
            yield from ((field, text) for text in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _strings(part)


def _missing(records: Sequence[tuple[str, DiseaseRecord]]) -> Iterator[Problem]:
    for field, why in _WANTED.items():
        without = [(place, record.disease) for place, record in records if not getattr(record, field)]
        if records and len(without) == len(records):
            yield Problem("warning", "", None, field, f"no record has it: {why}")
        else:
            yield from (Problem("warning", place, disease, field, f"is missing: {why}") for place, disease in without)


def _names(records: Sequence[tuple[str, DiseaseRecord]]) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for place, record in records:
        name = normalize_name(record.disease)
        if name in owners:
            yield Problem("error", place, record.disease, "disease", f"has an earlier record, {owners[name]}")
        owners.setdefault(name, place)
    aliases: dict[str, str] = {}
    for place, record in records:
        own = normalize_name(record.disease)
        for alias in record.aliases:
            form = normalize_name(alias)
            if form != own and form in owners:
                yield Problem("warning", place, record.disease, "aliases", f"{alias!r} is another disease's name")
            elif form in aliases and aliases[form] != record.disease:
                yield Problem("warning", place, record.disease, "aliases", f"{alias!r} is {aliases[form]}'s alias too")
            aliases.setdefault(form, record.disease)


def _references(records: Sequence[tuple[str, DiseaseRecord]]) -> Iterator[Problem]:
    known = {normalize_name(name) for _, record in records for name in (record.disease, *record.aliases)}
    for place, record in records:
        unknown = [name for name in record.differentials if normalize_name(name) not in known]
        if unknown:
            message = f"not in this knowledge base: {', '.join(unknown)}"
            yield Problem("warning", place, record.disease, "differentials", message)
        if normalize_name(record.disease) in map(normalize_name, record.differentials):
            yield Problem("warning", place, record.disease, "differentials", "names the disease itself")


def _got(value: object) -> str:
    if value is None:
        return ""
    shown = repr(value)
    return f" (got {shown if len(shown) <= 80 else shown[:79] + '…'})"
