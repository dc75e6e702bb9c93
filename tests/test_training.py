from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder

from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.embeddings import BGEEmbeddings
from langchain_bge_medical.knowledge_base import KnowledgeBaseError
from langchain_bge_medical.model_files import bundled_knowledge_base
from langchain_bge_medical.training.bundled import (
    CORPUS,
    GroupLoss,
    Materials,
    Mix,
    Recipe,
    train_embeddings,
    train_reranker,
)
from langchain_bge_medical.training.queries import Complaint, QueryWriter, leave_out, read_complaints, roughen
from langchain_bge_medical.training.tokenizer import build_tokenizer
from tests.conftest import RECORDS

DATA = Path(__file__).parent / "data"
HELD_OUT = [DATA / "seed_queries.jsonl", DATA / "heldout_queries.jsonl", DATA / "heldout_short_queries.jsonl"]


def held_out_queries() -> list[str]:
    return [json.loads(line)["query"] for file in HELD_OUT for line in file.read_text("utf-8").splitlines()]


def test_what_is_close_to_an_evaluation_query_is_left_out() -> None:
    kept_out = ["最近三天一直发烧,咳嗽得很厉害,痰很多,晚上睡不好。"]
    close = [
        Complaint("社区获得性肺炎", "最近三天一直发烧，咳嗽得很厉害，痰很多"),
        Complaint("社区获得性肺炎", "最近三天一直發燒 咳嗽得很厲害 晚上睡不好"),
    ]
    far = [Complaint("社区获得性肺炎", "前天淋了雨，半夜打摆子，一咳嗽右边肋骨就跟针扎似的")]
    assert list(leave_out([*close, *far], kept_out)) == far


def test_no_evaluation_query_stands_in_the_written_corpus() -> None:
    written = {complaint.query for file in CORPUS.glob("*.jsonl") for complaint in read_complaints(file)}
    assert not written & set(held_out_queries())


def test_every_disease_has_thirty_written_complaints_and_no_complaint_is_about_anything_else() -> None:
    diseases = [record.disease for record in MedicalKBLoader(bundled_knowledge_base()).lazy_records()]
    about = [complaint.disease for complaint in read_complaints(CORPUS / "complaints.jsonl")]
    assert {disease: about.count(disease) for disease in diseases} == dict.fromkeys(diseases, 30)
    assert set(about) == set(diseases)


def test_a_line_that_is_no_complaint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"disease": "a", "query": "b"}\n{"disease": "a"}\n', "utf-8")
    with pytest.raises(KnowledgeBaseError, match="line 2"):
        read_complaints(file)


def test_synthetic_queries_depend_on_the_seed_alone_and_say_what_the_lexicon_says() -> None:
    records = list(MedicalKBLoader(bundled_knowledge_base()).lazy_records())[:20]

    def written(seed: int) -> list[str]:
        writer = QueryWriter(records, default_lexicon(), random.Random(seed))
        return [writer.write(record, english=i % 2 == 1) for i, record in enumerate(records)]

    assert written(1) == written(1)
    assert written(1) != written(2)
    english = QueryWriter(records, default_lexicon(), random.Random(3)).write(records[0], english=True)
    assert sum(char.isascii() for char in english) > len(english) / 2


def test_roughening_never_empties_a_text() -> None:
    rng = random.Random(5)
    for text in ("头痛", "发烧,咳嗽,痰多,睡不好。", "a b c d e f g h", "，，，"):
        assert all(roughen(text, rng) for _ in range(200))


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    texts = ["发烧三天 coughing up phlegm, fever 39.5", "耳朵后面红肿 headache headache fever"]
    return build_tokenizer(texts, 64)


def test_traditional_full_width_and_upper_case_are_the_tokens_of_their_plain_twins(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert tokenizer.tokenize("發燒ＡＢＣ３９") == tokenizer.tokenize("发烧abc39")
    assert tokenizer.tokenize("耳朵後面紅腫 FEVER") == tokenizer.tokenize("耳朵后面红肿 fever")


def test_every_character_of_gb_2312_has_a_token_and_digits_stand_alone(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert tokenizer.unk_token_id not in tokenizer("龋痤疖疣癣腮")["input_ids"]
    assert tokenizer.tokenize("39.5度") == ["3", "9", ".", "5", "度"]


def test_a_pair_is_framed_as_in_xlm_r_with_two_types(tokenizer) -> None:  # type: ignore[no-untyped-def]
    pair = tokenizer("发", "烧")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["<s>", "发", "</s>", "</s>", "烧", "</s>"]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_the_loss_is_softmax_plus_sigmoid_and_off_topic_groups_have_the_sigmoid_only(tiny_reranker: Path) -> None:
    model = CrossEncoder(str(tiny_reranker), max_length=64, device="cpu", activation_fn=torch.nn.Identity()).eval()
    queries = ["头痛", "股票"]
    groups = [["偏头痛", "普通感冒", "踝关节扭伤"], ["偏头痛", "中耳炎", "普通感冒"]]
    labels = [torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0])]
    with torch.no_grad():
        loss = GroupLoss(model)([queries, groups], labels).item()
    pairs = [[(query, document) for document in group] for query, group in zip(queries, groups, strict=True)]
    logits = [[float(x) for x in model.predict(group)] for group in pairs]
    order = -math.log(math.exp(logits[0][0]) / sum(map(math.exp, logits[0]))) / 2
    right = 2.0 * math.log(1 + math.exp(-logits[0][0]))
    wrong = sum(math.log(1 + math.exp(x)) for x in [*logits[0][1:], *logits[1]])
    assert loss == pytest.approx(order + (right + wrong) / 6, rel=1e-4)


def test_both_models_train_end_to_end_and_load_through_the_public_classes(tmp_path: Path) -> None:
    kb = tmp_path / "kb.json"
    kb.write_text(json.dumps(RECORDS, ensure_ascii=False), "utf-8")
    corpus = tmp_path / "c.jsonl"
    lines = [{"disease": r["disease"], "query": f"{r['symptoms']}怎么办"} for r in RECORDS] + [
        {"disease": "", "query": "股票"}
    ]
    corpus.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    recipe = Recipe(
        max_length=128,
        hidden=32,
        embedding_layers=1,
        reranker_layers=1,
        embedding_mix=Mix(2, 2, 1),
        embedding_epochs=1,
        embedding_batch=4,
        matching_groups=8,
        reranker_mix=Mix(1, 1, 1),
        reranker_group=4,
        reranker_batch=4,
    )
    materials = Materials(recipe, kb, [corpus], kept_out=[])
    tokenizer = build_tokenizer(materials.texts(random.Random(1)), recipe.max_length)
    train_embeddings(materials, tokenizer, tmp_path / "embeddings")
    from sentence_transformers import SentenceTransformer

    embeddings = SentenceTransformer(str(tmp_path / "embeddings"), device="cpu", model_kwargs={"dtype": torch.float32})
    train_reranker(materials, tokenizer, embeddings, tmp_path / "reranker")
    encoder = BGECrossEncoder(str(tmp_path / "reranker"), max_length=128)
    card = materials.records[0].card()
    assert math.isfinite(encoder.logits([("头痛", card)])[0])
    assert encoder.knows(card)
    assert not encoder.knows("another text")
    assert len(BGEEmbeddings(str(tmp_path / "embeddings")).embed_query("头痛")) == 32
