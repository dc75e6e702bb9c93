"""The forward pass without padding against transformers' own, one sequence at a time: two ways to the same number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from langchain_bge_medical.packed import attention
from langchain_bge_medical.packed.encoder import PackedEncoder, Sequences, can_pack
from langchain_bge_medical.packed.linear import EpilogueLinear, Int8Linear, PlainLinear, PrepackedLinear
from langchain_bge_medical.packed.weights import SafetensorsWeights

CPU = torch.device("cpu")
FAMILIES = {
    "xlm-roberta": (XLMRobertaForSequenceClassification, XLMRobertaConfig),
    "roberta": (RobertaForSequenceClassification, RobertaConfig),
    "bert": (BertForSequenceClassification, BertConfig),
}
Sequence_ = tuple[list[int], list[int]]


def small(family: str, **changes: Any) -> Any:
    """A model of 3 layers × 64 in which nothing is 0 or 1, so that nothing can be forgotten unseen."""
    model_class, config_class = FAMILIES[family]
    config: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 1,
        "intermediate_size": 96, "max_position_embeddings": 210, "type_vocab_size": 2, "num_labels": 1,
        "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(3)
    model = model_class(config_class(**{**config, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name or "LayerNorm" in name:
            torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.3)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return small(request.param)


def some_sequences(lengths: Sequence[int], seed: int = 0) -> list[Sequence_]:
    rng = random.Random(seed)
    return [([rng.randrange(2, 300) for _ in range(n)], [rng.randrange(2) for _ in range(n)]) for n in lengths]


def packed(sequences: Sequence[Sequence_]) -> Sequences:
    return Sequences(
        [token for ids, _ in sequences for token in ids],
        [kind for _, types in sequences for kind in types],
        [len(ids) for ids, _ in sequences],
    )


def one_by_one(model: Any, sequences: Sequence[Sequence_]) -> torch.Tensor:
    """The oracle: transformers' own forward pass, a sequence at a time."""
    logits = []
    with torch.no_grad():
        for ids, types in sequences:
            features = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
            logits.append(model(**features, attention_mask=torch.ones(1, len(ids))).logits[0, 0])
    return torch.stack(logits)


def encoder(model: Any, **settings: Any) -> PackedEncoder:
    def weights(name: str, dtype: torch.dtype) -> torch.Tensor:
        return model.get_parameter(name).to(dtype)  # type: ignore[no-any-return]

    with torch.inference_mode():
        return PackedEncoder(model.config, weights, **{"device": CPU, "dtype": torch.float32, **settings})


def logits_of(made: PackedEncoder, sequences: Sequence[Sequence_]) -> torch.Tensor:
    with torch.inference_mode():
        return made(packed(sequences))


LENGTHS = [200, 150, 150, 149, 64, 33, 32, 17, 16, 3, 1]


def test_logits_equal_those_of_transformers_one_sequence_at_a_time(model: Any) -> None:
    sequences = some_sequences(LENGTHS)
    expected = one_by_one(model, sequences)
    assert expected.max() - expected.min() > 0.3  # or any forward pass would do
    torch.testing.assert_close(logits_of(encoder(model), sequences), expected, atol=1e-5, rtol=0)


XLM = small("xlm-roberta")
POOL = some_sequences([1, 2, 15, 16, 17, 31, 32, 33, 60, 100, 111, 128, 150, 151, 199, 200])


@pytest.fixture(scope="module")
def pool() -> tuple[PackedEncoder, torch.Tensor]:
    return encoder(XLM), one_by_one(XLM, POOL)


@settings(max_examples=30, deadline=None)
@given(chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=12))
def test_a_logit_does_not_depend_on_what_lies_beside_it_or_in_what_order(
    pool: tuple[PackedEncoder, torch.Tensor], chosen: list[int]
) -> None:
    made, expected = pool
    torch.testing.assert_close(logits_of(made, [POOL[i] for i in chosen]), expected[chosen], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "furthest"),
    [
        ({"dtype": torch.bfloat16}, 0.05),
        ({"dtype": torch.float16}, 0.01),
        ({"dtype": torch.bfloat16, "int8": True}, 0.1),
    ],
    ids=["bfloat16", "float16", "int8"],
)
def test_lower_precision_stays_near_and_ignores_its_neighbours(
    model: Any, kind: dict[str, Any], furthest: float
) -> None:
    sequences = some_sequences(LENGTHS)
    made = encoder(model, **kind)
    together = logits_of(made, sequences)
    assert (together - one_by_one(model, sequences)).abs().max() < furthest
    alone = torch.cat([logits_of(made, [sequence]) for sequence in sequences])
    # A group of sequences may take another path through the same sums.
    torch.testing.assert_close(together, alone, atol=furthest / 4, rtol=0)


@pytest.mark.parametrize("kind", [attention.FusedAttention, attention.MatmulAttention, attention.PaddedAttention])
@pytest.mark.parametrize("lengths", [[1], [40, 40, 40, 39, 17, 16, 2], [100] * 5, [3, 90, 1, 60]])
def test_all_ways_to_attend_agree_and_leave_the_rows_behind_the_last_sequence_zero(
    kind: Any, lengths: list[int]
) -> None:
    torch.manual_seed(0)
    rows = sum(lengths) + 7
    qkv = torch.randn(rows, 3, 2, 8)
    expected = torch.zeros(rows, 2, 8)
    start = 0
    for length in lengths:
        q, k, v = qkv[start : start + length].permute(1, 2, 0, 3)
        weights = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1)
        expected[start : start + length] = (weights @ v).transpose(0, 1)
        start += length
    torch.testing.assert_close(kind(lengths, CPU)(qkv), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [30.0, 300.0, -300.0])
def test_scores_that_would_overflow_an_exponential_are_softened_all_the_same(size: float) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(40, 3, 2, 8).bfloat16()
    qkv[:, 0] *= size
    one, other = (kind([25, 15], CPU)(qkv).float() for kind in (attention.MatmulAttention, attention.FusedAttention))
    assert torch.isfinite(one).all()
    # Where scores differ by hundreds, attention is a choice of one, and rounding decides between near ones.
    close = (one - other).abs() < 0.05
    assert close.float().mean() > 0.95


def test_long_sequences_and_many_heads_are_attended_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lengths = [70, 70, 70, 50, 20, 5]
    qkv = torch.randn(sum(lengths), 3, 4, 8)
    whole = attention.MatmulAttention(lengths, CPU)(qkv)
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", 2 * 80 * 80)  # two heads of one sequence
    torch.testing.assert_close(attention.MatmulAttention(lengths, CPU)(qkv), whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(attention, "_LONG", 60)
    torch.testing.assert_close(attention.MatmulAttention(lengths, CPU)(qkv), whole, atol=1e-5, rtol=0)


def test_the_kernel_for_gpus_is_told_where_sequences_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_ends(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_ends: torch.Tensor, k_ends: torch.Tensor,
                q_longest: int, k_longest: int) -> torch.Tensor:  # fmt: skip
        """The contract of flash-attn's and torch's function, in plain torch."""
        assert q_ends.dtype == k_ends.dtype == torch.int32
        assert q_longest == k_longest == max(q_ends.diff())
        assert q_ends[-1] == len(q) == len(k) == len(v)
        out = torch.empty_like(q)
        for start, end in zip(q_ends[:-1].tolist(), q_ends[1:].tolist(), strict=True):
            rows = (part[start:end].transpose(0, 1) for part in (q, k, v))
            out[start:end] = torch.nn.functional.scaled_dot_product_attention(*rows).transpose(0, 1)
        return out

    monkeypatch.setattr(attention, "_varlen_attn", lambda: by_ends)
    torch.manual_seed(0)
    lengths = [9, 30, 1]
    qkv = torch.randn(sum(lengths) + 3, 3, 2, 8)
    expected = attention.PaddedAttention(lengths, CPU)(qkv)
    torch.testing.assert_close(attention.VarlenAttention(lengths, CPU)(qkv), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_act": "relu"}, {"num_labels": 2}, {"is_decoder": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_model_that_computes_something_else_is_not_packed(changes: dict[str, Any]) -> None:
    model = small("xlm-roberta", **changes)
    assert not can_pack(model.config, [name for name, _ in model.named_parameters()])


def test_a_checkpoint_that_lacks_a_parameter_is_not_packed() -> None:
    names = [name for name, _ in XLM.named_parameters()]
    assert can_pack(XLM.config, names)
    assert not can_pack(XLM.config, names[:-1])


@pytest.mark.parametrize("gelu", [False, True])
def test_linear_layers_agree(gelu: bool) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 64) / 8, torch.randn(48), torch.randn(33, 64)
    expected = PlainLinear(weight, bias, gelu=gelu)(x)
    if PrepackedLinear.works(torch.float32):
        torch.testing.assert_close(PrepackedLinear(weight, bias, gelu=gelu)(x), expected, atol=1e-5, rtol=1e-5)
    assert (Int8Linear(weight, bias, gelu=gelu)(x) - expected).abs().max() < 0.05


def test_gelu_before_the_product_leaves_the_chip_is_exact_within_what_half_precision_rounds() -> None:
    torch.manual_seed(4)
    x, weight, bias = torch.randn(60, 32), torch.randn(48, 32) / 4, torch.randn(48)
    exact = torch.nn.functional.gelu(x @ weight.t() + bias)
    some = [tensor.bfloat16() for tensor in (x, weight, bias)]
    rounded = PlainLinear(*some[1:], gelu=True)(some[0]).float()
    fused = EpilogueLinear(*some[1:], gelu=True)(some[0]).float()
    assert (fused - exact).abs().mean() < 1.1 * (rounded - exact).abs().mean()
    assert torch.equal(EpilogueLinear(*some[1:])(some[0]), PlainLinear(*some[1:])(some[0]))


def test_int8_products_are_exact_and_the_same_with_either_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # Weights and activations that int8 holds without loss, each with its own scale.
    weight = torch.randint(-127, 128, (48, 64)).float()
    weight[:, 0] = 127
    weight *= torch.rand(48, 1) + 0.5
    x = torch.randint(-127, 128, (33, 64)).float()
    x[:, 0] = -127
    x *= torch.rand(33, 1) + 0.5
    expected = x.double() @ weight.double().t()
    monkeypatch.setattr(Int8Linear, "is_fused", staticmethod(lambda: False))
    plain = Int8Linear(weight, torch.zeros(48))(x)
    torch.testing.assert_close(plain.double(), expected, atol=expected.abs().max().item() * 1e-6, rtol=0)
    monkeypatch.undo()
    fused = Int8Linear(weight, torch.zeros(48))(x)
    torch.testing.assert_close(fused, plain, atol=expected.abs().max().item() * 1e-6, rtol=0)


def test_a_token_of_zeros_does_not_divide_by_zero_in_int8() -> None:
    x = torch.zeros(2, 8)
    x[1] = 1
    assert torch.equal(Int8Linear(torch.ones(3, 8), torch.arange(3.0))(x)[0], torch.arange(3.0))


def test_parameters_are_read_from_several_files_in_parts_and_in_the_dtype_asked_for(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    XLM.save_pretrained(tmp_path, max_shard_size="60kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    monkeypatch.setattr("langchain_bge_medical.packed.weights._MAPPED_AT_ONCE", 4_096)
    weights = SafetensorsWeights(tmp_path)
    for name, parameter in XLM.named_parameters():
        assert torch.equal(weights(name, torch.float32), parameter)
        assert torch.equal(weights(name, torch.bfloat16), parameter.bfloat16())
    assert weights.names == {name for name, _ in XLM.named_parameters()}
