"""Train the two bundled models from scratch: `python -m langchain_bge_medical.training.bundled --out FOLDER`.

Seeded; the recipe is `Recipe`, the data are the knowledge base, the symptom lexicon and the written complaints in
`training/corpus`. Nothing is downloaded. About an hour on two cores with bf16 matrix units.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import batch_to_device
from transformers import (
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
    set_seed,
)

from langchain_bge_medical.clinical.lexicon import SymptomLexicon
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.knowledge_base import DiseaseRecord
from langchain_bge_medical.model_files import RESOURCES
from langchain_bge_medical.training.queries import Complaint, QueryWriter, leave_out, read_complaints, roughen
from langchain_bge_medical.training.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

CORPUS = Path(__file__).parent / "corpus"
_MINI_BATCH = 16
_INIT_STD = 0.06  # about 1/√hidden


class Mix(NamedTuple):
    """How many queries of each kind are in one pass: per written complaint, and per disease."""

    written: int
    synthetic: int
    english: int


_EMBEDDING_MIX = Mix(written=2, synthetic=24, english=12)
_RERANKER_MIX = Mix(written=1, synthetic=5, english=3)


@dataclass(frozen=True)
class Recipe:
    """Every number of the training."""

    seed: int = 20261122
    max_length: int = 512
    hidden: int = 192
    embedding_layers: int = 3
    reranker_layers: int = 4
    embedding_mix: Mix = _EMBEDDING_MIX
    embedding_epochs: int = 2
    embedding_batch: int = 128
    embedding_lr: float = 2e-3
    matching_groups: int = 8_000
    reranker_mix: Mix = _RERANKER_MIX
    matching_lr: float = 8e-4
    off_topic_repeats: int = 3
    reranker_group: int = 8
    reranker_batch: int = 8
    reranker_lr: float = 2.5e-4


class GroupLoss(torch.nn.Module):
    """Which document of the group is it (softmax), and is this one it at all (sigmoid), in equal parts.

    A group for an off-topic query has no right document; only the sigmoid learns from it.

    The softmax orders; the sigmoid makes a logit mean something by itself. Softmax alone gave a pair of two
    empty texts a score of .98.
    """

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[list[Any]], labels: list[torch.Tensor], **_: Any) -> torch.Tensor:
        """Return the loss of queries `inputs[0]` with their document groups `inputs[1]`, all of one size."""
        queries, groups = inputs
        pairs = [(query, document) for query, group in zip(queries, groups, strict=True) for document in group]
        device = self.model.device
        scores = torch.empty(len(pairs), device=device)
        # Short pairs are not padded to the length of the longest one.
        by_length = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        for start in range(0, len(pairs), _MINI_BATCH):
            part = by_length[start : start + _MINI_BATCH]
            tokens = self.model.preprocess([pairs[i] for i in part])
            part_scores = self.model(batch_to_device(tokens, device))["scores"]
            scores = scores.index_put((torch.tensor(part, device=device),), part_scores.float().view(-1))
        logits = scores.view(len(queries), -1)
        target = torch.stack(list(labels)).float().to(device)
        answered = target.sum(1) > 0  # an off-topic query has no right document, and nothing to order
        order = torch.nn.functional.cross_entropy(logits[answered], target[answered].argmax(1), reduction="sum") / len(
            logits
        )
        weight = torch.tensor(2.0, device=device)
        meaning = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        return order + meaning


class Materials:
    """What both models are trained on, from one seed."""

    def __init__(self, recipe: Recipe, kb: Path, corpus: Sequence[Path], kept_out: Sequence[str]) -> None:
        """Read the knowledge base and the complaints, leaving out what is close to `kept_out`."""
        self.recipe = recipe
        self.records = list(MedicalKBLoader(kb).lazy_records())
        self.by_name = {record.disease: record for record in self.records}
        written = [complaint for file in corpus for complaint in read_complaints(file)]
        unknown = {complaint.disease for complaint in written if complaint.disease} - set(self.by_name)
        if unknown:
            logger.warning(
                "complaints about %d diseases that the knowledge base lacks are not used: %s",
                len(unknown),
                unknown,
            )
        kept = list(leave_out(written, kept_out))
        self.complaints = [complaint for complaint in kept if complaint.disease in self.by_name]
        self.off_topic = [complaint for complaint in kept if not complaint.disease]
        logger.info("%d records, %d of %d complaints kept", len(self.records), len(self.complaints), len(written))
        self.lexicon = SymptomLexicon.load()
        self.kept_out = kept_out

    def queries(self, mix: Mix, rng: random.Random) -> list[Complaint]:
        """Return one shuffled pass over all queries: written ones, some roughened, and synthetic ones."""
        writer = QueryWriter(self.records, self.lexicon, rng)
        queries = [
            Complaint(c.disease, c.query if i == 0 else roughen(c.query, rng))
            for c in self.complaints
            for i in range(mix.written)
        ]
        synthetic = [
            Complaint(record.disease, roughen(writer.write(record), rng))
            for record in self.records
            for _ in range(mix.synthetic)
        ]
        english = [
            Complaint(record.disease, writer.write(record, english=True))
            for record in self.records
            for _ in range(mix.english)
        ]
        queries += leave_out([*synthetic, *english], self.kept_out, limit=0.8)
        rng.shuffle(queries)
        return queries

    def texts(self, rng: random.Random) -> Iterator[str]:
        """Yield all there is to build a vocabulary from."""
        for record in self.records:
            yield record.card()
            yield " ".join(record.aliases)
        for entry in self.lexicon.entries.values():
            yield " ".join((entry.term, *entry.colloquial, *entry.en))
        for complaint in [*self.queries(self.recipe.embedding_mix, rng), *self.off_topic]:
            yield complaint.query


def document_text(record: DiseaseRecord, rng: random.Random) -> str:
    """Return the record's card, its description often left out or cut, so that training is short.

    Most cards have no description, some a sentence or two of it, one in twelve is whole.
    """
    share = rng.random()
    if share > 0.92:
        return record.card()
    sentences = record.description.split("。")
    kept = "" if share < 0.6 else "。".join(sentences[: rng.choice((1, 1, 2))])
    return f"疾病名称:{record.disease}\n症状表现:{record.symptoms_text}\n简要描述:{kept}"


def train_embeddings(materials: Materials, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Train the bi-encoder with in-batch negatives and save it to `out`."""
    recipe = materials.recipe
    set_seed(recipe.seed)
    rng = random.Random(recipe.seed)  # noqa: S311 - a seed, not a secret
    config = _config(recipe, tokenizer, recipe.embedding_layers, init_std=0.02)
    base = out.with_name(out.name + ".base")
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(base)
    tokenizer.save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=192)
    model = SentenceTransformer(modules=[transformer, Pooling(recipe.hidden, "mean"), Normalize()], device="cpu")
    rows = [
        {"query": query, "document": document_text(materials.by_name[disease], rng)}
        for _ in range(recipe.embedding_epochs)
        for disease, query in materials.queries(recipe.embedding_mix, rng)
    ]
    arguments = SentenceTransformerTrainingArguments(
        **_shared(recipe, out), learning_rate=recipe.embedding_lr, num_train_epochs=1,
        per_device_train_batch_size=recipe.embedding_batch, batch_sampler=BatchSamplers.NO_DUPLICATES,
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(model, scale=20)
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=Dataset.from_list(rows), loss=loss)
    trainer.train()
    model.half().save(str(out))
    shutil.rmtree(base)


def train_reranker(
    materials: Materials, tokenizer: PreTrainedTokenizerFast, embeddings: SentenceTransformer, out: Path
) -> None:
    """Train the cross-encoder on groups of one right and several wrong documents, and save it to `out`."""
    recipe = materials.recipe
    set_seed(recipe.seed + 1)
    rng = random.Random(recipe.seed + 1)  # noqa: S311
    network = XLMRobertaForSequenceClassification(
        _config(recipe, tokenizer, recipe.reranker_layers, init_std=_INIT_STD)
    )
    _start_as_matcher(network, embeddings)
    base = out.with_name(out.name + ".base")
    network.save_pretrained(base)
    tokenizer.save_pretrained(base)
    # Without dropout, plain matrix products train faster on a CPU than the fused kernel.
    eager = {"attn_implementation": "eager"}
    model = CrossEncoder(str(base), device="cpu", max_length=recipe.max_length, model_kwargs=eager)
    stages = (
        ("matching", _matching_groups(materials, rng), recipe.matching_lr),
        ("whole records", _groups(materials, embeddings, rng), recipe.reranker_lr),
    )
    for stage, rows, learning_rate in stages:
        logger.info("reranker: %s", stage)
        arguments = CrossEncoderTrainingArguments(
            **_shared(recipe, out), learning_rate=learning_rate, num_train_epochs=1,
            per_device_train_batch_size=recipe.reranker_batch,
        )  # fmt: skip
        dataset = Dataset.from_list(list(rows))
        CrossEncoderTrainer(model, arguments, train_dataset=dataset, loss=GroupLoss(model)).train()
        model.save(str(base))
    model.half().save(str(out))
    shutil.rmtree(base)
    digests = (hashlib.blake2b(record.card().encode(), digest_size=8).hexdigest() for record in materials.records)
    (out / "known_documents.txt").write_text("\n".join(digests) + "\n", "utf-8")


def _matching_groups(materials: Materials, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield a few findings as patients say them, with short invented records of which one has them all.

    On these short pairs the model learns that attention is for matching, in minutes; on whole records from the
    start the loss hardly moved in that time. Because the records are invented, it learns no disease by heart.
    """
    recipe, lexicon = materials.recipe, materials.lexicon
    names = [record.disease for record in materials.records]
    terms = list(lexicon.entries)

    def said(term: str) -> str:
        entry = lexicon.entries[term]
        chance = rng.random()
        if chance < 0.35 or not entry.colloquial:
            return term
        return rng.choice(entry.en) if chance > 0.85 and entry.en else rng.choice(entry.colloquial)

    def record(symptoms: Sequence[str]) -> str:
        filled = [*symptoms, *rng.sample(terms, rng.randint(0, 4))]
        rng.shuffle(filled)
        return f"疾病名称:{rng.choice(names)}\n症状表现:{'、'.join(filled)}\n简要描述:"

    for _ in range(recipe.matching_groups):
        asked = rng.sample(terms, rng.choice((1, 1, 2, 2, 3, 4)))
        query = rng.choice(("，", " ", ",", "、", "，还")).join(said(term) for term in asked)
        wrong = []
        for i in range(recipe.reranker_group - 1):
            # Two records have all but one of the findings, the others have none of them.
            shared = rng.sample(asked, len(asked) - 1) if i < 2 else []
            wrong.append(record([*shared, *rng.sample(terms, len(asked) - len(shared))]))
        group = [(1.0, record(asked)), *((0.0, text) for text in wrong)]
        rng.shuffle(group)
        yield {
            "query": query,
            "documents": [text for _, text in group],
            "label": [label for label, _ in group],
        }


def _groups(materials: Materials, embeddings: SentenceTransformer, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield a query with its right document and hard, near and random wrong ones, the right one anywhere."""
    recipe, names = materials.recipe, [record.disease for record in materials.records]
    queries = materials.queries(recipe.reranker_mix, rng) + materials.off_topic * recipe.off_topic_repeats
    rng.shuffle(queries)
    parents: dict[str, set[str]] = {}
    for record in materials.records:
        for complication in record.complications:
            parents.setdefault(complication, set()).add(record.disease)
    cards = embeddings.encode([record.card() for record in materials.records], batch_size=64)
    asked = embeddings.encode([query for _, query in queries], batch_size=128)
    for (disease, query), vector in zip(queries, asked, strict=True):
        if not disease:
            group = rng.sample(names, recipe.reranker_group)
            documents = [document_text(materials.by_name[name], rng) for name in group]
            yield {"query": query, "documents": documents, "label": [0.0] * len(group)}
            continue
        record = materials.by_name[disease]
        # Complications come with the disease, and it with what it is a complication of: neither right nor wrong.
        barred = {disease, *record.complications, *parents.get(disease, ())}
        nearest = [names[i] for i in (-(cards @ vector)).argsort()[:24] if names[i] not in barred]
        near = [name for name in record.differentials if name in materials.by_name and name not in barred]
        wrong = rng.sample(nearest, min(4, len(nearest))) + rng.sample(near, min(1, len(near)))
        while len(set(wrong)) < recipe.reranker_group - 1:
            if (other := rng.choice(names)) not in barred:
                wrong.append(other)
        group = [disease, *list(dict.fromkeys(wrong))[: recipe.reranker_group - 1]]
        rng.shuffle(group)
        yield {
            "query": query,
            "documents": [document_text(materials.by_name[name], rng) for name in group],
            "label": [float(name == disease) for name in group],
        }


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, layers: int, *, init_std: float) -> XLMRobertaConfig:
    return XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, num_hidden_layers=layers,
        num_attention_heads=recipe.hidden // 32, intermediate_size=4 * recipe.hidden,
        max_position_embeddings=recipe.max_length + 2, type_vocab_size=2, layer_norm_eps=1e-5,
        initializer_range=init_std, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip


def _start_as_matcher(network: XLMRobertaForSequenceClassification, embeddings: SentenceTransformer) -> None:
    """Start attention as "look where your own token is" (W_k = W_q) on the bi-encoder's word embeddings.

    The idea is the mimetic initialisation of Trockman and Kolter (2023). All other matrices start at
    `_INIT_STD` too: from the usual 0.02 this small model did not leave chance within 400 steps, from here it has
    80 % of the groups right after 250.
    """
    encoder = network.roberta
    with torch.no_grad():
        table = encoder.embeddings
        words = embeddings[0].auto_model.embeddings.word_embeddings.weight
        table.word_embeddings.weight.copy_(words * (0.04 / words.std()))
        table.position_embeddings.weight.normal_(0, 0.012)
        table.token_type_embeddings.weight.normal_(0, 0.04)
        for layer in encoder.encoder.layer:
            attention = layer.attention.self
            attention.key.weight.copy_(attention.query.weight)


def _shared(recipe: Recipe, out: Path) -> dict[str, Any]:
    return {
        "output_dir": str(out) + ".trainer", "seed": recipe.seed, "data_seed": recipe.seed,
        "use_cpu": True, "bf16": True,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "max_grad_norm": 1.0, "weight_decay": 0.01,
        "save_strategy": "no", "report_to": "none", "logging_steps": 100,
    }  # fmt: skip


def main() -> None:
    """Train both models and write them, with the recipe, into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESOURCES, help="the models' parent folder")
    parser.add_argument("--kb", type=Path, default=RESOURCES / "medical_knowledge.json")
    parser.add_argument("--corpus", type=Path, nargs="*", default=sorted(CORPUS.glob("*.jsonl")))
    parser.add_argument("--keep-out", type=Path, nargs="*", default=[], help="evaluation queries, JSON Lines")
    parser.add_argument(
        "--only", choices=("embeddings", "reranker"), help="reranker alone takes the bi-encoder in --out"
    )
    parser.add_argument("--recipe", type=json.loads, default={}, help="a JSON object of recipe values to change")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    recipe = Recipe(**options.recipe)
    kept_out = [json.loads(line)["query"] for file in options.keep_out for line in file.read_text("utf-8").splitlines()]
    materials = Materials(recipe, options.kb, options.corpus, kept_out)
    folder = options.out / "bundled_embeddings"
    if options.only != "reranker":
        tokenizer = build_tokenizer(materials.texts(random.Random(recipe.seed)), recipe.max_length)  # noqa: S311
        train_embeddings(materials, tokenizer, folder)
    if options.only != "embeddings":
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        embeddings = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        train_reranker(materials, tokenizer, embeddings, options.out / "bundled_reranker")
    for folder in options.out.glob("bundled_*/"):
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
