from __future__ import annotations

import math

import pytest
from langchain_core.documents import Document

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.next_question import _chance_of_yes, next_question
from langchain_bge_medical.clinical.polarity import findings

LEXICON = default_lexicon()


def candidate(name: str, symptoms: str, logit: float) -> Document:
    return Document(
        page_content=name,
        metadata={"disease": name, "symptoms": symptoms.split("、"), "relevance_logit": logit},
    )


COLD = candidate("普通感冒", "鼻塞、流清涕、打喷嚏、咽痛", 2.0)
FLU = candidate("流行性感冒", "高热、寒战、肌肉酸痛、头痛、乏力", 2.0)
LUNG = candidate("社区获得性肺炎", "发热、咳嗽、咳痰、胸痛", 1.0)


def test_the_question_is_the_one_that_tells_most_by_a_computation_of_its_own() -> None:
    documents = [COLD, FLU, LUNG]
    asked = next_question(documents, [], LEXICON)
    assert asked is not None

    # I(disease; answer) = H(answer) - H(answer | disease), where the module computes H(disease) - H(disease | answer).
    def coin(p: float) -> float:
        return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)

    weights = [math.exp(document.metadata["relevance_logit"] / 2) for document in documents]
    chances = [weight / sum(weights) for weight in weights]
    gains = {}
    for term in (term for document in documents for term in document.metadata["symptoms"]):
        yes = [_chance_of_yes(term, document.metadata["symptoms"]) for document in documents]
        p = sum(c * y for c, y in zip(chances, yes, strict=True))
        gains[term] = coin(p) - sum(c * coin(y) for c, y in zip(chances, yes, strict=True))
    assert gains[asked.term] == pytest.approx(max(gains.values()))
    assert asked.gain == pytest.approx(max(gains.values()), abs=0.0005)


def test_yes_and_no_name_the_diseases_that_they_speak_for() -> None:
    asked = next_question([COLD, FLU], [], LEXICON)
    assert asked is not None
    lists = {name: [d for d in (COLD, FLU) if asked.term in d.metadata["symptoms"]] for name in ("yes",)}
    assert asked.yes == [d.metadata["disease"] for d in lists["yes"]]
    assert set(asked.yes) | set(asked.no) == {"普通感冒", "流行性感冒"}


def test_what_the_patient_has_told_is_not_asked_again() -> None:
    seen = set()
    query = "不舒服"
    for _ in range(12):
        asked = next_question([COLD, FLU, LUNG], findings(query, LEXICON), LEXICON)
        if asked is None:
            break
        assert asked.term not in seen
        seen.add(asked.term)
        query += f",没有{asked.term}"
    assert len(seen) >= 5


def test_what_only_a_doctor_can_tell_is_not_asked() -> None:
    belly = candidate("急性阑尾炎", "麦氏点压痛、反跳痛", 1.0)
    other = candidate("急性胆囊炎", "墨菲征阳性、肝区叩击痛", 1.0)
    asked = next_question([belly, other], [], LEXICON)
    assert asked is None or ("压痛" not in asked.term and "叩击痛" not in asked.term)


@pytest.mark.parametrize("documents", [[], [COLD], [COLD, COLD], [COLD, Document(page_content="没有症状的文档")]])
def test_there_is_no_question_where_none_would_tell_anything_apart(documents: list[Document]) -> None:
    assert next_question(documents, [], LEXICON) is None


def test_the_question_is_in_the_language_asked_for_and_in_everyday_words() -> None:
    zh, en = (next_question([COLD, FLU], [], LEXICON, lang=lang) for lang in ("zh", "en"))
    assert zh is not None
    assert en is not None
    assert zh.text.startswith(f"有没有{zh.term}")
    assert "比如" in zh.text
    assert en.text.startswith("Do you have this: ")
    assert en.text.isascii()


def test_terms_that_the_lexicon_does_not_know_are_asked_as_they_stand() -> None:
    asked = next_question([candidate("甲病", "怪声", 0), candidate("乙病", "异味", 0)], [], SymptomLexicon([]))
    assert asked is not None
    assert asked.text in ("有没有怪声?", "有没有异味?")


def test_symptoms_that_a_store_keeps_as_one_text_are_asked_for_one_by_one() -> None:
    texts = [Document(page_content=d.page_content, metadata=dict(d.metadata)) for d in (COLD, FLU)]
    for document in texts:
        document.metadata["symptoms"] = "、".join(document.metadata["symptoms"])
    assert next_question(texts, [], LEXICON) == next_question([COLD, FLU], [], LEXICON) is not None


def test_a_more_specific_finding_answers_the_general_question() -> None:
    documents = [candidate("一", "发热", 1.0), candidate("二", "皮肤瘙痒", 1.0)]
    asked = next_question(documents, findings("高烧39度", LEXICON), LEXICON)
    assert asked is not None
    assert asked.term == "皮肤瘙痒"


@pytest.mark.parametrize(
    ("query", "special"),
    [
        ("没有发热", "高热"),
        ("没有腹泻", "蛋花汤样便"),
        ("没有失眠", "入睡困难"),
        ("没有咳嗽", "痰量增多"),
        ("没有头痛", "晨起头痛"),
    ],
)
def test_who_denies_the_general_is_not_asked_for_the_special(query: str, special: str) -> None:
    documents = [candidate("一", special, 1.0), candidate("二", "皮肤瘙痒", 1.0)]
    assert {asked.term for asked in [next_question(documents, [], LEXICON)] if asked} == {special}
    asked = next_question(documents, findings(query, LEXICON), LEXICON)
    assert asked is not None
    assert asked.term == "皮肤瘙痒"


@pytest.mark.parametrize("query", ["我妈发热，我咳嗽", "去年发热，现在咳嗽", "没有高热，咳嗽"])
def test_what_was_before_or_is_anothers_or_does_not_follow_is_asked(query: str) -> None:
    documents = [candidate("一", "发热", 1.0), candidate("二", "咳嗽", 1.0)]
    asked = next_question(documents, findings(query, LEXICON), LEXICON)
    assert asked is not None
    assert asked.term == "发热"
