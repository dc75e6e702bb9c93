"""The one question whose answer would tell the best candidates apart most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from langchain_core.documents import Document
from pydantic import BaseModel

from langchain_bge_medical.answer_guard import unfit
from langchain_bge_medical.clinical.lexicon import Lang, SymptomLexicon
from langchain_bge_medical.clinical.polarity import AFFIRMED, Finding
from langchain_bge_medical.knowledge_base import listed

# How likely a patient is to say yes: to a disease's first symptom, less with each place, and to one it does not list.
_YES_FIRST, _YES_LESS, _YES_UNLISTED = 0.75, 0.03, 0.06
_YES_RELATED = 0.3  # where the disease lists something of the same kind
_LEAST_GAIN = 0.02  # bits; less is not worth a question
# What a patient cannot tell without a hand that presses or an instrument.
_EXAMINED = ("压痛", "叩击痛", "肿大", "结节性", "充血", "骨擦感", "反跳痛", "搏动减弱", "体征")


class NextQuestion(BaseModel):
    """A question about one symptom."""

    term: str
    text: str
    """To be put to the patient."""
    gain: float
    """Bits of uncertainty about the disease that the answer takes away, on average."""
    yes: list[str]
    """Diseases that a yes makes more likely, best first."""
    no: list[str]
    """Diseases that a no makes more likely."""


def next_question(
    documents: Sequence[Document], said: Sequence[Finding], lexicon: SymptomLexicon, *, lang: Lang = "zh"
) -> NextQuestion | None:
    """Return what to ask next, by expected information gain over the candidates.

    Args:
        documents: Candidates, best first, as the reranker returns them; those with `symptoms` count.
        said: What is known; it is not asked again. What the patient had before or tells of others is not known.
        lexicon: Everyday words for the question.
        lang: Its language.

    Returns:
        The question, or `None` with fewer than two candidates or where no question would tell them apart.
    """
    candidates = [d for d in documents if listed(d.metadata, "symptoms")]
    if len(candidates) < 2:
        return None
    names = [str(d.metadata.get("disease") or d.page_content.partition("\n")[0]) for d in candidates]
    lists = [listed(d.metadata, "symptoms") for d in candidates]
    chances = _softmax([_strength(document, place) for place, document in enumerate(candidates)])
    affirmed = {finding.term for finding in said if finding.status in AFFIRMED}
    denied = {finding.term for finding in said if finding.status == "absent"} - affirmed
    before = _entropy(chances)
    best: tuple[float, str, list[float]] | None = None
    for term in dict.fromkeys(symptom for symptoms in lists for symptom in symptoms):
        if _is_known(term, affirmed, denied) or any(word in term for word in _EXAMINED) or unfit(term):
            continue
        yes = [_chance_of_yes(term, symptoms) for symptoms in lists]
        p_yes = sum(c * y for c, y in zip(chances, yes, strict=True))
        after_yes = [c * y / p_yes for c, y in zip(chances, yes, strict=True)]
        after_no = [c * (1 - y) / (1 - p_yes) for c, y in zip(chances, yes, strict=True)]
        gain = before - p_yes * _entropy(after_yes) - (1 - p_yes) * _entropy(after_no)
        if best is None or gain > best[0] + 1e-9:
            best = (gain, term, yes)
    if best is None or best[0] < _LEAST_GAIN:
        return None
    gain, term, answers = best
    average = sum(c * y for c, y in zip(chances, answers, strict=True))
    return NextQuestion(
        term=term,
        text=_ask(term, lexicon, lang),
        gain=round(gain, 3),
        yes=[name for name, y in zip(names, answers, strict=True) if y > average],
        no=[name for name, y in zip(names, answers, strict=True) if y < average],
    )


def _strength(document: Document, place: int) -> float:
    logit = document.metadata.get("relevance_logit")
    if not isinstance(logit, Real):
        return -float(place)
    return float(logit) + float(document.metadata.get("rerank_adjustment") or 0.0)


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    # Logits of a reranker are surer than they should be: half of them is the better bet.
    powers = [math.exp((value - top) / 2) for value in values]
    return [power / sum(powers) for power in powers]


def _entropy(chances: Sequence[float]) -> float:
    return -sum(c * math.log2(c) for c in chances if c > 0)


def _chance_of_yes(term: str, symptoms: Sequence[str]) -> float:
    if term in symptoms:
        return max(_YES_FIRST - _YES_LESS * symptoms.index(term), 0.3)
    related = any(term.endswith(other) or other.endswith(term) for other in symptoms)
    return _YES_RELATED if related else _YES_UNLISTED


# What a more specific finding says along with itself: who has 高热 is not asked for 发热.
_IMPLIED_BY = {
    "发热": ("高热", "低热", "持续高热", "午后低热", "周期性寒战高热"),
    "咳嗽": ("干咳", "咳痰", "黄脓痰", "白色黏痰", "痰中带血", "脓臭痰", "铁锈色痰", "痰量增多"),
    "咳痰": ("黄脓痰", "白色黏痰", "痰中带血", "脓臭痰", "铁锈色痰", "痰量增多"),
    "呼吸困难": ("端坐呼吸", "活动后气短", "呼吸急促", "喘息", "夜间阵发性呼吸困难"),
    "腹泻": ("水样便", "米泔水样便", "蛋花汤样便", "脓血便"),
    "便血": ("鲜血便", "便后滴血", "便后擦血", "脓血便"),
    "头晕": ("眩晕", "位置性眩晕", "站起时头晕"),
    "失眠": ("早醒", "入睡困难", "夜间易醒"),
    "皮疹": ("风团", "全身风团", "丘疹", "红斑", "水疱", "玫瑰疹"),
    "消瘦": ("体重下降",),
    "体重下降": ("消瘦",),
    "恶心": ("呕吐", "喷射性呕吐"),
}


def _is_known(term: str, affirmed: set[str], denied: set[str]) -> bool:
    """Return whether the answer follows: who has 高热 has 发热, and who has no 发热 has no 高热."""
    if term in affirmed or term in denied or not affirmed.isdisjoint(_IMPLIED_BY.get(term, ())):
        return True
    if any(len(other) > 1 and (term.endswith(other) or other.endswith(term)) for other in affirmed):
        return True
    return any((len(other) > 1 and term.endswith(other)) or term in _IMPLIED_BY.get(other, ()) for other in denied)


def _ask(term: str, lexicon: SymptomLexicon, lang: Lang) -> str:
    entry = lexicon.entries.get(term)
    if lang == "en":
        return f"Do you have this: {entry.en[0] if entry is not None and entry.en else term}?"
    plain = next((form for form in (entry.colloquial if entry else ()) if 2 <= len(form) <= 8 and form != term), "")
    return f"有没有{term}" + (f"(比如“{plain}”)?" if plain else "?")
