"""What the operator sees: JSON logs and Prometheus metrics, of sizes, times and outcomes, never of texts."""

from __future__ import annotations

import json
import logging
import random
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from langchain_bge_medical.serving.scheduler import BatchReport, ScoringEngine

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

logger = logging.getLogger("langchain_bge_medical.serving")

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOKENS = (64, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536)


@dataclass
class Call:
    """One HTTP request, as far as it may be told. Filled in along the way, written down at its end."""

    id: str
    started: float = field(default_factory=time.perf_counter)
    dialect: str = ""
    documents: int = 0
    characters: int = 0
    tokens: int = 0
    outcome: str = "ok"
    stages_ms: dict[str, float] = field(default_factory=dict)
    sample: str | None = None
    """Text, only where the operator asked for samples of it."""

    def stage(self, name: str, seconds: float) -> None:
        """Note how long a stage took."""
        self.stages_ms[name] = round(self.stages_ms.get(name, 0.0) + seconds * 1_000, 2)


class Telemetry:
    """Counts and logs what the service does."""

    def __init__(self, engine: ScoringEngine, model: dict[str, Any], *, text_sample: float = 0.0) -> None:
        """Take what is told about.

        Args:
            engine: Its queue and its failures are metrics.
            model: Names and revisions, in every log line and in the metric `bge_medical_model_info`.
            text_sample: Share of requests, 0 to 1, whose query is written to the log.
        """
        self._model = model
        self._text_sample = text_sample
        self.registry = CollectorRegistry()
        labels = {"registry": self.registry, "namespace": "bge_medical"}
        self._requests = Counter(
            "http_requests", "Requests answered.", ["route", "dialect", "status"], **labels  # type: ignore[arg-type]
        )  # fmt: skip
        self._seconds = Histogram(
            "http_request_duration_seconds", "From the first byte in to the last byte out.", ["route"],
            buckets=_SECONDS, **labels,  # type: ignore[arg-type]
        )  # fmt: skip
        self._stages = Histogram(
            "stage_duration_seconds", "Time in a stage: recall, queue, tokenize, rerank, answer.", ["stage"],
            buckets=_SECONDS, **labels,  # type: ignore[arg-type]
        )  # fmt: skip
        self._documents = Histogram(
            "request_documents", "Documents in a rerank request.",
            buckets=(1, 5, 10, 20, 50, 100, 200, 500, 1_000), **labels,  # type: ignore[arg-type]
        )  # fmt: skip
        self._batch_seconds = Histogram(
            "batch_duration_seconds", "One call of the model.", buckets=_SECONDS, **labels  # type: ignore[arg-type]
        )  # fmt: skip
        self._batch_tokens = Histogram(
            "batch_tokens", "Tokens in one call of the model.", buckets=_TOKENS, **labels  # type: ignore[arg-type]
        )  # fmt: skip
        self.registry.register(_EngineCollector(engine, model))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def on_batch(self, report: BatchReport) -> None:
        """Count a batch; on the engine's thread."""
        self._batch_seconds.observe(report.seconds)
        self._batch_tokens.observe(report.tokens)

    def wants_sample(self) -> bool:
        """Return whether this request's text is to be logged, which it is not unless the operator asked for it."""
        return self._text_sample > 0 and random.random() < self._text_sample  # noqa: S311 - no secret

    def finished(self, call: Call, *, route: str, method: str, status: int) -> None:
        """Count and log a request."""
        seconds = time.perf_counter() - call.started
        self._requests.labels(route, call.dialect, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        for stage, milliseconds in call.stages_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1_000)
        if call.documents:
            self._documents.observe(call.documents)
        if route in ("/health", "/ready", "/metrics") and status < 400:
            return
        line: dict[str, Any] = {
            "event": "request",
            "id": call.id,
            "method": method,
            "route": route,
            "dialect": call.dialect,
            "status": status,
            "outcome": call.outcome,
            "documents": call.documents,
            "characters": call.characters,
            "tokens": call.tokens,
            "ms": {**call.stages_ms, "total": round(seconds * 1_000, 2)},
            **self._model,
        }
        if call.sample is not None:
            line["text_sample"] = call.sample
        logger.info("request", extra={"fields": line})

    def failed(self, call: Call, error: BaseException) -> None:
        """Log where an unexpected error came from; not its message, which may quote what was sent."""
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        at = [f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
        fields = {"event": "error", "id": call.id, "error": type(error).__name__, "at": at}
        logger.error("error", extra={"fields": fields})


def otlp_tracer() -> Tracer:
    """Return a tracer that sends spans by OTLP, as the variables OTEL_EXPORTER_OTLP_… say.

    Raises:
        ImportError: Without the extra `otel`; the message says how to get it.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ImportError("tracing needs: pip install 'langchain-bge-medical[otel]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "langchain-bge-medical"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("langchain_bge_medical")


class JSONFormatter(logging.Formatter):
    """A JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's fields, or its message, as JSON. Tracebacks are left out: they may quote texts."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            message = record.getMessage()
            # What asyncio says after its first line is the repr of errors, and those may quote texts.
            line["logger"] = record.name
            line["message"] = message.partition("\n")[0] if record.name == "asyncio" else message
            if record.exc_info and record.exc_info[0]:
                line["error"] = record.exc_info[0].__name__
        else:
            line.update(fields)
        return json.dumps(line, ensure_ascii=False)


class _EngineCollector(Collector):
    """Reads the engine when it is asked, so that scoring pays nothing for it."""

    def __init__(self, engine: ScoringEngine, model: dict[str, Any]) -> None:
        self._engine = engine
        self._model = {name: str(value) for name, value in model.items()}

    def collect(self) -> Iterator[Metric]:
        engine, counts = self._engine, self._engine.counts
        yield InfoMetricFamily("bge_medical_model", "What ranks.", value=self._model)
        gauges = {
            "ready": ("1 if a request sent now would be scored.", float(engine.ready())),
            "queue_tokens": ("Estimated tokens of requests that are let in and not done.", engine.backlog_tokens),
            "queue_requests": ("Requests that are let in and not done.", engine.backlog_requests),
            "tokens_per_second": ("Measured rate of the model.", engine.tokens_per_second or 0.0),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"bge_medical_{name}", text, value=value)
        counters = {
            "batches": ("Calls of the model.", counts.batches),
            "batches_failed": ("Calls of the model that raised.", counts.failed_batches),
            "pairs": ("Pairs scored.", counts.pairs),
            "tokens": ("Tokens scored.", counts.tokens),
            "padded_tokens": ("Tokens scored if every batch is padded to its longest pair.", counts.padded_tokens),
            "overloaded_requests": ("Requests refused for want of room.", counts.overloaded),
            "expired_requests": ("Requests whose deadline passed in the queue.", counts.expired),
            "cancelled_requests": ("Requests given up by their sender.", counts.cancelled),
            "worker_deaths": ("Times that the scoring thread was replaced.", counts.worker_deaths),
            "model_reloads": ("Times that the model was loaded anew.", counts.reloads),
        }
        for name, (text, count) in counters.items():
            yield CounterMetricFamily(f"bge_medical_{name}", text, value=count)
