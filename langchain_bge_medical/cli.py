"""The command line, and the one place that wires concrete classes, reads the environment and prints."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from uuid import UUID

import typer
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_bge_medical.knowledge_base import KnowledgeBaseError
from langchain_bge_medical.model_files import BUNDLED, bundled_calibration, bundled_knowledge_base, model_folder
from langchain_bge_medical.well_formed import well_formed

if TYPE_CHECKING:
    from fastapi import FastAPI
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable
    from langchain_core.vectorstores import VectorStore
    from ray.serve import Application

    from langchain_bge_medical.clinical.lexicon import SymptomLexicon
    from langchain_bge_medical.confidence import Calibration
    from langchain_bge_medical.distributed.ray_data import Progress
    from langchain_bge_medical.document_compressors import BGERerankerCompressor
    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.remote_cross_encoders import RemoteCrossEncoder
    from langchain_bge_medical.retrievers import BGERerankRetriever
    from langchain_bge_medical.serving.scheduler import ScoringEngine

app = typer.Typer(
    name="langchain-bge-medical",
    help="Recall diseases for a patient's words and rerank them with a cross-encoder. 症状 → 可能相关的疾病。",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)
T = TypeVar("T")
Kind = Literal["reranker", "embeddings"]


class Search(str, Enum):
    """How candidates are recalled."""

    hybrid = "hybrid"
    dense = "dense"


class DType(str, Enum):
    """What a reranker computes in."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Lang(str, Enum):
    """Language of what is shown."""

    zh = "zh"
    en = "en"


class Loss(str, Enum):
    """What a reranker is tuned with."""

    bce = "bce"
    listwise = "listwise"
    mse = "mse"
    margin_mse = "margin-mse"


class Fit(str, Enum):
    """How scores become a confidence."""

    platt = "platt"
    isotonic = "isotonic"


class UserError(Exception):
    """A mistake of the user's, shown as one line; exit code 2."""


_TEXTS = {
    "zh": {
        "columns": ("#", "疾病", "相关度(未校准)", "召回名次", "科室", "符合的症状", "否认或不符"),
        "confidence": "置信度",
        "bundled": "使用随包附带的小模型(仅在本项目自带知识库上训练),仅供演示;正式使用请换用 BAAI/bge-reranker-v2-m3。",
        "abstained": "没有可靠匹配。",
        "chat": "请描述症状。补充的话会与前面的合并;/new 重新开始,/sources 查看依据,/quit 退出。",
        "sources": "还没有依据。",
        "too_long": "太长了:这次说的连同之前说的,最多 {most:,} 字。这一句没有计入,请说短一些,或用 /new 重新开始。",
        "indexed": "已建立索引:{count} 种疾病 → {path}",
        "you": "您",
        "tuned": "已保存到 {path};用 --reranker {path} 使用",
        "calibrated": (
            "排第一的疾病,校准误差 {ece_before:.3f} → {ece:.3f};所显示的全部疾病 {ece_shown_before:.3f} → "
            "{ece_shown:.3f}(交叉验证,{queries} 条提问)",
            "把握低于 {threshold:.3f} 时不作回答:真实提问被拒 {refused_real:.1%},离题的被拒 {off}",
            "已保存到 {path}",
        ),
        "no_off_topic": "未知(文件中没有离题的)",
    },
    "en": {
        "columns": (
            "#",
            "Disease",
            "Relevance (uncalibrated)",
            "Recall rank",
            "Department",
            "Fits",
            "Denied or against",
        ),
        "confidence": "Confidence",
        "bundled": "Using the small bundled model, trained on this project's own knowledge base, for demonstration; "
        "use BAAI/bge-reranker-v2-m3 in earnest.",
        "abstained": "No reliable match.",
        "chat": "Describe the symptoms. What you add is put together with what you said; /new starts over, "
        "/sources shows the sources, /quit ends.",
        "sources": "No sources yet.",
        "too_long": "That is too long: at most {most:,} characters are taken, with what was said before. This was not "
        "added; say less, or start over with /new.",
        "indexed": "Indexed {count} diseases → {path}",
        "you": "You",
        "tuned": "Saved to {path}; --reranker {path} uses it",
        "calibrated": (
            "Calibration error of the disease ranked first: {ece_before:.3f} → {ece:.3f}, of all shown: "
            "{ece_shown_before:.3f} → {ece_shown:.3f} (cross-validated, {queries} queries)",
            "Nothing is said below a chance of {threshold:.3f}: {refused_real:.1%} of the real queries are refused, of "
            "the off-topic ones {off}",
            "Saved to {path}",
        ),
        "no_off_topic": "unknown, there are none in the file",
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
        help="Folder of the index; built there if it is not. Default: in memory.",
        show_default=False,
    ),
]
Store = Annotated[
    str,
    typer.Option(
        help="Vector store: faiss; chroma or milvus, in the folder of --index; milvus:http://HOST:19530 or "
        "chroma:http://HOST:8000 on a server. A Milvus server's token: MILVUS_TOKEN."
    ),
]
Reranker = Annotated[
    str,
    typer.Option(
        help="Reranker: hub name, folder, 'bundled', or http://SERVER of a rerank service (several with commas; "
        "#MODEL after it names the model). Its key: BGE_MEDICAL_RERANKER_API_KEY."
    ),
]
EmbeddingsName = Annotated[str, typer.Option("--embeddings", help="Embedding model: hub name, folder, or 'bundled'.")]
SearchMode = Annotated[Search, typer.Option(help="Recall by vectors and words, or by vectors alone.")]
FetchK = Annotated[int, typer.Option(min=1, help="Candidates that are reranked.")]
TopN = Annotated[int, typer.Option(min=1, help="Diseases that are shown.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda:0, … Default: the best there is.", show_default=False)]
DTypeName = Annotated[DType, typer.Option("--dtype", help="What the reranker computes in.")]
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
    typer.Option("--llm-base-url", help="Address of its server, e.g. an OpenAI-compatible one.", show_default=False),
]
Language = Annotated[Lang, typer.Option("--lang", help="Language of what is shown.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@dataclass
class Parts:
    """What a command works with, put together once."""

    documents: list[Document]
    vectorstore: VectorStore
    recall: BaseRetriever
    compressor: BGERerankerCompressor
    retriever: BGERerankRetriever
    lexicon: SymptomLexicon
    model: dict[str, Any]
    calibration: Calibration | None = None


@app.command()
def ask(
    query: Annotated[str, typer.Argument(help="The patient's words.")],
    kb: KB = None,
    index: Index = None,
    store: Store = "faiss",
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    top_n: TopN = 5,
    device: Device = None,
    dtype: DTypeName = DType.auto,
    llm: LLM = None,
    llm_base_url: LLMUrl = None,
    lang: Language = Lang.zh,
    as_json: AsJSON = False,
) -> None:
    """Answer one description of symptoms. 回答一次提问。."""
    if not query.strip():
        raise UserError("the query is blank; describe the symptoms, e.g. ask '发烧三天,咳嗽,痰多'")
    from langchain_bge_medical.chains import QueryTooLongError, triage_text
    from langchain_bge_medical.clinical.triage import Triage

    chat_model = _chat_model(llm, llm_base_url)
    parts = _assemble(kb, index, store, reranker, embeddings, search, fetch_k, top_n, device, dtype.value)
    parts.compressor.warmup()
    chain = _chain(parts, chat_model, lang)
    query = well_formed(query)  # bytes of another encoding come as halves of characters
    watch = _stopwatch()
    started = time.perf_counter()
    try:
        answer = chain.invoke(query, config={"callbacks": [watch]})
    except QueryTooLongError as error:
        raise UserError(str(error)) from None
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
        _print_json(report)
        return
    _show_model(parts.model, lang)
    # Red flags stand before everything that was ranked.
    flags = triage_text(Triage.model_validate(report["triage"]), lang.value)
    out.print(escape(flags), soft_wrap=True, highlight=False, end="")
    if documents:
        out.print(_table(documents, lang))
    else:
        out.print(_TEXTS[lang.value]["abstained"])
    out.print(escape(report["answer"].removeprefix(flags)), soft_wrap=True, highlight=False)


@app.command()
def chat(
    kb: KB = None,
    index: Index = None,
    store: Store = "faiss",
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    top_n: TopN = 5,
    device: Device = None,
    dtype: DTypeName = DType.auto,
    llm: LLM = None,
    llm_base_url: LLMUrl = None,
    lang: Language = Lang.zh,
) -> None:
    """Talk about symptoms; what is added refines the picture. 多轮对话。."""
    from langchain_bge_medical.chains import LONGEST_QUERY, QueryTooLongError
    from langchain_bge_medical.chat import ChatSession

    texts = _TEXTS[lang.value]
    chat_model = _chat_model(llm, llm_base_url)
    parts = _assemble(kb, index, store, reranker, embeddings, search, fetch_k, top_n, device, dtype.value)
    chain = _chain(parts, chat_model, lang)
    parts.compressor.warmup()  # a reranker that there is not is told before the patient types anything
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
            try:
                for piece in session.ask(line):
                    out.print(escape(piece), end="", highlight=False, soft_wrap=True)
                out.print()
            except QueryTooLongError:
                out.print(str(texts["too_long"]).format(most=LONGEST_QUERY), highlight=False)


@app.command("index")
def index_command(
    index: Annotated[Path | None, typer.Option("--index", help="Folder to write.", show_default=False)] = None,
    kb: KB = None,
    store: Store = "faiss",
    embeddings: EmbeddingsName = BUNDLED,
    check: Annotated[
        bool, typer.Option("--check", help="Only look for problems in the knowledge base, and write nothing.")
    ] = False,
    device: Device = None,
    lang: Language = Lang.zh,
    as_json: AsJSON = False,
) -> None:
    """Embed a knowledge base into an index, or check it; texts that are there are kept. 建立索引,检查知识库。."""
    from langchain_bge_medical.document_loaders import MedicalKBLoader

    loader = MedicalKBLoader(kb or bundled_knowledge_base())
    if check:
        _check(loader, as_json, None if kb is None else embeddings)
        return
    if index is None and ":" not in store:
        raise UserError("--index FOLDER says where the index goes; --check looks at the knowledge base alone")
    from langchain_bge_medical.embeddings import BGEEmbeddings

    model = BGEEmbeddings(embeddings, device=device)
    _, documents = _store(kb or bundled_knowledge_base(), index, store, model)
    if as_json:
        _print_json({"index": str(index or store), "records": len(documents)})
        return
    said = str(_TEXTS[lang.value]["indexed"]).format(count=len(documents), path=index or store)
    out.print(escape(said), soft_wrap=True)


def _check(loader: MedicalKBLoader, as_json: bool, embeddings: str | None) -> None:
    """List what is wrong with a knowledge base; exit code 1 if something keeps records from being loaded.

    `embeddings` is the model that is to read it whole; `None` for the bundled one, which nobody here can shorten.
    """
    from langchain_bge_medical.clinical.lexicon import default_lexicon
    from langchain_bge_medical.embeddings import unread_tokens
    from langchain_bge_medical.knowledge_base_check import check_records

    report = check_records(
        _counted(loader.lazy_attempts(), "checking"),
        terms=default_lexicon().entries,
        unread=None if embeddings is None else unread_tokens(embeddings),
    )
    summary = report.as_json()
    if as_json:
        _print_json(summary)
    else:
        for problem in report.problems:
            where = " ".join(filter(None, (problem.place, problem.disease, problem.field)))
            out.print(f"{problem.level}: {escape(where)}: {escape(problem.message)}", soft_wrap=True, highlight=False)
        known = "" if report.known_symptoms is None else f", {report.known_symptoms:.0%} of symptoms are in the lexicon"
        out.print(f"{summary['records']} records, {summary['errors']} errors, {summary['warnings']} warnings{known}")
    if summary["errors"]:
        raise typer.Exit(1)


@app.command()
def serve(
    kb: KB = None,
    index: Index = None,
    store: Store = "faiss",
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    device: Device = None,
    dtype: DTypeName = DType.auto,
    llm: LLM = None,
    llm_base_url: LLMUrl = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535)] = 8_000,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Other origin whose pages may call; repeatable.", show_default=False)
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Of each API key (or address).", show_default=False)
    ] = None,
    max_wait: Annotated[float, typer.Option(min=0.1, help="Seconds of queue beyond which requests get 429.")] = 10.0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds after which a request gets 504.")] = 30.0,
    log_text_sample: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests whose text is logged. PATIENTS' WORDS IN THE LOG.")
    ] = 0.0,
    otel: Annotated[bool, typer.Option("--otel", help="Traces by OTLP, as the OTEL_… variables say.")] = False,
    on_ray: Annotated[bool, typer.Option("--ray", help="On Ray Serve, in replicas; on a cluster of its own.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="With --ray: a cluster there is, e.g. auto; the service stays there.", show_default=False),
    ] = None,
    replicas: Annotated[str, typer.Option(help="With --ray: how many, or from-to, e.g. 1-8.")] = "1",
    replica_cpus: Annotated[int, typer.Option(min=1, help="With --ray: cores of each replica.")] = 1,
    replica_gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each replica.")] = 0,
) -> None:
    """Start the REST service and the page. API keys: BGE_MEDICAL_API_KEYS=key1,key2. 启动服务。."""
    try:
        from langchain_bge_medical.serving import server
    except ImportError:
        raise UserError("serve needs: pip install 'langchain-bge-medical[serve]'") from None
    _without_tracing()
    if not _api_keys() and host not in ("127.0.0.1", "::1", "localhost"):
        err.print("[yellow]warning:[/yellow] open to the network without a key; set BGE_MEDICAL_API_KEYS")
    if log_text_sample:
        err.print("[bold red]WARNING: patients' words are written to the log (--log-text-sample)[/bold red]")
    settings = ServiceSettings(
        kb=kb,
        index=index,
        store=store,
        reranker=reranker,
        embeddings=embeddings,
        search=search,
        fetch_k=fetch_k,
        device=device,
        dtype=dtype,
        llm=llm,
        llm_base_url=llm_base_url,
        cors_origin=cors_origin or [],
        requests_per_second=requests_per_second,
        max_wait=max_wait,
        deadline=deadline,
        log_text_sample=log_text_sample,
        otel=otel,
    )
    _chat_model(llm, llm_base_url)  # a mistake there is told before anything is started
    if on_ray or address is not None:
        _serve_on_ray(settings, replicas, replica_cpus, replica_gpus, host, port, address)
        return
    try:
        listener = server.listen(host, port)
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror}; take another with --port") from None
    sys.exit(server.serve(build_service(settings, _api_keys()), listener))


_TRACING = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING")
# What a sound reranker can score.
_PROBE = ("发热、咳嗽", "普通感冒:鼻塞、流涕、咽痛、低热")


class ServiceSettings(BaseModel):
    """What the service is made of: the options of `serve` that are not about where it listens."""

    model_config = ConfigDict(extra="forbid")

    kb: Path | None = None
    index: Path | None = None
    store: str = "faiss"
    reranker: str = BUNDLED
    embeddings: str = BUNDLED
    search: Search = Search.hybrid
    fetch_k: int = Field(default=50, ge=1)
    device: str | None = None
    dtype: DType = DType.auto
    llm: str | None = None
    llm_base_url: str | None = None
    cors_origin: list[str] = []
    requests_per_second: float | None = Field(default=None, gt=0)
    max_wait: float = Field(default=10.0, gt=0)
    deadline: float = Field(default=30.0, gt=0)
    log_text_sample: float = Field(default=0.0, ge=0, le=1)
    otel: bool = False


def build_service(settings: ServiceSettings, api_keys: Sequence[str] = ()) -> FastAPI:
    """Return the service's app; the reranker is loaded when it starts.

    Args:
        settings: What it is made of.
        api_keys: Any of them opens; none means open to everybody.

    Returns:
        The app, as `create_app` returns it.

    Raises:
        ModelNotFoundError: If a model cannot be had.
        KnowledgeBaseError: If the knowledge base cannot be read.
        UserError: If a setting cannot be had, e.g. traces without the extra `otel`.
    """
    _without_tracing()  # in a replica, too, whose environment is its own
    from langchain_bge_medical.cross_encoders import BGECrossEncoder
    from langchain_bge_medical.serving.app import Model, create_app
    from langchain_bge_medical.serving.medical import MedicalSearch
    from langchain_bge_medical.serving.scheduler import ScoringEngine
    from langchain_bge_medical.serving.telemetry import otlp_tracer

    reranker, embeddings, device = settings.reranker, settings.embeddings, settings.device
    dtype = settings.dtype.value

    def load() -> BaseCrossEncoder:
        return _remote(reranker) or BGECrossEncoder(reranker, device=device, dtype=dtype)  # type: ignore[arg-type]  # an Enum of them

    try:
        tracer = otlp_tracer() if settings.otel else None
    except ImportError as error:
        raise UserError(f"--otel: {error}") from None
    revision = _identity(reranker)
    engine = ScoringEngine(load, max_wait_s=settings.max_wait, probe=_PROBE)
    parts = _assemble(
        settings.kb,
        settings.index,
        settings.store,
        reranker,
        embeddings,
        settings.search,
        settings.fetch_k,
        None,
        device,
        dtype,
        engine,
    )
    digest = hashlib.sha256("\0".join(document.page_content for document in parts.documents).encode()).hexdigest()
    medical = MedicalSearch(
        parts.recall,
        parts.compressor,
        parts.documents,
        knowledge={"records": len(parts.documents), "digest": f"sha256:{digest[:16]}"},
        llm=_chat_model(settings.llm, settings.llm_base_url),
        fetch_k=settings.fetch_k,
        lexicon=parts.lexicon,
        calibration=parts.calibration,
    )
    model = Model(name=reranker, revision=revision, dtype=dtype, bundled=parts.model["bundled"], embeddings=embeddings)
    return create_app(
        engine,
        model,
        medical=medical,
        api_keys=api_keys,
        requests_per_second=settings.requests_per_second,
        cors_origins=settings.cors_origin,
        deadline_s=settings.deadline,
        text_sample=settings.log_text_sample,
        tracer=tracer,
    )


def _without_tracing() -> None:
    for name in _TRACING:
        if os.environ.pop(name, None):
            err.print(f"[yellow]warning:[/yellow] {name} is ignored: it would send patients' words to another server")


def ray_application(args: dict[str, Any]) -> Application:
    """Return the service for `serve deploy` and KubeRay: `import_path: langchain_bge_medical.cli:ray_application`.

    Args:
        args: Of `ServiceSettings`, by name, and `replicas`: `least`, `most`, `cpus`, `gpus`. API keys are read from
            BGE_MEDICAL_API_KEYS where a replica runs.

    Returns:
        The application.

    Raises:
        ValueError: If an argument is not known or out of its range.
    """
    from langchain_bge_medical.distributed.ray_serve import Replicas, application

    given = dict(args)
    replicas = Replicas(**given.pop("replicas", {}))
    settings = ServiceSettings(**given)
    return application(lambda: build_service(settings, _api_keys()), _PROBE, replicas)


def _serve_on_ray(
    settings: ServiceSettings, replicas: str, cpus: int, gpus: float, host: str, port: int, address: str | None
) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from langchain_bge_medical.distributed import ray_serve
    except ImportError:
        raise UserError("serve --ray needs: pip install 'langchain-bge-medical[ray]'") from None
    least, _, most = replicas.partition("-")
    try:
        wanted = ray_serve.Replicas(int(least), int(most or least), cpus, gpus)
    except ValueError as error:
        raise UserError(f"--replicas is a number, or the least and the most, e.g. 1-4: {error}") from None
    keys = _api_keys()
    app_ = ray_serve.application(lambda: build_service(settings, keys), _PROBE, wanted)
    try:
        ray_serve.connect(address)
        stop = ray_serve.stop_signal()
        url = ray_serve.run(app_, host=host, port=port, address=address)
    except ConnectionError as error:
        raise UserError(f"--address {address}: {error}") from None
    except ray_serve.DeploymentError as error:
        raise UserError(str(error)) from None
    err.print(f"{url} ({wanted.least}-{wanted.most} replicas on Ray)", soft_wrap=True, highlight=False)
    if address is None:
        with contextlib.suppress(KeyboardInterrupt):
            stop.wait()
        ray_serve.end()


def _on_ray(address: str | None) -> ModuleType:
    """Return the offline jobs, with Ray started here or reached at an address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from langchain_bge_medical.distributed import ray_data, ray_serve
    except ImportError:
        raise UserError("this needs: pip install 'langchain-bge-medical[ray]'") from None
    try:
        ray_serve.connect(address)
    except ConnectionError as error:
        raise UserError(f"--address {address}: {error}") from None
    return ray_data


@contextlib.contextmanager
def _progress_of(what: str) -> Iterator[Callable[[Progress], None]]:
    """Show the parts that are done, on a terminal."""
    if not err.is_terminal:
        yield lambda _: None
        return
    from rich.progress import Progress as Bar

    with Bar(console=err, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda told: bar.update(task, completed=told.done, total=told.total)


def _api_keys() -> list[str]:
    keys = os.environ.get("BGE_MEDICAL_API_KEYS", "").split(",")
    return [key.strip() for key in keys if key.strip()]


@app.command("rerank")
def rerank_command(
    source: Annotated[
        Path,
        typer.Option("--input", help='JSON Lines (.gz too) or Parquet of {"query", "documents": [texts], ...}.'),
    ],
    save_to: Annotated[
        Path, typer.Option("--out", help="Folder for results.jsonl and its parts; a cut-short run goes on there.")
    ],
    reranker: Reranker = BUNDLED,
    top_n: Annotated[int | None, typer.Option(min=1, help="Kept of each; default: all.", show_default=False)] = None,
    device: Device = None,
    dtype: DTypeName = DType.auto,
    actors: Annotated[int, typer.Option(min=1, help="Models at work at the same time.")] = 1,
    actor_cpus: Annotated[int, typer.Option(min=1, help="Cores of each.")] = 1,
    actor_gpus: Annotated[float, typer.Option(min=0, help="GPUs of each.")] = 0,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster, e.g. auto; --input and --out have to be seen by all of it.", show_default=False
        ),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Rerank a file of queries and their documents, on Ray; goes on after a kill. 离线批量重排。."""
    from langchain_bge_medical.document_compressors import BGERerankerCompressor

    if not source.is_file():
        raise UserError(f"--input {source}: there is no such file")
    ray_data = _on_ray(address)
    key = os.environ.get("BGE_MEDICAL_RERANKER_API_KEY")

    def make() -> BGERerankerCompressor:
        if key is not None:
            os.environ["BGE_MEDICAL_RERANKER_API_KEY"] = key
        remote = _remote(reranker)
        if remote is not None:
            return BGERerankerCompressor(cross_encoder=remote, top_n=top_n)
        return BGERerankerCompressor(model_name=reranker, device=device, dtype=dtype.value, top_n=top_n)

    try:
        with _progress_of("reranking") as told:
            result = ray_data.rerank_file(
                source.absolute(),
                save_to.absolute(),
                make,
                settings=f"{_identity(reranker)} dtype={dtype.value} top_n={top_n}",
                actors=actors,
                cpus=actor_cpus,
                gpus=actor_gpus,
                on_progress=told,
            )
    except (ray_data.JobFailedError, ray_data.JobMismatchError, ray_data.SourceError) as error:
        raise UserError(str(error)) from None
    if as_json:
        _print_json({"path": str(result)})
        return
    out.print(escape(str(result)), soft_wrap=True, highlight=False)


@app.command()
def evaluate(
    queries: Annotated[
        Path, typer.Option("--queries", help='JSON Lines of {"query", "relevant", "irrelevant"?, "triage"?, "tags"?}.')
    ],
    kb: KB = None,
    index: Index = None,
    store: Store = "faiss",
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Another reranker to put beside it: hub name, folder, or 'bundled'. May be repeated."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with plots and the queries that got worse, in their words."),
    ] = None,
    device: Device = None,
    dtype: DTypeName = DType.auto,
    lang: Language = Lang.zh,
    as_json: AsJSON = False,
) -> None:
    """Measure recall and reranking on labelled queries, side by side. 评测。."""
    from langchain_bge_medical.clinical.assessment import Assessment, assess
    from langchain_bge_medical.clinical.coverage import AffirmedWords
    from langchain_bge_medical.clinical.triage import default_red_flags
    from langchain_bge_medical.evaluation import compare as comparing
    from langchain_bge_medical.evaluation import stages as staging
    from langchain_bge_medical.evaluation.report import guard_lines, html_report

    labelled = comparing.read_queries(queries)
    _check_file("--html", page)
    parts = _assemble(kb, index, store, reranker, embeddings, search, fetch_k, None, device, dtype.value)
    names = comparing.NameIndex(document.metadata for document in parts.documents)
    candidates = staging.recalled(parts.recall, fetch_k, AffirmedWords(parts.lexicon))
    found = {reranker: staging.reranked(candidates, parts.compressor)}
    for name in compare or ():
        found[name] = staging.reranked(candidates, _compressor(name, None, device, dtype.value))
    stages = _first_stages(parts, fetch_k, search, candidates)
    for name, find in found.items():
        suffix = "" if name == reranker else f" {name}"
        stages |= {f"rerank{suffix}": staging.by_logit(find), f"blend{suffix}": find}
    judged, missing = comparing.judged(labelled, names)
    comparison = comparing.compare(
        _counted(judged, "evaluating"), {stage: staging.names_of(find) for stage, find in stages.items()}
    )
    first = search.value
    later = [stage for stage in stages if stage.startswith(("rerank", "blend"))]
    departments = {
        document.metadata["disease"]: document.metadata.get("department", "") for document in parts.documents
    }
    flags = default_red_flags()
    reranked = found[reranker]

    def assessed(query: str) -> Assessment:
        return assess(query, reranked(query)[:5], lexicon=parts.lexicon, red_flags=flags, calibration=parts.calibration)

    kinds: dict[Kind, str] = {"reranker": reranker, "embeddings": embeddings}
    measured = None
    if parts.calibration is not None:
        measured = comparing.calibration_of(judged, lambda query: _first(assessed(query).documents))
    guard = comparing.no_rerank_guard(comparison, first, later)
    report = {
        "queries": queries.name,
        "n": len(judged),
        "model": parts.model,
        "revisions": {kind: _identity(name, kind) for kind, name in kinds.items()},
        "stages": comparison.table(),
        "intervals": comparison.intervals(),
        "guard": guard,
        "abstention": comparing.abstention(labelled, lambda query: assessed(query).abstention.abstains),
        "triage": comparing.triage_accuracy(labelled, lambda query: flags.triage(query).level),
        "pairwise": comparison.pairwise(),
        "departments": comparison.parts(comparing.departments_of(departments)),
        "tags": comparison.parts(lambda query: query.tags),
        "calibration": None if measured is None else measured.as_json(),
        "worse": {"from": first, "stage": "blend", "queries": comparison.worse(first, "blend")},
        "missing_from_kb": missing,
    }
    if page is not None:
        words = {query.line: query.query for query in labelled}
        page.write_text(
            html_report(
                report, comparison, words=words, calibration=measured.bins if measured else (), lang=lang.value
            ),
            "utf-8",
            errors="xmlcharrefreplace",  # halves of an emoji
        )
    if as_json:
        _print_json(report)
        return
    _show_evaluation(report)
    for line in guard_lines(guard, lang.value):
        out.print(escape(line), soft_wrap=True, highlight=False)


@app.command("finetune")
def finetune_command(
    save_to: Annotated[Path, typer.Option("--out", help="Folder for the tuned model; a cut-short run goes on there.")],
    kb: KB = None,
    queries: Annotated[
        Path | None,
        typer.Option(help='Own queries, JSON Lines of {"query", "relevant", "irrelevant"?}.', show_default=False),
    ] = None,
    keep_out: Annotated[
        list[Path] | None,
        typer.Option(help="Query file for evaluation: nothing close to it is trained on. May be repeated."),
    ] = None,
    reranker: Annotated[str, typer.Option(help="What to start from: hub name, folder, or 'bundled'.")] = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    loss: Annotated[Loss, typer.Option(help="mse and margin-mse learn from --teacher.")] = Loss.bce,
    teacher: Annotated[str | None, typer.Option(help="A bigger reranker to learn from.", show_default=False)] = None,
    epochs: Annotated[float, typer.Option(min=0.01, help="Passes over the examples.")] = 1.0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps, instead of passes.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a step; queries, for listwise.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: what fits the model's size.", show_default=False)
    ] = None,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens of a pair in training.")] = 256,
    lora: Annotated[
        bool | None,
        typer.Option(help="Low-rank adapters. Default: where memory is short.", show_default=False),
    ] = None,
    eval_queries: Annotated[int, typer.Option(min=1, help="Queries in each part of the report.")] = 120,
    seed: Annotated[int, typer.Option(help="Of every choice.")] = 20261126,
    device: Device = None,
    lang: Language = Lang.zh,
    as_json: AsJSON = False,
) -> None:
    """Tune a reranker to a knowledge base, and report whether that helped. 微调。."""
    from langchain_bge_medical.clinical.lexicon import default_lexicon
    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.evaluation.compare import read_queries
    from langchain_bge_medical.training.finetune import Materials, Settings, finetune
    from langchain_bge_medical.training.model_card import verdict_lines
    from langchain_bge_medical.vectorstores import build_index, stored_documents

    settings = Settings(
        loss=loss.value,
        teacher=teacher,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=max_length,
        lora=lora,
        eval_queries=eval_queries,
        seed=seed,
        device=device,
    )
    own = read_queries(queries) if queries else []
    kept_out = [query.query for file in keep_out or () for query in read_queries(file)]
    model = BGEEmbeddings(embeddings, device=device)
    loader = MedicalKBLoader(kb or bundled_knowledge_base())
    records = list(loader.lazy_records())
    store = build_index(_counted(loader.lazy_load(), "embedding"), model)
    materials = Materials(records, stored_documents(store), store, model, default_lexicon(), own, kept_out)
    report = finetune(reranker, materials, save_to, settings, _counted)
    if as_json:
        _print_json(report)
        return
    for line in verdict_lines(report, lang.value):
        out.print(escape(line), soft_wrap=True, highlight=False)
    out.print(escape(str(_TEXTS[lang.value]["tuned"]).format(path=save_to)), soft_wrap=True, highlight=False)


@app.command()
def calibrate(
    queries: Annotated[
        list[Path],
        typer.Option(help='JSON Lines of {"query", "relevant"} that the reranker was not trained on. May be repeated.'),
    ],
    kb: KB = None,
    index: Index = None,
    store: Store = "faiss",
    reranker: Reranker = BUNDLED,
    embeddings: EmbeddingsName = BUNDLED,
    search: SearchMode = Search.hybrid,
    fetch_k: FetchK = 50,
    method: Annotated[Fit, typer.Option(help="A sigmoid, or steps; steps want a few hundred queries.")] = Fit.platt,
    false_refusal_rate: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of real queries that may be answered with nothing.")
    ] = 0.05,
    save_as: Annotated[
        Path | None, typer.Option("--out", help="File to write. Default: in the folder of --index.", show_default=False)
    ] = None,
    device: Device = None,
    dtype: DTypeName = DType.auto,
    lang: Language = Lang.zh,
    as_json: AsJSON = False,
) -> None:
    """Fit what the scores mean on this knowledge base: a confidence, and when to say nothing. 校准。."""
    from langchain_bge_medical.clinical.polarity import findings, has_findings
    from langchain_bge_medical.confidence import CALIBRATION_FILE, digest_of
    from langchain_bge_medical.evaluation.compare import NameIndex, read_queries
    from langchain_bge_medical.training.calibration import fit, observe
    from langchain_bge_medical.training.finetune import trained_on

    if save_as is None and index is None:
        raise UserError("give --index FOLDER, to save the calibration there, or --out FILE")
    _check_file("--out", save_as)
    remote = _remote(reranker)
    if remote is not None:
        with contextlib.closing(remote):
            if not remote.gives_logits:
                raise UserError(
                    f"--reranker {reranker}: a calibration is of logits, and this server gives scores only; one of "
                    f"Text Embeddings Inference, or `serve` of this package, gives logits"
                )
    labelled = []
    for file in queries:
        read = read_queries(file)
        labelled += read
        if remote is None and (trained := trained_on(model_folder(reranker, kind="reranker"), read)):
            raise UserError(
                f"{file}: the reranker was tuned on {len(trained)} of these queries (first: line {trained[0]}); a "
                f"confidence fitted on what it knows by heart would be too high. Give queries that it was not tuned on"
            )
    # What stands beside the index is about to be replaced, so nothing is said of it.
    parts = _assemble(
        kb, index, store, reranker, embeddings, search, fetch_k, None, device, dtype.value, calibrated=False
    )
    names = NameIndex(document.metadata for document in parts.documents)
    calibration = fit(
        observe(
            _counted(labelled, "reranking"),
            parts.retriever.invoke,
            names,
            lambda query: has_findings(findings(query, parts.lexicon)),
        ),
        method=method.value,
        false_refusal_rate=false_refusal_rate,
        reranker=_identity(reranker),
        knowledge_base=digest_of(parts.documents),
    )
    path = save_as or (index or Path()) / CALIBRATION_FILE
    calibration.save(path)
    figures = calibration.figures
    if as_json:
        shown = {"path": str(path), "method": method.value, "threshold": calibration.threshold, **figures}
        _print_json(shown)
        return
    texts = _TEXTS[lang.value]
    off_topic = figures["refused_off_topic"]
    shown = {"threshold": calibration.threshold, "path": path, **figures}
    shown["off"] = texts["no_off_topic"] if off_topic is None else f"{off_topic:.1%}"
    for line in texts["calibrated"]:
        out.print(escape(line.format(**shown)), soft_wrap=True, highlight=False)


@app.command()
def benchmark(
    reranker: Reranker = BUNDLED,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Instead of a reranker: random weights of a known shape, e.g. bge-reranker-v2-m3; needs no hub.",
            show_default=False,
        ),
    ] = None,
    kb: KB = None,
    number: Annotated[int, typer.Option("--documents", min=2, help="Documents to score.")] = 50,
    lengths: Annotated[
        tuple[int, int], typer.Option("--lengths", help="Characters of the shortest and of the longest document.")
    ] = (45, 370),
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 5,
    device: Annotated[str, typer.Option(help="What to run on: cpu, or cuda.")] = "cpu",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Others whose name contains this; may be given again. 'none': ours alone.", show_default=False
        ),
    ] = None,
    vectors: Annotated[
        int | None,
        typer.Option(min=1_000, help="Instead of scoring: time an index of so many vectors.", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Where models are made or converted, and kept. Default: a temporary folder.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the times, as PNG or SVG; needs matplotlib.", show_default=False)
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Time our scoring beside other libraries', with the same weights and pairs, in turns. 测速。."""
    import tempfile

    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.evaluation import benchmark as speed
    from langchain_bge_medical.evaluation.contenders import contenders_on

    if vectors is not None:
        report = _benchmark_index(vectors)
        if as_json:
            _print_json(report)
        else:
            out.print("\n".join(f"{name}: {value}" for name, value in report.items()), highlight=False)
        return
    texts = [document.page_content for document in MedicalKBLoader(kb or bundled_knowledge_base()).load()]
    shortest, longest = lengths
    if not 1 <= shortest <= longest:
        raise UserError(f"--lengths are the shortest and the longest, e.g. 45 370, got {shortest} {longest}")
    if plot is not None:  # told now, not when everything is measured
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("--plot needs: pip install matplotlib")
        if plot.suffix.lower() not in (".png", ".svg") or not plot.parent.is_dir():
            raise UserError(f"--plot is a .png or .svg file in a folder that is there, got {plot}")
    pairs = speed.make_pairs(texts, number, shortest=shortest, longest=longest)
    ours, peers = contenders_on(_there(device))
    peers = tuple(peer for peer in peers if only is None or any(part.lower() in peer.name.lower() for part in only))
    with tempfile.TemporaryDirectory() as temporary:
        kept = folder or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        if shape is None:
            model = model_folder(reranker, kind="reranker")
            # Conversions of different models must not be taken for one another.
            made = kept / f"converted-{model.name}"
        else:
            try:
                model = speed.make_shape(shape, kept, [*texts, speed.QUERY])
            except ValueError as error:
                raise UserError(f"--shape: {error}") from None
            made = kept / f"converted-{shape}"
        made.mkdir(exist_ok=True)
        try:
            report = speed.run_benchmark(
                model, pairs, rounds=rounds, peers=peers, ours=ours, device=device, made=made, progress=err.print
            )
        except speed.WorkerFailed as error:
            raise UserError(str(error)) from None
    report = {"model": shape or reranker, **report}
    if plot is not None:
        speed.plot(report, plot)
    if as_json:
        _print_json(report)
        return
    _show_benchmark(report)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    from langchain_bge_medical.confidence import CalibrationError
    from langchain_bge_medical.evaluation.compare import QueryFileError
    from langchain_bge_medical.remote_cross_encoders import RemoteRerankerError
    from langchain_bge_medical.training.finetune import FinetuneError
    from langchain_bge_medical.vectorstores import IndexMismatchError

    # Bars over weights of a few megabytes, and a network that nobody asked for.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Without padding nearly every batch has a length of its own: of a thousand kernels kept for lengths past, hardly
    # one is met again, and they take a service's memory. Enough for the shapes of one pass stay.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    _quiet_transformers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no Chinese shows it as escapes
            stream.reconfigure(errors="backslashreplace")
    mistakes = (
        UserError,
        CalibrationError,
        FinetuneError,
        KnowledgeBaseError,
        IndexMismatchError,
        QueryFileError,
        RemoteRerankerError,
        OSError,  # no such file or model, a file where a folder should be, a full disk
    )
    try:
        app(standalone_mode=True)
    except mistakes as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)


def _assemble(
    kb: Path | None,
    index: Path | None,
    store_name: str,
    reranker: str,
    embeddings: str,
    search: Search,
    fetch_k: int,
    top_n: int | None,
    device: str | None,
    dtype: str,
    engine: ScoringEngine | None = None,
    *,
    calibrated: bool = True,
) -> Parts:
    """Put the two stages together; progress is shown for what may take more than two seconds."""
    from langchain_bge_medical.clinical.coverage import AffirmedWords
    from langchain_bge_medical.clinical.lexicon import default_lexicon
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.retrievers import BGERerankRetriever, build_hybrid_retriever, searchable_text

    affirmed = AffirmedWords()
    compressor = _compressor(reranker, top_n, device, dtype, engine)
    model = BGEEmbeddings(embeddings, device=device)
    store, documents = _store(kb, index, store_name, model)
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
    calibration = _calibration(index, reranker, documents) if calibrated else None
    return Parts(documents, store, recall, compressor, retriever, lexicon, names, calibration)


def _calibration(index: Path | None, reranker: str, documents: list[Document]) -> Calibration | None:
    """Return the calibration beside the index, or the bundled one, if it holds for this model and knowledge base."""
    from langchain_bge_medical.confidence import CALIBRATION_FILE, Calibration, digest_of

    own = index / CALIBRATION_FILE if index is not None else None
    path = own if own is not None and own.is_file() else bundled_calibration()
    if path != own and ((reranker != BUNDLED and _remote(reranker) is None) or not path.is_file()):
        return None
    calibration = Calibration.load(path)
    mismatch = calibration.mismatch(reranker=_identity(reranker), knowledge_base=digest_of(documents))
    if mismatch is None:
        return calibration
    if path == own:
        err.print(
            f"[yellow]warning:[/yellow] {escape(str(path))} is not used: {escape(mismatch)}; run calibrate again",
            soft_wrap=True,
            highlight=False,
        )
    return None


def _remote(reranker: str) -> RemoteCrossEncoder | None:
    """Return the encoder behind an address; `None` if the name is none."""
    from langchain_bge_medical.remote_cross_encoders import is_remote, remote_reranker

    if not is_remote(reranker):
        return None
    try:
        return remote_reranker(reranker, api_key=_key("BGE_MEDICAL_RERANKER_API_KEY"))
    except ValueError as error:
        raise UserError(f"--reranker: {error}") from None


def _key(name: str) -> str | None:
    """Return a key that is sent, if it is set."""
    from langchain_bge_medical.remote_cross_encoders import sendable

    key = os.environ.get(name) or None
    if key is not None and not sendable(key):
        raise UserError(f"{name}: a key is letters, digits and signs of ASCII, without blanks or line breaks")
    return key


def _identity(model: str, kind: Kind = "reranker") -> str:
    from langchain_bge_medical.model_files import resolved_revision

    remote = _remote(model) if kind == "reranker" else None
    if remote is not None:  # a server that does not say which model it has is known by its address
        return remote.revision or model
    return resolved_revision(model_folder(model, kind=kind))


def _compressor(
    reranker: str, top_n: int | None, device: str | None, dtype: str, engine: ScoringEngine | None = None
) -> BGERerankerCompressor:
    from langchain_bge_medical.clinical.coverage import AffirmedWords, SymptomCoverage
    from langchain_bge_medical.document_compressors import BGERerankerCompressor

    settings: dict[str, Any] = {"model_name": reranker, "device": device, "dtype": dtype}
    remote = _remote(reranker) if engine is None else None
    if remote is not None:
        settings = {"cross_encoder": remote}
    if engine is not None:
        settings = {"engine": engine}
    return BGERerankerCompressor(**settings, top_n=top_n, query_to_text=AffirmedWords(), adjust=SymptomCoverage())


def _chain(parts: Parts, llm: BaseChatModel | None, lang: Lang) -> Runnable[Any, dict[str, Any]]:
    from langchain_bge_medical.answer_guard import names_of
    from langchain_bge_medical.chains import build_answer_chain

    return build_answer_chain(
        parts.retriever,
        llm,
        lang=lang.value,
        lexicon=parts.lexicon,
        calibration=parts.calibration,
        disease_names=[name for document in parts.documents for name in names_of(document)],
    )


def _store(
    kb: Path | None, index: Path | None, store_name: str, model: Embeddings
) -> tuple[VectorStore, list[Document]]:
    """Return the vector store, and the documents in it: the lexical half of recall is made of the same ones."""
    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.vectorstores import build_index, load_index, stored_documents

    loader = MedicalKBLoader(kb or bundled_knowledge_base())
    kind, _, address = store_name.partition(":")
    if kind == "faiss" and not address:
        if index is not None and (index / "manifest.json").exists() and kb is None:
            store = load_index(index, model)
        else:
            store = build_index(_counted(loader.lazy_load(), "embedding"), model, index)
        return store, stored_documents(store)
    if kind not in ("chroma", "milvus") or (address and not address.startswith(("http://", "https://"))):
        raise UserError(f"--store is faiss, chroma, milvus, chroma:http://… or milvus:http://…, got {store_name!r}")
    if not address and index is None:
        raise UserError(f"--store {kind} needs --index FOLDER, or the address of a server: --store {kind}:http://…")
    from langchain_bge_medical.vector_databases import build_database, open_database

    where: dict[str, Any] = {"database": kind, "token": os.environ.get("MILVUS_TOKEN")}
    location = address or str(index)
    try:
        if kb is None:
            with contextlib.suppress(FileNotFoundError):
                opened = open_database(model, location, **where)
                return opened, opened.documents()
        built = build_database(_counted(loader.lazy_load(), "embedding"), model, location, **where)
    except ModuleNotFoundError:
        raise UserError(f"--store {kind} needs: pip install 'langchain-bge-medical[{kind}]'") from None
    except ConnectionError as error:
        raise UserError(f"--store: {error}") from None
    return built, built.documents()


def _first_stages(
    parts: Parts, fetch_k: int, search: Search, candidates: Callable[[str], Sequence[Document]]
) -> dict[str, Callable[[str], Sequence[Document]]]:
    """Return both halves of recall and the two together: whatever --search is, they are shown beside each other.

    `candidates` are what `search` finds, so that it is neither built nor asked again.
    """
    from langchain_bge_medical.clinical.coverage import AffirmedWords
    from langchain_bge_medical.evaluation.stages import recalled
    from langchain_bge_medical.retrievers import BM25Retriever, build_hybrid_retriever, searchable_text

    to_text, read = searchable_text(parts.lexicon), AffirmedWords(parts.lexicon)

    def vectors_and_words() -> BaseRetriever:
        return build_hybrid_retriever(parts.vectorstore, parts.documents, fetch_k=fetch_k, document_to_text=to_text)

    retrievers: dict[str, Callable[[], BaseRetriever]] = {
        "bm25": lambda: BM25Retriever(documents=parts.documents, k=fetch_k, document_to_text=to_text),
        "dense": lambda: parts.vectorstore.as_retriever(search_kwargs={"k": fetch_k}),
        "hybrid": vectors_and_words,
    }
    return {
        stage: candidates if stage == search.value else recalled(build(), fetch_k, read)
        for stage, build in retrievers.items()
    }


def _first(documents: Sequence[Document]) -> tuple[str, float] | None:
    """Return the disease that is ranked first and the confidence in it, if there are both."""
    if not documents or not documents[0].metadata["confidence_calibrated"]:
        return None
    return documents[0].metadata["disease"], documents[0].metadata["confidence"]


def _table(documents: list[Document], lang: Lang) -> Table:
    calibrated = all(document.metadata["confidence_calibrated"] for document in documents)
    columns = list(_TEXTS[lang.value]["columns"])
    columns[2] = str(_TEXTS[lang.value]["confidence"]) if calibrated else columns[2]
    table = Table(*columns)
    for rank, document in enumerate(documents, start=1):
        metadata = document.metadata
        fits, against = _words(metadata["evidence"], "matched"), _words(metadata["evidence"], "denied", "contradicting")
        shown = f"{metadata['confidence']:.0%}" if calibrated else f"{metadata['relevance_score']:.3f}"
        cells = (rank, metadata.get("disease"), shown, metadata["recall_rank"])
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
        table.add_row(escape(stage), *("-" if value is None else f"{value:.3f}" for value in cells))
    out.print(table)
    for name in ("abstention", "triage"):
        shown = ", ".join(f"{key} {value}" for key, value in report[name].items() if value is not None)
        out.print(f"{name}: {shown}")
    if report["missing_from_kb"]:
        out.print(f"missing from the knowledge base: {escape(', '.join(report['missing_from_kb']))}")


def _benchmark_index(vectors: int) -> dict[str, Any]:
    import tempfile

    from langchain_bge_medical.clinical.lexicon import default_lexicon
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.evaluation.index_speed import run_index_benchmark

    lexicon = default_lexicon()
    texts = [form for term in lexicon.entries for form in (term, *lexicon.forms(term))]
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        return run_index_benchmark(vectors, texts, BGEEmbeddings(BUNDLED), index, progress=err.print)


def _there(device: str) -> str:
    """Return the device if it is a CPU, or a GPU that is there."""
    import torch

    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise UserError(f"--device is cpu, or cuda where torch sees a GPU, got {device!r}")
    return device


def _show_benchmark(report: dict[str, Any]) -> None:
    rates = report["matrix_gflops"]
    where = report["device"]
    if where == "cpu":
        where = f"{report['threads']} threads of {report['processor']}"
    out.print(
        f"{escape(report['model'])}: {report['pairs']} pairs, {report['tokens']:,} tokens, {report['gflop']:,} GFLOP; "
        f"{where}; the machine's own products: "
        f"{rates['bfloat16']:,} GFLOP/s in bfloat16, {rates['float32']:,} in float32",
        soft_wrap=True,
        highlight=False,
    )
    columns = ("", "setting", "seconds", "min-max", "pairs/s", "× ours, auto", "of matrix rate", "Spearman", "peak MiB")
    table = Table(*columns)
    for row in report["rows"]:
        cells = (
            row["name"], "" if row["setting"] is None else row["setting"], f"{row['seconds']:.3f}",
            f"{row['fastest']:.3f}-{row['slowest']:.3f}", row["pairs_per_s"], f"{row['times_as_long']:.2f}",
            f"{row['matrix_share']:.0%}", f"{row['spearman']:.4f}", row["peak_mib"],
        )  # fmt: skip
        table.add_row(*(escape(str(cell)) for cell in cells))
    out.print(table)
    for name, why in report["skipped"].items():
        out.print(escape(f"{name}: {why}"), soft_wrap=True, highlight=False)


def _chat_model(spec: str | None, base_url: str | None) -> BaseChatModel | None:
    """Return the chat model that `PROVIDER:MODEL` names."""
    if spec is None:
        if base_url is not None:
            raise UserError("--llm-base-url needs --llm PROVIDER:MODEL")
        return None
    provider, _, name = spec.partition(":")
    if not name:
        raise UserError(f"--llm is PROVIDER:MODEL, e.g. openai:deepseek-chat, got {spec!r}")
    if provider != "openai":
        try:
            from langchain.chat_models import init_chat_model

            where = {} if base_url is None else {"base_url": base_url}
            return init_chat_model(name, model_provider=provider, **where)  # type: ignore[no-any-return]
        except ValueError as error:  # a provider that it does not know, or a key that is missing
            raise UserError(f"--llm {spec}: {error}") from None
        except ImportError:
            raise UserError(
                f"--llm {provider}:… needs `pip install langchain langchain-{provider}`; openai:… with --llm-base-url "
                f"reaches every OpenAI-compatible server (DeepSeek, Qwen, Ollama, vLLM)"
            ) from None
    from langchain_bge_medical.chains import SILENCE_S

    try:
        from langchain_openai import ChatOpenAI
    except ImportError:
        raise UserError("--llm openai:… needs: pip install 'langchain-bge-medical[llm]'") from None
    key = _key("OPENAI_API_KEY")
    if key is None and base_url is None and "OPENAI_BASE_URL" not in os.environ:
        raise UserError(
            "--llm openai:… needs OPENAI_API_KEY in the environment, or --llm-base-url of a server that wants none"
        )
    # Left alone, it waits ten minutes for a server that says nothing, three times.
    return ChatOpenAI(model=name, base_url=base_url, api_key=key or "none", timeout=SILENCE_S, max_retries=1)


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


def _check_file(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written: now, not when everything is measured."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(f"{option} is a file in a folder that is there, got {path}")


def _print_json(data: object) -> None:
    """Print one JSON document; where the terminal lacks a character, with JSON's own escapes."""
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data)
    print(text)  # noqa: T201 - rich would wrap it, and take "[x]" for its markup


def _counted(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield the items; on a terminal, show how many have gone by."""
    if not err.is_terminal:
        yield from items
        return
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        for item in items:
            yield item
            progress.advance(task)


def _quiet_transformers() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


if __name__ == "__main__":
    # Under its own name, so that what Ray's workers get can be imported there.
    from langchain_bge_medical.cli import main as _main

    _main()
