"""Rerank diseases for a patient's own words: LangChain parts around the BGE cross-encoder.

The names below are the public interface. They are resolved on first use (PEP 562), so that importing the
package costs no torch, faiss or transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_bge_medical.chains import build_answer_chain
    from langchain_bge_medical.chat import ChatSession
    from langchain_bge_medical.clinical.coverage import AffirmedWords, SymptomCoverage
    from langchain_bge_medical.clinical.evidence import SymptomEvidence
    from langchain_bge_medical.confidence import Calibration, CalibrationError
    from langchain_bge_medical.cross_encoders import BGECrossEncoder
    from langchain_bge_medical.document_compressors import BGERerankerCompressor
    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.embeddings import BGEEmbeddings
    from langchain_bge_medical.knowledge_base import DiseaseRecord, KnowledgeBaseError
    from langchain_bge_medical.model_files import (
        ModelNotFoundError,
        bundled_calibration,
        bundled_knowledge_base,
    )
    from langchain_bge_medical.remote_cross_encoders import RemoteCrossEncoder, RemoteRerankerError
    from langchain_bge_medical.retrievers import BGERerankRetriever, build_hybrid_retriever
    from langchain_bge_medical.score_cache import ScoreCache
    from langchain_bge_medical.vectorstores import IndexMismatchError, build_index, load_index

_HOME = {
    "AffirmedWords": "clinical.coverage",
    "BGECrossEncoder": "cross_encoders",
    "BGEEmbeddings": "embeddings",
    "BGERerankRetriever": "retrievers",
    "BGERerankerCompressor": "document_compressors",
    "Calibration": "confidence",
    "CalibrationError": "confidence",
    "ChatSession": "chat",
    "DiseaseRecord": "knowledge_base",
    "IndexMismatchError": "vectorstores",
    "KnowledgeBaseError": "knowledge_base",
    "ModelNotFoundError": "model_files",
    "RemoteCrossEncoder": "remote_cross_encoders",
    "RemoteRerankerError": "remote_cross_encoders",
    "ScoreCache": "score_cache",
    "SymptomCoverage": "clinical.coverage",
    "SymptomEvidence": "clinical.evidence",
    "MedicalKBLoader": "document_loaders",
    "build_answer_chain": "chains",
    "build_hybrid_retriever": "retrievers",
    "build_index": "vectorstores",
    "bundled_calibration": "model_files",
    "bundled_knowledge_base": "model_files",
    "load_index": "vectorstores",
}

__all__ = [
    "AffirmedWords",
    "BGECrossEncoder",
    "BGEEmbeddings",
    "BGERerankRetriever",
    "BGERerankerCompressor",
    "Calibration",
    "CalibrationError",
    "ChatSession",
    "DiseaseRecord",
    "IndexMismatchError",
    "KnowledgeBaseError",
    "MedicalKBLoader",
    "ModelNotFoundError",
    "RemoteCrossEncoder",
    "RemoteRerankerError",
    "ScoreCache",
    "SymptomCoverage",
    "SymptomEvidence",
    "__version__",
    "build_answer_chain",
    "build_hybrid_retriever",
    "build_index",
    "bundled_calibration",
    "bundled_knowledge_base",
    "load_index",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("langchain-bge-medical")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
