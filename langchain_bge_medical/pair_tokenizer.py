"""(query, document) texts → token ids as the model wants them: the frame around a pair, what is cut, windows."""

from __future__ import annotations

import itertools
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from langchain_bge_medical.digests import text_digest
from langchain_bge_medical.well_formed import well_formed

LongDocuments = Literal["cut", "windows"]

# A query may take this share of max_length, the document gets the rest: FlagEmbedding's FlagReranker cuts so.
_QUERY_SHARE = 0.75
# Windows overlap by a quarter, so that what one of them cuts in two is whole in another.
_WINDOW_STEP = 0.75
# Of a document in windows; the longest that the BGE rerankers were made to read.
_LONGEST_DOCUMENT = 8_192
# A tokenizer reads whole texts before it cuts them. No tokenizer in use makes a token of more characters than this
# on average, so that nothing that could be kept is lost, and a monster text costs no more than a long one.
_CHARS_PER_TOKEN = 32
# Ids of documents that are remembered, since the same knowledge base is reranked for every query.
_REMEMBERED_TOKENS = 500_000


class TokenSequence(NamedTuple):
    """What goes through the model at once."""

    input_ids: list[int]
    token_type_ids: list[int]


class EncodedPair(NamedTuple):
    """A pair as the model reads it, and how many tokens of it the model does not see."""

    sequences: list[TokenSequence]
    """One, or one per window of the document."""
    query_tokens_cut: int
    document_tokens_cut: int

    @property
    def tokens(self) -> int:
        """Tokens that the model reads, special ones included."""
        return sum(len(sequence.input_ids) for sequence in self.sequences)


class _Frame(NamedTuple):
    """The special tokens around a pair, as the model's own tokenizer places them."""

    before: list[int]
    between: list[int]
    after: list[int]
    query_type: int
    document_type: int

    @classmethod
    def of(cls, tokenizer: Any) -> _Frame:
        probe = tokenizer("1", "1", return_special_tokens_mask=True)
        ids, special = probe["input_ids"], probe["special_tokens_mask"]
        # Not asked for: a model whose tokenizer gives no types was made with 0 everywhere, as transformers has it then.
        types = probe.get("token_type_ids", [0] * len(ids))
        text = [i for i, added in enumerate(special) if not added]
        gap = next((i for i, j in itertools.pairwise(text) if j > i + 1), None)
        if gap is None:
            raise ValueError("its tokenizer puts nothing between query and document, so it was not made for pairs")
        resume = text[text.index(gap) + 1]
        return cls(ids[: text[0]], ids[gap + 1 : resume], ids[text[-1] + 1 :], types[gap], types[resume])

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def fill(self, query_ids: Sequence[int], document_ids: Sequence[int]) -> TokenSequence:
        # In a BERT pair the separator between the texts counts as the query's; XLM-R has one type only.
        head = [*self.before, *query_ids, *self.between]
        tail = [*document_ids, *self.after]
        return TokenSequence(head + tail, [self.query_type] * len(head) + [self.document_type] * len(tail))


class PairTokenizer:
    """Turns pairs into token ids. May be used from several threads.

    Each distinct text of a call is tokenised once. The ids of documents read last are remembered, in memory only;
    those of queries are not.
    """

    def __init__(self, tokenizer: Any, max_length: int, long_documents: LongDocuments = "cut") -> None:
        """Take a transformers tokenizer, which becomes this object's own.

        Args:
            tokenizer: Of the model.
            max_length: Tokens of query, document and special tokens together that the model may read.
            long_documents: Cut what does not fit, or read it in windows.
        """
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._long_documents = long_documents
        self._frame = _Frame.of(tokenizer)
        self._fast = tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        self._known = _Remembered(_REMEMBERED_TOKENS)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        """Encode pairs, in the order given."""
        queries = self._ids(dict.fromkeys(query for query, _ in pairs))
        documents = self._known.get(document for _, document in pairs)
        fresh = self._ids(dict.fromkeys(document for _, document in pairs if document not in documents))
        self._known.add(fresh)
        documents.update(fresh)
        return [self._pair(query, queries[query], document, documents[document]) for query, document in pairs]

    def _pair(self, query: str, query_ids: Sequence[int], document: str, document_ids: Sequence[int]) -> EncodedPair:
        kept_query = query_ids[: int(self._max_length * _QUERY_SHARE)]
        room = self._max_length - self._frame.size - len(kept_query)
        if self._long_documents == "cut":
            windows = [document_ids[:room]]
            seen = min(room, len(document_ids))
        else:
            seen = min(_LONGEST_DOCUMENT, len(document_ids))
            windows = _windows(document_ids[:seen], room)
        longest = self._chars()
        return EncodedPair(
            [self._frame.fill(kept_query, window) for window in windows],
            len(query_ids) - len(kept_query) + (len(query) > longest),
            len(document_ids) - seen + (len(document) > longest),
        )

    def _chars(self) -> int:
        """Return how much of a text is looked at."""
        return (self._max_length if self._long_documents == "cut" else _LONGEST_DOCUMENT) * _CHARS_PER_TOKEN

    def _ids(self, texts: Iterable[str]) -> dict[str, list[int]]:
        whole = list(texts)
        if not whole:
            return {}
        longest = self._chars()
        read = [well_formed(text[:longest]) for text in whole]
        if self._fast is not None:
            # The plain tokenizer keeps no offsets, which nobody here asks for.
            ids = [encoding.ids for encoding in self._fast.encode_batch_fast(read, add_special_tokens=False)]
        else:
            # verbose=False: the warning about texts over the model's length would come for what we cut ourselves.
            ids = self._tokenizer(read, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return dict(zip(whole, ids, strict=True))


class _Remembered:
    """The ids of the texts read last, up to a number of tokens, four bytes each. Holds digests instead of texts."""

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens
        self._lock = threading.Lock()
        self._ids: OrderedDict[bytes, array[int]] = OrderedDict()

    def get(self, texts: Iterable[str]) -> dict[str, Sequence[int]]:
        keys = {text: text_digest(text) for text in texts}
        with self._lock:
            found: dict[str, Sequence[int]] = {text: self._ids[key] for text, key in keys.items() if key in self._ids}
            for text in found:
                self._ids.move_to_end(keys[text])
        return found

    def add(self, ids: Mapping[str, Sequence[int]]) -> None:
        compact = {text_digest(text): array("i", some) for text, some in ids.items()}
        with self._lock:
            for key, some in compact.items():
                if key not in self._ids:
                    self._ids[key] = some
                    self._left -= len(some)
            while self._left < 0:
                _, some = self._ids.popitem(last=False)
                self._left += len(some)


def _windows(ids: Sequence[int], room: int) -> list[Sequence[int]]:
    """Return windows of `room` ids that cover all of them, the last one full."""
    if len(ids) <= room:
        return [ids]
    step = max(1, int(room * _WINDOW_STEP))
    starts = [*range(0, len(ids) - room, step), len(ids) - room]
    return [ids[start : start + room] for start in starts]
