"""Texts → unit vectors with a sentence-transformers bi-encoder, for recall. Owns that model."""

from __future__ import annotations

import json
import logging
import math
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_bge_medical.digests import document_digest, text_digest
from langchain_bge_medical.model_files import (
    BUNDLED,
    RESOURCES,
    ModelNotFoundError,
    loading,
    model_folder,
    resolved_revision,
)
from langchain_bge_medical.well_formed import well_formed

logger = logging.getLogger(__name__)

# Of 1,024 numbers each they take 9 MB.
_REMEMBERED_QUERIES = 1_024


class BGEEmbeddings(Embeddings):
    """A bi-encoder from the hub, a folder, or this package (`"bundled"`), for any LangChain vector store.

    Any other LangChain `Embeddings` works with the rest of the package as well; this one exists because it
    loads safetensors only, needs no network for `"bundled"`, and leaves the texts as they are (but for lone
    surrogates, which no tokenizer takes: they count as U+FFFD).
    May be used from several threads: calls take turns. Pickles as its settings. The vectors of the queries asked
    last are remembered, by digest.

    Attributes:
        resolved_revision: The hub's commit, or the SHA-256 of the weights: what an index remembers.
    """

    def __init__(
        self,
        model_name: str = "bundled",
        *,
        revision: str | None = None,
        device: str | None = None,
        query_instruction: str = "",
    ) -> None:
        """Load the model.

        Args:
            model_name: Hub name, local folder, or `"bundled"`.
            revision: Commit, tag or branch on the hub.
            device: `"cpu"`, `"cuda:0"`, …; `None` lets sentence-transformers choose.
            query_instruction: Put before a query and not before documents, as e.g. bge-large-zh-v1.5 wants.

        Raises:
            ModelNotFoundError: If the model cannot be had, or its files are damaged or do not belong together.
        """
        self.model_name = model_name
        self.revision = revision
        self.device = device
        self.query_instruction = query_instruction
        self._start()
        self._load()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._model: Any = None
        self._queries: OrderedDict[bytes, array[float]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return f"BGEEmbeddings({self.model_name!r}, revision={self.revision!r}, device={self.device!r})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector of length 1 per text, in order. `texts` may be empty.

        What is beyond the tokens that the model reads is not in the vector; a WARNING says of how many texts. Of texts
        that the bundled model was trained on in just this way, it is an INFO.

        Raises:
            ValueError: If the model gives something that is not a finite number.
        """
        if not texts:
            return []
        with self._lock:
            self._load()
            readable = [well_formed(text) for text in texts]
            self._report_cut(readable)
            vectors = self._model.encode(
                readable,
                batch_size=32,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"model {self.model_name!r} gave a vector that is not all finite; its weights are broken")
        rows: list[list[float]] = vectors.tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of length 1 of a query, with the instruction before it."""
        return self.embed_queries([text])[0]

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of many queries, in order; `embed_query` remembers the last 1,024 of them."""
        keys = [text_digest(text) for text in texts]
        with self._lock:
            found = {key: self._queries[key] for key in keys if key in self._queries}
            for key in found:
                self._queries.move_to_end(key)
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        vectors = self.embed_documents([self.query_instruction + text for text in new.values()])
        made = {key: array("d", vector) for key, vector in zip(new, vectors, strict=True)}
        with self._lock:
            self._queries.update(made)
            while len(self._queries) > _REMEMBERED_QUERIES:
                self._queries.popitem(last=False)
        found |= made
        return [list(found[key]) for key in keys]

    def _report_cut(self, texts: list[str]) -> None:
        from transformers import PreTrainedTokenizerBase

        tokenizer, limit = self._model.tokenizer, self._model.max_seq_length
        if limit is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return
        ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        cut = [text for text, some in zip(texts, ids, strict=True) if len(some) > limit]
        if cut:
            logger.log(
                logging.INFO if self.model_name == BUNDLED and _trained_on(cut) else logging.WARNING,
                "%d of %d texts have more than the %d tokens that model %r reads; what is beyond is not embedded",
                len(cut), len(texts), limit, self.model_name,
            )  # fmt: skip

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from sentence_transformers import SentenceTransformer

        folder = model_folder(self.model_name, revision=self.revision, kind="embeddings")
        self.resolved_revision = resolved_revision(folder)
        with loading(self.model_name, folder):
            model = SentenceTransformer(
                str(folder),
                device=self.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
            # One text, so that what is wrong with the folder is said now and not to the first patient.
            model.encode(["."], show_progress_bar=False)
        # Attention may hide a NaN; a sum does not.
        if not all(math.isfinite(float(values.detach().sum())) for values in model.parameters()):
            raise ModelNotFoundError(f"model {self.model_name!r}: its weights in {folder} are not all finite numbers")
        self._model = model


def unread_tokens(model_name: str) -> Callable[[str], int] | None:
    """Return what counts the tokens of a text that an embedding model does not read.

    No weights are loaded, and nothing is downloaded.

    Args:
        model_name: Hub name, local folder, or `"bundled"`.

    Returns:
        The function, or `None` if the model's files are not here, or do not say how much it reads.

    Raises:
        ModelNotFoundError: If its tokenizer is damaged.
    """
    from tokenizers import Tokenizer

    try:
        folder = model_folder(model_name, kind="embeddings", download=False)
    except ModelNotFoundError:
        return None
    with loading(model_name, folder):
        says = [("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")]
        there = [(folder / name, key) for name, key in says if (folder / name).is_file()]
        limits = [json.loads(file.read_text("utf-8")).get(key) for file, key in there]
        limit = next(filter(None, limits), None)
        if limit is None or not (folder / "tokenizer.json").is_file():
            return None
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: max(0, len(tokenizer.encode(well_formed(text)).ids) - limit)


def _trained_on(texts: list[str]) -> bool:
    """Return whether these are texts that the bundled models were trained on; the reranker lists them."""
    known = (RESOURCES / "bundled_reranker" / "known_documents.txt").read_text("utf-8").split()
    return {document_digest(text) for text in texts} <= set(known)
