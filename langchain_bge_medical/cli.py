"""The command line, and the one place that wires concrete classes, reads the environment and prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_bge_medical.knowledge_base import KnowledgeBaseError
from langchain_bge_medical.model_files import BUNDLED, bundled_knowledge_base

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable

    from langchain_bge_medical.clinical.lexicon import SymptomLexicon
    from langchain_bge_medical.document_compressors import BGERerankerCompressor
    from langchain_bge_medical.retrievers import BGERerankRetriever

app = typer.Typer(
    name="langchain-bge-medical",
    help="Recall diseases for a patient's words and rerank them with a cross-encoder. 症状 → 可能相关的疾病。",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)


class Search(str, Enum):
    """How candidates are recalled."""

    hybrid = "hybrid"
    dense = "dense"


class Lang(str, Enum):
    """Language of what is shown."""

    zh = "zh"
    en = "en"


class UserError(Exception):
    """A mistake of the user's, shown as one line; exit code 2."""


_TEXTS = {
    "zh": {
        "columns": ("#", "疾病", "相关度(未校准)", "召回名次", "科室", "符合的症状", "否认或不符"),
        "bundled": "使用随包附带的小模型(仅在本项目自带知识库上训练),仅供演示;正式使用请换用 BAAI/bge-reranker-v2-m3。",
        "abstained": "没有可靠匹配。",
        "chat": "请描述症状。补充的话会与前面的合并;/new 重新开始,/sources 查看依据,/quit 退出。",
        "sources": "还没有依据。",
        "indexed": "已建立索引:{count} 种疾病 → {path}",
        "you": "您",
    },
    "en": {
        "columns": ("#", "Disease", "Relevance (uncalibrated)", "Recall rank", "Department", "Fits", "Denied or against"),
        "bundled": "Using the small bundled model, trained on this project's own knowledge base, for demonstration; "
        "use BAAI/bge-reranker-v2-m3 in earnest.",
        "abstained": "No reliable match.",
        "chat": "Describe the symptoms. What you add is put together with what you said; /new starts over, "
        "/sources shows the sources, /quit ends.",
        "sources": "No sources yet.",
        "indexed": "Indexed {count} diseases → {path}",
        "you": "You",
    },
}

KB = Annotated[
    Path | None,
    typer.Option("--kb", help="Knowledge base: a file or a folder. Default: the bundled one.", show_default=False),
]
Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        help="Folder of the FAISS index; built there if it is not. Default: in memory.",
        show_default=False,
    ),
]
Reranker = Annotated[str, typer.Option(help="Reranker: hub name, folder, or 'bundled'.")]
EmbeddingsName = Annotated[str, typer.Option("--embeddings", help="Embedding model: hub name, folder, or 'bundled'.")]
SearchMode = Annotated[Search, typer.Option(help="Recall by vectors and words, or by vectors alone.")]
FetchK = Annotated[int, typer.Option(min=1, help="Candidates that are reranked.")]
TopN = Annotated[int, typer.Option(min=1, help="Diseases that are shown.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda:0, … Default: the best there is.", show_default=False)]
DTypeName = Annotated[str, typer.Option("--dtype", help="auto, float32, float16, bfloat16 or int8.")]
LLM = Annotated[
    str | None,
    typer.Option(
        "--llm",
        help="Chat model as PROVIDER:MODEL, e.g. openai:deepseek-chat. Default: none, an extract.",
        show_default=False,
    ),
]
LLMUrl = Annotated[
    str | None,
    typer.Option("--llm-base-url", help="Address of an OpenAI-compatible server.", show_default=False),
]
Language = Annotated[Lang, typer.Option("--lang", help="Language of what is shown.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@dataclass
class Parts:
    """What a command works with, put together once."""

    documents: list[Document]
    vectorstore: FAISS
    recall: BaseRetriever
    compressor: BGERerankerCompressor
    retriever: BGERerankRetriever
    lexicon: SymptomLexicon
    model: dict[str, Any]


@app.command()
def ask(
    query: Annotated[str, typer.Argument(help="The patient's words.")],
    kb: KB = None,
    index: Index = None,
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    top_n: TopN = 5,
    device: Device = None,
    dtype: DTypeName = "auto",
    llm: LLM = None,
    llm_base_url: LLMUrl = None,
    lang: Language = Lang.zh,
    as_json: AsJSON = False,
) -> None:
    """Answer one description of symptoms. 回答一次提问。."""
    if not query.strip():
        raise UserError("the query is blank; describe the symptoms, e.g. ask '发烧三天,咳嗽,痰多'")
    parts = _assemble(kb, index, reranker, embeddings, search, fetch_k, top_n, device, dtype)
    parts.compressor.warmup()
    chain = _chain(parts, llm, llm_base_url, lang)
    watch = _stopwatch()
    started = time.perf_counter()
    answer = chain.invoke(query, config={"callbacks": [watch]})
    total = (time.perf_counter() - started) * 1_000
    documents = answer["documents"]
    report = {
        "query": query,
        "model": parts.model,
        **answer["assessment"],
        "answer": answer["answer"],
        "timings_ms": {**watch.milliseconds, "total": round(total, 1)},
    }
    if as_json:
        print(json.dumps(report, ensure_ascii=False))  # noqa: T201 - rich would wrap it
        return
    _show_model(parts.model, lang)
    if documents:
        out.print(_table(documents, lang))
    else:
        out.print(_TEXTS[lang.value]["abstained"])
    out.print(escape(report["answer"]), soft_wrap=True, highlight=False)


@app.command()
def chat(
    kb: KB = None,
    index: Index = None,
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    top_n: TopN = 5,
    device: Device = None,
    dtype: DTypeName = "auto",
    llm: LLM = None,
    llm_base_url: LLMUrl = None,
    lang: Language = Lang.zh,
) -> None:
    """Talk about symptoms; what is added refines the picture. 多轮对话。."""
    from langchain_bge_medical.chat import ChatSession

    texts = _TEXTS[lang.value]
    parts = _assemble(kb, index, reranker, embeddings, search, fetch_k, top_n, device, dtype)
    chain = _chain(parts, llm, llm_base_url, lang)
    session = ChatSession(chain)
    _show_model(parts.model, lang)
    out.print(str(texts["chat"]))
    while True:
        try:
            line = out.input(f"[bold]{texts['you']}>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        if line == "/new":
            session.new()
        elif line == "/sources":
            out.print(_table(session.documents, lang) if session.documents else str(texts["sources"]))
        elif line:
            for piece in session.ask(line):
                out.print(escape(piece), end="", highlight=False, soft_wrap=True)
            out.print()


@app.command("index")
def index_command(
    index: Annotated[Path, typer.Option("--index", help="Folder to write.")],
    kb: KB = None,
    embeddings: EmbeddingsName = BUNDLED,
    device: Device = None,
    lang: Language = Lang.zh,
) -> None:
    """Embed a knowledge base into an index; texts that are in it already are not embedded again. 建立索引。."""
    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.vectorstores import build_index

    model = BGEEmbeddings(embeddings, device=device)
    loader = MedicalKBLoader(kb or bundled_knowledge_base())
    store = build_index(_counted(loader.lazy_load(), "embedding"), model, index)
    out.print(str(_TEXTS[lang.value]["indexed"]).format(count=store.index.ntotal, path=index), soft_wrap=True)


@app.command()
def evaluate(
    queries: Annotated[
        Path, typer.Option("--queries", help='JSON Lines of {"query", "relevant", "irrelevant"?, "triage"?}.')
    ],
    kb: KB = None,
    index: Index = None,
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    device: Device = None,
    dtype: DTypeName = "auto",
    as_json: AsJSON = False,
) -> None:
    """Measure recall and reranking on labelled queries, side by side. 评测。."""
    from langchain_bge_medical.chains import no_reliable_match
    from langchain_bge_medical.clinical.triage import default_red_flags
    from langchain_bge_medical.evaluation.compare import (
        NameIndex,
        QueryFileError,
        abstention,
        compare_stages,
        read_queries,
        triage_accuracy,
    )

    try:
        labelled = read_queries(queries)
    except (QueryFileError, FileNotFoundError) as error:
        raise UserError(str(error)) from None
    parts = _assemble(kb, index, reranker, embeddings, search, fetch_k, None, device, dtype)
    names = NameIndex(document.metadata for document in parts.documents)
    flags = default_red_flags()
    found: dict[str, list[Document]] = {}

    def reranked(query: str) -> list[Document]:
        if query not in found:
            found[query] = parts.retriever.invoke(query)
        return found[query]

    def abstains(query: str) -> bool:
        return no_reliable_match(query, reranked(query), parts.lexicon)

    report = compare_stages(labelled, _stages(parts, fetch_k, reranked), names)
    report = {
        "n": report["n"],
        "model": parts.model,
        "stages": report["stages"],
        "abstention": abstention(labelled, abstains),
        "triage": triage_accuracy(labelled, lambda query: flags.triage(query).level),
        "pairwise": report["pairwise"],
        "missing_from_kb": report["missing_from_kb"],
    }
    if as_json:
        print(json.dumps(report, ensure_ascii=False))  # noqa: T201
        return
    _show_evaluation(report)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    from langchain_bge_medical.evaluation.compare import QueryFileError
    from langchain_bge_medical.model_files import ModelNotFoundError
    from langchain_bge_medical.vectorstores import IndexMismatchError

    # Bars over weights of a few megabytes, and a network that nobody asked for.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    _quiet_transformers()
    mistakes = (
        UserError,
        KnowledgeBaseError,
        IndexMismatchError,
        ModelNotFoundError,
        QueryFileError,
        FileNotFoundError,
    )
    try:
        app(standalone_mode=True)
    except mistakes as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)


def _assemble(
    kb: Path | None,
    index: Path | None,
    reranker: str,
    embeddings: str,
    search: Search,
    fetch_k: int,
    top_n: int | None,
    device: str | None,
    dtype: str,
) -> Parts:
    """Put the two stages together; progress is shown for what may take more than two seconds."""
    from pydantic import ValidationError

    from langchain_bge_medical.clinical.coverage import AffirmedWords, SymptomCoverage
    from langchain_bge_medical.clinical.lexicon import default_lexicon
    from langchain_bge_medical.document_compressors import BGERerankerCompressor
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.retrievers import BGERerankRetriever, build_hybrid_retriever, searchable_text
    from langchain_bge_medical.vectorstores import stored_documents

    affirmed = AffirmedWords()
    try:
        compressor = BGERerankerCompressor(
            model_name=reranker,
            top_n=top_n,
            device=device,
            dtype=dtype,
            query_to_text=affirmed,
            adjust=SymptomCoverage(),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
    model = BGEEmbeddings(embeddings, device=device)
    store = _store(kb, index, model)
    documents = stored_documents(store)
    lexicon = default_lexicon()
    recall: BaseRetriever
    if search is Search.hybrid:
        recall = build_hybrid_retriever(store, documents, fetch_k=fetch_k, document_to_text=searchable_text(lexicon))
    else:
        recall = store.as_retriever(search_kwargs={"k": fetch_k})
    retriever = BGERerankRetriever(
        base_retriever=recall, compressor=compressor, fetch_k=fetch_k, k=top_n or fetch_k, query_to_text=affirmed
    )
    names = {"reranker": reranker, "embeddings": embeddings, "bundled": BUNDLED in (reranker, embeddings)}
    return Parts(documents, store, recall, compressor, retriever, lexicon, names)


def _chain(parts: Parts, llm: str | None, base_url: str | None, lang: Lang) -> Runnable[Any, dict[str, Any]]:
    from langchain_bge_medical.answer_guard import names_of
    from langchain_bge_medical.chains import build_answer_chain

    return build_answer_chain(
        parts.retriever,
        _chat_model(llm, base_url),
        lang=lang.value,
        lexicon=parts.lexicon,
        disease_names=[name for document in parts.documents for name in names_of(document)],
    )


def _store(kb: Path | None, index: Path | None, model: Any) -> FAISS:
    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.vectorstores import build_index, load_index

    if index is not None and (index / "manifest.json").exists() and kb is None:
        return load_index(index, model)
    loader = MedicalKBLoader(kb or bundled_knowledge_base())
    return build_index(_counted(loader.lazy_load(), "embedding"), model, index)


def _stages(
    parts: Parts, fetch_k: int, reranked: Callable[[str], list[Document]]
) -> dict[str, Callable[[str], list[str]]]:
    """Return the rankers that `evaluate` compares: rerank is the model's order alone, blend adds the coverage."""
    from langchain_bge_medical.retrievers import BM25Retriever, build_hybrid_retriever, searchable_text

    # Whatever --search is, both halves of recall are shown beside each other.
    to_text = searchable_text(parts.lexicon)
    dense = parts.vectorstore.as_retriever(search_kwargs={"k": fetch_k})
    lexical = BM25Retriever(documents=parts.documents, k=fetch_k, document_to_text=to_text)
    hybrid = build_hybrid_retriever(parts.vectorstore, parts.documents, fetch_k=fetch_k, document_to_text=to_text)

    def by_logit(query: str) -> list[Document]:
        logits = {id(document): document.metadata["relevance_logit"] for document in reranked(query)}
        in_recall_order = sorted(reranked(query), key=lambda document: document.metadata["recall_rank"])
        known = [document for document in in_recall_order if logits[id(document)] is not None]
        return sorted(known, key=lambda document: -logits[id(document)])

    def names(find: Callable[[str], list[Document]]) -> Callable[[str], list[str]]:
        return lambda query: [document.metadata["disease"] for document in find(query)[:fetch_k]]

    stages = {
        "bm25": lexical.invoke,
        "dense": dense.invoke,
        "hybrid": hybrid.invoke,
        "rerank": by_logit,
        "blend": reranked,
    }
    return {stage: names(find) for stage, find in stages.items()}


def _table(documents: list[Document], lang: Lang) -> Table:
    table = Table(*_TEXTS[lang.value]["columns"])
    for rank, document in enumerate(documents, start=1):
        metadata = document.metadata
        fits, against = _words(metadata["evidence"], "matched"), _words(metadata["evidence"], "denied", "contradicting")
        cells = (rank, metadata.get("disease"), f"{metadata['relevance_score']:.3f}", metadata["recall_rank"])
        table.add_row(*(escape(str(cell)) for cell in (*cells, metadata.get("department", ""), fits, against)))
    return table


def _words(evidence: list[dict[str, Any]], *statuses: str) -> str:
    said = [e for e in evidence if e["field"] == "query" and e["status"] in statuses]
    return "、".join(dict.fromkeys(e["text"] for e in said))


def _show_model(model: dict[str, Any], lang: Lang) -> None:
    if model["bundled"]:
        out.print(f"[dim]{_TEXTS[lang.value]['bundled']}[/dim]", soft_wrap=True)


def _show_evaluation(report: dict[str, Any]) -> None:
    stages = report["stages"]
    columns = list(next(iter(stages.values())))
    table = Table("stage", *columns, "pairwise", title=f"n = {report['n']}")
    for stage, row in stages.items():
        cells = [*row.values(), report["pairwise"][stage]]
        table.add_row(stage, *("-" if value is None else f"{value:.3f}" for value in cells))
    out.print(table)
    for name in ("abstention", "triage"):
        shown = ", ".join(f"{key} {value}" for key, value in report[name].items() if value is not None)
        out.print(f"{name}: {shown}")
    if report["missing_from_kb"]:
        out.print(f"missing from the knowledge base: {', '.join(report['missing_from_kb'])}")


def _chat_model(spec: str | None, base_url: str | None) -> BaseChatModel | None:
    """Return the chat model that `PROVIDER:MODEL` names."""
    if spec is None:
        if base_url is not None:
            raise UserError("--llm-base-url needs --llm openai:MODEL")
        return None
    provider, _, name = spec.partition(":")
    if not name:
        raise UserError(f"--llm is PROVIDER:MODEL, e.g. openai:deepseek-chat, got {spec!r}")
    if provider != "openai":
        try:
            from langchain.chat_models import init_chat_model
        except ImportError:
            raise UserError(
                f"--llm {provider}:… needs `pip install langchain langchain-{provider}`; openai:… with --llm-base-url "
                f"reaches every OpenAI-compatible server (DeepSeek, Qwen, Ollama, vLLM)"
            ) from None
        return init_chat_model(name, model_provider=provider)  # type: ignore[no-any-return]
    try:
        from langchain_openai import ChatOpenAI
    except ImportError:
        raise UserError("--llm openai:… needs: pip install 'langchain-bge-medical[llm]'") from None
    key = os.environ.get("OPENAI_API_KEY")
    if key is None and base_url is None and "OPENAI_BASE_URL" not in os.environ:
        raise UserError(
            "--llm openai:… needs OPENAI_API_KEY in the environment, or --llm-base-url of a server that wants none"
        )
    return ChatOpenAI(model=name, base_url=base_url, api_key=key or "none")


def _stopwatch() -> Any:
    """Return a callback handler that times recall and reranking, wherever in a chain they run."""
    from langchain_core.callbacks import BaseCallbackHandler

    class Stopwatch(BaseCallbackHandler):
        run_inline = True  # in the order of the calls, not on a thread

        def __init__(self) -> None:
            self._started: dict[UUID, tuple[str, float]] = {}
            self._inside: set[UUID] = set()
            self.milliseconds = {"recall": 0.0, "rerank": 0.0}

        def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, name: str = "", **_: Any) -> None:
            # The two-stage retriever contains both stages; of nested recalls the outermost counts.
            if name != "BGERerankRetriever" and not self._started:
                self._started[run_id] = ("recall", time.perf_counter())

        def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, name: str = "", **_: Any) -> None:
            if name == "BGERerankerCompressor":
                self._started[run_id] = ("rerank", time.perf_counter())

        def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
            self._stop(run_id)

        def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
            self._stop(run_id)

        def _stop(self, run_id: UUID) -> None:
            if run_id in self._started:
                stage, started = self._started.pop(run_id)
                elapsed = (time.perf_counter() - started) * 1_000
                self.milliseconds[stage] = round(self.milliseconds[stage] + elapsed, 1)

    return Stopwatch()


def _counted(documents: Iterable[Document], what: str) -> Iterable[Document]:
    """Yield the documents; on a terminal, show how many have gone by."""
    if not err.is_terminal:
        yield from documents
        return
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        for document in documents:
            yield document
            progress.advance(task)


def _quiet_transformers() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


if __name__ == "__main__":
    main()
