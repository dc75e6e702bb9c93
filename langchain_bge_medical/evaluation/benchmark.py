"""Our speed beside others': the same weights, the same pairs, in turns, with the rate of the machine's own products."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from langchain_bge_medical.evaluation.contenders import OURS, PEERS, Contender, Pairs, max_length, tokenizer_of

SHAPES: dict[str, dict[str, int]] = {
    "bge-reranker-v2-m3": {
        "vocab_size": 250_002, "hidden_size": 1_024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4_096, "max_position_embeddings": 8_194,
    },
    "bge-reranker-large": {
        "vocab_size": 250_002, "hidden_size": 1_024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4_096, "max_position_embeddings": 514,
    },
    "bge-reranker-base": {
        "vocab_size": 250_002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3_072, "max_position_embeddings": 514,
    },
    "tiny": {
        "vocab_size": 8_000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "max_position_embeddings": 514,
    },
}  # fmt: skip
"""Shapes of models, from their configs on the Hugging Face hub; `tiny` is for tests."""

QUERY = "最近三天一直发烧,咳嗽得很厉害,痰很多,晚上睡不好。"
# Rows and columns of the product that the machine's rate is measured with, how often at a time, and for how long.
_PRODUCT, _PRODUCTS = (2_048, 4_096), 1
_GPU_PRODUCT, _GPU_PRODUCTS = (8_192, 8_192), 10
_PRODUCT_S = 1.0
_SLOW_S, _SLOW_ROUNDS = 10.0, 3


def make_shape(name: str, folder: Path, texts: Sequence[str]) -> Path:
    """Write a cross-encoder of a known shape with random weights, for machines without a model hub.

    Its tokenizer makes one token of each character in `texts`, about as many as the real one does of Chinese. The
    scores mean nothing; the time that they take is the real model's.

    Args:
        name: One of `SHAPES`.
        folder: Where to write it; a model that is there already is kept.
        texts: What will be scored, or text like it.

    Returns:
        The model's folder, float32.

    Raises:
        ValueError: If there is no such shape.
    """
    import torch
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

    if name not in SHAPES:
        raise ValueError(f"there is no shape {name!r}; there are {', '.join(SHAPES)}")
    target = folder / name
    if (target / "model.safetensors").is_file():
        return target
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(set("".join(texts)))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    shape = SHAPES[name]
    torch.manual_seed(0)
    model = XLMRobertaForSequenceClassification(
        XLMRobertaConfig(
            **shape,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            num_labels=1,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=shape["max_position_embeddings"] - 2, bos_token="<s>",
        cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>", unk_token="<unk>",
    ).save_pretrained(target)  # fmt: skip
    # Into place by a rename, so that what is there is whole.
    with tempfile.TemporaryDirectory(dir=folder) as half:
        model.save_pretrained(half)
        for file in Path(half).iterdir():
            file.replace(target / file.name)
    return target


def make_pairs(texts: Sequence[str], number: int, *, shortest: int = 45, longest: int = 370) -> list[tuple[str, str]]:
    """Return a query with documents of many lengths, most of them short: cut from the texts, end to end.

    Args:
        texts: At least one, not all blank.
        number: Of pairs.
        shortest: Characters of the shortest document.
        longest: Characters of the longest.
    """
    source = "\n".join(texts)
    source *= -(-number * longest // len(source))
    pairs = []
    start = 0
    for i in range(number):
        length = round(shortest * (longest / shortest) ** ((i / max(1, number - 1)) ** 2))
        pairs.append((QUERY, source[start : start + length].strip() or source.strip()[:length]))
        start += length
    # In no order, as recall returns them.
    return [pairs[i * 7 % number] for i in range(number)] if number % 7 else pairs


def run_benchmark(
    model: Path,
    pairs: Pairs,
    *,
    rounds: int = 5,
    peers: Sequence[Contender] = PEERS,
    ours: Sequence[Contender] = OURS,
    device: str = "cpu",
    made: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time every contender on the pairs in turns with the first of ours, so that a busy machine is busy for both.

    Each runs in a process of its own, which has loaded and once run it before; no two compute at once. Models that
    have to be converted are, once, in `made`.

    Args:
        model: The model's folder.
        pairs: To score; their documents may differ in length, their query is one.
        rounds: Times that each is measured, after the settings were tried once each; three at most where one
            takes over ten seconds.
        peers: Others.
        ours: At least one, the first being what the others take turns with.
        device: What the contenders run on, whose matrix rate and memory are measured.
        made: A folder for converted models.
        progress: Told what is being done.

    Returns:
        `pairs`, `tokens` (special ones included), `threads`, `processor`, `device`, `matrix_gflops` (bfloat16
        and float32, medians), `rows` and `skipped` (name → why). A row has `name`, `setting`, `seconds` (median),
        `fastest`, `slowest`, `pairs_per_s`, `times_as_long` (median of the ratios to our first in the same round),
        `matrix_share` (of the bfloat16 rate of the machine, counting every multiplication of the model and none of
        the padding), `spearman` (with our float32's order, or our first's), `load_s` and `peak_mib` (of the
        process's memory, or the GPU's).
    """
    anchor, *others = ours
    tokens, flops = _work(model, pairs)
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    logits: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    anchor_times: list[float] = []
    with _Worker(anchor, model, made) as ours_worker:
        ours_worker.load(anchor.settings[0], pairs)
        logits[anchor.name] = ours_worker.score(pairs)[1]
        for contender in (*others, *peers):
            progress(contender.name)
            if contender.missing:
                skipped[contender.name] = f"{', '.join(contender.missing)} not installed"
                continue
            try:
                if contender.prepare is not None:
                    with _Worker(contender, model, made) as worker:
                        worker.prepare(pairs)
                with _Worker(contender, model, made) as worker:
                    setting, least = _best_setting(worker, contender, pairs)
                    times, ratios = [], []
                    for _ in range(rounds if least < _SLOW_S else min(rounds, _SLOW_ROUNDS)):
                        before, _ = ours_worker.score(pairs)
                        seconds, logits[contender.name] = worker.score(pairs)
                        times.append(seconds)
                        anchor_times.append(before)
                        ratios.append(seconds / before)
                    row = _row(contender.name, setting, times, len(pairs), ratios)
                    rows.append({**row, "load_s": worker.loaded_s, "peak_mib": worker.peak_mib(device)})
            except WorkerFailed as error:
                skipped[contender.name] = str(error)
            for dtype, measured in rates.items():
                measured.append(ours_worker.matrix_rate(dtype, device))
        load_s, peak = ours_worker.loaded_s, ours_worker.peak_mib(device)
    if not anchor_times:
        raise WorkerFailed("nothing ran beside ours")
    first = _row(anchor.name, anchor.settings[0], anchor_times, len(pairs), [1.0])
    rows.insert(0, {**first, "load_s": load_s, "peak_mib": peak})
    matrix = {dtype: round(statistics.median(measured), 1) for dtype, measured in rates.items()}
    reference = logits.get("ours, float32", logits[anchor.name])
    for row in rows:
        row["matrix_share"] = round(flops / row["seconds"] / 1e9 / matrix["bfloat16"], 3)
        row["spearman"] = round(spearman(logits[row["name"]], reference), 4)
    return {
        "pairs": len(pairs), "tokens": tokens, "gflop": round(flops / 1e9, 1), "threads": _threads(),
        "processor": _processor(), "device": _device_name(device), "matrix_gflops": matrix, "rows": rows,
        "skipped": skipped,
    }  # fmt: skip


class WorkerFailed(RuntimeError):
    """A contender that could not be prepared, loaded or run; says why."""


class _Worker:
    """A contender in a process of its own."""

    def __init__(self, contender: Contender, model: Path, made: Path) -> None:
        self._contender = contender
        self.loaded_s = 0.0
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, model, made), daemon=True)

    def __enter__(self) -> _Worker:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join(timeout=2)
        self._process.kill()
        self._process.join()

    def prepare(self, pairs: Pairs) -> None:
        self._ask("prepare", list(pairs))

    def load(self, setting: Any, pairs: Pairs) -> None:
        self.loaded_s = self._ask("load", setting, list(pairs))

    def score(self, pairs: Pairs) -> tuple[float, list[float]]:
        seconds, logits = self._ask("score", list(pairs))
        return seconds, logits

    def matrix_rate(self, dtype: str, device: str) -> float:
        return float(self._ask("matrix_rate", dtype, device))

    def peak_mib(self, device: str) -> int:
        return int(self._ask("peak_mib", device))

    def _ask(self, *what: Any) -> Any:
        try:
            self._connection.send(what)
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(timeout=10)
            raise WorkerFailed(f"its process ended with {self._process.exitcode}") from None
        if failed:
            raise WorkerFailed(answer)
        return answer


def _serve(connection: Connection, contender: Contender, model: Path, made: Path) -> None:
    """Answer a worker's questions until the other side hangs up."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    score: Any = None

    def load(setting: Any, pairs: Pairs) -> float:
        nonlocal score
        score = None
        start = time.perf_counter()
        score = contender.load(model, made, setting)
        score(pairs)
        return round(time.perf_counter() - start, 2)

    def prepare(pairs: Pairs) -> None:
        assert contender.prepare is not None  # noqa: S101 - for the type checker; the caller looked
        contender.prepare(model, made, pairs)

    def measured(pairs: Pairs) -> tuple[float, list[float]]:
        start = time.perf_counter()
        logits = score(pairs)
        return time.perf_counter() - start, [float(logit) for logit in logits]

    answers: dict[str, Callable[..., Any]] = {
        "prepare": prepare, "load": load, "score": measured, "matrix_rate": _matrix_rate, "peak_mib": _peak_mib,
    }  # fmt: skip
    with _quiet():
        while True:
            try:
                what, *arguments = connection.recv()
            except EOFError:
                return
            try:
                connection.send((False, answers[what](*arguments)))
            except Exception as error:
                connection.send((True, f"{type(error).__name__}: {str(error).strip()[:300]}"))


def _best_setting(worker: _Worker, contender: Contender, pairs: Pairs) -> tuple[Any, float]:
    """Load the contender with the setting that is fastest on these pairs; return it and its seconds."""
    tried = {}
    for setting in contender.settings:
        worker.load(setting, pairs)
        tried[setting] = worker.score(pairs)[0]
    best = min(tried, key=lambda setting: tried[setting])
    if best != contender.settings[-1]:
        worker.load(best, pairs)
    return best, tried[best]


def _row(name: str, setting: Any, times: Sequence[float], number: int, ratios: Sequence[float]) -> dict[str, Any]:
    seconds = statistics.median(times)
    return {
        "name": name,
        "setting": " ".join(map(str, setting)) if isinstance(setting, tuple) else setting,
        "seconds": round(seconds, 6),
        "fastest": round(min(times), 6),
        "slowest": round(max(times), 6),
        "rounds": len(times),
        "pairs_per_s": round(number / seconds, 1),
        "times_as_long": round(statistics.median(ratios), 2),
    }


def _work(model: Path, pairs: Pairs) -> tuple[int, float]:
    """Return the tokens of the pairs, and the additions and multiplications that the model needs for them."""
    from transformers import AutoConfig

    from langchain_bge_medical.pair_tokenizer import PairTokenizer

    config = AutoConfig.from_pretrained(model, local_files_only=True)
    lengths = [encoded.tokens for encoded in PairTokenizer(tokenizer_of(model), max_length(model))(pairs)]
    width, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * width * width + 2 * width * inner)
    flops = sum(length * per_token + 4 * length * length * width for length in lengths) * config.num_hidden_layers
    return sum(lengths), float(flops)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties sharing their ranks; 1.0 if all of either are equal."""
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (one, other))
    size = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / size if size else 1.0


def _matrix_rate(dtype: str, device: str) -> float:
    """Return the rate of torch's own product of large matrices, in GFLOP/s: the best within a second."""
    import torch

    on_cpu = device == "cpu"
    (rows, columns), products = (_PRODUCT, _PRODUCTS) if on_cpu else (_GPU_PRODUCT, _GPU_PRODUCTS)
    kind = getattr(torch, dtype)
    x, weight = (torch.randn(size, columns).to(device, kind) for size in (rows, columns))

    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(products):
            y = torch.nn.functional.linear(x, weight)
        if not on_cpu:
            y[0, 0].item()  # waits until all are done
        return time.perf_counter() - start

    with torch.inference_mode():
        seconds()
        best, until = float("inf"), time.perf_counter() + _PRODUCT_S
        while time.perf_counter() < until:
            best = min(best, seconds())
    return 2 * products * rows * columns * columns / best / 1e9


def _peak_mib(device: str) -> int:
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated(device) / (1 << 20))
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name(device)


def _threads() -> int | None:
    """Return how many cores this process may use: `taskset` leaves fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    useful = [
        flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if flag in flags
    ]
    return f"{names[0] if names else 'unknown'} ({' '.join(useful)})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what libraries print to nowhere: the only thing on stdout is to be the report."""
    sys.stdout.flush()
    with Path(os.devnull).open("w") as nowhere:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw how many times as long as our first each takes, shortest first.

    That is measured in turns; the seconds beside it also tell what else the machine was doing.

    Args:
        report: What `run_benchmark` returned.
        file: Where to; its ending says the format.

    Raises:
        ImportError: If matplotlib is not installed; says how to.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("the plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted(report["rows"], key=lambda row: -row["times_as_long"])
    names = [row["name"] if row["setting"] is None else f"{row['name']} ({row['setting']})" for row in rows]
    times = [row["times_as_long"] for row in rows]
    colours = ["#1a7f5a" if row["name"].startswith("ours") else "#9aa5b1" for row in rows]
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(rows) + 1.4), layout="constrained")
    bars = axes.barh(names, times, color=colours)
    labels = [f"{row['times_as_long']:.2f} ×  ({row['seconds']:.2f} s)" for row in rows]
    axes.bar_label(bars, labels, padding=6, fontsize=8)
    axes.set_xlabel(
        f"times as long as ours, {report['pairs']} pairs, {report['tokens']:,} tokens; "
        f"{report['processor'] if report['device'] == 'cpu' else report['device']}",
        fontsize=8,
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
