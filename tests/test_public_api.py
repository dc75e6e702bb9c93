from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import langchain_bge_medical

PACKAGE = Path(langchain_bge_medical.__file__).parent
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "faiss",
    "langchain_community",
    "langchain_classic",
    "fastapi",
)
PACKED = {"packed.encoder", "packed.linear", "packed.team", "packed.weights"}
# The clinical layer, each module upon the ones above it.
CLINICAL = {
    "clinical.numbers": set(),
    "clinical.weights": set(),
    "clinical.occlusion": set(),
    "clinical.lexicon": set(),
    "clinical.demographics": {"clinical.lexicon", "clinical.numbers"},
    "clinical.folding": {"clinical.lexicon"},
    "clinical.needed_words": set(),
    "clinical.phrases": {"clinical.folding", "clinical.needed_words"},
    "clinical.mentions": {
        "clinical.folding",
        "clinical.lexicon",
        "clinical.needed_words",
        "clinical.numbers",
        "clinical.phrases",
    },
    "clinical.context.finding": set(),
    "clinical.context.words": set(),
    "clinical.context.whose": {"clinical.context.words", "clinical.lexicon"},
    "clinical.context.before": {"clinical.context.whose", "clinical.context.words", "clinical.lexicon"},
    "clinical.context.after": {"clinical.context.finding", "clinical.context.words"},
    "clinical.context.again": {"clinical.context.finding", "clinical.context.words", "clinical.lexicon"},
    "clinical.context.english": {"clinical.context.finding", "clinical.context.words"},
    "clinical.context.course": {"clinical.context.after", "clinical.context.finding", "clinical.context.words"},
    "clinical.polarity": {
        "clinical.context.after",
        "clinical.context.again",
        "clinical.context.before",
        "clinical.context.course",
        "clinical.context.english",
        "clinical.context.finding",
        "clinical.context.whose",
        "clinical.context.words",
        "clinical.lexicon",
        "clinical.mentions",
    },
    "clinical.coverage": {
        "clinical.mentions",
        "clinical.demographics",
        "clinical.lexicon",
        "clinical.polarity",
        "clinical.weights",
        "knowledge_base",
    },
    "clinical.evidence": {"clinical.demographics", "clinical.lexicon", "clinical.polarity", "knowledge_base"},
    "clinical.next_question": {"answer_guard", "clinical.lexicon", "clinical.polarity", "knowledge_base"},
    "clinical.abstention": {
        "clinical.lexicon",
        "clinical.numbers",
        "clinical.polarity",
        "clinical.weights",
        "knowledge_base",
    },
    "clinical.alarm": {"clinical.folding"},
    "clinical.triage": {
        "clinical.alarm",
        "clinical.context.before",
        "clinical.demographics",
        "clinical.folding",
        "clinical.lexicon",
        "clinical.mentions",
        "clinical.needed_words",
        "clinical.numbers",
        "clinical.polarity",
    },
}
CLINICAL["clinical.assessment"] = {*CLINICAL, "confidence", "knowledge_base"} - {
    "clinical.occlusion",
    "clinical.coverage",
    "clinical.weights",
}
MAY_IMPORT = {
    "digests": set(),
    "knowledge_base": set(),
    "knowledge_base_check": {"knowledge_base"},
    "model_files": {"digests"},
    "confidence": set(),
    "score_cache": set(),
    "chat": set(),
    "document_loaders": {"knowledge_base"},
    "well_formed": set(),
    "pair_tokenizer": {"digests", "well_formed"},
    "packed.weights": set(),
    "packed.linear": set(),
    "packed.team": set(),
    "packed.attention": set(),
    "packed.encoder": {"model_files", "packed.weights", "packed.linear", "packed.attention"},
    "cross_encoders": {"digests", "model_files", "score_cache", "pair_tokenizer"} | PACKED,
    "remote_cross_encoders": {"cross_encoders", "digests", "well_formed"},
    "embeddings": {"digests", "model_files", "well_formed"},
    # A compressor that is given a name makes its own encoder, and the engine that calls of it share.
    "document_compressors": {"score_cache", "cross_encoders", "knowledge_base", "serving.scheduler"},
    "vectorstores": {"digests"},
    "vector_databases": {"vectorstores"},
    "retrievers": {"clinical.lexicon", "knowledge_base"},
    "answer_guard": {"clinical.lexicon", "knowledge_base"},
    "chains": {"answer_guard", "confidence", "knowledge_base", "retrievers", "well_formed", *CLINICAL},
    **CLINICAL,
    "serving.scheduler": {"cross_encoders", "remote_cross_encoders"},
    "serving.schemas": {"chat", "well_formed"},
    "serving.telemetry": {"serving.scheduler"},
    "serving.edge": {"serving.schemas", "serving.telemetry"},
    # The one file of the service that knows what is medical.
    "serving.medical": {
        "answer_guard",
        "chains",
        "confidence",
        "document_compressors",
        "knowledge_base",
        "serving.scheduler",
        "serving.schemas",
        *CLINICAL,
    },
    "serving.service": {"serving.medical", "serving.scheduler", "serving.schemas", "serving.telemetry"},
    "serving.server": {"serving.service", "serving.telemetry"},
    # What is past one machine gets everything ready-made from the command line.
    "distributed.ray_serve": {"serving.scheduler"},
    "distributed.ray_data": {"digests", "document_compressors", "model_files", "well_formed"},
    "evaluation.capacity": set(),
    "evaluation.metrics": set(),
    "evaluation.contenders": {"cross_encoders"},
    "evaluation.index_speed": {"vectorstores"},
    "evaluation.benchmark": {"evaluation.contenders", "pair_tokenizer"},
    "evaluation.intervals": set(),
    "evaluation.compare": {"evaluation.intervals", "evaluation.metrics", "knowledge_base"},
    "evaluation.stages": {"evaluation.compare"},
    "evaluation.report": {"evaluation.compare", "evaluation.metrics"},
    # Training stands on top of what it tunes and measures.
    "training.alarm": {
        "clinical.alarm",
        "clinical.folding",
        "clinical.lexicon",
        "clinical.triage",
        "document_loaders",
        "model_files",
        "training.materials",
        "training.queries",
    },
    "training.calibration": {"confidence", "evaluation.compare", "evaluation.metrics"},
    "training.examples": {
        "clinical.lexicon",
        "clinical.polarity",
        "evaluation.compare",
        "knowledge_base",
        "training.queries",
    },
    "training.model_card": {"model_files", "training.materials"},
}


def modules() -> dict[str, Path]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}


def imported(file: Path, *, at_module_level: bool = False) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    nodes = tree.body if at_module_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_public_name_is_there_and_no_other_is_promised() -> None:
    for name in langchain_bge_medical.__all__:
        assert getattr(langchain_bge_medical, name) is not None
    assert dir(langchain_bge_medical) == langchain_bge_medical.__all__
    with pytest.raises(AttributeError, match="no attribute 'BGEReranker'"):
        _ = langchain_bge_medical.BGEReranker


def test_importing_the_package_loads_nothing_heavy_and_takes_less_than_a_third_of_a_second() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import langchain_bge_medical; t = time.perf_counter() - t;"
        f"print(t, *(m for m in {HEAVY!r} if m in sys.modules))"
    )
    # The best of several starts: a busy machine makes any one of them slow.
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    printed = [run.stdout.split() for run in runs]
    assert all(line[1:] == [] for line in printed)
    assert min(float(line[0]) for line in printed) < 0.3


def test_modules_import_only_what_lies_below_them() -> None:
    ours = modules()
    for name, allowed in MAY_IMPORT.items():
        prefix = "langchain_bge_medical."
        used = {other.removeprefix(prefix) for other in imported(ours[name]) if other.startswith(prefix)}
        assert used <= allowed, f"{name} imports {used - allowed}"


def test_langchain_community_and_faiss_are_known_to_one_file() -> None:
    for name, file in modules().items():
        used = {other.split(".")[0] for other in imported(file)}
        # cli names the type of the store in annotations only.
        if name not in ("vectorstores", "cli"):
            assert not used & {"langchain_community", "faiss"}, name


def test_no_module_imports_anything_heavy_at_its_top() -> None:
    for name, file in modules().items():
        # Training and the packed encoder are torch through and through; others import them inside functions.
        if not name.startswith(("training", "packed")):
            # The service is the extra `serve`, and nothing else imports these two.
            heavy = set(HEAVY) - ({"fastapi"} if name in ("serving.app", "serving.server") else set())
            used = {other.split(".")[0] for other in imported(file, at_module_level=True)}
            assert not used & heavy, name


def test_every_module_says_in_its_first_line_what_it_owns() -> None:
    for name, file in modules().items():
        docstring = ast.get_docstring(ast.parse(file.read_text("utf-8")))
        assert docstring, name
        assert len(docstring.splitlines()[0]) > 20, name


def test_all_public_functions_have_docstrings_that_name_what_they_raise() -> None:
    for name in langchain_bge_medical.__all__:
        thing = getattr(langchain_bge_medical, name)
        if callable(thing):
            assert thing.__doc__, name
            module = importlib.import_module(thing.__module__)
            assert module.__name__.startswith("langchain_bge_medical")


def test_nothing_is_unpickled_and_no_remote_code_is_trusted() -> None:
    for name, file in modules().items():
        source = file.read_text("utf-8")
        assert not re.search(r"\bimport pickle\b|pickle\.loads?\(|torch\.load\(|trust_remote_code=True", source), name
