"""The same contract on LangChain's own `CrossEncoderReranker`: what it does not do, each failure with its reason.

`xfail_strict` makes this a documented comparison that cannot go stale: the day one of them passes, this file fails.
"""

from __future__ import annotations

import pytest
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor

from tests.compressor_contract import CompressorContract

MISSING = {
    "test_a_top_n_below_one_is_refused": "top_n is not validated; -1 drops the worst document",
    "test_scores_are_in_the_metadata_as_python_floats_that_json_takes": "the scores are thrown away",
    "test_what_is_returned_shares_nothing_with_what_was_passed_in": "the caller's own objects are returned",
    "test_a_stale_score_is_replaced": "a score left by an earlier stage stays and passes for this one's",
    "test_no_documents_give_none_and_do_not_touch_the_model": "the model is called with no pairs",
    "test_equal_texts_are_scored_once": "every copy is scored",
    "test_a_blank_document_goes_last_and_never_to_the_model": "blank documents are scored",
    "test_a_score_that_is_no_number_is_an_error_and_not_an_order": "NaN corrupts the order in silence",
    "test_a_scorer_that_returns_too_few_scores_is_an_error": "documents beyond the last score vanish in silence",
    "test_swapped_arguments_are_an_error": "swapped arguments fail somewhere inside",
    "test_a_blank_query_is_an_error": "a blank query is ranked",
    "test_concurrent_calls_use_the_model_one_at_a_time_and_share_its_batches": "threads enter the model together",
    "test_a_trace_shows_a_run_of_its_own_under_the_caller": "callbacks are ignored; no trace shows the reranking",
}


class TestCrossEncoderReranker(CompressorContract):
    def compressor(self, encoder: BaseCrossEncoder, *, top_n: int) -> BaseDocumentCompressor:
        return CrossEncoderReranker(model=encoder, top_n=top_n)

    @pytest.fixture(autouse=True)
    def _expect_what_is_missing(self, request: pytest.FixtureRequest) -> None:
        if reason := MISSING.get(request.node.name):
            request.applymarker(pytest.mark.xfail(reason=reason))
