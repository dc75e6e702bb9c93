"""Tuning a reranker: what it is trained on, that it goes on after a kill, and what its report may claim."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.documents import Document
from safetensors.torch import load_file
from sentence_transformers.base.evaluation import BaseEvaluator
from transformers import XLMRobertaForSequenceClassification

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.polarity import findings
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.evaluation.compare import LabelledQuery
from langchain_bge_medical.knowledge_base import DiseaseRecord
from langchain_bge_medical.model_files import bundled_knowledge_base
from langchain_bge_medical.training import finetune as tuning
from langchain_bge_medical.training.examples import (
    Amounts,
    Asked,
    Example,
    ExampleMaker,
    lists_of,
    pairs_of,
    split_wordings,
    triples_of,
)
from langchain_bge_medical.training.finetune import FinetuneError, Materials, Settings, finetune, trained_on
from langchain_bge_medical.training.model_card import verdict_lines
from langchain_bge_medical.training.queries import QueryWriter, query_digest
from langchain_bge_medical.vectorstores import build_index, stored_documents
from tests.conftest import HashEmbeddings, make_tokenizer, tiny_config

RECORDS = list(MedicalKBLoader(bundled_knowledge_base()).lazy_records())
BY_NAME = {record.disease: record for record in RECORDS}
SOME = RECORDS[:24]


def maker(records: list[DiseaseRecord] = RECORDS, *, recall: Any = None, **settings: Any) -> ExampleMaker:
    names = [record.disease for record in records]
    return ExampleMaker(
        records,
        default_lexicon(),
        recall or (lambda query: names),
        HashEmbeddings().embed_documents,
        random.Random(5),
        **settings,
    )


def disease_of(text: str) -> str:
    return text.removeprefix("疾病名称:").split("\n")[0]


def test_wordings_are_divided_so_that_none_of_several_is_in_both_lexicons() -> None:
    kept, held_out = split_wordings(default_lexicon(), random.Random(1))
    assert list(kept.entries) == list(held_out.entries) == list(default_lexicon().entries)
    for term, entry in default_lexicon().entries.items():
        first, second = set(kept.entries[term].colloquial), set(held_out.entries[term].colloquial)
        assert first | second == set(entry.colloquial)
        if len(entry.colloquial) > 1:
            assert not first & second
            assert first
            assert second


def test_nothing_is_made_about_diseases_that_are_kept_out() -> None:
    kept_out = {record.disease for record in RECORDS[::7]}
    made = maker(kept_out=kept_out, amounts=Amounts(queries=2, pairs=1))
    asked = list(made.synthetic())
    examples = [made.example(query) for query in asked]
    examples += made.minimal_pairs()
    examples += [made.example(Asked("头晕", (), tuple(kept_out)))]
    texts = [text for example in examples if example for text in (*example.right, *example.wrong)]
    assert len(texts) > 2_000
    assert not {disease_of(text) for text in texts} & kept_out
    assert made.example(Asked("头晕", (next(iter(kept_out)),))) is None


def test_complications_and_what_they_complicate_are_never_wrong() -> None:
    record = next(r for r in RECORDS if any(name in BY_NAME for name in r.complications))
    complication = next(name for name in record.complications if name in BY_NAME)
    made = maker(amounts=Amounts(hard=400, near=20, random=100))
    for right, neutral in ((record.disease, complication), (complication, record.disease)):
        example = made.example(Asked("不知道说什么", (right,)))
        assert example is not None
        assert neutral not in {disease_of(text) for text in example.wrong}
        assert right not in {disease_of(text) for text in example.wrong}


def test_a_complication_or_differential_may_be_named_by_an_alias() -> None:
    records = [
        DiseaseRecord.from_raw({"description": "。", **raw})
        for raw in (
            {
                "disease": "冠心病",
                "symptoms": "胸痛、胸闷",
                "complications": ["心梗"],
                "differentials": ["ＧERD", "心梗"],
            },
            {"disease": "急性心肌梗死", "symptoms": "胸痛", "aliases": ["心梗"]},
            {"disease": "胃食管反流病", "symptoms": "反酸", "aliases": ["GERD"]},
        )
    ]
    made = maker(records, amounts=Amounts(hard=9, near=0, random=9))
    assert made.neutral("冠心病") == made.neutral("急性心肌梗死") == {"冠心病", "急性心肌梗死"}
    for right in ("冠心病", "急性心肌梗死"):
        example = made.example(Asked("我胸痛胸闷", (right,)))
        assert example is not None
        assert set(map(disease_of, example.wrong)) == {"胃食管反流病"}
    made = maker(records, amounts=Amounts(hard=0, near=9, random=0))
    example = made.example(Asked("我胸痛胸闷", ("冠心病",)))
    assert example is not None
    assert list(map(disease_of, example.wrong)) == ["胃食管反流病"]
    assert {disease_of(text) for pair in made._polarity(records[0]) for text in pair.wrong} == {
        "冠心病",
        "胃食管反流病",
    }
    # What a written query denies is a finding of such a neighbour.
    writer = QueryWriter(records, SymptomLexicon([]), random.Random(1))
    assert any("反酸" in writer.write(records[0]) for _ in range(50))


def test_hard_negatives_have_fewer_of_the_findings_than_the_right_disease() -> None:
    made = maker(amounts=Amounts(hard=30, near=5, random=0))
    for record in RECORDS[::20]:
        query = "、".join(record.symptoms[:3])
        said = {finding.term for finding in findings(query, default_lexicon())}
        example = made.example(Asked(query, (record.disease,)))
        assert example is not None
        covered = {name: len(said & set(BY_NAME[name].symptoms)) for name in map(disease_of, example.wrong)}
        assert max(covered.values()) < len(said & set(record.symptoms))


def test_where_the_lexicon_finds_nothing_a_near_copy_of_the_right_text_is_no_negative() -> None:
    twin = SOME[0].model_copy(update={"disease": "孪生"})
    made = maker([*SOME, twin], recall=lambda query: ["孪生", SOME[5].disease], amounts=Amounts(near=0, random=0))
    example = made.example(Asked(SOME[0].description[:40].replace("鼻", ""), (SOME[0].disease,)))
    assert example is not None
    assert "孪生" not in {disease_of(text) for text in example.wrong}


def test_irrelevant_diseases_are_wrong_and_an_off_topic_query_has_nothing_right() -> None:
    made = maker(amounts=Amounts(hard=0, near=0, random=0))
    named = made.example(Asked("头晕", (SOME[0].disease,), (SOME[1].disease,)))
    assert named is not None
    assert [disease_of(text) for text in named.wrong] == [SOME[1].disease]
    off_topic = maker(amounts=Amounts(hard=2, near=0, random=2)).example(Asked("股票", ()))
    assert off_topic is not None
    assert (off_topic.right, len(off_topic.wrong)) == ([], 4)


def minimal_pairs(kind: str) -> list[Example]:
    made = maker()
    return [example for record in RECORDS for _ in range(2) for example in getattr(made, f"_{kind}")(record)]


def test_a_polarity_pair_affirms_in_one_what_it_denies_in_the_other_and_turns_the_answer_round() -> None:
    made = minimal_pairs("polarity")
    assert len(made) > 400
    understood = 0
    for one, other in zip(made[::2], made[1::2], strict=True):
        assert (one.right, one.wrong) == (other.wrong, other.right)
        status = [{f.term: f.status for f in findings(query, default_lexicon())} for query in (one.query, other.query)]
        both = set(status[0]) & set(status[1])
        understood += {(status[0][term], status[1][term]) for term in both} >= {
            ("present", "absent"),
            ("absent", "present"),
        }
    # The rest are forms that hold another term's form, or whose denial the rules do not see.
    assert understood > 0.6 * len(made) / 2


def test_a_site_pair_moves_one_finding_to_another_place() -> None:
    made = minimal_pairs("site")
    assert len(made) > 200
    for example in made[::10]:
        right, wrong = (text.split("\n")[1] for text in (*example.right, *example.wrong))
        before, after = (set(line.removeprefix("症状表现:").split("、")) for line in (right, wrong))
        assert len(before - after) >= 1
        assert {term[-1] for term in before - after} == {term[-1] for term in after - before}


def test_an_age_pair_is_about_a_child_and_then_about_an_old_person() -> None:
    made = minimal_pairs("age")
    assert len(made) > 20
    for child, elder in zip(made[::2], made[1::2], strict=True):
        assert child.right == elder.wrong
        assert "老年" in child.wrong[0]
        assert elder.right == []


def test_a_trap_has_a_word_of_another_disease_among_the_findings_of_the_right_one() -> None:
    made = maker()
    for example in minimal_pairs("trap")[::25]:
        (right,), (bait,) = (list(map(disease_of, texts)) for texts in (example.right, example.wrong))
        assert bait not in made.neutral(right)
        assert right != bait


def test_rows_hold_every_pair_list_and_triple_once() -> None:
    examples = [Example("q", ["r"], ["w1", "w2"]), Example("off", [], ["w3"])]
    assert [tuple(row.values()) for row in pairs_of(examples)] == [
        ("q", "r", 1.0), ("q", "w1", 0.0), ("q", "w2", 0.0), ("off", "w3", 0.0)
    ]  # fmt: skip
    assert list(lists_of(examples)) == [{"query": "q", "documents": ["r", "w1", "w2"], "label": [1.0, 0.0, 0.0]}]
    assert [tuple(row.values()) for row in triples_of(examples)] == [("q", "r", "w1"), ("q", "r", "w2")]


def test_batches_hold_every_row_once_and_texts_of_similar_length() -> None:
    rng = random.Random(2)
    rows = [
        {"query": "q" * rng.randint(1, 50), "document": "d" * rng.randint(1, 300), "label": 1.0} for _ in range(999)
    ]
    sampler = tuning._by_length(rows, batch_size=8, drop_last=False, generator=torch.Generator(), seed=3)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(999))
    assert len(batches) == len(sampler)
    assert batches == list(sampler)

    def padding(batch: list[int]) -> int:
        lengths = [len(rows[i]["query"]) + len(rows[i]["document"]) for i in batch]
        return sum(max(lengths) - length for length in lengths)

    shuffled = rng.sample(range(999), 999)
    at_random = sum(padding(shuffled[start : start + 8]) for start in range(0, 999, 8))
    assert sum(map(padding, batches)) < 0.2 * at_random
    sampler.set_epoch(1)
    assert list(sampler) != batches


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "mse"}, "teacher"),
        ({"teacher": "bundled"}, "teacher"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": -1}, "batch_size"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_length": 3}, "max_length"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(FinetuneError, match=says):
        Settings(**settings)


def materials(count: int = 24, queries: Iterable[dict[str, Any]] = ()) -> Materials:
    records = RECORDS[:count]
    embeddings = HashEmbeddings()
    documents = [
        d
        for d in MedicalKBLoader(bundled_knowledge_base()).load()
        if d.metadata["disease"] in {r.disease for r in records}
    ]
    store = build_index(documents, embeddings)
    labelled = [LabelledQuery.model_validate({**query, "line": i}) for i, query in enumerate(queries, start=1)]
    return Materials(records, stored_documents(store), store, embeddings, default_lexicon(), labelled)


def quietly(items: Iterable[Any], what: str) -> Iterable[Any]:
    return items


QUICK = {"max_steps": 1, "learning_rate": 0.01, "batch_size": 8, "eval_queries": 12, "max_length": 96, "device": "cpu"}


def tune(base: Path, out: Path, given: Materials | None = None, **settings: Any) -> dict[str, Any]:
    return finetune(str(base), given or materials(), out, Settings(**{**QUICK, **settings}), quietly)


def start_tuning(base: Path, out: Path, started: Path, *, max_steps: int) -> subprocess.Popen[bytes]:
    """Start `tune` in a process of its own, which makes the file `started` when it has imported everything."""
    code = """
        import sys
        from pathlib import Path
        from tests.test_finetune import tune
        base, out, started = map(Path, sys.argv[1:4])
        started.touch()
        tune(base, out, max_steps=int(sys.argv[4]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(base), str(out), str(started), str(max_steps)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def last_step(out: Path) -> int:
    """The step of the newest checkpoint of a run that is whole, 0 before the first one."""
    steps = [0]
    for state in out.glob("checkpoints/*/trainer_state.json"):  # which is written last
        with contextlib.suppress(OSError, ValueError):
            steps.append(json.loads(state.read_text("utf-8"))["global_step"])
    return max(steps)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_tuned_model_loads_like_any_other_reads_as_far_as_its_base_and_says_how_it_was_made(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    queries = [{"query": f"关于{record.disease}的一句话", "relevant": [record.disease]} for record in SOME]
    given = materials(
        queries=[*queries, {"query": "股票", "relevant": []}, {"query": "别的病", "relevant": ["无此病"]}]
    )
    base = shutil.copytree(tiny_reranker, tmp_path / "base")
    (base / tuning.TRAINED_QUERIES).write_text(f"{query_digest('第一次微调')}\n")
    report = tune(base, tmp_path / "tuned", given)
    encoder = BGECrossEncoder(str(tmp_path / "tuned"), max_length=130)
    pair = ("发烧", SOME[0].card())
    assert encoder.logits([pair]) != BGECrossEncoder(str(tiny_reranker), max_length=130).logits([pair])
    assert set(report["parts"]) == {"unseen", "seen", "own"}
    assert report["parts"]["own"]["n"] == report["diseases"]["test"] == 5
    assert report["parts"]["unseen"]["n"] == 12
    assert json.loads((tmp_path / "tuned" / "report.json").read_text("utf-8")) == report
    card = (tmp_path / "tuned" / "README.md").read_text("utf-8")
    assert "not measured on enough queries" in card
    assert re.search(r"\| own, diseases not trained on \| 5 \| tuned \| \d\.\d{3} \|", card)
    assert not (tmp_path / "tuned" / "checkpoints").exists()
    # Of the user's own queries it remembers those it was trained or watched on, and not those it was measured on.
    lines = trained_on(tmp_path / "tuned", given.queries)
    assert len(lines) == 24 - 5 + 1
    others = [LabelledQuery(query="关于 什么别的", line=1), LabelledQuery(query="第一次微调", line=2)]
    assert trained_on(tmp_path / "tuned", others) == [2]  # which its base was tuned on
    with pytest.raises(FinetuneError, match="not empty"):
        tune(tiny_reranker, tmp_path / "tuned")


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_and_ends_with_the_same_weights(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    # 16 steps, a checkpoint every two; the process is killed as soon as the first one is on disk.
    whole = tune(tiny_reranker, tmp_path / "whole", max_steps=16)
    out = tmp_path / "killed"
    process = start_tuning(tiny_reranker, out, tmp_path / "started", max_steps=16)
    deadline = time.monotonic() + 300
    while not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "report.json").exists()
    # What the kill may leave behind: a checkpoint that is not whole, which is not gone on from.
    (out / "checkpoints" / "checkpoint-15").mkdir()
    (out / "checkpoints" / "checkpoint-15" / "trainer_state.json").write_text('{"epoch": 0.')
    with pytest.raises(FinetuneError, match="other settings"):
        tune(tiny_reranker, out, max_steps=16, seed=1)
    resumed = tune(tiny_reranker, out, max_steps=16)
    assert (whole["training"]["resumed"], resumed["training"]["resumed"]) == (False, True)
    # What was watched after the kill is what was watched without one: weights, moments and order of rows came back.
    assert len(whole["training"]["watched_mrr@10"]) > 2
    assert resumed["training"]["watched_mrr@10"] == whole["training"]["watched_mrr@10"]
    assert resumed["parts"] == whole["parts"]
    expected, got = weights(tmp_path / "whole"), weights(out)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, msg=name)


def test_a_run_that_makes_no_progress_ends_at_the_same_step_however_often_it_is_cut_short(
    tiny_reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoProgress(BaseEvaluator):  # type: ignore[misc]  # untyped
        primary_metric, greater_is_better, calls = tuning._WATCHED_METRIC, True, 0

        def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
            NoProgress.calls += 1
            if NoProgress.calls == 3:
                raise KeyboardInterrupt
            return {tuning._WATCHED_METRIC: 0.5}

    # An evaluation every two of 16 steps; after the first one none is better, so that the fourth is the last.
    monkeypatch.setattr(tuning, "_watcher", lambda *_: NoProgress())
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_reranker, out, max_steps=16)
    assert last_step(out) == 4

    def cut_after_training(items: Iterable[Any], what: str) -> Iterable[Any]:
        if what.startswith("tuned"):
            raise KeyboardInterrupt
        return items

    with pytest.raises(KeyboardInterrupt):
        finetune(str(tiny_reranker), materials(), out, Settings(**{**QUICK, "max_steps": 16}), cut_after_training)
    assert last_step(out) == 8
    best = weights(out / "checkpoints" / "checkpoint-2")
    report = tune(tiny_reranker, out, max_steps=16)
    assert (report["training"]["steps"], report["training"]["best_step"]) == (8, 2)
    assert len(report["training"]["watched_mrr@10"]) == 4
    assert best.keys() == weights(out).keys()
    assert all(torch.equal(weights(out)[name], tensor) for name, tensor in best.items())


def test_a_run_is_not_gone_on_with_after_anything_that_it_depends_on_has_changed(
    tiny_reranker: Path, teacher: Path, tmp_path: Path
) -> None:
    def asked(text: str, *relevant: str) -> LabelledQuery:
        return LabelledQuery(query=text, relevant=relevant)

    def complicated(document: Document) -> Document:
        return document.model_copy(update={"metadata": {**document.metadata, "complications": ["心梗"]}})

    mse = Settings(loss="mse", teacher=str(shutil.copytree(teacher, tmp_path / "teacher")))
    given = materials(20)._replace(queries=[asked("胸痛", "心梗"), asked("头痛")])
    runs = [
        (given, Settings()),
        (given, Settings(seed=1)),
        (given, mse),
        (given._replace(queries=[asked("胸痛", "胃炎"), asked("头痛")]), Settings()),
        (given._replace(queries=[asked("胸痛", "心梗")], kept_out=["头痛"]), Settings()),
        (given._replace(kept_out=["头痛"]), Settings()),
        (given._replace(kept_out=["头", "痛"]), Settings()),
        (given._replace(documents=list(map(complicated, given.documents))), Settings()),
        (given._replace(records=given.records[1:]), Settings()),
        (given._replace(lexicon=SymptomLexicon([])), Settings()),
        (given._replace(embeddings=HashEmbeddings(model_name="another")), Settings()),
    ]
    prints = [tuning._fingerprint(tiny_reranker, *run) for run in runs]
    assert prints == [tuning._fingerprint(tiny_reranker, *run) for run in runs]
    shutil.copytree(tiny_reranker, tmp_path / "teacher", dirs_exist_ok=True)
    prints += [tuning._fingerprint(tiny_reranker, given, mse), tuning._fingerprint(teacher, given, Settings())]
    assert len(set(prints)) == len(prints)
    # Where it runs changes nothing.
    assert tuning._fingerprint(tiny_reranker, given, Settings(device="cpu")) == prints[0]


@pytest.mark.long
def test_a_run_that_is_killed_at_any_moment_again_and_again_ends_with_the_same_weights(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    """Twenty kills, each of a process that must import everything first: some minutes."""
    rng = random.Random(3)
    whole = tune(tiny_reranker, tmp_path / "whole", max_steps=40)
    out, seen = tmp_path / "killed", 0
    for kill in range(20):
        started = tmp_path / f"started{kill}"
        process = start_tuning(tiny_reranker, out, started, max_steps=40)
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 3))
        while kill % 4 == 3 and process.poll() is None and last_step(out) <= seen:  # every fourth lets it get on
            time.sleep(0.02)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (out / "report.json").exists():
            assert json.loads((out / "report.json").read_text("utf-8"))["parts"] == whole["parts"]
        # What was trained before one kill is not lost by the next.
        assert last_step(out) >= seen
        seen = last_step(out)
    else:
        tune(tiny_reranker, out, max_steps=40)
    assert seen > 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["parts"] == whole["parts"]
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(out)[name], tensor, msg=name)


def test_a_big_models_activations_are_computed_twice_to_the_same_end(
    tiny_reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(tiny_reranker, tmp_path / "small", materials(20))
    monkeypatch.setattr(tuning, "_BIG", 0)
    tune(tiny_reranker, tmp_path / "big", materials(20))
    expected, got = weights(tmp_path / "small"), weights(tmp_path / "big")
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, msg=name)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = make_tokenizer()
    torch.manual_seed(9)
    XLMRobertaForSequenceClassification(tiny_config(tokenizer, max_position_embeddings=514)).save_pretrained(folder)
    make_tokenizer(512).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("loss", ["listwise", "margin-mse"])
def test_the_other_losses_train_too(tiny_reranker: Path, teacher: Path, tmp_path: Path, loss: str) -> None:
    taught = {} if loss == "listwise" else {"teacher": str(teacher)}
    report = tune(tiny_reranker, tmp_path / "tuned", materials(20), loss=loss, batch_size=2, **taught)
    assert report["training"]["steps"] == 1
    before, after = weights(tiny_reranker), weights(tmp_path / "tuned")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_a_teacher_says_of_each_pair_or_gap_is_what_is_learned(teacher: Path) -> None:
    examples = [Example("头痛", ["偏头痛"], ["普通感冒", "中耳炎"]), Example("股票", [], ["偏头痛"])]
    asked = [("头痛", "偏头痛"), ("头痛", "普通感冒"), ("头痛", "中耳炎"), ("股票", "偏头痛")]
    logits = dict(zip(asked, BGECrossEncoder(str(teacher)).logits(asked), strict=True))
    settings = {"teacher": str(teacher), "device": "cpu"}
    rows = tuning._rows(examples, Settings(loss="mse", **settings), quietly)
    assert {(row["query"], row["document"]): row["label"] for row in rows} == pytest.approx(logits, abs=1e-5)
    gaps = {
        row["negative"]: row["label"]
        for row in tuning._rows(examples, Settings(loss="margin-mse", **settings), quietly)
    }
    assert gaps == pytest.approx(
        {text: logits["头痛", "偏头痛"] - logits["头痛", text] for text in ("普通感冒", "中耳炎")}, abs=1e-5
    )


def test_right_pairs_weigh_as_much_as_the_wrong_ones_together(tiny_reranker: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny_reranker), device="cpu", activation_fn=torch.nn.Identity())
    loss = tuning._loss(model, [{"label": 1.0}] * 2 + [{"label": 0.0}] * 9, Settings())
    assert loss.pos_weight.item() == 4.5


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # peft asks by a name that is given up
def test_adapters_are_merged_into_a_plain_model_that_scores_as_they_did(tiny_reranker: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    kept: list[Path] = []

    def keep_adapter(items: Iterable[Any], what: str) -> Iterable[Any]:
        # The report is written after the adapter was merged, and before it is thrown away.
        source = tmp_path / "tuned" / "checkpoints" / "adapter"
        if what.startswith("tuned") and not kept:
            kept.append(source.rename(tmp_path / "adapter"))
        return items

    settings = Settings(**{**QUICK, "lora": True, "learning_rate": 0.05})
    report = finetune(str(tiny_reranker), materials(), tmp_path / "tuned", settings, keep_adapter)
    assert report["training"]["lora"]
    assert report["training"]["trained_parameters"] < report["training"]["parameters"]
    base = AutoModelForSequenceClassification.from_pretrained(tiny_reranker)
    adapted = PeftModel.from_pretrained(base, str(kept[0])).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    ids = torch.arange(4, 44).view(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits)
    assert not torch.equal(
        weights(tiny_reranker)["classifier.dense.weight"], weights(tmp_path / "tuned")["classifier.dense.weight"]
    )


def test_a_model_of_one_knowledge_base_is_fused_over_this_one_until_it_is_shown_to_be_better(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    for folder in (base, out):
        folder.mkdir()
    tuning._mark_known(base, out, SOME, {"over_recall": "better"})
    assert not (out / "known_documents.txt").exists()
    (base / "known_documents.txt").write_text("abc\n")
    tuning._mark_known(base, out, SOME, {"over_recall": "no difference shown"})
    assert (out / "known_documents.txt").read_text() == ""
    tuning._mark_known(base, out, SOME, {"over_recall": "better"})
    assert len((out / "known_documents.txt").read_text().split()) == len(SOME)


def part(verdict: str, gain: float) -> dict[str, Any]:
    row = {"mean": gain, "low": gain - 0.1, "high": gain + 0.1, "units": 40, "verdict": verdict}
    stages = {stage: {"mrr@10": 0.5} for stage in ("recall", "base", "tuned")}
    return {"n": 200, "stages": stages, "differences": {f"tuned - {s}": {"mrr@10": row} for s in ("base", "recall")}}


def test_the_verdict_is_judged_on_the_users_own_queries_where_there_are_enough_and_never_flatters() -> None:
    unseen = part("better", 0.2)
    assert tuning._verdict({"unseen": unseen}) == {
        "judged_on": "unseen",
        "over_base": "better",
        "over_recall": "better",
    }
    assert tuning._verdict({"unseen": unseen, "own": part("too few queries", 0.3)})["judged_on"] == "unseen"
    own = tuning._verdict({"unseen": unseen, "own": part("no difference shown", 0.05)})
    assert own == {"judged_on": "own", "over_base": "no difference shown", "over_recall": "no difference shown"}
    lines = verdict_lines({"verdict": own, "parts": {"unseen": unseen, "own": part("no difference shown", 0.05)}})
    assert lines[0].startswith("The tuned model is not shown to be better than its base: MRR@10 0.500 → 0.500, ")
    assert "your own queries about 40 diseases not trained on" in lines[1]


def test_a_folder_called_as_the_bundled_model_is_not_tuned_into(tiny_reranker: Path) -> None:
    with pytest.raises(FinetuneError, match="'bundled' is what the package's own model is called"):
        tune(tiny_reranker, Path("bundled"), materials(12))


def test_a_knowledge_base_of_a_dozen_diseases_is_too_small_to_hold_any_out(tiny_reranker: Path, tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match="has 12 diseases"):
        tune(tiny_reranker, tmp_path / "tuned", materials(12))


def test_terms_that_the_lexicon_lacks_are_asked_for_as_they_stand() -> None:
    strange = [record.model_copy(update={"symptoms": ("怪症甲", "怪症乙", "怪症丙")}) for record in SOME[:3]]
    made = ExampleMaker(
        strange, SymptomLexicon([]), lambda query: [], HashEmbeddings().embed_documents, random.Random(1),
        amounts=Amounts(queries=5, english=0.0, random=0),
    )  # fmt: skip
    assert sum("怪症" in query.query for query in made.synthetic()) >= 12


@pytest.mark.parametrize("missing", ["accelerate", "datasets"])
def test_without_the_extra_train_it_says_what_to_install_before_anything_is_read(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    nothing: Any = None
    with pytest.raises(FinetuneError, match=r"pip install 'langchain-bge-medical\[train\]'"):
        finetune("bundled", nothing, tmp_path / "out", Settings(), nothing)
    assert not (tmp_path / "out").exists()


def test_without_peft_adapters_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(FinetuneError, match=r"low-rank adapters need: pip install 'langchain-bge-medical\[train\]'"):
        tuning._add_adapter(None)
