from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = ("llm", "serve", "otel", "train")  # the light ones; databases and Ray bring hundreds
# Licences that let anybody use, change and sell what they cover, without a duty on what is built beside it. MPL's duty
# is on its own files.
FREE = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla Public License 2|CC0|Zlib|Unlicense|BSL-1\.0|CNRI",
    re.IGNORECASE,
)
NOT_FREE = re.compile(r"GPL|AGPL|SSPL|Commons Clause|Non-?Commercial|BUSL|Proprietary", re.IGNORECASE)
# The first versions without what the CVE describes, from the advisories.
FLOORS = {
    "langchain-core": ("1.2.28", ["CVE-2025-68664", "CVE-2026-34070", "CVE-2026-40087"]),
    "transformers": ("5.3", ["CVE-2026-4372"]),
    "torch": ("2.10", ["CVE-2025-32434", "CVE-2026-24747"]),
    "starlette": ("0.49.1", ["CVE-2025-62727"]),
    "h11": ("0.16", ["CVE-2025-43859"]),
    "protobuf": ("6.31.1", ["CVE-2025-4565"]),
}


def requirements() -> dict[str, Requirement]:
    found: dict[str, Requirement] = {}
    for some in [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]:
        for requirement in map(Requirement, some):
            name = canonicalize_name(requirement.name)
            if name in found:  # an extra may ask for more
                requirement.specifier &= found[name].specifier
            found[name] = requirement
    return found


def needed(name: str, extras: tuple[str, ...], found: dict[str, importlib.metadata.Distribution]) -> None:
    """Add to `found` whatever is installed because of a package, but what only torch on CUDA brings, NVIDIA's own."""
    if name.startswith(("nvidia-", "cuda-")):
        return
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # of another platform, or of an extra that is not installed
        return
    found[canonicalize_name(name)] = distribution
    for text in distribution.requires or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (extras or ("",))
        )
        if wanted and canonicalize_name(requirement.name) not in found:
            needed(requirement.name, tuple(requirement.extras), found)


def license_of(distribution: importlib.metadata.Distribution) -> str:
    said = distribution.metadata
    trove = "; ".join(c.split(" :: ")[-1] for c in said.get_all("Classifier") or [] if c.startswith("License ::"))
    return said.get("License-Expression") or trove or (said.get("License") or "").split("\n")[0]


def test_every_dependency_has_a_licence_that_may_be_used_in_a_product() -> None:
    found: dict[str, importlib.metadata.Distribution] = {}
    needed("langchain-bge-medical", EXTRAS, found)
    licences = {name: license_of(distribution) for name, distribution in sorted(found.items())}
    assert len(licences) > 60
    assert {n: text for n, text in licences.items() if not FREE.search(text) or NOT_FREE.search(text)} == {}


@pytest.mark.parametrize("name", FLOORS)
def test_versions_with_a_known_hole_are_excluded_and_the_reason_stands_beside_it(name: str) -> None:
    floor, holes = FLOORS[name]
    specifier = requirements()[name].specifier
    assert f">={floor}" in {str(part) for part in specifier}
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    at = text.index(f'"{name}>=')
    assert all(hole in text[max(0, at - 300) : at + 300] for hole in holes)


def test_every_requirement_has_a_floor() -> None:
    own = PROJECT["project"]["name"]
    assert [n for n, r in requirements().items() if n != own and not any(s.operator == ">=" for s in r.specifier)] == []


# --- what is shipped

HELD = re.compile(
    r"langchain_bge_medical/[\w./]+|langchain_bge_medical-[\d.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)"
)
NEVER = re.compile(
    r"\.(pyc|pkl|pickle|pt|pth|bin|db|log|env|pem|key|ipynb)$|/\.|__pycache__|/training/(corpus/|emergencies)"
)


def build(folder: Path) -> dict[str, Path]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return {file.suffix: file for file in folder.iterdir()}


@pytest.mark.long
def test_wheel_and_sdist_hold_nothing_else_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = build(tmp_path / "1"), build(tmp_path / "2")
    for suffix in (".whl", ".gz"):
        digests = {hashlib.sha256(built[suffix].read_bytes()).hexdigest() for built in (first, second)}
        assert len(digests) == 1, suffix
    with zipfile.ZipFile(first[".whl"]) as wheel:
        names = wheel.namelist()
        text = b"".join(wheel.read(name) for name in names if name.endswith((".py", ".json", ".md", ".js", ".html")))
    assert [name for name in names if not HELD.fullmatch(name) or NEVER.search(name)] == []
    assert str(ROOT).encode() not in text
    with tarfile.open(first[".gz"]) as sdist:
        members = sdist.getmembers()
    assert [member.name for member in members if not member.isfile()] == []  # no links, no devices
    names = [member.name.partition("/")[2] for member in members]
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {
        *("langchain_bge_medical", "tests", "examples", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"),
        *("constraints.txt", "Makefile", "pyproject.toml", "PKG-INFO", ".gitignore"),
    }
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}
