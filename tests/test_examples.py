"""Every example and every block of the README that can be run is run, with the bundled models."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "120"}
SEED_TOP = (("社区获得性肺炎",), ("糖尿病并发症(高血糖状态)",), ("中耳炎", "急性乳突炎"))


def run(command: list[str], *, typed: str | None = None, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command, input=typed, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_puts_the_right_disease_first_for_the_three_complaints() -> None:
    shown = run([sys.executable, "examples/rag_chatbot.py", "--demo"])
    sections = shown.split("患者: ")[1:]
    assert len(sections) == 3
    for section, right in zip(sections, SEED_TOP, strict=True):
        first = next(line for line in section.splitlines() if line.startswith(" 1  "))
        assert any(name in first.split()[-3] for name in right), first
    assert "今天" in sections[2]
    assert "耳鼻喉科" in sections[2]


def test_the_chatbot_answers_and_shows_its_sources() -> None:
    typed = "嗓子疼,发高烧\n扁桃体上有白点\n/sources\n/new\n/quit\n"
    shown = run([sys.executable, "examples/rag_chatbot.py"], typed=typed)
    assert "可能相关的疾病" in shown
    assert "依据: " in shown


def test_the_quickstart_prints_five_diseases_with_scores() -> None:
    lines = run([sys.executable, "examples/quickstart.py"]).splitlines()
    assert len(lines) == 5
    assert all(re.match(r"0\.\d{3}  \S+  \(", line) for line in lines)


def test_the_reranker_drops_into_an_existing_pipeline() -> None:
    lines = run([sys.executable, "examples/existing_pipeline.py"]).splitlines()
    assert len(lines) == 2
    assert "尿路结石" in lines[0]


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_a_python_block_of_the_readme_runs_and_prints_what_stands_beneath_it(number: int, tmp_path: Path) -> None:
    block = python_blocks()[number]
    shown = run([sys.executable, "-c", block], cwd=tmp_path)
    following = README.split(block, 1)[1]
    promised = re.match(r"```\n+```text\n(.*?)```", following, re.S)
    if promised:
        assert shown.strip() == promised.group(1).strip()


def shell_lines() -> list[str]:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S))
    return [line for line in blocks.splitlines() if line.startswith("langchain-bge-medical ") and "openai:" not in line]


@pytest.mark.parametrize("line", dict.fromkeys(shell_lines()))
def test_a_command_of_the_readme_runs(line: str, tmp_path: Path) -> None:
    if "BAAI/" in line or "/path/to" in line:
        pytest.skip("needs a model from the hub")
    if "--reranker http://" in line:
        pytest.skip("needs a rerank server of that name")
    arguments = shlex.split(line, comments=True)[1:]
    arguments = [str(ROOT / part) if part.startswith("tests/") else part for part in arguments]
    run([sys.executable, "-m", "langchain_bge_medical.cli", *arguments], typed="/quit\n", cwd=tmp_path)
