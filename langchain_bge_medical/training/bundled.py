"""Train the two bundled models from scratch: `python -m langchain_bge_medical.training.bundled --materials FILE`.

Seeded; the recipe is `Recipe`, the data are what `training.materials` wrote. Nothing is downloaded. Minutes on a GPU,
hours on two cores. `--further-from FOLDER` goes on from a reranker with texts that it has not seen (`Further`); half an
hour on two cores.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
    set_seed,
)

from langchain_bge_medical.digests import document_digest
from langchain_bge_medical.model_files import RESOURCES
from langchain_bge_medical.training.materials import Materials, Query
from langchain_bge_medical.training.model_card import bundled_card
from langchain_bge_medical.training.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

# Pairs are scored in batches of about this many tokens, padding included.
_MINI_BATCH_TOKENS = {"cpu": 3_072, "cuda": 131_072}
_INIT_STD = 0.06  # about 1/√hidden
_BOS, _PAD, _EOS = 0, 1, 2  # training.tokenizer numbers them so
_PAIR_SPECIALS = 4  # <s> query </s> </s> document </s>
_RRF_K = 60
# Of this many candidates of the first stage the reranker is to find the right one.
_FETCH_K = 50


@dataclass(frozen=True)
class Recipe:
    """Every number of the training."""

    seed: int = 20261126
    embedding_hidden: int = 192
    embedding_layers: int = 3
    embedding_intermediate: int = 768
    embedding_epochs: int = 3
    embedding_batch: int = 512
    embedding_lr: float = 2e-3
    embedding_scale: float = 20.0
    embedding_tokens: int = 256
    term_weight: float = 0.5
    term_batch: int = 256
    reranker_hidden: int = 256
    reranker_layers: int = 3
    reranker_intermediate: int = 512
    reranker_tokens: int = 320
    group: int = 8
    batch: int = 64
    matching_epochs: int = 1
    matching_lr: float = 8e-4
    epochs: int = 2
    lr: float = 8e-4
    rank_offset: float = 3.0
    other_weight: float = 0.003
    off_topic_repeats: int = 4
    meaning_weight: float = 1.0


@dataclass(frozen=True)
class Further:
    """Every number of going on from a reranker; the rest is as in its recipe."""

    choice_seed: int = 5
    seed: int = 77
    order_seed: int = 7
    own: int = 4_000
    """Written queries of the knowledge base, lest it forget them."""
    english: int = 1_500
    """Synthetic English queries of the other diseases."""
    epochs: int = 1
    batch: int = 32
    lr: float = 3e-4
    start_share: float = 0.5
    """Of the weights that it started from in those that are kept."""


class TokenStore:
    """Token ids of many texts, end to end on the device, so that a batch is put together by arithmetic."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], device: torch.device) -> None:
        """Tokenise every text once, without special tokens."""
        tokens = tokenizer(list(texts), add_special_tokens=False, verbose=False)
        ids = [np.array(row, np.int64) for row in tokens["input_ids"]]
        lengths = torch.tensor([len(row) for row in ids])
        self.ids = torch.from_numpy(np.concatenate(ids)).to(device)
        self.lengths = lengths.to(device)
        self.starts = (lengths.cumsum(0) - lengths).to(device)

    def pair_lengths(
        self, queries: torch.Tensor, documents: torch.Tensor, max_length: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return how many tokens of the query and of the document a pair has, and how many in all."""
        query = self.lengths[queries].clamp(max=max_length * 3 // 4)
        document = torch.minimum(self.lengths[documents], max_length - _PAIR_SPECIALS - query)
        return query, document, query + document + _PAIR_SPECIALS

    def pairs(self, queries: torch.Tensor, documents: torch.Tensor, max_length: int) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `token_type_ids` and `attention_mask` of the pairs, padded to the longest."""
        query, document, total = (x[:, None] for x in self.pair_lengths(queries, documents, max_length))
        place = torch.arange(int(total.max()), device=self.ids.device)[None]
        ids = self._ends(place, total)
        ids = torch.where((place >= 1) & (place <= query), self._at(queries, place - 1), ids)
        in_document = (place >= query + 3) & (place < query + 3 + document)
        ids = torch.where(in_document, self._at(documents, place - query - 3), ids)
        types = ((place >= query + 3) & (place < total)).long()
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": (place < total).long()}

    def texts(self, texts: torch.Tensor, max_length: int) -> dict[str, torch.Tensor]:
        """Return the same of single texts."""
        total = (self.lengths[texts].clamp(max=max_length - 2) + 2)[:, None]
        place = torch.arange(int(total.max()), device=self.ids.device)[None]
        inside = (place >= 1) & (place < total - 1)
        ids = torch.where(inside, self._at(texts, place - 1), self._ends(place, total))
        return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": (place < total).long()}

    def _at(self, texts: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return self.ids[(self.starts[texts][:, None] + place).clamp(0, len(self.ids) - 1)]

    @staticmethod
    def _ends(place: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Return rows of separators that begin as a text does and are padded behind `total`."""
        rows = torch.full((len(total), place.shape[1]), _EOS, device=place.device)
        return rows.masked_fill(place == 0, _BOS).masked_fill(place >= total, _PAD)


class GroupLoss(torch.nn.Module):
    """Which document of the group is it (softmax), and is this one it at all (sigmoid).

    The softmax orders; the sigmoid makes a logit mean something by itself. Softmax alone gave a pair of two
    empty texts a score of .98. An off-topic query has no right document; only the sigmoid learns from it.
    """

    def __init__(self, model: CrossEncoder, store: TokenStore, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.store = store
        self.recipe = recipe
        head = next(module for name, module in model.named_modules() if name.endswith(".classifier"))
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))

    def forward(self, inputs: list[list[Any]], labels: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the loss of `inputs[0]`, queries, with `inputs[1]`, their groups, both as places in the store.

        `labels` is the right document's place in each group, or -1.
        """
        queries, groups = inputs
        documents = torch.tensor(groups, device=self.store.ids.device)
        asked = torch.tensor(queries, device=documents.device)[:, None].expand_as(documents)
        logits = pair_logits(self.model, self.store, asked.flatten(), documents.flatten(), self.recipe.reranker_tokens)
        logits = logits.view_as(documents)
        right = labels.to(logits.device)
        answered = right >= 0
        target = torch.zeros_like(logits)
        target[answered, right[answered]] = 1.0
        order = torch.nn.functional.cross_entropy(logits[answered], right[answered], reduction="sum") / len(logits)
        weight = torch.tensor(2.0, device=logits.device)
        meaning = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        return order + self.recipe.meaning_weight * meaning


def pair_logits(
    model: CrossEncoder, store: TokenStore, queries: torch.Tensor, documents: torch.Tensor, max_length: int
) -> torch.Tensor:
    """Return the logits of pairs of places in the store, in batches of similar length."""
    _, _, lengths = store.pair_lengths(queries, documents, max_length)
    order = lengths.argsort()
    parts = []
    for batch in _batches(lengths[order].tolist(), _MINI_BATCH_TOKENS[store.ids.device.type]):
        chosen = order[batch]
        features = store.pairs(queries[chosen], documents[chosen], max_length)
        parts.append(_in_bfloat16(model, features)["scores"].float().view(-1))
    return torch.cat(parts)[order.argsort()]


def _in_bfloat16(model: torch.nn.Module, features: dict[str, torch.Tensor]) -> Any:
    """Run the model with its weights rounded to bfloat16; they themselves stay and are updated in float32.

    Autocast would leave the residual stream and the normalisations in float32, which for small models is most
    of the time. A CPU runs them in float32: going back through attention in bfloat16 takes it many times longer.
    """
    if features["input_ids"].device.type == "cpu":
        return model(features)
    # The head stays in float32 (see GroupLoss), since rounded logits tie.
    weights = {name: w if ".classifier." in name else w.bfloat16() for name, w in model.named_parameters()}
    return torch.func.functional_call(model, weights, (features,))


def _batches(ascending: Sequence[int], budget: int) -> Iterator[slice]:
    start = 0
    for end in range(1, len(ascending) + 1):
        if end == len(ascending) or (end + 1 - start) * ascending[end] > budget:
            yield slice(start, end)
            start = end


class RetrievalLoss(torch.nn.Module):
    """Which of all diseases is it, and which of the batch's clinical terms does this everyday phrase mean."""

    def __init__(self, model: SentenceTransformer, materials: Materials, store: TokenStore, recipe: Recipe) -> None:
        """Take the store of the documents' variants, the queries, and the phrases and terms, in this order."""
        super().__init__()
        self.model = model
        self.store = store
        self.recipe = recipe
        self.rng = np.random.default_rng(recipe.seed)
        self.variants = len(materials.documents[0])
        self.first_document = np.arange(len(materials.documents)) * self.variants
        self.first_query = len(materials.documents) * self.variants
        self.first_phrase = self.first_query + len(materials.queries)
        self.terms = materials.terms
        books = torch.tensor(materials.books)
        self.neutral = books[:, None] != books[None]
        for i, others in enumerate(materials.neutral):
            self.neutral[i, others] = True
        self.neutral = self.neutral.to(model.device)

    def forward(self, features: list[Any], labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch of places of queries and the places of their diseases."""
        chosen = self.rng.integers(self.variants, size=len(self.first_document))
        picked = {self.terms[i][1]: i for i in self.rng.integers(len(self.terms), size=self._term_batch)}
        phrases = self.first_phrase + 2 * np.array(list(picked.values()), dtype=np.int64)
        places = (
            self.first_query + features[0]["input_ids"].cpu().numpy(), self.first_document + chosen,
            phrases, phrases + 1,
        )  # fmt: skip
        vectors = self._embed(np.concatenate(places))
        asked, documents, said, meant = torch.split(vectors, [len(some) for some in places])
        similarity = asked @ documents.T * self.recipe.embedding_scale
        right = labels.to(similarity.device)
        loss = torch.nn.functional.cross_entropy(similarity.masked_fill(self.neutral[right], -torch.inf), right)
        if len(picked) > 1:
            close = said @ meant.T * self.recipe.embedding_scale
            means = torch.nn.functional.cross_entropy(close, torch.arange(len(close), device=close.device))
            loss = loss + self.recipe.term_weight * means
        return loss

    @property
    def _term_batch(self) -> int:
        return self.recipe.term_batch if self.terms else 0

    def _embed(self, places: np.ndarray) -> torch.Tensor:
        """Return unit vectors in float32, in batches of similar length."""
        texts = torch.from_numpy(places).to(self.store.ids.device)
        order = self.store.lengths[texts].argsort()
        lengths = self.store.lengths[texts[order]].clamp(max=self.recipe.embedding_tokens - 2) + 2
        parts = []
        for batch in _batches(lengths.tolist(), _MINI_BATCH_TOKENS[texts.device.type]):
            features = self.store.texts(texts[order[batch]], self.recipe.embedding_tokens)
            parts.append(_in_bfloat16(self.model, features)["sentence_embedding"].float())
        vectors: torch.Tensor = torch.nn.functional.normalize(torch.cat(parts)[order.argsort()], dim=-1)
        return vectors


class _PlaceCollator(SentenceTransformerDataCollator):  # type: ignore[misc]  # ships no types
    """Hands the loss the places of queries in its store, where the trainer expects token ids."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "query_input_ids": torch.tensor([row["query"] for row in features]),
            "label": torch.tensor([row["label"] for row in features]),
        }


def train_embeddings(materials: Materials, recipe: Recipe, out: Path, device: str) -> None:
    """Train the bi-encoder, with all other diseases as negatives, and save it with its tokenizer to `out`."""
    set_seed(recipe.seed)
    tokenizer = build_tokenizer(materials.texts(), recipe.embedding_tokens)
    shape = (recipe.embedding_hidden, recipe.embedding_intermediate, recipe.embedding_layers, recipe.embedding_tokens)
    base = out.with_name(out.name + ".base")
    XLMRobertaModel(_config(tokenizer, *shape, init_std=0.02), add_pooling_layer=False).save_pretrained(base)
    tokenizer.save_pretrained(base)
    modules = [Transformer(str(base)), Pooling(recipe.embedding_hidden, "mean"), Normalize()]
    model = SentenceTransformer(modules=modules, device=device)
    texts = materials.cards() + [query.text for query in materials.queries]
    texts += [text for pair in materials.terms for text in pair]
    loss = RetrievalLoss(model, materials, TokenStore(tokenizer, texts, model.device), recipe)
    rows = [{"query": i, "label": query.disease} for i, query in enumerate(materials.queries) if query.disease >= 0]
    arguments = SentenceTransformerTrainingArguments(
        **_shared(recipe, out, device), learning_rate=recipe.embedding_lr, num_train_epochs=recipe.embedding_epochs,
        per_device_train_batch_size=recipe.embedding_batch,
    )  # fmt: skip
    collator = _PlaceCollator(model.preprocess)
    dataset = Dataset.from_list(rows)
    SentenceTransformerTrainer(model, arguments, train_dataset=dataset, loss=loss, data_collator=collator).train()
    model.half().save(str(out), create_model_card=False)
    shutil.rmtree(base)


def train_reranker(materials: Materials, recipe: Recipe, embeddings: SentenceTransformer, out: Path) -> None:
    """Train the cross-encoder on groups of one right and several wrong documents, and save it to `out`."""
    set_seed(recipe.seed + 1)
    # A copy: the first stage's own goes on cutting where the bi-encoder's positions end.
    device, tokenizer = str(embeddings.device), copy.deepcopy(embeddings.tokenizer)
    tokenizer.model_max_length = recipe.reranker_tokens
    shape = (recipe.reranker_hidden, recipe.reranker_intermediate, recipe.reranker_layers, recipe.reranker_tokens)
    network = XLMRobertaForSequenceClassification(_config(tokenizer, *shape, init_std=_INIT_STD))
    _start_as_matcher(network, embeddings)
    base = out.with_name(out.name + ".base")
    network.save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = CrossEncoder(str(base), device=device)
    first_stage = FirstStage(materials, embeddings)
    variants = len(materials.documents[0])
    texts = materials.cards()
    asked = len(texts)
    texts += [query.text for query in materials.queries]
    invented = len(texts)
    texts += [text for group in materials.groups for text in (group.query, *group.documents)]
    watched = len(texts)
    texts += [query.text for query in materials.watched]
    store = TokenStore(tokenizer, texts, model.device)
    loss = GroupLoss(model, store, recipe)

    def hit_at_1(among: Callable[[int], bool] = lambda _: True) -> float:
        return _watched_hits(model, store, materials, first_stage, watched, variants, recipe.reranker_tokens, among)

    matching = _matching_rows(materials, invented)
    ranking = _ranking_rows(materials, recipe, first_stage, asked, variants)
    for stage, rows, learning_rate, epochs in (
        ("matching", matching, recipe.matching_lr, recipe.matching_epochs),
        ("ranking", ranking, recipe.lr, 1),
    ):
        if not len(rows["label"]):
            continue
        groups = len(rows["label"])
        callbacks = [_Watch(hit_at_1, max(1, groups // recipe.batch // 4))] if materials.watched else []
        logger.info("reranker: %s, %d groups", stage, groups)
        shared = _shared(recipe, out, device)
        _fit(model, loss, rows, shared, recipe.batch, learning_rate, epochs=epochs, callbacks=callbacks)
    if materials.watched:
        unseen = {materials.diseases.index(name) for name in materials.unseen}
        for name, among in (("all", lambda i: True), ("unseen diseases", lambda i: i in unseen)):
            logger.info("watched, %s: first stage %s, reranked %s", name, first_stage.hits(among), hit_at_1(among))
    model.half().save(str(out), create_model_card=False)
    shutil.rmtree(base)
    documents = (cards for cards, book in zip(materials.documents, materials.books, strict=True) if book == 0)
    digests = (document_digest(cards[0]) for cards in documents)
    (out / "known_documents.txt").write_text("\n".join(digests) + "\n", "utf-8")


def train_further(
    materials: Materials, recipe: Recipe, further: Further, embeddings: SentenceTransformer, start: Path, out: Path
) -> int:
    """Go on from the reranker in `start` with all written queries of the other diseases and some of the rest.

    What is kept lies between the weights before and after (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
    models"): on development queries it reads new diseases as well as those after, and forgets less.

    Returns:
        How many queries that are.
    """
    set_seed(further.seed)
    device = str(embeddings.device)
    model = CrossEncoder(str(start), device=device, model_kwargs={"dtype": torch.float32})
    materials = replace(materials, queries=further_queries(materials, further), groups=[], watched=[])
    texts = materials.cards()
    store = TokenStore(model.tokenizer, [*texts, *(query.text for query in materials.queries)], model.device)
    recipe = replace(recipe, seed=further.seed, epochs=further.epochs)
    first_stage = FirstStage(materials, embeddings)
    rows = _ranking_rows(materials, recipe, first_stage, len(texts), len(materials.documents[0]))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    shared = _shared(replace(recipe, seed=further.order_seed), out, device)
    _fit(model, GroupLoss(model, store, recipe), rows, shared, further.batch, further.lr)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.lerp_(before[name], further.start_share)
    model.half().save(str(out), create_model_card=False)
    shutil.copy(start / "known_documents.txt", out)
    return len(materials.queries)


def _fit(
    model: CrossEncoder,
    loss: GroupLoss,
    rows: dict[str, Any],
    shared: dict[str, Any],
    batch: int,
    learning_rate: float,
    *,
    epochs: int = 1,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train the model on groups."""
    arguments = CrossEncoderTrainingArguments(
        **shared, learning_rate=learning_rate, num_train_epochs=epochs, per_device_train_batch_size=batch
    )
    dataset = Dataset.from_dict(rows)
    CrossEncoderTrainer(model, arguments, train_dataset=dataset, loss=loss, callbacks=list(callbacks)).train()


def further_queries(materials: Materials, further: Further) -> list[Query]:
    """Return the queries to go on with: all about the other diseases that were written, and some of the rest."""
    rng = random.Random(further.choice_seed)  # noqa: S311 - a seed, not a secret

    def of(kind: str, book: int) -> list[Query]:
        return [q for q in materials.queries if q.kind == kind and materials.books[q.disease] == book]

    own, english = of("written", 0), of("english", 1)
    chosen = of("written", 1) + rng.sample(own, min(further.own, len(own)))
    chosen += rng.sample(english, min(further.english, len(english)))
    return chosen + [query for query in materials.queries if query.disease < 0]


class FirstStage:
    """The candidates: vectors and words merged by reciprocal rank with equal say, as recall then did."""

    def __init__(self, materials: Materials, embeddings: SentenceTransformer) -> None:
        """Rank all diseases for all queries, those watched too."""
        self._materials = materials
        cards = embeddings.encode([documents[0] for documents in materials.documents], batch_size=64)
        books = np.array(materials.books)

        def ranked(queries: Sequence[Any], asked: Sequence[int]) -> np.ndarray:
            """Return all diseases, best first; `asked` are some of those that the queries are asked of."""
            if not queries:
                return np.zeros((0, len(cards)), dtype=np.int64)
            vectors = embeddings.encode([query.text for query in queries], batch_size=256, show_progress_bar=False)
            similarity = np.where(books[asked][:, None] == books[None], vectors @ cards.T, -np.inf)
            dense = (-similarity).argsort(1)[:, :_FETCH_K]
            scores = np.zeros((len(queries), len(cards)))
            for i, query in enumerate(queries):
                scores[i, dense[i]] += 1 / (_RRF_K + 1 + np.arange(dense.shape[1]))
                scores[i, query.lexical] += 1 / (_RRF_K + 1 + np.arange(len(query.lexical)))
            order: np.ndarray = (-scores).argsort(1, kind="stable")
            return order

        # What is off topic, and what is watched, is asked of the knowledge base, which the first disease is of.
        self.order = ranked(materials.queries, [max(0, query.disease) for query in materials.queries])
        self.watched = ranked(materials.watched, [0] * len(materials.watched))

    def hits(self, among: Callable[[int], bool]) -> float:
        """Return hit@1 over the watched queries whose first relevant disease is `among` those."""
        hits = [
            int(self.watched[i][0]) in query.relevant
            for i, query in enumerate(self._materials.watched)
            if query.relevant and among(query.relevant[0])
        ]
        return round(sum(hits) / max(1, len(hits)), 4)


def _ranking_rows(
    materials: Materials, recipe: Recipe, first_stage: FirstStage, asked: int, variants: int
) -> dict[str, Any]:
    """Return groups for all epochs: the right disease, likelier wrong ones the better the first stage ranks them."""
    rng = np.random.default_rng(recipe.seed)
    count = len(materials.diseases)
    # Watched diseases that must stay unseen are no document to train on either.
    unseen = np.array([name in set(materials.unseen) for name in materials.diseases])
    right = np.array([query.disease for query in materials.queries])
    weight = np.full((len(right), count), recipe.other_weight)
    candidates = first_stage.order[:, :_FETCH_K]
    by_rank = 1 / (np.arange(candidates.shape[1]) + recipe.rank_offset)
    np.put_along_axis(weight, candidates, by_rank[None], axis=1)
    weight[:, unseen] = 0
    books = np.array(materials.books)
    weight[books[np.maximum(right, 0)][:, None] != books[None]] = 0
    for i, disease in enumerate(right):
        if disease >= 0:
            weight[i, [disease, *materials.neutral[disease]]] = 0
    smallest = int(np.bincount(books).min())
    size = min(recipe.group, smallest - 1 - int(unseen.sum()) - max(map(len, materials.neutral), default=0))
    repeats = np.concatenate([np.arange(len(right)), *[np.flatnonzero(right < 0)] * (recipe.off_topic_repeats - 1)])
    queries, documents, labels = [], [], []
    with np.errstate(divide="ignore"):
        log_weight = np.log(weight)
    for _ in range(recipe.epochs):
        order = rng.permutation(repeats)
        for part in np.array_split(order, max(1, len(order) // 8_192)):
            chosen = (log_weight[part] + rng.gumbel(size=(len(part), count))).argsort(1)[:, ::-1][:, :size].copy()
            place = rng.integers(size, size=len(part))
            answered = right[part] >= 0
            chosen[answered, place[answered]] = right[part][answered]
            # A third of the documents are the whole card, as they are searched; the rest vary.
            variant = rng.integers(variants, size=chosen.shape) * (rng.random(chosen.shape) > 1 / 3)
            queries.append(asked + part)
            documents.append(chosen * variants + variant)
            labels.append(np.where(answered, place, -1))
    return {
        "query": np.concatenate(queries),
        "documents": np.concatenate(documents).astype(np.int32).tolist(),
        "label": np.concatenate(labels),
    }


def _matching_rows(materials: Materials, start: int) -> dict[str, Any]:
    size = 1 + len(materials.groups[0].documents) if materials.groups else 1
    first = start + size * np.arange(len(materials.groups))
    return {
        "query": first,
        "documents": (first[:, None] + 1 + np.arange(size - 1)[None]).tolist(),
        "label": [group.right for group in materials.groups],
    }


def _watched_hits(
    model: CrossEncoder,
    store: TokenStore,
    materials: Materials,
    first_stage: FirstStage,
    start: int,
    variants: int,
    max_length: int,
    among: Callable[[int], bool],
) -> float:
    """Return hit@1 of the reranked candidates of the watched queries."""
    chosen = [i for i, query in enumerate(materials.watched) if query.relevant and among(query.relevant[0])]
    if not chosen:
        return math.nan
    candidates = torch.tensor(first_stage.watched[chosen][:, :_FETCH_K].copy(), device=store.ids.device)
    queries = start + torch.tensor(chosen, device=store.ids.device)[:, None].expand_as(candidates)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = pair_logits(model, store, queries.flatten(), candidates.flatten() * variants, max_length)
    model.train(was_training)
    best = candidates.gather(1, logits.view_as(candidates).argmax(1, keepdim=True)).flatten().tolist()
    hits = [best[row] in materials.watched[i].relevant for row, i in enumerate(chosen)]
    return round(sum(hits) / len(hits), 4)


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Logs how the watched queries do, now and then."""

    def __init__(self, hit_at_1: Callable[[], float], every: int) -> None:
        self._hit_at_1 = hit_at_1
        self._every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every == 0:
            logger.info("step %d: watched hit@1 %s", state.global_step, self._hit_at_1())


def _config(
    tokenizer: PreTrainedTokenizerFast, hidden: int, intermediate: int, layers: int, max_length: int, *, init_std: float
) -> XLMRobertaConfig:
    return XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, intermediate_size=intermediate,
        max_position_embeddings=max_length + 2, type_vocab_size=2, layer_norm_eps=1e-5,
        initializer_range=init_std, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1,
        bos_token_id=_BOS, pad_token_id=_PAD, eos_token_id=_EOS,
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
        words = embeddings[0].auto_model.embeddings.word_embeddings.weight.float().cpu()
        table.word_embeddings.weight.normal_(0, 0.04)
        shared = min(words.shape[1], table.word_embeddings.weight.shape[1])
        table.word_embeddings.weight[:, :shared].copy_(words[:, :shared] * (0.04 / words.std()))
        table.position_embeddings.weight.normal_(0, 0.012)
        table.token_type_embeddings.weight.normal_(0, 0.04)
        for layer in encoder.encoder.layer:
            attention = layer.attention.self
            attention.key.weight.copy_(attention.query.weight)


def _shared(recipe: Recipe, out: Path, device: str) -> dict[str, Any]:
    return {
        "output_dir": str(out) + ".trainer", "seed": recipe.seed, "data_seed": recipe.seed,
        "use_cpu": device == "cpu",
        "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "max_grad_norm": 1.0, "weight_decay": 0.01,
        "save_strategy": "no", "report_to": "none", "logging_steps": 100, "disable_tqdm": True,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both models and write them, with the recipe, into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--materials", type=Path, required=True, help="what training.materials wrote")
    parser.add_argument("--out", type=Path, default=RESOURCES, help="the models' parent folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=("embeddings", "reranker"), help="reranker takes the bi-encoder in --out")
    parser.add_argument("--further-from", type=Path, help="a reranker to go on from, instead of training anew")
    parser.add_argument("--further", type=json.loads, default={}, help="a JSON object of values of that to change")
    parser.add_argument("--recipe", type=json.loads, default={}, help="a JSON object of recipe values to change")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    materials = Materials.load(options.materials)
    folder = options.out / "bundled_embeddings"
    if options.further_from:
        _go_on(materials, Further(**options.further), folder, options.further_from, options.out, options.device)
        return
    recipe = Recipe(**options.recipe)
    if options.only != "reranker":
        train_embeddings(materials, recipe, folder, options.device)
    if options.only != "embeddings":
        train_reranker(materials, recipe, _first_stage_model(folder, options.device), options.out / "bundled_reranker")
    made = (options.only,) if options.only else ("embeddings", "reranker")
    for folder in (options.out / f"bundled_{kind}" for kind in made):
        _describe(folder, {**asdict(recipe), "data": materials.counts()})


def _first_stage_model(folder: Path, device: str) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device=device, model_kwargs={"dtype": torch.float32})


def _describe(folder: Path, recipe: dict[str, Any]) -> None:
    """Write the recipe and the card beside a model."""
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", "utf-8")
    (folder / "README.md").write_text(bundled_card(folder), "utf-8")


def _go_on(materials: Materials, further: Further, embeddings: Path, start: Path, out: Path, device: str) -> None:
    """Train further, and write recipe and card."""
    described = json.loads((start / "recipe.json").read_text("utf-8"))
    recipe = Recipe(**{name: value for name, value in described.items() if name not in ("data", "further")})
    folder = out / "bundled_reranker"
    count = train_further(materials, recipe, further, _first_stage_model(embeddings, device), start, folder)
    described["further"] = {**asdict(further), "queries": count, "other_diseases": materials.books.count(1)}
    _describe(folder, described)


if __name__ == "__main__":
    main()
