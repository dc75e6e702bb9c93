"""Every rerank client that we know of, unmodified, in environments of their own, against the real server.

Not in the default run, since the clients have to be installed: `make clients`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from langchain_bge_medical.cross_encoders import sigmoid
from tests.clients import try_clients
from tests.conftest import record_documents
from tests.serving_kit import SharedCharacters, make_app, make_medical, running

pytestmark = pytest.mark.clients

CLEAN = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
ENVIRONMENT = {**CLEAN, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
HERE = Path(__file__).parent / "clients"
IN_COHERE_7 = ["cohere_v2_relevant_spans"]
IN_ALL = [name for name in try_clients.CLIENTS if name not in IN_COHERE_7]


def python_with(requirements: str) -> Path:
    """The interpreter of an environment with these requirements; made once for each set of pins."""
    file = HERE / requirements
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    folder = Path(__file__).parents[1] / ".venv-clients" / f"{file.stem}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(file)]
        subprocess.run(pip, check=True, timeout=900)
        (folder / "done").touch()
    return python


def results(requirements: str, url: str, names: list[str]) -> dict[str, Any]:
    command = [str(python_with(requirements)), str(HERE / "try_clients.py"), url, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-2_000:]
    got: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            got.update(json.loads(line))
    return got


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    scorer = SharedCharacters()
    medical = make_medical(record_documents(), scorer)
    with running(make_app(scorer, medical=medical)) as address:
        yield address


@pytest.fixture(scope="module")
def got(url: str) -> dict[str, Any]:
    return {
        **results("requirements.txt", url, IN_ALL),
        **results("requirements-cohere7.txt", url, IN_COHERE_7),
    }


def expected() -> tuple[list[int], list[float]]:
    logits = [SharedCharacters.logit(try_clients.QUERY, text) for text in try_clients.DOCUMENTS]
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    return order, [sigmoid(logits[i]) for i in order]


@pytest.mark.parametrize("name", list(try_clients.CLIENTS))
def test_a_client_connects_unchanged_and_gets_the_right_order_and_scores(name: str, got: dict[str, Any]) -> None:
    answer = got[name]
    assert "error" not in answer, answer["error"]
    order, scores = expected()
    count = 4 if name == "litellm_huggingface" else 3  # TEI has no top_n
    assert answer["indices"] == order[:count]
    assert answer["scores"] == pytest.approx(scores[:count], abs=1e-6)
    if "texts" in answer:
        assert answer["texts"] == [try_clients.DOCUMENTS[i] for i in order[:count]]
    if "spans" in answer:
        assert dict(zip(answer["indices"], answer["spans"], strict=True))[1] == ["发热", "咳嗽", "咳痰"]


BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "examples/clients.md").read_text("utf-8"), re.S
)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_set_up_of_the_docs_runs_as_it_stands_there(number: int, url: str) -> None:
    block = BLOCKS[number].replace("http://localhost:8000", url)
    command = [str(python_with("requirements.txt")), "-c", block]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.strip()


def test_there_are_fifteen_of_them() -> None:
    assert len(try_clients.CLIENTS) == 15
