"""What goes in and out: each rerank dialect by its body, the limits, and the shape of a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from langchain_bge_medical.chat import completed
from langchain_bge_medical.well_formed import well_formed

Lang = Literal["zh", "en"]


@dataclass(frozen=True)
class Limits:
    """What a request may hold at most. All are checked before anything is tokenised; 413 beyond."""

    body_bytes: int = 8_000_000
    documents: int = 1_000
    query_chars: int = 8_000
    document_chars: int = 200_000
    history_chars: int = 200_000
    """Of all turns together."""
    tokens: int = 600_000
    """Estimated, of all pairs, each counted up to the model's own limit."""
    answers: int = 64
    """Of `/ask` and `/chat` at the same time; 429 beyond."""


class Problem(Exception):
    """A refusal, in words that hold nothing of what was sent."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        param: str | None = None,
        allow: str | None = None,
    ) -> None:
        """Take the HTTP status, a code for programs, a message for people, when to try again, and methods to try."""
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after_s, self.param, self.allow = retry_after_s, param, allow


def _readable(value: Any) -> Any:
    return well_formed(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_readable)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (str, dict)) else value


def _none_if_zero(value: Any) -> Any:
    return None if value in (0, "0") and not isinstance(value, bool) else value


def _five_if_null(value: Any) -> Any:
    return 5 if value is None else value


# Clients of vLLM send 0 for all.
TopN = Annotated[
    Annotated[int, Field(ge=1)] | None,
    BeforeValidator(_none_if_zero),
    Field(description="How many results; all if null."),
]


class _Body(BaseModel):
    # Clients send fields of their own servers: what is not known does not matter.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def _example(**body: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [body]})


class RelevantSpans(_Body):
    """Cohere's request for evidence."""

    mode: Literal["enabled", "disabled"] = "enabled"
    threshold: float = Field(default=0.1, ge=0, le=1)
    max_spans: int | None = Field(default=None, ge=1)


class Rerank(_Body):
    """Cohere v1 and v2, Jina, vLLM, Xinference, LiteLLM: rank documents for a query."""

    model_config = _example(
        model="bge-reranker",
        query="发烧三天,咳嗽,痰多,没有胸痛",
        documents=["普通感冒:鼻塞、流清涕", "社区获得性肺炎:发热、咳嗽、咳痰、胸痛"],
        top_n=2,
        relevant_spans={"mode": "enabled"},
    )

    query: Text = Field(min_length=1)
    documents: Annotated[list[Text | dict[str, Any]], BeforeValidator(_as_list)] = Field(min_length=1)
    model: Text | None = Field(default=None, description="Any name; the answer says which model it was.")
    top_n: TopN = None
    return_documents: bool | None = None
    rank_fields: list[Text] | None = Field(default=None, description="Fields of documents that are objects.")
    relevant_spans: RelevantSpans | None = None

    def texts(self) -> list[str]:
        """Return the text of each document.

        Raises:
            Problem: If a document is an object without a text.
        """
        return [doc if isinstance(doc, str) else self._text_of(i, doc) for i, doc in enumerate(self.documents)]

    def _text_of(self, i: int, document: Mapping[str, Any]) -> str:
        fields = self.rank_fields or ["text"]
        values = [document[field] for field in fields if document.get(field) is not None]
        if not values:
            known = "one of rank_fields" if self.rank_fields else "'text'; name other fields in rank_fields"
            raise Problem(422, "invalid_request", f"documents.{i}: an object needs {known}", param=f"documents.{i}")
        if self.rank_fields is None and not isinstance(values[0], str):
            raise Problem(422, "invalid_request", f"documents.{i}.text: must be a text", param=f"documents.{i}")
        texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        text: str = well_formed("\n".join(texts))
        return text


class InfinityRerank(_Body):
    """Infinity: `documents` with `raw_scores`."""

    model_config = _example(query="头痛", documents=["偏头痛:单侧头痛", "中耳炎:耳痛"], raw_scores=False)

    query: Text = Field(min_length=1)
    documents: list[Text] = Field(min_length=1)
    raw_scores: bool = False
    return_documents: bool = False
    model: Text = "default/not-specified"
    top_n: TopN = None


class TEIRerank(_Body):
    """Text Embeddings Inference: `texts`."""

    model_config = _example(query="头痛", texts=["偏头痛:单侧头痛", "中耳炎:耳痛"], return_text=True)

    query: Text = Field(min_length=1)
    texts: list[Text] = Field(min_length=1)
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = Field(default=None, description="false refuses what the model cannot read to its end.")


class KnowledgeBaseQuery(_Body):
    """A query alone: rank the diseases of the knowledge base."""

    model_config = _example(query="我有糖尿病,最近总是口渴,还经常头痛。", top_n=5)

    query: Text = Field(min_length=1, description="The patient's words.")
    top_n: Annotated[int, BeforeValidator(_five_if_null)] = Field(default=5, ge=1, le=50)
    lang: Lang = "zh"


class Turn(_Body):
    """What was said before."""

    role: Literal["user", "assistant"]
    content: Text


class Ask(KnowledgeBaseQuery):
    """A question, and the conversation that it goes on."""

    model_config = _example(query="孩子发烧三天了,耳朵后面有点红肿,摸起来疼。", lang="zh")

    rerank: bool = Field(default=True, description="false leaves the order of recall.")
    history: list[Turn] = Field(default=[], max_length=40)

    def picture(self) -> str:
        """Return all that the patient has said so far: what is added refines it.

        A bare yes or no is the answer to the question that the assistant's turn before it ends in.
        """
        said, answer = [], ""
        for turn in [*self.history, Turn(role="user", content=self.query)]:
            if turn.role == "assistant":
                answer = turn.content
            else:
                said.append(completed(turn.content, answer))
                answer = ""
        return "。".join(part.strip().rstrip("。.") for part in said if part.strip())


class Score(_Body):
    """vLLM's score API: one query with many documents, or as many as documents."""

    model_config = _example(queries=["头痛"], documents=["偏头痛:单侧头痛", "中耳炎:耳痛"])

    queries: Annotated[list[Text], BeforeValidator(_as_list)] = Field(min_length=1)
    documents: Annotated[list[Text], BeforeValidator(_as_list)] = Field(min_length=1)
    model: Text | None = None
    use_activation: bool | None = Field(default=None, description="false gives logits.")


_SCORE_NAMES = {"items": "documents", "text_1": "queries", "text_2": "documents", "data_1": "queries"}
_SCORE_NAMES["data_2"] = "documents"

AnyRerank = Rerank | InfinityRerank | TEIRerank | KnowledgeBaseQuery
B = TypeVar("B", bound=_Body)


def parse(model: type[B], raw: bytes) -> B:
    """Return a body as its model.

    Raises:
        Problem: 400 if it is no JSON, 422 if it is not that model; neither repeats what was sent.
    """
    return _validated(model, _json(raw))


def parse_rerank(raw: bytes) -> AnyRerank:
    """Return the body of a rerank request in the dialect that it is in.

    Raises:
        Problem: As `parse`.
    """
    data = _json(raw)
    if not isinstance(data, dict):
        raise Problem(422, "invalid_request", "the body must be a JSON object")
    if "texts" in data and "documents" in data:
        raise Problem(422, "invalid_request", "give documents or texts, not both", param="documents")
    if "texts" in data:
        return _validated(TEIRerank, data)
    if "documents" not in data:
        return _validated(KnowledgeBaseQuery, data)
    # infinity_client always sends raw_scores and needs documents back as plain texts.
    if "raw_scores" in data:
        return _validated(InfinityRerank, data)
    return _validated(Rerank, data)


def parse_score(raw: bytes) -> Score:
    """Return the body of a score request, by whichever of vLLM's names its two sides go.

    Raises:
        Problem: As `parse`; also if the two sides do not fit together.
    """
    data = _json(raw)
    if isinstance(data, dict):
        data = {_SCORE_NAMES.get(name, name): value for name, value in data.items()}
    body = _validated(Score, data)
    if len(body.queries) not in (1, len(body.documents)):
        raise Problem(
            422,
            "invalid_request",
            f"{len(body.queries)} queries, {len(body.documents)} documents: give one query, or one for each document",
            param="queries",
        )
    return body


def check_sizes(queries: Sequence[str], documents: Sequence[str], limits: Limits) -> None:
    """Refuse what is too large, before any work.

    Raises:
        Problem: 413, or 422 if a query is blank.
    """
    if len(documents) > limits.documents:
        raise Problem(
            413,
            "too_many_documents",
            f"{len(documents)} documents; at most {limits.documents} are taken",
        )
    for query in queries:
        if not query.strip():
            raise Problem(422, "invalid_request", "query: it is blank", param="query")
        if len(query) > limits.query_chars:
            raise Problem(
                413, "query_too_long", f"the query has {len(query)} characters; at most {limits.query_chars} are taken"
            )
    for i, document in enumerate(documents):
        if len(document) > limits.document_chars:
            raise Problem(
                413,
                "document_too_long",
                f"documents.{i} has {len(document)} characters; at most {limits.document_chars} are taken",
            )


def check_history(history: Sequence[Turn], limits: Limits) -> None:
    """Refuse a conversation that is too long, before any of it is read.

    Raises:
        Problem: 413.
    """
    characters = sum(len(turn.content) for turn in history)
    if characters > limits.history_chars:
        raise Problem(
            413,
            "history_too_long",
            f"the history has {characters} characters; at most {limits.history_chars} are taken",
            param="history",
        )


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of thousands of digits
        raise Problem(400, "invalid_json", "the body is not valid JSON") from None


def _validated(model: type[B], data: Any) -> B:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # Of the place only numbers and the fields of our own: a key may be the sender's words too.
        known = _field_names(model)
        place = [str(part) for part in first["loc"] if isinstance(part, int) or part in known]
        param = ".".join(place) or None
        where = f"{param}: " if param else ""
        message = first["msg"] if first["type"] != "model_type" else "the body must be a JSON object"
        raise Problem(422, "invalid_request", f"{where}{message}", param=param) from None


def _field_names(model: type[BaseModel]) -> set[str]:
    names = set(model.model_fields)
    for nested in (RelevantSpans, Turn):
        names |= set(nested.model_fields)
    return names


# Answers. They are put together as plain dicts; these say in the OpenAPI document what is in them.


class Span(BaseModel):
    """Where a document says what the patient says: `text[start:end]` in code points."""

    start: int
    end: int
    score: float


class ReturnedDocument(BaseModel):
    """A document as it was ranked."""

    text: str


class RerankResult(BaseModel):
    """One document: `index` is its place in the request, from 0."""

    index: int
    relevance_score: float = Field(ge=0, le=1)
    document: ReturnedDocument | None = None
    relevant_spans: list[Span] | None = None
    truncated: list[Literal["query", "document"]] | None = Field(default=None, description="What was not read whole.")


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class RerankAnswer(BaseModel):
    """Documents best first, in the fields of Cohere, Jina and vLLM together."""

    id: str
    object: Literal["rerank"] = "rerank"
    created: int
    model: str
    results: list[RerankResult]
    usage: Usage
    meta: dict[str, Any]


class InfinityResult(BaseModel):
    """One document."""

    index: int
    relevance_score: float
    document: str | None = None


class InfinityAnswer(BaseModel):
    """Documents best first, as Infinity has them."""

    id: str
    object: Literal["rerank"] = "rerank"
    created: int
    model: str
    results: list[InfinityResult]
    usage: Usage


class TEIRank(BaseModel):
    """One document, as Text Embeddings Inference has it."""

    index: int
    score: float
    text: str | None = None


class TEIAnswer(RootModel[list[TEIRank]]):
    """Texts best first, as Text Embeddings Inference has them."""


class ScoredPair(BaseModel):
    """One pair."""

    index: int
    object: Literal["score"] = "score"
    score: float
    truncated: list[Literal["query", "document"]] | None = Field(default=None, description="What was not read whole.")
    known: bool | None = Field(default=None, description="false: the model was not made for this text; see README.")


class ScoreAnswer(BaseModel):
    """A score per pair, in the order given."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ScoredPair]
    usage: Usage


class EvidencePiece(BaseModel):
    """A span of the query or of the disease's `text`, in code points, and what it says of the other."""

    model_config = _example(field="query", start=5, end=7, text="咳嗽", status="matched", term="咳嗽")

    field: Literal["query", "document"]
    start: int
    end: int
    text: str
    status: Literal["matched", "denied", "missing", "contradicting"] = Field(
        description="The patient has it; denies it; says nothing of it; has it although the disease comes without it."
    )
    term: str = Field(description="The symptom that it is about.")


class Finding(BaseModel):
    """A symptom that the patient speaks of, and where in the query, in code points."""

    model_config = _example(term="胸痛", start=14, end=16, status="absent", text="胸痛")

    term: str
    start: int
    end: int
    status: str = Field(description="`present`, `possible`, `absent`, or past or somebody else's.")
    text: str


class TriageReason(BaseModel):
    """A red flag, and the words that raised it."""

    model_config = ConfigDict(extra="allow")

    text: str
    quotes: list[str]


class TriageAnswer(BaseModel):
    """How soon to be seen. Red flags decide; without any, what is usual for the disease that is ranked first."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"level": "routine", "reasons": [], "advice": "建议近日预约就诊。"}]},
    )

    level: Literal["emergency", "urgent", "routine", "self_care"]
    reasons: list[TriageReason]
    advice: str


class AbstentionAnswer(BaseModel):
    """Whether something fits, and why not."""

    model_config = _example(score=0.02, reason="no_symptoms", calibrated=False)

    score: float = Field(ge=0, le=1, description="High where the words are a complaint that a disease fits.")
    reason: Literal["no_symptoms", "no_match"] | None = Field(
        description="Why nothing is shown: no present symptom is read, or no disease fits well enough. Else null."
    )
    calibrated: bool = Field(description="Whether the score is a probability on this knowledge base.")


class Question(BaseModel):
    """The question whose answer would tell the diseases apart most: `有X` or `没有X` is the next turn of `/ask`."""

    model_config = _example(
        term="铁锈色痰",
        text="有没有铁锈色痰?",
        gain=0.21,
        yes=["社区获得性肺炎"],
        no=["急性支气管炎"],
        label="铁锈色痰",
    )

    term: str
    text: str = Field(description="To be put to the patient.")
    gain: float = Field(description="Bits of uncertainty that the answer takes away on average.")
    yes: list[str] = Field(description="Diseases that a yes makes more likely.")
    no: list[str] = Field(description="Diseases that a no makes more likely.")
    label: str = Field(description="The symptom in the language asked for.")


class Disease(BaseModel):
    """A disease of the knowledge base, and why it is where it is."""

    model_config = ConfigDict(extra="allow")

    rank: int | None = Field(description="After reranking, from 1; null without it.")
    recall_rank: int = Field(description="Before reranking, from 1.")
    disease: str | None
    name: str | None = Field(description="To be shown, in the language asked for.")
    labels: dict[str, str] = Field(description="Symptoms in the language asked for, where it is not the texts' own.")
    relevance_score: float | None = Field(description="The reranker's own, 0 to 1; it compares, and is no probability.")
    relevance_logit: float | None
    rerank_adjustment: float | None = Field(
        description="Added to the logit for what the patient affirms, denies and is; the order is that of the sum."
    )
    confidence: float | None = Field(
        description="Chance that it is a right answer, or else `relevance_score`; null if that is on another scale."
    )
    confidence_calibrated: bool = Field(description="Which of the two `confidence` is.")
    patient_mismatch: Literal["impossible", "unlikely"] | None = Field(
        description="What sex or age say; impossible ones are shown only if nothing else was found."
    )
    department: str | None = None
    symptoms: list[str]
    evidence: list[EvidencePiece]
    text: str


class KnowledgeBaseAnswer(BaseModel):
    """The diseases of the knowledge base that fit best, with red flags first."""

    model_config = ConfigDict(extra="allow")

    id: str
    query: str
    model: dict[str, Any]
    audit: dict[str, Any]
    abstained: bool = Field(description="It is better to say nothing: `results` is empty, `abstention` says why.")
    abstention: AbstentionAnswer
    triage: TriageAnswer
    findings: list[Finding] = Field(description="Symptoms in the query: affirmed, denied, past, …, and where.")
    patient: dict[str, Any] = Field(description="What the query says of who it is: sex, age, pregnancy.")
    next_question: Question | None
    reranked: bool
    results: list[Disease]
    recalled: list[Disease] = Field(description="The best of recall alone, for comparison.")
    timings_ms: dict[str, float]
    notice: str


class AskAnswer(KnowledgeBaseAnswer):
    """The same, and an answer in words."""

    answer: str


class ChatEvent(BaseModel):
    """One server-sent event; `data` is JSON: parts of `AskAnswer`, `{"text"}` of a token, or a `Refusal`.

    `triage` comes first, before anything is searched; then, where there are red flags, a `token` that says so;
    `documents` once; `token`s; `done`.
    """

    event: Literal["triage", "documents", "token", "done", "error"]
    data: str


class Refusal(BaseModel):
    """Why not, in the fields that clients of Cohere, Jina and OpenAI look at."""

    class Error(BaseModel):
        """As OpenAI has it."""

        message: str
        type: str
        param: str | None
        code: int

    id: str
    message: str
    detail: str
    error: Error


class TEIRefusal(BaseModel):
    """Why not, as Text Embeddings Inference has it."""

    error: str
    error_type: str


DOCUMENTED = (
    *("Rerank", "InfinityRerank", "TEIRerank", "KnowledgeBaseQuery", "Score", "Ask"),
    *("RerankAnswer", "InfinityAnswer", "TEIAnswer", "KnowledgeBaseAnswer", "ScoreAnswer", "AskAnswer"),
    *("ChatEvent", "Refusal", "TEIRefusal"),
)
