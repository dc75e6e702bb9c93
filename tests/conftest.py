"""Small real things for all tests: a cross-encoder, embeddings, records, and a scorer that does as it is told."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

RECORDS = [
    {
        "disease": "社区获得性肺炎",
        "symptoms": "发热、咳嗽、咳痰、胸痛",
        "description": "肺实质的感染,起病急。",
    },
    {
        "disease": "普通感冒",
        "symptoms": "鼻塞、流清涕、打喷嚏、咽痛",
        "description": "鼻部的病毒感染,数日自愈。",
    },
    {"disease": "偏头痛", "symptoms": "单侧头痛、搏动性头痛、畏光、恶心", "description": "反复发作的头痛。"},
    {"disease": "急性胃肠炎", "symptoms": "腹泻、呕吐、腹痛、发热", "description": "多有不洁饮食史。"},
    {"disease": "踝关节扭伤", "symptoms": "踝部肿痛、行走困难", "description": "崴脚之后。"},
    {"disease": "中耳炎", "symptoms": "耳痛、发热、听力下降、耳道流脓", "description": "儿童多见。"},
]


class TableCrossEncoder(BaseCrossEncoder):
    """Gives each document the score that a table has for it, and counts what it is asked."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = dict(scores)
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.calls.append(list(text_pairs))
        return [self.scores[document] for _, document in text_pairs]


class HashEmbeddings(Embeddings):
    """A vector per text from the digests of its character pairs: texts that share pairs are near. Counts texts."""

    model_name = "hash"

    def __init__(self, dimension: int = 64, model_name: str = "hash") -> None:
        self.dimension = dimension
        self.model_name = model_name
        self.embedded: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded.extend(texts)
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._vector(text)

    def _vector(self, text: str) -> list[float]:
        vector = [0.001] * self.dimension
        for a, b in itertools.pairwise(text):
            digest = hashlib.blake2b(f"{a}{b}".encode("utf-8", "replace"), digest_size=4).digest()
            vector[int.from_bytes(digest, "little") % self.dimension] += 1.0
        return vector


def make_tokenizer(max_length: int = 130) -> PreTrainedTokenizerFast:
    """A tokenizer of the characters in RECORDS, digits and letters, in XLM-R's frame."""
    text = "".join(str(value) for record in RECORDS for value in record.values())
    alphabet = sorted(set(text + "最近三天一直孩子我有多很没不了的口渴烧abcdefghijklmnopqrstuvwxyz0123456789,。:、\n"))
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, bos_token="<s>", cls_token="<s>",
        pad_token="<pad>", eos_token="</s>", sep_token="</s>", unk_token="<unk>",
    )  # fmt: skip


def tiny_config(tokenizer: PreTrainedTokenizerFast, **changes: object) -> XLMRobertaConfig:
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 132, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
        "num_labels": 1, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "initializer_range": 0.5,
    }  # fmt: skip
    return XLMRobertaConfig(**{**settings, **changes})


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real XLM-R cross-encoder of 16 dimensions with random weights; reads 130 tokens."""
    folder = tmp_path_factory.mktemp("tiny_reranker")
    tokenizer = make_tokenizer()
    torch.manual_seed(7)
    XLMRobertaForSequenceClassification(tiny_config(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reranker_of_512(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another one that reads the usual 512 tokens."""
    folder = tmp_path_factory.mktemp("reranker")
    tokenizer = make_tokenizer(512)
    torch.manual_seed(3)
    XLMRobertaForSequenceClassification(tiny_config(tokenizer, max_position_embeddings=514)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_embedding_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real XLM-R encoder without a head, as embedding models are."""
    folder = tmp_path_factory.mktemp("tiny_embeddings")
    tokenizer = make_tokenizer()
    torch.manual_seed(8)
    XLMRobertaModel(tiny_config(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def documents() -> list[Document]:
    """RECORDS as the loader makes them."""
    return record_documents()


def record_documents() -> list[Document]:
    return [
        Document(
            id=f"id-{i}",
            page_content=f"疾病名称:{r['disease']}\n症状表现:{r['symptoms']}\n简要描述:{r['description']}",
            metadata={
                "disease": r["disease"],
                "symptoms": r["symptoms"].split("、"),
                "source": "records.json",
            },
        )
        for i, r in enumerate(RECORDS)
    ]
