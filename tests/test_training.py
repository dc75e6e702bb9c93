from __future__ import annotations

import json
import math
import random
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import XLMRobertaForSequenceClassification

from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.embeddings import BGEEmbeddings
from langchain_bge_medical.knowledge_base import KnowledgeBaseError
from langchain_bge_medical.model_files import bundled_knowledge_base, resolved_revision
from langchain_bge_medical.training import model_card
from langchain_bge_medical.training.bundled import (
    FirstStage,
    Further,
    GroupLoss,
    Recipe,
    RetrievalLoss,
    TokenStore,
    further_queries,
    main,
)
from langchain_bge_medical.training.materials import CORPUS, Amounts, Materials, Query, make_materials
from langchain_bge_medical.training.materials import main as write_materials
from langchain_bge_medical.training.queries import Complaint, QueryWriter, leave_out, read_complaints, roughen
from langchain_bge_medical.training.tokenizer import build_tokenizer
from tests.conftest import RECORDS, tiny_config

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


def test_every_disease_has_ninety_written_complaints_or_more_and_no_complaint_is_about_anything_else() -> None:
    diseases = [record.disease for record in MedicalKBLoader(bundled_knowledge_base()).lazy_records()]
    files = [file for file in CORPUS.glob("*.jsonl") if file.stem != "off_topic"]
    about = Counter(complaint.disease for file in files for complaint in read_complaints(file))
    assert set(about) == set(diseases)
    assert min(about.values()) >= 90


def test_a_complaint_may_hold_what_unicode_calls_a_line_separator(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"disease": "a", "query": "b\u2028c"}\n{"disease": "a", "query": "d\x85e"}\n', "utf-8")
    assert read_complaints(file) == [Complaint("a", "b\u2028c"), Complaint("a", "d\x85e")]


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


QUERIES, DOCUMENTS = (
    ["头痛", "股票", "孩子发烧三天 耳朵后面疼"],
    ["偏头痛 一侧跳痛", "普通感冒", "踝关节扭伤", "中耳炎 " * 40],
)


def test_the_store_makes_of_pairs_and_texts_what_the_tokenizer_makes_of_them(tokenizer) -> None:  # type: ignore[no-untyped-def]
    store = TokenStore(tokenizer, [*QUERIES, *DOCUMENTS], torch.device("cpu"))
    pairs = [(query, document) for query in range(3) for document in range(3, 7)]
    queries, documents = torch.tensor(pairs).T
    made = store.pairs(queries, documents, max_length=32)
    texts = [*QUERIES, *DOCUMENTS]
    wanted = tokenizer(
        [texts[query] for query, _ in pairs], [texts[document] for _, document in pairs],
        truncation="only_second", max_length=32, padding=True, return_tensors="pt",
    )  # fmt: skip
    assert {name: rows.tolist() for name, rows in made.items()} == {n: rows.tolist() for n, rows in wanted.items()}
    alone = store.texts(torch.arange(7), max_length=16)
    wanted = tokenizer(texts, truncation=True, max_length=16, padding=True, return_tensors="pt")
    assert {name: rows.tolist() for name, rows in alone.items()} == {n: rows.tolist() for n, rows in wanted.items()}


def test_the_loss_is_softmax_plus_sigmoid_and_off_topic_groups_have_the_sigmoid_only(  # type: ignore[no-untyped-def]
    tokenizer, tmp_path: Path
) -> None:
    config = tiny_config(tokenizer, num_labels=1, type_vocab_size=2)
    XLMRobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = CrossEncoder(str(tmp_path), max_length=64, device="cpu", activation_fn=torch.nn.Identity()).eval()
    store = TokenStore(model.tokenizer, [*QUERIES, *DOCUMENTS], model.device)
    groups, labels = [[3, 4, 5], [3, 6, 4]], torch.tensor([0, -1])
    with torch.no_grad():
        loss = GroupLoss(model, store, Recipe(reranker_tokens=64))([[0, 1], groups], labels).item()
    texts = [*QUERIES, *DOCUMENTS]
    pairs = [[(texts[query], texts[i]) for i in group] for query, group in zip((0, 1), groups, strict=True)]
    logits = [[float(x) for x in model.predict(group)] for group in pairs]
    order = -math.log(math.exp(logits[0][0]) / sum(map(math.exp, logits[0]))) / 2
    right = 2.0 * math.log(1 + math.exp(-logits[0][0]))
    wrong = sum(math.log(1 + math.exp(x)) for x in [*logits[0][1:], *logits[1]])
    # The weights are rounded to bfloat16 in training.
    assert loss == pytest.approx(order + (right + wrong) / 6, rel=5e-2)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    folder = tmp_path_factory.mktemp("materials")
    kb, corpus, watched = folder / "kb.json", folder / "c.jsonl", folder / "w.jsonl"
    kb.write_text(json.dumps(RECORDS, ensure_ascii=False), "utf-8")
    lines = [{"disease": r["disease"], "query": f"{r['symptoms']}怎么办"} for r in RECORDS]
    lines.append({"disease": "", "query": "股票"})
    corpus.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    watched.write_text(json.dumps({"query": "脑袋疼得厉害", "relevant": [RECORDS[0]["disease"]]}) + "\n", "utf-8")
    made = make_materials(kb, [corpus], watched=[watched], unseen=1, amounts=Amounts(4, 1, 2, 1, 8))
    made.save(folder / "m.json.gz")
    assert Materials.load(folder / "m.json.gz") == made
    return made


def test_nothing_is_trained_about_an_unseen_disease(materials: Materials) -> None:
    (unseen,) = materials.unseen
    place = materials.diseases.index(unseen)
    assert all(query.disease != place for query in materials.queries)
    assert {query.disease for query in materials.queries} == set(range(len(materials.diseases))) - {place} | {-1}


def test_what_is_neutral_for_a_disease_is_never_a_wrong_answer(
    materials: Materials, tiny_embedding_model: Path
) -> None:
    from langchain_bge_medical.training.bundled import _ranking_rows

    model = SentenceTransformer(str(tiny_embedding_model), device="cpu")
    neutral = [[(i + 1) % len(materials.diseases)] for i in range(len(materials.diseases))]
    changed = replace(materials, neutral=neutral)
    variants = len(materials.documents[0])
    unseen = materials.diseases.index(materials.unseen[0])
    rows = _ranking_rows(changed, Recipe(group=4, epochs=5), FirstStage(changed, model), 100, variants)
    for query, documents, label in zip(rows["query"], rows["documents"], rows["label"], strict=True):
        right = changed.queries[query - 100].disease
        diseases = [document // variants for document in documents]
        assert unseen not in diseases
        if right >= 0:
            assert diseases[label] == right
            assert diseases.count(right) == 1
            assert not set(neutral[right]) & set(diseases)
        else:
            assert label == -1


def test_the_retrieval_loss_leaves_neutral_diseases_out(materials: Materials, tiny_embedding_model: Path) -> None:
    model = SentenceTransformer(str(tiny_embedding_model), device="cpu").eval()
    count = len(materials.diseases)
    one_variant = replace(materials, documents=[d[:1] for d in materials.documents], terms=[])
    everything = replace(one_variant, neutral=[[j for j in range(count) if j != i] for i in range(count)])
    texts = [d[0] for d in one_variant.documents] + [query.text for query in materials.queries]
    store = TokenStore(model.tokenizer, texts, model.device)
    features, labels = [{"input_ids": torch.tensor([0, 1])}], torch.tensor([q.disease for q in materials.queries[:2]])
    recipe = Recipe(embedding_tokens=64)
    with torch.no_grad():
        loss = RetrievalLoss(model, one_variant, store, recipe)(features, labels).item()
        alone = RetrievalLoss(model, everything, store, recipe)(features, labels).item()
    vectors = model.encode(texts[: count + 2], normalize_embeddings=True)
    scores = torch.tensor(vectors[count:] @ vectors[:count].T) * recipe.embedding_scale
    for i, others in enumerate(one_variant.neutral):
        scores[labels == i] = scores[labels == i].index_fill(1, torch.tensor(others, dtype=torch.long), -torch.inf)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), rel=2e-2)
    assert alone == 0


@pytest.fixture(scope="module")
def two_books(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    tmp_path = tmp_path_factory.mktemp("books")
    kb, other, corpus = (tmp_path / name for name in ("kb.json", "other.json", "c.jsonl"))
    kb.write_text(json.dumps(RECORDS[:3], ensure_ascii=False), "utf-8")
    other.write_text(json.dumps([RECORDS[0], *RECORDS[3:]], ensure_ascii=False), "utf-8")
    lines = [{"disease": r["disease"], "query": f"{r['symptoms']}怎么办"} for r in RECORDS]
    corpus.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    return make_materials(kb, [corpus], other=other, amounts=Amounts(2, 0, 0, 0, 0))


def test_a_query_is_asked_of_its_own_diseases_knowledge_base_alone(
    tiny_embedding_model: Path, two_books: Materials
) -> None:
    from langchain_bge_medical.training.bundled import _ranking_rows

    made = two_books
    assert made.books == [0, 0, 0, 1, 1, 1]
    assert {query.disease for query in made.queries} == set(range(6))
    for query in made.queries:
        assert {made.books[place] for place in query.lexical} == {made.books[query.disease]}
    model = SentenceTransformer(str(tiny_embedding_model), device="cpu").eval()
    rows = _ranking_rows(made, Recipe(group=2, epochs=5), FirstStage(made, model), 0, 3)
    for query, documents in zip(rows["query"], rows["documents"], strict=True):
        assert {made.books[place // 3] for place in documents} == {made.books[made.queries[query].disease]}
    texts = [text for cards in made.documents for text in cards] + [query.text for query in made.queries]
    loss = RetrievalLoss(model, made, TokenStore(model.tokenizer, texts, model.device), Recipe())
    assert [row.count(True) for row in loss.neutral.tolist()] == [3] * 6


def test_both_models_train_end_to_end_and_load_through_the_public_classes(materials: Materials, tmp_path: Path) -> None:
    materials.save(tmp_path / "m.json.gz")
    recipe = {
        "embedding_hidden": 32, "embedding_layers": 1, "embedding_epochs": 1, "embedding_batch": 4,
        "embedding_tokens": 128, "reranker_hidden": 32, "reranker_layers": 1, "reranker_tokens": 128,
        "group": 4, "batch": 4, "epochs": 1,
    }  # fmt: skip
    main(
        [
            "--materials",
            str(tmp_path / "m.json.gz"),
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
            "--recipe",
            json.dumps(recipe),
        ]
    )
    encoder = BGECrossEncoder(str(tmp_path / "bundled_reranker"), max_length=128)
    card = materials.documents[0][0]
    assert math.isfinite(encoder.logits([("头痛", card)])[0])
    assert encoder.knows(card)
    assert not encoder.knows("another text")
    assert len(BGEEmbeddings(str(tmp_path / "bundled_embeddings")).embed_query("头痛")) == 32
    recipe_written = json.loads((tmp_path / "bundled_reranker" / "recipe.json").read_text("utf-8"))
    assert recipe_written["group"] == 4
    assert recipe_written["data"] == materials.counts()
    for kind in ("reranker", "embeddings"):
        card = (tmp_path / f"bundled_{kind}" / "README.md").read_text("utf-8")
        assert "For demonstration on the bundled knowledge base" in card
        assert resolved_revision(tmp_path / f"bundled_{kind}") in card
        assert "Not measured" in card
        assert ("| `group` | 4 |" in card) == (kind == "reranker")


def test_training_goes_on_from_a_reranker_with_what_is_said_of_the_other_diseases(
    tiny_embedding_model: Path, two_books: Materials, tmp_path: Path
) -> None:
    two_books.save(tmp_path / "m.json.gz")
    start, out = tmp_path / "start", tmp_path / "out"
    tokenizer = build_tokenizer(two_books.texts(), 128)
    XLMRobertaForSequenceClassification(tiny_config(tokenizer, num_labels=1, type_vocab_size=2)).save_pretrained(start)
    tokenizer.save_pretrained(start)
    recipe = {**asdict(Recipe(reranker_tokens=128, group=2)), "data": two_books.counts()}
    (start / "recipe.json").write_text(json.dumps(recipe))
    (start / "known_documents.txt").write_text("known\n")
    shutil.copytree(tiny_embedding_model, out / "bundled_embeddings")
    options = ["--materials", str(tmp_path / "m.json.gz"), "--out", str(out), "--device", "cpu"]
    main([*options, "--further-from", str(start), "--further", json.dumps({"own": 1, "batch": 2, "lr": 0.01})])
    made = out / "bundled_reranker"
    pair = [("头痛", two_books.documents[0][0])]

    def logit(folder: Path) -> float:
        return BGECrossEncoder(str(folder), max_length=128, dtype="float32").logits(pair)[0]

    before, after = logit(start), logit(made)
    assert math.isfinite(after)
    assert abs(after - before) > 1e-3
    kept = ["--further", json.dumps({"own": 1, "batch": 2, "lr": 0.01, "start_share": 1.0})]
    unchanged = tmp_path / "unchanged"
    shutil.copytree(tiny_embedding_model, unchanged / "bundled_embeddings")
    main([*options, "--out", str(unchanged), "--further-from", str(start), *kept])
    assert logit(unchanged / "bundled_reranker") == pytest.approx(before, abs=2e-2)  # it is saved in half precision
    written = json.loads((made / "recipe.json").read_text("utf-8"))
    assert {**written, "further": None} == {**recipe, "further": None}
    assert written["further"]["queries"] == 3 + 1  # all three of the second knowledge base, one of the first
    assert (made / "known_documents.txt").read_text() == "known\n"
    card = (made / "README.md").read_text("utf-8")
    assert "with 4 queries: all written ones about 3 other diseases" in card
    assert "| `lr` | 0.01 |" in card


def test_what_it_goes_on_with_is_all_about_the_other_diseases_and_a_choice_of_the_rest(two_books: Materials) -> None:
    extra = [
        Query("stocks", -1, "off_topic", []),
        Query("headache", 4, "english", []),
        Query("cough", 1, "english", []),
    ]
    materials = replace(two_books, queries=[*two_books.queries, *extra])
    chosen = further_queries(materials, Further(own=2, english=9))
    books = [(q.kind, two_books.books[q.disease] if q.disease >= 0 else None) for q in chosen]
    assert Counter(books) == {("written", 1): 3, ("written", 0): 2, ("english", 1): 1, ("off_topic", None): 1}
    assert chosen == further_queries(materials, Further(own=2, english=9))


FIGURES: dict[str, Any] = {
    "queries": "heldout.jsonl",
    "n": 40,
    "stages": {
        stage: {"hit@1": hit, "hit@3": 0.8, "hit@5": 0.9, "mrr@10": 0.75, "recall@50": 1.0}
        for stage, hit in (("dense", 0.5), ("hybrid", 0.7), ("rerank", 0.6))
    },
    "guard": {
        "first_stage": "hybrid",
        "stages": {"rerank": {"mean": -0.1, "low": -0.2, "high": -0.05, "units": 40, "verdict": "worse"}},
    },
    "tags": {
        tag: {"n": n, "stages": {"rerank": {"hit@1": hit}, "dense": {"hit@1": hit}}}
        for tag, n, hit in (("english", 20, 0.25), ("short", 20, 0.95), ("rare", 2, 0.0))
    },
    "departments": {},
    "pairwise": {"n": 10, "rerank": 0.9, "dense": 1.0},
}


def test_a_bundled_models_card_says_what_was_measured_and_what_fails_and_takes_no_other_models_figures(
    tiny_reranker: Path, tmp_path: Path, materials: Materials
) -> None:
    folder, figures = tmp_path / "model", tmp_path / "figures.json"
    shutil.copytree(tiny_reranker, folder)
    arguments = ["--model", str(folder), "--figures", str(figures)]
    figures.write_text(json.dumps({**FIGURES, "revisions": {"reranker": resolved_revision(folder)}}))
    (folder / "recipe.json").write_text(json.dumps(asdict(Recipe())))
    with pytest.raises(SystemExit, match=r"no recipe\.json with the data in it"):
        model_card.main(arguments)
    materials.save(tmp_path / "m.json.gz")
    model_card.main([*arguments, "--materials", str(tmp_path / "m.json.gz")])
    card = (folder / "README.md").read_text("utf-8")
    assert "| `heldout.jsonl` | 40 | rerank | 0.600 | 0.800 | 0.900 | 0.750 | 1.000 |" in card
    assert "it alone is WORSE than hybrid recall (MRR@10 -0.100 [-0.200, -0.050])" in card
    assert "english 0.25 (n = 20), short 0.95 (n = 20)" in card
    assert "in 10.0% of 10" in card
    assert "rare" not in card
    model_card.main([*arguments, "--unseen", str(figures)])
    assert "**Diseases never seen in training**" in (folder / "README.md").read_text("utf-8")
    figures.write_text(json.dumps({**FIGURES, "revisions": {"reranker": "sha256:another"}}))
    with pytest.raises(SystemExit, match="sha256:another"):
        model_card.main(arguments)


def test_the_materials_command_writes_what_the_function_makes_and_keeps_evaluation_queries_out(tmp_path: Path) -> None:
    kb, corpus, out, kept_out = (tmp_path / name for name in ("kb.json", "c.jsonl", "m.json.gz", "e.jsonl"))
    records = [
        {**record, "complications": ["耳朵发炎", "不在库中的病"], "differentials": ["耳朵发炎", "不在库中的病"]}
        if i == 1
        else {**record, "aliases": ["耳朵发炎"] if record["disease"] == "中耳炎" else []}
        for i, record in enumerate(RECORDS)
    ]
    kb.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    lines = [{"disease": r["disease"], "query": f"{r['symptoms']}怎么办"} for r in RECORDS]
    corpus.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    secret = lines[2]["query"]
    kept_out.write_text(json.dumps({"query": secret, "relevant": [RECORDS[2]["disease"]]}, ensure_ascii=False), "utf-8")
    amounts = {"variants": 2, "rough": 1, "synthetic": 1, "english": 1, "groups": 3}
    other = tmp_path / "other.json"
    other.write_text(json.dumps([RECORDS[0], {**RECORDS[1], "disease": "在第二库中的病"}], ensure_ascii=False), "utf-8")
    options = ["--kb", str(kb), "--other-kb", str(other), "--corpus", str(corpus)]
    options += ["--keep-out", str(kept_out), "--amounts", json.dumps(amounts)]
    write_materials([*options, "--unseen", "1", "--out", str(out)])
    made = Materials.load(out)
    again = make_materials(kb, [corpus], other=other, kept_out=[secret], unseen=1, amounts=Amounts(**amounts))
    assert made == again
    assert made.diseases[-1] == "在第二库中的病"
    assert secret not in {query.text for query in made.queries}
    cold, ear = made.diseases.index("普通感冒"), made.diseases.index("中耳炎")
    assert (made.neutral[cold], made.neutral[ear], made.near[cold]) == ([ear], [cold], [ear])
    assert (len(made.unseen), len(made.groups), len(made.documents[0])) == (1, 3, 3)
