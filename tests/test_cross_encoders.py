from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    XLMRobertaForSequenceClassification,
)

from langchain_bge_medical.cross_encoders import (
    BGECrossEncoder,
    _identity,
    _is_plain,
    _plan,
    _resolved,
    position_limit,
    sigmoid,
)
from langchain_bge_medical.model_files import ModelNotFoundError
from langchain_bge_medical.pair_tokenizer import TokenSequence
from langchain_bge_medical.score_cache import ScoreCache
from tests.conftest import make_tokenizer, tiny_config

PAIRS = [
    ("发热咳嗽三天", "社区获得性肺炎 发热、咳嗽、咳痰、胸痛"),
    ("头痛", "偏头痛"),
    ("孩子耳痛", "中耳炎 耳痛、发热、听力下降、耳道流脓 儿童多见"),
    ("头痛", "踝关节扭伤 踝部肿痛"),
    ("a", "b"),
]


@pytest.fixture(scope="module")
def encoder(tiny_reranker: Path) -> BGECrossEncoder:
    return BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32")


def plain_logits(folder: Path, pairs: list[tuple[str, str]], max_length: int) -> list[float]:
    """The oracle: transformers alone, one pair at a time, no batch, no padding, no sentence-transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    for query, document in pairs:
        features = tokenizer(query, document, truncation="only_second", max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**features).logits.item())
    return logits


def test_logits_equal_those_of_plain_transformers_one_pair_at_a_time(
    encoder: BGECrossEncoder, tiny_reranker: Path
) -> None:
    long = [("头痛", "发热、咳嗽、咳痰、胸痛" * 40)]
    assert encoder.logits(PAIRS + long) == pytest.approx(plain_logits(tiny_reranker, PAIRS + long, 128), abs=1e-5)


def test_the_tiny_model_tells_pairs_apart_so_that_order_tests_mean_something(encoder: BGECrossEncoder) -> None:
    logits = encoder.logits(PAIRS)
    assert max(logits) - min(logits) > 0.5


def test_score_is_the_sigmoid_of_the_logit_taken_once_as_python_floats(encoder: BGECrossEncoder) -> None:
    scores = encoder.score(PAIRS)
    assert scores == [1 / (1 + math.exp(-logit)) for logit in encoder.logits(PAIRS)]
    assert all(type(score) is float for score in scores)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    budget=st.integers(1, 2_000),
    side_by_side=st.integers(1, 4),
    pads=st.booleans(),
)
def test_every_pair_is_in_one_batch_and_batches_keep_to_the_budget_and_are_even(
    lengths: list[int], budget: int, side_by_side: int, pads: bool
) -> None:
    lengths.sort(reverse=True)
    batches = _plan(lengths, budget, pads=pads, side_by_side=side_by_side)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    sizes = [sum(lengths[place] for place in batch) for batch in batches]
    if side_by_side == 1:
        for batch, size in zip(batches, sizes, strict=True):
            assert len(batch) == 1 or (len(batch) * lengths[batch[0]] if pads else size) <= budget
    else:
        assert len(batches) % side_by_side == 0 or len(batches) == len(lengths)
        # One pair more than the share of each at most.
        assert max(sizes) <= sum(lengths) / len(batches) + lengths[0]


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_the_size_of_batches_does_not_change_scores_or_their_order(
    encoder: BGECrossEncoder, tiny_reranker: Path, batch_tokens: int
) -> None:
    other = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", batch_tokens=batch_tokens)
    assert other.logits(PAIRS * 3) == pytest.approx(encoder.logits(PAIRS) * 3, abs=1e-5)


def test_no_pairs_give_no_scores(encoder: BGECrossEncoder) -> None:
    assert encoder.score([]) == []


def test_an_over_long_query_is_cut_to_three_quarters_and_the_cut_is_counted(
    encoder: BGECrossEncoder, tiny_reranker: Path
) -> None:
    query, document = "发热" * 100, "咳嗽" * 100
    pair = encoder.pair_logits([(query, document)])[0]
    kept_query = 96  # three quarters of 128 tokens, one token a character
    kept_document = 128 - 96 - 4  # <s> query </s></s> document </s>
    assert pair.query_tokens_cut == 200 - kept_query
    assert pair.document_tokens_cut == 200 - kept_document
    expected = plain_logits(tiny_reranker, [(query[:kept_query], document[:kept_document])], 128)
    assert [pair.logit] == pytest.approx(expected, abs=1e-5)


def test_pairs_that_fit_are_not_cut(encoder: BGECrossEncoder) -> None:
    assert [(p.query_tokens_cut, p.document_tokens_cut) for p in encoder.pair_logits(PAIRS)] == [(0, 0)] * len(PAIRS)


def test_a_monster_document_costs_no_more_than_a_long_one_and_is_reported_as_cut(encoder: BGECrossEncoder) -> None:
    long, monster = "咳" * 4_096, "咳" * 2_000_000
    pairs = encoder.pair_logits([("头痛", long), ("头痛", monster)])
    assert pairs[0].logit == pytest.approx(pairs[1].logit, abs=1e-5)
    assert pairs[1].document_tokens_cut > 0


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([("头痛", "a"), ("", "b")], "the query of pair 1 is blank"),
        ([("头痛", " \u3000")], "the document of pair 0 is blank"),
        ([("头痛", ["a", "b"])], "the document of pair 0 must be text, got list; are query and documents swapped?"),
        (
            [("头痛", "a"), (None, "a")],
            "the query of pair 1 must be text, got NoneType; are query and documents swapped?",
        ),
        ([("头痛",)], "pair 0 must be (query, document), got tuple"),
        ([["头痛", "a"], "头痛"], "pair 1 must be (query, document), got str"),
        ("头痛", "text_pairs must be a list of (query, document) pairs, got one text"),
    ],
)
def test_a_pair_that_is_not_two_texts_is_refused_by_position_without_its_text(
    encoder: BGECrossEncoder, pairs: list[tuple[str, str]], says: str
) -> None:
    for ask in (encoder.score, encoder.token_counts):
        with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
            ask(pairs)


def test_lone_surrogates_and_control_characters_are_scored_like_any_unknown_character(
    encoder: BGECrossEncoder,
) -> None:
    assert all(math.isfinite(logit) for logit in encoder.logits([("头\ud800痛", "偏\x00头痛"), ("😀", "👨‍👩‍👧")]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_lower_precision_stays_close_and_does_not_tie_logits(
    encoder: BGECrossEncoder, tiny_reranker: Path, dtype: str
) -> None:
    pairs = [("头痛", "发热、咳嗽、咳痰、胸痛"[: i + 1]) for i in range(11)]
    half = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype=dtype).logits(pairs)
    assert half == pytest.approx(encoder.logits(pairs), abs=0.25)
    assert len(set(half)) == len(pairs)
    assert half != encoder.logits(pairs)


def test_it_says_what_it_computes_in_how_much_it_takes_and_who_it_is(encoder: BGECrossEncoder) -> None:
    name = encoder.model_name
    assert repr(encoder) == f"BGECrossEncoder({name!r}, max_length=128, device=None, dtype='float32')"
    assert (encoder.loaded_dtype, encoder.pads) == ("float32", False)
    int8 = BGECrossEncoder(name, max_length=128, dtype="int8", device="cpu", batch_tokens=1)
    assert int8.loaded_dtype == "int8"
    assert pickle.loads(pickle.dumps(int8)).loaded_dtype is None  # not loaded yet
    before = torch.get_num_threads()
    try:
        for threads, side_by_side, each in ((1, 1, 1), (3, 3, 1), (17, 8, 2)):
            torch.set_num_threads(threads)
            assert BGECrossEncoder(name, batch_tokens=60).token_budget == 60 * side_by_side
            assert BGECrossEncoder(name).token_budget == 1_024 * each * side_by_side
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("dtype", "device", "resolved"),
    [
        ("float16", "cpu", "float16"),
        ("bfloat16", "cuda", "bfloat16"),
        ("auto", "xpu:0", "float16"),
        ("int8", "xpu", "float16"),
        ("auto", "mps", "float32"),
        ("float32", "xpu", "float32"),
    ],
)
def test_a_dtype_that_is_named_is_taken_and_auto_goes_by_the_device(dtype: Any, device: str, resolved: str) -> None:
    assert _resolved(dtype, device) == resolved


def test_the_position_table_says_how_many_tokens_the_model_reads() -> None:
    roberta = tiny_config(make_tokenizer(), max_position_embeddings=514, pad_token_id=3)
    assert position_limit(roberta) == 510
    assert position_limit(BertConfig(max_position_embeddings=512)) == 512
    assert position_limit(object()) == 1 << 30


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (CamembertForSequenceClassification, CamembertConfig),
        (MPNetForSequenceClassification, MPNetConfig),
        (LongformerForSequenceClassification, LongformerConfig),
    ],
)
def test_a_model_whose_positions_begin_after_the_padding_reads_as_many_tokens_as_it_says(
    model: Any, config: Any, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(1_000_000)
    model(config(**{**tiny_config(tokenizer).to_dict(), "model_type": config.model_type})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = BGECrossEncoder(str(tmp_path), device="cpu")
    assert encoder.max_length == 130
    assert encoder.token_counts([("热" * 200, "咳" * 200)]) == [130]
    assert math.isfinite(encoder.score([("热" * 200, "咳" * 200)])[0])
    with pytest.raises(ValueError, match="reads at most 130 tokens, max_length is 131"):
        BGECrossEncoder(str(tmp_path), device="cpu", max_length=131)


def test_the_bundled_kind_of_model_knows_the_texts_it_lists_and_every_other_model_all(
    encoder: BGECrossEncoder, tiny_reranker: Path, tmp_path: Path
) -> None:
    assert encoder.knows("whatever")
    folder = shutil.copytree(tiny_reranker, tmp_path / "m")
    known = ["偏头痛", "half \ud800"]
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() for text in known]
    (folder / "known_documents.txt").write_text("\n".join(digests) + "\n")
    lists = pickle.loads(pickle.dumps(BGECrossEncoder(str(folder))))
    assert [lists.knows(text) for text in (*known, "中耳炎", "")] == [True, True, False, False]


def test_what_torch_says_of_its_threads_stays_as_it_was(tiny_reranker: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", batch_tokens=60)
        expected = encoder.logits(PAIRS * 4)
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), seen) == (3, [3])
    finally:
        torch.set_num_threads(before)
    torch.set_num_threads(1)
    try:
        alone = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", batch_tokens=60)
        assert alone.logits(PAIRS * 4) == pytest.approx(expected, abs=1e-5)
    finally:
        torch.set_num_threads(before)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(-1e6) == 0.0
    assert sigmoid(1e6) == 1.0
    assert sigmoid(0) == 0.5
    assert sigmoid(math.log(3)) == pytest.approx(0.75)
    assert sigmoid(-math.log(3)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("lengths", "budget", "pads", "side_by_side", "batches"),
    [
        ([], 10, False, 1, []),
        ([9, 5, 5, 1], 10, False, 1, [[0], [1, 2], [3]]),
        ([9, 5, 4, 2], 10, True, 1, [[0], [1, 2], [3]]),
        ([6, 5, 5], 10, True, 1, [[0], [1, 2]]),
        ([99, 98], 10, False, 1, [[0], [1]]),
        ([5, 4, 3, 2], 14, False, 2, [[0, 3], [1, 2]]),
        ([5, 4, 3, 2], 7, False, 2, [[0, 3], [1, 2]]),
        ([5, 4, 3, 2], 6, False, 2, [[0], [1], [2], [3]]),  # two rounds of two
        ([5], 6, False, 4, [[0]]),
    ],
)
def test_batches_in_turn_are_neighbours_and_those_side_by_side_of_one_size(
    lengths: list[int], budget: int, pads: bool, side_by_side: int, batches: list[list[int]]
) -> None:
    assert _plan(lengths, budget, pads=pads, side_by_side=side_by_side) == batches


def test_threads_get_the_scores_that_one_thread_gets(encoder: BGECrossEncoder) -> None:
    expected = {i: encoder.logits(PAIRS[i:]) for i in range(len(PAIRS))}
    wrong: list[int] = []

    def run(i: int) -> None:
        for _ in range(5):
            if encoder.logits(PAIRS[i:]) != pytest.approx(expected[i], abs=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i % len(PAIRS),)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_pickles_as_settings_and_loads_again(encoder: BGECrossEncoder) -> None:
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 1_000
    assert pickle.loads(pickled).logits(PAIRS) == pytest.approx(encoder.logits(PAIRS), abs=1e-6)


def test_a_cached_pair_is_not_scored_again(tiny_reranker: Path) -> None:
    cache = ScoreCache()
    cached = BGECrossEncoder(str(tiny_reranker), max_length=128, cache=cache)
    first = cached.logits(PAIRS)
    assert (cache.hits, cache.misses) == (0, len(PAIRS))
    assert len(cache) == len(PAIRS)
    assert cached.logits(PAIRS) == first
    assert (cache.hits, cache.misses) == (len(PAIRS), len(PAIRS))
    cached.token_counts([*PAIRS, ("头痛", "新")])
    assert (cache.hits, cache.misses) == (len(PAIRS), len(PAIRS))  # nobody asked for a score
    good = cached._model
    cached._model = Small(good, 10_000)
    assert cached.logits([*PAIRS, ("头痛", "新"), ("头痛", "新")])[:-2] == first
    assert cached._model.batches == [2 + 1 + 4]


def test_one_cache_keeps_settings_and_models_apart_and_knows_a_copy_of_a_model(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    cache = ScoreCache()
    plain: dict[str, Any] = {"max_length": 128, "dtype": "float32", "device": "cpu", "long_documents": "cut"}
    others: list[dict[str, Any]] = [{"max_length": 32}, {"dtype": "bfloat16"}, {"dtype": "int8"}]
    others += [{"long_documents": "windows"}, {}]

    def hits(folder: Path, **changes: Any) -> int:
        before = cache.hits
        BGECrossEncoder(str(folder), cache=cache, **{**plain, **changes}).logits([("头痛", "发热、咳嗽、咳痰" * 9)])
        return cache.hits - before

    assert [hits(tiny_reranker, **changes) for changes in others] == [0] * 5
    assert [hits(tiny_reranker, **changes) for changes in others] == [1] * 5
    assert hits(tiny_reranker, batch_tokens=7) == 1  # what no logit depends on
    copy = shutil.copytree(tiny_reranker, tmp_path / "copy")
    (copy / "README.md").write_text("what no logit depends on")
    (copy / "folder.txt").mkdir()
    assert hits(copy) == 1
    for name in ("config.json", "model.safetensors"):
        changed = shutil.copytree(tiny_reranker, tmp_path / name)
        content = (changed / name).read_bytes()
        (changed / name).write_bytes(content + b"\n" if name == "config.json" else content)
        if name == "model.safetensors":
            weights = load_file(changed / name)
            weights["classifier.out_proj.bias"] += 1
            save_file(weights, changed / name, {"format": "pt"})
        assert hits(changed) == 0
    for name in ("spiece.model", "vocab.txt"):
        (copy / name).write_text("a tokenizer's")
        assert hits(copy) == 0
    (copy / "vocab.txt").rename(copy / "vocab2.txt")
    assert hits(copy) == 0
    snapshot = shutil.copytree(tiny_reranker, tmp_path / "snapshots" / "abc")
    assert _identity(snapshot, "a/b") == [b"a/b", b"abc"]  # the hub's name and commit say it all
    assert [hits(snapshot), hits(snapshot)] == [0, 1]


def test_a_model_of_another_shape_runs_in_padded_batches_to_the_same_numbers(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(7)
    DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=len(tokenizer),
            dim=16,
            n_layers=2,
            n_heads=2,
            hidden_dim=32,
            max_position_embeddings=132,
            num_labels=1,
            pad_token_id=1,
            initializer_range=0.5,
        )
    ).save_pretrained(tmp_path)
    pairs = [*PAIRS, ("头痛", "发热、咳嗽、咳痰、胸痛" * 5)]
    encoder = BGECrossEncoder(str(tmp_path), max_length=128, dtype="float32", batch_tokens=200)
    assert encoder.pads
    assert encoder.token_budget == 200
    assert BGECrossEncoder(str(tmp_path), max_length=128, device="cpu").token_budget == 2_048
    assert encoder.logits(pairs) == pytest.approx(plain_logits(tmp_path, pairs, 128), abs=1e-5)
    half: Any = BGECrossEncoder(str(tmp_path), max_length=128, dtype="bfloat16")._model
    # The head computes in float32, so that half precision does not tie scores.
    assert [path.rpartition(".")[2] for path in half._model.keep_in_fp32_modules] == ["classifier"]
    assert {parameter.dtype for parameter in half._model.parameters()} == {torch.bfloat16}
    int8 = BGECrossEncoder(str(tmp_path), max_length=128, dtype="int8")
    assert int8.logits(pairs) == pytest.approx(encoder.logits(pairs), abs=0.25)
    # As in the packed encoder, a token's scale is its own, so that no pair depends on those beside it.
    assert int8.logits(pairs) == pytest.approx([int8.logits([pair])[0] for pair in pairs], abs=1e-5)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(("family", "pads"), [("Bert", False), ("Electra", True)])
def test_the_model_is_told_which_tokens_are_the_query_s_if_its_tokenizer_tells(
    tmp_path: Path, family: str, pads: bool, typed: bool
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names = ["input_ids", *["token_type_ids"] * typed, "attention_mask"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**about, "model_input_names": names}))
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=132, type_vocab_size=2, num_labels=1, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    model.save_pretrained(tmp_path)
    encoder = BGECrossEncoder(str(tmp_path), max_length=128, dtype="float32")
    assert encoder.pads is pads
    assert encoder.logits(PAIRS) == pytest.approx(plain_logits(tmp_path, PAIRS, 128), abs=1e-5)
    theirs = CrossEncoder(str(tmp_path), max_length=128, device="cpu").predict(PAIRS)
    assert encoder.score(PAIRS) == pytest.approx(theirs.tolist(), abs=1e-5)
    told = AutoTokenizer.from_pretrained(tmp_path)(*PAIRS[0], return_token_type_ids=True)["token_type_ids"]
    assert set(told) == {0, 1}


def test_auto_is_what_the_processor_computes_in(tiny_reranker: Path) -> None:
    half = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    named = BGECrossEncoder(str(tiny_reranker), max_length=128, device="cpu", dtype="bfloat16" if half else "float32")
    auto = BGECrossEncoder(str(tiny_reranker), max_length=128, device="cpu")
    assert auto.logits(PAIRS) == pytest.approx(named.logits(PAIRS), abs=1e-6)


def test_a_long_document_in_windows_has_the_logit_of_its_best_window(
    encoder: BGECrossEncoder, tiny_reranker: Path
) -> None:
    windows = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", long_documents="windows")
    query, document = "头痛", "".join(chr(ord("a") + i * i % 26) for i in range(500))
    room = 128 - 2 - 4  # <s> query </s></s> document </s>, one token a character
    starts = [*range(0, 500 - room, room * 3 // 4), 500 - room]
    logits = encoder.logits([(query, document[start : start + room]) for start in starts])
    assert max(logits) > logits[0]
    pair = windows.pair_logits([(query, document), *PAIRS])[0]
    assert pair.logit == pytest.approx(max(logits), abs=1e-5)
    assert (pair.query_tokens_cut, pair.document_tokens_cut) == (0, 0)
    assert windows.token_counts([(query, document)]) == [128 * len(starts)]
    assert windows.logits(PAIRS) == pytest.approx(encoder.logits(PAIRS), abs=1e-6)
    beyond = windows.pair_logits([(query, "b" * 9_000)])[0]
    assert beyond.document_tokens_cut == 9_000 - 8_192


def test_token_counts_say_what_the_model_reads_and_nothing_is_read_twice(tiny_reranker: Path) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, cache=ScoreCache())
    pairs = [("头痛", "偏头痛"), ("头痛", "咳" * 500)]
    assert encoder.token_counts(pairs) == [2 + 3 + 4, 128]
    encoder.logits(pairs[:1])
    assert encoder.token_counts(pairs) == [0, 128]
    assert encoder.token_counts([]) == []


class Small:
    """A model on a device that holds so many tokens at once."""

    pads = False
    side_by_side = 1
    batch_tokens = 2_048

    def __init__(
        self, model: Any, holds: int, error: type[Exception] = RuntimeError, says: str = "CUDA out of memory. Tried to"
    ) -> None:
        self.model, self.holds, self.error, self.says = model, holds, error, says
        self.batches: list[int] = []
        self.calls: list[int] = []

    def __call__(self, batches: Sequence[Sequence[TokenSequence]]) -> list[torch.Tensor]:
        self.calls.append(len(batches))
        for batch in batches:
            self.batches.append(sum(len(sequence.input_ids) for sequence in batch))
            if self.batches[-1] > self.holds:
                raise self.error(self.says)
        return self.model(batches)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does_and_that_is_remembered(
    tiny_reranker: Path, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32")
    pairs = [(query, document + "咳" * i) for i in range(20) for query, document in PAIRS]
    expected = encoder.logits(pairs)
    small = encoder._model = Small(encoder._model, 150, error)
    assert encoder.logits(pairs) == pytest.approx(expected, abs=1e-5)
    assert encoder.token_budget <= 150
    assert sum(tokens > 150 for tokens in small.batches) <= 6
    halved = [int(line.split(" tokens")[0].split()[-1]) for line in caplog.messages]
    assert all(after <= before // 2 for before, after in itertools.pairwise(halved))
    assert 60 < halved[-1] <= 150
    assert encoder._budget == halved[-1]
    assert caplog.messages[0].startswith("cpu ran out of memory; batches are of ")
    small.batches.clear()
    encoder.logits(pairs)
    assert max(small.batches) <= 150
    assert "out of memory; batches are of" in caplog.text
    assert "咳" not in caplog.text


def test_a_pair_that_does_not_fit_alone_is_a_clear_error_and_other_errors_are_not_taken_for_it(
    tiny_reranker: Path,
) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128)
    good = encoder._model
    encoder._model = Small(good, 8)
    says = (
        "out of memory: cpu has not enough for one pair of 29 tokens; lower max_length (now 128), take a smaller "
        "dtype, or free what else is on the device"
    )
    with pytest.raises(MemoryError, match=f"^{re.escape(says)}$"):
        encoder.logits(PAIRS[:1])
    for text in ("DefaultCPUAllocator: can't allocate memory", "CUDA OUT OF MEMORY"):
        encoder._model = Small(good, 8, says=text)
        with pytest.raises(MemoryError):
            encoder.logits(PAIRS[:1])

    class Broken(Small):
        def __call__(self, batches: object) -> list[torch.Tensor]:
            raise RuntimeError("illegal memory access")

    encoder._model = Broken(good, 0)
    with pytest.raises(RuntimeError, match="illegal"):
        encoder.logits(PAIRS)


def test_a_model_gets_eight_batches_at_a_time_the_longest_pairs_first(tiny_reranker: Path) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", batch_tokens=40)
    model = encoder._model = Small(encoder._model, 10_000)
    pairs = [("头", "咳" * n) for n in range(1, 33)]
    encoder.logits([*pairs[1::2], *pairs[::2]])
    lengths = [5 + n for n in range(32, 0, -1)]
    assert sum(model.batches) == sum(lengths)
    assert model.batches[:3] == [37, 36, 35]
    assert max(model.batches) <= 40
    # 320 tokens at a time: 37 to 29; 28 to 13; the rest.
    assert [lengths.index(n) for n in (28, 13)] == [9, 24]
    assert sum(model.batches[: model.calls[0]]) == sum(lengths[:9])
    assert len(model.calls) == 3


def test_a_score_that_is_no_number_is_found_whichever_window_it_is_of_and_nothing_is_remembered(
    tiny_reranker: Path,
) -> None:
    class Windows(Small):
        def __call__(self, batches: Sequence[Sequence[TokenSequence]]) -> list[torch.Tensor]:
            return [
                torch.tensor([math.nan if bad in sequence.input_ids else 1.0 for sequence in batch])
                for batch in batches
            ]

    cache = ScoreCache()
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=32, long_documents="windows", cache=cache)
    bad = make_tokenizer().convert_tokens_to_ids("z")
    encoder._model = Windows(encoder._model, 0)
    for document in ("z" + "a" * 50, "a" * 25 + "z" + "a" * 25, "a" * 50 + "z", "z"):
        says = f"model {str(tiny_reranker)!r} returned nan for pair 1; its weights are broken"
        with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
            encoder.logits([("头痛", "a"), ("头痛", document)])
    assert len(cache) == 0


def test_what_is_tokenised_while_a_gpu_computes_gets_the_same_logits(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", long_documents="windows")
    pairs = [*PAIRS, *(("头痛", "发热" * n) for n in range(1, 90, 7))]
    at_once = encoder.pair_logits(pairs)
    monkeypatch.setattr("langchain_bge_medical.cross_encoders._PAIRS_TOKENISED", 4)
    encoder._device = "cuda:0"  # what decides it; the model stays where it is
    assert [pair[1:] for pair in encoder.pair_logits(pairs)] == [pair[1:] for pair in at_once]
    assert [pair.logit for pair in encoder.pair_logits(pairs)] == pytest.approx([p.logit for p in at_once], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "float8"}, "dtype must be one of auto, float32, float16, bfloat16, int8, got 'float8'"),
        ({"long_documents": "split"}, "long_documents must be one of cut, windows, got 'split'"),
        ({"max_length": 15}, "max_length must be at least 16 tokens, got 15"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"max_length": 131}, "model '.*' reads at most 130 tokens, max_length is 131"),
        ({"revision": "main"}, "model '.*' is not on the hub, so .*"),
        ({"max_length": 128, "dtype": "int8", "device": "meta"}, "dtype='int8' runs on the CPU only, not on 'meta'"),
    ],
)
def test_a_setting_out_of_range_is_named(tiny_reranker: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}$"):
        BGECrossEncoder(str(tiny_reranker), **{"max_length": 128, **changes})


def test_without_a_max_length_the_model_reads_what_it_can_up_to_512(tiny_reranker: Path, tmp_path: Path) -> None:
    assert BGECrossEncoder(str(tiny_reranker)).max_length == 130
    assert BGECrossEncoder(str(tiny_reranker), max_length=16, batch_tokens=1).max_length == 16
    for tokens, reads in ((64, 64), (1_024, 130)):  # what the tokenizer says and what the position table holds
        folder = shutil.copytree(tiny_reranker, tmp_path / f"{tokens}")
        make_tokenizer(tokens).save_pretrained(folder)
        assert BGECrossEncoder(str(folder)).max_length == reads
    longer = make_tokenizer(1_024)
    longer.save_pretrained(tmp_path)
    XLMRobertaForSequenceClassification(tiny_config(longer, max_position_embeddings=1_026)).save_pretrained(tmp_path)
    assert BGECrossEncoder(str(tmp_path)).max_length == 512


def altered(folder: Path, to: Path, **config: object) -> Path:
    shutil.copytree(folder, to)
    settings = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**settings, **config}))
    return to


def test_an_embedding_model_is_refused_by_name_instead_of_scoring_all_near_one_half(
    tiny_embedding_model: Path,
) -> None:
    says = (
        f"model {str(tiny_embedding_model)!r} is XLMRobertaModel, no reranker: it has no trained classification head, "
        "and every score would be near 0.5. For an embedding model use the reranker of the same family"
    )
    with pytest.raises(ModelNotFoundError, match=f"^{re.escape(says)}$"):
        BGECrossEncoder(str(tiny_embedding_model))


@pytest.mark.parametrize("architectures", [None, [], "XLMRobertaForSequenceClassification"])
def test_a_model_that_does_not_say_what_it_is_is_refused(
    tiny_reranker: Path, tmp_path: Path, architectures: object
) -> None:
    folder = altered(tiny_reranker, tmp_path / "m", architectures=architectures)
    with pytest.raises(ModelNotFoundError, match="is nothing, no reranker"):
        BGECrossEncoder(str(folder))


def test_weights_without_a_head_are_refused_whatever_the_config_says(
    tiny_embedding_model: Path, tmp_path: Path
) -> None:
    folder = altered(tiny_embedding_model, tmp_path / "m", architectures=["XLMRobertaForSequenceClassification"])
    says = (
        f"model {str(folder)!r} calls itself XLMRobertaForSequenceClassification, but its weights hold no "
        "classification head; every score would be near 0.5"
    )
    with pytest.raises(ModelNotFoundError, match=f"^{re.escape(says)}$"):
        BGECrossEncoder(str(folder))


def test_several_labels_are_refused(tiny_reranker: Path, tmp_path: Path) -> None:
    for name, config in (("m", {"id2label": {"0": "no", "1": "yes"}}), ("n", {"num_labels": 2})):
        folder = altered(tiny_reranker, tmp_path / name, **config)
        with pytest.raises(ModelNotFoundError, match=f"^model {str(folder)!r} has 2 labels; a reranker has one$"):
            BGECrossEncoder(str(folder))
    # Whatever the config says, the head has a row for each label.
    folder = altered(tiny_reranker, tmp_path / "head", num_labels=1)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.out_proj.weight"] = torch.zeros(3, 16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelNotFoundError, match="has 3 labels; a reranker has one"):
        BGECrossEncoder(str(folder))


def test_a_model_of_several_modules_runs_padded_as_sentence_transformers_would(
    encoder: BGECrossEncoder, tiny_reranker: Path, tmp_path: Path
) -> None:
    transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    one = shutil.copytree(tiny_reranker, tmp_path / "one")
    (one / "modules.json").write_text(json.dumps([transformer]))
    assert _is_plain(one)
    assert not BGECrossEncoder(str(one), max_length=128).pads
    (one / "modules.json").write_text(json.dumps([transformer, {**transformer, "name": "头"}], ensure_ascii=False))
    assert not _is_plain(one)


def test_code_that_comes_with_a_model_is_never_run(tiny_reranker: Path, tmp_path: Path) -> None:
    folder = altered(tiny_reranker, tmp_path / "m", auto_map={"AutoModel": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    says = f"model {str(folder)!r} needs code of its own (auto_map), which is never run; use another"
    with pytest.raises(ModelNotFoundError, match=f"^{re.escape(says)}$"):
        BGECrossEncoder(str(folder))


def test_pickled_weights_are_never_read(tiny_reranker: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_reranker, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    with pytest.raises(ModelNotFoundError, match="never read"):
        BGECrossEncoder(str(folder))


def test_weights_that_give_nan_are_an_error_and_not_an_order(tiny_reranker: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_reranker, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.out_proj.bias"] = torch.tensor([float("nan")])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="returned nan"):
        BGECrossEncoder(str(folder), max_length=128).score(PAIRS)


def test_the_real_model_without_a_hub_names_the_model_the_cache_and_both_ways_out(tmp_path: Path) -> None:
    code = "from langchain_bge_medical import BGECrossEncoder; BGECrossEncoder()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    for part in ("BAAI/bge-reranker-v2-m3", str(tmp_path), "hf download", 'model_name="bundled"'):
        assert part in last


def test_a_broken_tensorflow_and_keras_beside_us_change_nothing(tiny_reranker: Path, tmp_path: Path) -> None:
    for name in ("tensorflow", "keras", "tf_keras", "jax", "flax"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken on purpose')")
    code = (
        "from langchain_bge_medical import BGECrossEncoder;"
        f"encoder = BGECrossEncoder({str(tiny_reranker)!r}, max_length=128, dtype='float32');"
        "print(encoder.logits([('头痛', '偏头痛')])[0])"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(plain_logits(tiny_reranker, [("头痛", "偏头痛")], 128)[0], abs=1e-5)


@pytest.mark.network
def test_the_real_model_ranks_the_right_disease_first() -> None:
    encoder = BGECrossEncoder()
    query = "最近三天一直发烧,咳嗽得很厉害,痰很多,晚上睡不好。"
    right, wrong = encoder.score([(query, "社区获得性肺炎:发热、咳嗽、咳痰"), (query, "踝关节扭伤:踝部肿痛")])
    assert right > wrong
