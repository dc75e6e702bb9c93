"""Requests that schemathesis makes up from the OpenAPI document, right ones and wrong ones: never a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import record_documents
from tests.serving_kit import SharedCharacters, make_app, make_medical, running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
POSTS = ["/rerank", "/v1/rerank", "/v2/rerank", "/infinity/rerank", "/score", "/v1/score", "/ask", "/chat"]
GETS = ["/info", "/v1/models", "/v1/models/{name}", "/v1/cluster/auth", "/health", "/ready"]


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    scorer = SharedCharacters()
    with running(make_app(scorer, medical=make_medical(record_documents(), scorer), max_wait_s=1_000)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_tried(schema: Any) -> None:
    assert sorted(operation.ok().path for operation in schema.get_all_operations()) == sorted([*POSTS, *GETS])


RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [(path, mode) for path in POSTS for mode in (RIGHT, WRONG)] + [(path, RIGHT) for path in GETS]


@pytest.mark.parametrize(("path", "mode"), CASES, ids=lambda part: str(getattr(part, "value", part)))
def test_whatever_comes_in_what_goes_out_is_no_5xx_and_is_what_the_document_says(
    schema: Any, path: str, mode: GenerationMode
) -> None:
    operation = schema[path]["POST" if path in POSTS else "GET"]
    twin = path.startswith(("/v1", "/v2")) or path in GETS  # of another path, or with nothing to vary

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=6 if twin else 40, deadline=None, derandomize=True, database=None,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def run(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    run()
