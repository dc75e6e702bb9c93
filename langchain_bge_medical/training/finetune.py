"""A reranker, tuned to one knowledge base: split, train, resume, and a report on diseases that were not trained on."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import random
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_bge_medical.clinical.coverage import AffirmedWords
from langchain_bge_medical.clinical.lexicon import SymptomLexicon
from langchain_bge_medical.cross_encoders import BGECrossEncoder, position_limit
from langchain_bge_medical.digests import document_digest
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.embeddings import BGEEmbeddings
from langchain_bge_medical.evaluation.compare import Comparison, JudgedQuery, LabelledQuery, NameIndex, compare
from langchain_bge_medical.evaluation.metrics import reciprocal_rank_at
from langchain_bge_medical.evaluation.stages import Find, by_logit, names_of, recalled, reranked
from langchain_bge_medical.knowledge_base import DiseaseRecord
from langchain_bge_medical.model_files import BUNDLED, loading, model_folder, read_config, resolved_revision
from langchain_bge_medical.retrievers import build_hybrid_retriever, searchable_text
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
from langchain_bge_medical.training.model_card import model_card
from langchain_bge_medical.training.queries import Complaint, QueryWriter, leave_out, query_digest
from langchain_bge_medical.vectorstores import identity

logger = logging.getLogger(__name__)
T = TypeVar("T")

Loss = Literal["bce", "listwise", "mse", "margin-mse"]
Progress = Callable[[Iterable[T], str], Iterable[T]]

TRAINED_QUERIES = "trained_queries.txt"
"""Digests of the user's queries that a model, or the tuned one that it was made from, was tuned on; in its folder."""

_FETCH_K = 50
_READ = 512  # tokens, as in a compressor by default
_AT_ONCE = 256  # queries that are embedded together
_WATCHED_K = 20  # candidates of each query that progress is watched on
_WATCHED = 80  # such queries
_WATCHED_METRIC = "watched_mrr@10"
_EVALUATIONS = 8  # of progress, in the whole training
_PATIENCE = 3  # evaluations without progress before it stops
_FEWEST_DISEASES = 20
_BIG = 100_000_000  # parameters; a model above is tuned carefully, and its activations are computed twice
_BYTES_PER_PARAMETER = 16  # full training in float32: weight, gradient, and two moments of Adam
# Rates that small models from this project, whole big ones, and adapters learn at.
_RATES = {"small": 2e-4, "big": 2e-5, "lora": 2e-4}


class FinetuneError(ValueError):
    """Settings or data that no model can be tuned with, or an output folder that belongs to something else."""


@dataclass(frozen=True)
class Settings:
    """Every choice of a run. A run that was cut short is only taken up again with the same ones."""

    loss: Loss = "bce"
    """`bce`: right or wrong, pair by pair, right ones weighted by how rare they are; the one whose scores can be
    calibrated best. `listwise`: LambdaLoss over each query's documents. `mse`, `margin-mse`: a teacher's logits, or
    the gaps between them."""
    teacher: str | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 32
    """Pairs in a step; queries, with their documents, for `listwise`."""
    learning_rate: float | None = None
    """`None` takes what fits the model's size."""
    max_length: int = 256
    """Tokens of a pair in training; the tuned model reads as many as its base."""
    lora: bool | None = None
    """Train low-rank adapters and merge them; `None` does where the whole would not fit into memory."""
    test_share: float = 0.2
    dev_share: float = 0.1
    eval_queries: int = 120
    """Queries that the report measures on, for diseases trained on and for those not; progress is watched on at
    most 80 and at most as many."""
    seed: int = 20261126
    device: str | None = None

    def __post_init__(self) -> None:
        if (self.loss in ("mse", "margin-mse")) != (self.teacher is not None):
            raise FinetuneError(
                f"loss {self.loss!r} and teacher {self.teacher!r} do not go together: "
                f"mse and margin-mse learn from a teacher, bce and listwise from labels"
            )
        for name in ("epochs", "batch_size", "eval_queries"):
            if getattr(self, name) <= 0:
                raise FinetuneError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise FinetuneError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.max_length < 16:
            raise FinetuneError(f"max_length must be at least 16 tokens, got {self.max_length}")


class Materials(NamedTuple):
    """What a run works on: one knowledge base, indexed, and the user's own queries if there are any."""

    records: Sequence[DiseaseRecord]
    documents: Sequence[Document]
    vectorstore: VectorStore
    embeddings: Embeddings
    lexicon: SymptomLexicon
    queries: Sequence[LabelledQuery] = ()
    kept_out: Sequence[str] = ()


def finetune(base: str, materials: Materials, out: Path, settings: Settings, progress: Progress[Any]) -> dict[str, Any]:
    """Tune a reranker to a knowledge base.

    A tenth of the diseases is watched while training, a fifth is measured on at the end; about those nothing is
    trained, not even as negatives. Queries to measure on are synthesised with wordings that were held out of
    training and of recall's index; the user's queries about held-out diseases are measured on apart.

    A run that was cut short, even killed, goes on from its last checkpoint when it is started again with the same
    arguments.

    Args:
        base: The model to start from: `"bundled"`, a folder, or a hub name.
        materials: The knowledge base.
        out: Folder for the tuned model, which `BGERerankerCompressor(model_name=...)` loads. Holds
            `checkpoints` meanwhile.
        settings: Every choice.
        progress: Wraps what takes long: `(items, what)` → items.

    Returns:
        The report, as in `out/report.json`: figures before and after with bootstrap intervals, and a verdict.

    Raises:
        FinetuneError: If `out` holds something else or is called `bundled`, the knowledge base has fewer than 20
            diseases, or the training extra is not installed.
        ModelNotFoundError: If the base, or the teacher, cannot be had or is no reranker.
    """
    _check_extra()
    started = time.monotonic()
    folder = model_folder(base, kind="reranker")
    work = out / "checkpoints"
    _claim(out, work, _fingerprint(folder, materials, settings))
    rng = random.Random(settings.seed)  # noqa: S311 - a seed, not a secret
    split = _split([record.disease for record in materials.records], settings, rng)
    trained_wordings, measured_wordings = split_wordings(materials.lexicon, rng)
    retriever = build_hybrid_retriever(
        materials.vectorstore,
        materials.documents,
        fetch_k=_FETCH_K,
        document_to_text=searchable_text(trained_wordings),
    )
    affirmed = AffirmedWords(materials.lexicon)
    candidates = recalled(retriever, _FETCH_K, affirmed)
    asked, own_of = _own_queries(materials, split)
    tests = _tests(materials, split, own_of, measured_wordings, settings, rng)

    before = _base_rankings(base, settings, candidates, tests, work, progress)
    maker = ExampleMaker(
        materials.records,
        trained_wordings,
        names_of(candidates),
        materials.embeddings.embed_documents,
        rng,
        kept_out=split.dev | split.test,
        amounts=Amounts(),
    )
    watched = _watched(materials, split, own_of, measured_wordings, candidates, settings.eval_queries, rng)
    examples = _examples(maker, asked, materials, affirmed, work, progress)
    outcome = _train(folder, examples, watched, work, settings, progress)
    _save(folder, outcome, out, settings)
    own_words = [*(query.query for query in asked), *(query.text for query in own_of["dev"])]
    # What its base was tuned on, the model still knows by heart.
    known = dict.fromkeys([*_trained_queries(folder), *map(query_digest, own_words)])
    (out / TRAINED_QUERIES).write_text("".join(f"{digest}\n" for digest in known), "utf-8")

    after = _rankings(str(out), settings, candidates, tests, progress, "tuned")
    report: dict[str, Any] = {
        "base": base,
        "base_revision": resolved_revision(folder),
        "diseases": {"all": len(materials.records), **{name: len(part) for name, part in split._asdict().items()}},
        "held_out": {"dev": sorted(split.dev), "test": sorted(split.test)},
        "queries": {"own": len(materials.queries), "examples": len(examples)},
        "settings": asdict(settings),
        "training": outcome.figures,
        "parts": {
            name: _part(queries, {**before[name], "tuned": after[name]}, split)
            for name, queries in tests.items()
            if queries
        },
    }
    report["verdict"] = _verdict(report["parts"])
    report["minutes"] = round((time.monotonic() - started) / 60, 1)
    _mark_known(folder, out, materials.records, report["verdict"])
    (out / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (out / "README.md").write_text(model_card(report), "utf-8")
    shutil.rmtree(work)
    return report


def trained_on(folder: Path, queries: Iterable[LabelledQuery]) -> list[int]:
    """Return the lines of the queries that the model in `folder`, or a base of it, was tuned on."""
    digests = set(_trained_queries(folder))
    return [query.line for query in queries if query_digest(query.query) in digests]


def _trained_queries(folder: Path) -> list[str]:
    file = folder / TRAINED_QUERIES
    return file.read_text("utf-8").split() if file.is_file() else []


class _Split(NamedTuple):
    train: frozenset[str]
    dev: frozenset[str]
    test: frozenset[str]


class _Watched(NamedTuple):
    """A query that progress is watched on; what recall misses stays missed."""

    query: str
    documents: list[str]
    right: set[str]


def _split(names: Sequence[str], settings: Settings, rng: random.Random) -> _Split:
    if len(names) < _FEWEST_DISEASES:
        raise FinetuneError(
            f"the knowledge base has {len(names)} diseases; with fewer than {_FEWEST_DISEASES} "
            f"there is nothing to measure on after some are held out"
        )
    shuffled = sorted(set(names))
    rng.shuffle(shuffled)
    test = max(1, round(settings.test_share * len(names)))
    dev = max(1, round(settings.dev_share * len(names)))
    return _Split(frozenset(shuffled[test + dev :]), frozenset(shuffled[test : test + dev]), frozenset(shuffled[:test]))


def _own_queries(materials: Materials, split: _Split) -> tuple[list[Asked], dict[str, list[JudgedQuery]]]:
    """Divide the user's queries by their diseases: one held-out disease among them holds a query out."""
    names = NameIndex(record.metadata() for record in materials.records)
    train: list[Asked] = []
    held_out: dict[str, list[JudgedQuery]] = {"dev": [], "test": []}
    for query in materials.queries:
        if query.relevant is None:
            continue
        relevant, irrelevant = (
            tuple(found for name in group if (found := names.get(name)) is not None)
            for group in (query.relevant, query.irrelevant)
        )
        if query.relevant and not relevant:
            continue
        part = next((p for p, diseases in (("test", split.test), ("dev", split.dev)) if diseases & {*relevant}), None)
        if part is None:
            train.append(Asked(query.query, relevant, irrelevant))
        else:
            judged = JudgedQuery(query.line, query.query, frozenset(relevant), frozenset(irrelevant), query.tags)
            held_out[part].append(judged)
    return train, held_out


def _synthetic(
    materials: Materials, diseases: Iterable[str], wordings: SymptomLexicon, count: int, rng: random.Random
) -> list[JudgedQuery]:
    """Return `count` queries, about each disease as many as about any other, with their place as line."""
    writer = QueryWriter(materials.records, wordings, rng)
    names = set(diseases)
    chosen = [record for record in materials.records if record.disease in names]
    rounds = -(-count // len(chosen))
    made = [(record, writer.write(record, english=i % 7 == 6)) for i in range(rounds) for record in chosen]
    return [
        JudgedQuery(line, text, frozenset({record.disease}), frozenset(), ())
        for line, (record, text) in enumerate(made[:count], start=1)
    ]


def _tests(
    materials: Materials,
    split: _Split,
    own: Mapping[str, list[JudgedQuery]],
    wordings: SymptomLexicon,
    settings: Settings,
    rng: random.Random,
) -> dict[str, list[JudgedQuery]]:
    """Return what is measured on: diseases not trained on, diseases trained on, and the user's own queries."""
    count = settings.eval_queries
    known = rng.sample(sorted(split.train), min(count, len(split.train)))
    return {
        "unseen": _synthetic(materials, split.test, wordings, count, rng),
        "seen": _synthetic(materials, known, wordings, count, rng),
        "own": own["test"][:count],
    }


def _examples(
    maker: ExampleMaker,
    asked: Sequence[Asked],
    materials: Materials,
    affirmed: AffirmedWords,
    work: Path,
    progress: Progress[Any],
) -> list[Example]:
    """Return all examples, kept for a resumed run; queries close to what must be kept out are left out."""
    file = work / "examples.json"
    if file.is_file():
        return [Example(*kept) for kept in json.loads(file.read_text("utf-8"))]
    complaints = (Complaint("", query.query) for query in asked)
    own = {complaint.query for complaint in leave_out(complaints, materials.kept_out)}
    queries = [*maker.synthetic(), *(query for query in asked if query.query in own)]
    found = [maker.example(query) for query in progress(_embedded(queries, materials.embeddings, affirmed), "mining")]
    made = [*(example for example in found if example is not None), *maker.minimal_pairs()]
    _write(file, made)
    return made


def _embedded(queries: Sequence[Asked], embeddings: Embeddings, affirmed: AffirmedWords) -> Iterator[Asked]:
    """Yield the queries, their vectors made many at once and remembered: one by one takes many times as long."""
    for start in range(0, len(queries), _AT_ONCE):
        part = queries[start : start + _AT_ONCE]
        if isinstance(embeddings, BGEEmbeddings):
            embeddings.embed_queries([affirmed(query.query) for query in part])
        yield from part


def _write(file: Path, what: Any) -> None:
    """Write JSON, whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(what, ensure_ascii=False), "utf-8")
    part.replace(file)


def _watched(
    materials: Materials,
    split: _Split,
    own: Mapping[str, list[JudgedQuery]],
    wordings: SymptomLexicon,
    candidates: Find,
    eval_queries: int,
    rng: random.Random,
) -> list[_Watched]:
    """Return queries about the diseases that progress is watched on, with what recall finds for them."""
    cards = {record.disease: record.card() for record in materials.records}
    count = min(_WATCHED, eval_queries)
    queries = [*own["dev"], *_synthetic(materials, split.dev, wordings, count, rng)][:count]
    return [
        _Watched(
            query.text,
            [document.page_content for document in candidates(query.text)[:_WATCHED_K]],
            {cards[name] for name in query.relevant},
        )
        for query in queries
    ]


def _base_rankings(
    base: str,
    settings: Settings,
    candidates: Find,
    tests: Mapping[str, list[JudgedQuery]],
    work: Path,
    progress: Progress[Any],
) -> dict[str, dict[str, list[list[str]]]]:
    """Return recall's and the base's rankings by part; computed once, kept as names of diseases for a resumed run."""
    file = work / "base.json"
    if file.is_file():
        kept: dict[str, dict[str, list[list[str]]]] = json.loads(file.read_text("utf-8"))
        return kept
    own = _rankings(base, settings, candidates, tests, progress, "base")
    recall = names_of(candidates)
    found = {
        name: {"recall": [list(recall(query.text)) for query in queries], "base": own[name]}
        for name, queries in tests.items()
    }
    _write(file, found)
    return found


def _rankings(
    model: str,
    settings: Settings,
    candidates: Find,
    tests: Mapping[str, list[JudgedQuery]],
    progress: Progress[Any],
    what: str,
) -> dict[str, list[list[str]]]:
    """Return by part how a model orders the candidates of every query."""
    length = _reading_length(model_folder(model, kind="reranker"))
    compressor = BGERerankerCompressor(
        model_name=model, top_n=None, max_length=length, device=settings.device, query_to_text=AffirmedWords()
    )
    rank = names_of(by_logit(reranked(candidates, compressor)))
    found = {}
    for name, queries in tests.items():
        found[name] = compare(progress(queries, f"{what}: {name}"), {"": rank}).rankings[""]
    return found


def _reading_length(folder: Path) -> int:
    """Return how many tokens a model reads at most, or 512, which is what a compressor gives it."""
    from transformers import AutoConfig

    with loading(folder.name, folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return min(_READ, position_limit(config))


class _Outcome(NamedTuple):
    """A trained network, or the adapter to be merged into its base."""

    network: Any
    lora: bool
    figures: dict[str, Any]


def _train(
    folder: Path,
    examples: Sequence[Example],
    watched: Sequence[_Watched],
    work: Path,
    settings: Settings,
    progress: Progress[Any],
) -> _Outcome:
    import torch
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from transformers import EarlyStoppingCallback, PrinterCallback, TrainerState, set_seed

    rows = list(_rows(examples, settings, progress))
    set_seed(settings.seed)
    model = CrossEncoder(
        str(folder),
        device=settings.device,
        local_files_only=True,
        trust_remote_code=False,
        max_length=min(settings.max_length, _reading_length(folder)),
        model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        activation_fn=torch.nn.Identity(),
    )
    device = model.device.type
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lora = _wants_lora(parameters, device) if settings.lora is None else settings.lora
    if lora:
        _add_adapter(model)
    if parameters > _BIG:  # activations are computed twice instead of kept
        network = model.transformers_model
        # Later releases of transformers warn of the second name, earlier ones lack the first.
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    size = "lora" if lora else "big" if parameters > _BIG else "small"
    steps = settings.max_steps or max(1, round(settings.epochs * len(rows) / settings.batch_size))
    interval = max(1, steps // _EVALUATIONS)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(work),
        seed=settings.seed,
        data_seed=settings.seed,
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate or _RATES[size],
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        weight_decay=0.01,
        max_grad_norm=1.0,
        use_cpu=device == "cpu",
        bf16=_has_bfloat16(device),
        batch_sampler=_by_length,
        dataloader_pin_memory=device != "cpu",
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{_WATCHED_METRIC}",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # how long there was no progress
        logging_steps=interval,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = CrossEncoderTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(rows),
        loss=_loss(model, rows, settings),
        evaluator=_watcher(watched, settings.batch_size),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=_PATIENCE), _bar()],
    )
    trainer.remove_callback(PrinterCallback)  # it would print into what the command prints
    checkpoint = _last_checkpoint(work)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint.name)
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    control = trainer.state.stateful_callbacks.get("TrainerControl")
    if control is not None and control["args"]["should_training_stop"]:  # `train` would go a step beyond the end
        trainer._load_from_checkpoint(str(work / Path(trainer.state.best_model_checkpoint).name))
    else:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    best = trainer.state.best_model_checkpoint
    figures = {
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "lora": lora,
        "learning_rate": arguments.learning_rate,
        "rows": len(rows),
        "planned_steps": steps,
        "steps": trainer.state.global_step,
        "best_step": int(best.rsplit("-", 1)[-1]) if best else trainer.state.global_step,
        "watched_mrr@10": [
            {"step": entry["step"], "value": round(entry[f"eval_{_WATCHED_METRIC}"], 4)}
            for entry in trainer.state.log_history
            if f"eval_{_WATCHED_METRIC}" in entry
        ],
        "resumed": checkpoint is not None,
    }
    return _Outcome(model.transformers_model, lora, figures)


def _watcher(watched: Sequence[_Watched], batch_size: int) -> Any:
    """Return sentence-transformers' kind of evaluator: MRR@10 over all samples, scored in one go, misses included."""
    from sentence_transformers.base.evaluation import BaseEvaluator

    class Watcher(BaseEvaluator):  # type: ignore[misc]  # untyped
        primary_metric = _WATCHED_METRIC
        greater_is_better = True

        def __call__(self, model: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            pairs = [(sample.query, text) for sample in watched for text in sample.documents]
            scores = iter(model.predict(pairs, batch_size=batch_size, show_progress_bar=False).tolist())
            reciprocal = 0.0
            for sample in watched:
                of_text = dict(zip(sample.documents, scores, strict=False))
                ranking = sorted(sample.documents, key=of_text.__getitem__, reverse=True)
                reciprocal += reciprocal_rank_at(ranking, sample.right, 10)
            return {_WATCHED_METRIC: reciprocal / len(watched)}

    return Watcher()


def _bar() -> Any:
    """Return a callback that shows steps and loss on a terminal."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Bar(TrainerCallback):  # type: ignore[misc]  # untyped
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", disable=not sys.stderr.isatty()
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            self.bar.set_postfix_str(f"watched MRR@10 {metrics.get(f'eval_{_WATCHED_METRIC}', 0):.3f}")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Bar()


def _rows(examples: Sequence[Example], settings: Settings, progress: Progress[Any]) -> Iterator[Mapping[str, object]]:
    """Yield the training set in the shape that the loss wants."""
    if settings.loss == "bce":
        yield from pairs_of(examples)
    elif settings.loss == "listwise":
        yield from lists_of(examples)
    else:
        assert settings.teacher is not None  # noqa: S101 - Settings sees to it
        teacher = BGECrossEncoder(settings.teacher, device=settings.device)
        logits: dict[tuple[str, str], float] = {}
        for example in progress(examples, "teacher"):
            pairs = [(example.query, text) for text in (*example.right, *example.wrong)]
            logits.update(zip(pairs, teacher.logits(pairs), strict=True))
        del teacher
        gc.collect()
        if settings.loss == "mse":
            yield from ({"query": q, "document": d, "label": logit} for (q, d), logit in logits.items())
            return
        for row in triples_of(examples):
            query, right, wrong = str(row["query"]), str(row["positive"]), str(row["negative"])
            yield {**row, "label": logits[query, right] - logits[query, wrong]}


def _loss(model: Any, rows: Sequence[Mapping[str, Any]], settings: Settings) -> Any:
    import torch
    from sentence_transformers.cross_encoder import losses

    if settings.loss == "bce":
        labels = Counter(row["label"] for row in rows)
        weight = torch.tensor(labels[0.0] / max(1, labels[1.0]))
        return losses.BinaryCrossEntropyLoss(model, pos_weight=weight.to(model.device))
    if settings.loss == "listwise":
        return losses.LambdaLoss(model, mini_batch_size=settings.batch_size)
    return losses.MSELoss(model) if settings.loss == "mse" else losses.MarginMSELoss(model)


def _by_length(dataset: Any, *, batch_size: int, drop_last: bool, generator: Any, **settings: Any) -> Any:
    """Return a sampler of shuffled batches, each of texts of similar length, so that little of a batch is padding."""
    import torch
    from sentence_transformers.base.sampler import DefaultBatchSampler

    def length(row: Mapping[str, Any]) -> int:
        return sum(
            len(value) if isinstance(value, str) else max(map(len, value))
            for name, value in row.items()
            if name != "label"
        )

    lengths = torch.tensor([length(row) for row in dataset])
    pool = 50 * batch_size

    class ByLength(DefaultBatchSampler):  # type: ignore[misc]  # untyped
        def __iter__(self) -> Iterator[list[int]]:
            if self.generator is not None and self.seed is not None:
                self.generator.manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(lengths), generator=self.generator)
            pools = (part[lengths[part].argsort(stable=True)] for part in torch.split(order, pool))
            batches = [batch.tolist() for part in pools for batch in torch.split(part, batch_size)]
            for i in torch.randperm(len(batches), generator=self.generator).tolist():
                yield batches[i]

    sampler = torch.utils.data.SequentialSampler(dataset)
    return ByLength(sampler, batch_size=batch_size, drop_last=False, generator=generator, **settings)


def _add_adapter(model: Any) -> None:
    try:
        from peft import LoraConfig
    except ImportError:
        raise FinetuneError("low-rank adapters need: pip install 'langchain-bge-medical[train]'") from None
    heads = [name for name, _ in model.transformers_model.named_children() if name in ("classifier", "score")]
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=heads,
    )
    try:
        model.add_adapter(config)
    except ValueError as error:  # transformers names the peft that it wants
        raise FinetuneError(f"low-rank adapters cannot be trained here: {error}") from None


def _wants_lora(parameters: int, device: str) -> bool:
    """Return whether training the whole model would take more than half of the memory that is free."""
    import psutil
    import torch

    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    return parameters * _BYTES_PER_PARAMETER > free / 2


def _has_bfloat16(device: str) -> bool:
    """Return whether the hardware multiplies bfloat16 natively; elsewhere it is slower than float32."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return device == "cpu" and flags.is_file() and "bf16" in flags.read_text()


def _last_checkpoint(work: Path) -> Path | None:
    """Return the newest checkpoint that is whole; what a kill left half-written is removed."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[-1]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))  # written last
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
            continue
        return checkpoint
    return None


def _save(folder: Path, outcome: _Outcome, out: Path, settings: Settings) -> None:
    """Write weights and tokenizer as their base has them: the same files, the same number format."""
    import torch

    network = outcome.network
    if outcome.lora:
        network = _merged(folder, network, out / "checkpoints" / "adapter")
    config = read_config(folder)
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    network.to(dtype).save_pretrained(out)
    for file in folder.iterdir():
        weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
        ours = ("config.json", "README.md", "recipe.json", "known_documents.txt", "modules.json", TRAINED_QUERIES)
        # What sentence-transformers and others wrote about the base is not said of the tuned model.
        described = file.name in ours or file.name.startswith(("sentence_", "config_sentence", "report", "calibration"))
        if file.is_file() and file.suffix in (".json", ".txt", ".model") and not weights and not described:
            shutil.copyfile(file, out / file.name)


def _merged(folder: Path, network: Any, adapter: Path) -> Any:
    """Return the base with the adapter's weights added to its own."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    network.save_pretrained(adapter)
    base = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers has since given up.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
        return PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()


def _mark_known(folder: Path, out: Path, records: Sequence[DiseaseRecord], verdict: Mapping[str, str]) -> None:
    """Say which documents the model may rank alone.

    Only a base that was trained on one knowledge base says so of itself. Over this one it is no longer fused with
    recall if it was shown to be better than recall on diseases that it was not trained on.
    """
    if (folder / "known_documents.txt").is_file():
        known = records if verdict["over_recall"] == "better" else ()
        digests = (document_digest(record.card()) for record in known)
        (out / "known_documents.txt").write_text("".join(f"{digest}\n" for digest in digests), "utf-8")


def _part(queries: Sequence[JudgedQuery], rankings: Mapping[str, list[list[str]]], split: _Split) -> dict[str, Any]:
    comparison = Comparison(queries, {stage: rankings[stage] for stage in ("recall", "base", "tuned")})
    differences = {
        f"tuned - {before}": {
            metric: gain.as_json()
            for metric in ("hit@1", "mrr@10")
            if (gain := comparison.difference(before, "tuned", metric)) is not None
        }
        for before in ("base", "recall")
    }
    return {
        "n": len(queries),
        "stages": comparison.table(),
        "intervals": comparison.intervals(),
        "differences": differences,
    }


def _verdict(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return what may be claimed, judged on the user's own queries if there are enough, else on synthetic ones."""
    own = parts.get("own")
    enough = own is not None and own["differences"]["tuned - base"]["mrr@10"]["verdict"] != "too few queries"
    judged_on = "own" if enough else "unseen"
    differences = parts[judged_on]["differences"]
    return {
        "judged_on": judged_on,
        "over_base": differences["tuned - base"]["mrr@10"]["verdict"],
        "over_recall": differences["tuned - recall"]["mrr@10"]["verdict"],
    }


def _claim(out: Path, work: Path, fingerprint: str) -> None:
    """Make `out` this run's, or find that it already is."""
    if str(out) == BUNDLED:
        raise FinetuneError(f"{BUNDLED!r} is what the package's own model is called; give another --out")
    if (out / "report.json").exists() or (out.is_dir() and any(out.iterdir()) and not (work / "run.json").is_file()):
        raise FinetuneError(f"{out} is not empty; give another --out")
    run = work / "run.json"
    if run.is_file():
        if json.loads(run.read_text("utf-8"))["fingerprint"] != fingerprint:
            raise FinetuneError(
                f"{out} holds an unfinished run with other settings, data or base; start it again as it was, or "
                f"remove the folder, or give another --out"
            )
        return
    work.mkdir(parents=True, exist_ok=True)
    _write(run, {"fingerprint": fingerprint})


def _fingerprint(folder: Path, materials: Materials, settings: Settings) -> str:
    """Return a digest of all that a run depends on."""
    models = [folder] if settings.teacher is None else [folder, model_folder(settings.teacher, kind="reranker")]
    parts: dict[str, Iterable[Any]] = {
        "models": map(resolved_revision, models),
        "settings": [{**asdict(settings), "device": None}],
        "embeddings": [identity(materials.embeddings)],
        "records": (record.model_dump() for record in materials.records),
        "documents": ([document.page_content, document.metadata] for document in materials.documents),
        "lexicon": (entry.model_dump() for entry in materials.lexicon.entries.values()),
        "queries": (query.model_dump() for query in materials.queries),
        "kept_out": materials.kept_out,
    }
    digest = hashlib.sha256()
    for name, part in parts.items():
        for item in part:
            digest.update(json.dumps([name, item], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _check_extra() -> None:
    try:
        import accelerate  # noqa: F401 - sentence-transformers asks for both of them too late, in a traceback
        import datasets  # noqa: F401
    except ImportError:
        raise FinetuneError("finetune needs: pip install 'langchain-bge-medical[train]'") from None
