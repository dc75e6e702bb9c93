"""Run rerank clients against a service and print what each got: {"client": {"indices", "scores", ...}} per line.

    python try_clients.py http://127.0.0.1:8000 CLIENT...

Run by tests/test_serving_clients.py in an environment that has the clients; each is used as its own documentation does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

QUERY = "发烧三天,咳嗽,痰多"
DOCUMENTS = [
    "普通感冒:鼻塞、流清涕、打喷嚏",
    "社区获得性肺炎:发热、咳嗽、咳痰、胸痛",
    "踝关节扭伤:踝部肿痛",
    "急性支气管炎:咳嗽、咳痰",
]
CLIENTS: dict[str, Callable[[str], dict[str, Any]]] = {}


def client(function: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    CLIENTS[function.__name__] = function
    return function


def of(results: Any, index: str = "index", score: str = "relevance_score") -> dict[str, Any]:
    def get(result: Any, name: str) -> Any:
        return result[name] if isinstance(result, dict) else getattr(result, name)

    return {"indices": [get(r, index) for r in results], "scores": [get(r, score) for r in results]}


@client
def cohere_v2(url: str) -> dict[str, Any]:
    import cohere

    sdk = cohere.ClientV2("key", base_url=url)
    return of(sdk.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=3).results)


@client
def cohere_v1(url: str) -> dict[str, Any]:
    import cohere

    sdk = cohere.Client("key", base_url=url)
    answer = sdk.rerank(
        model="rerank-v3.5", query=QUERY, documents=[{"text": text} for text in DOCUMENTS], top_n=3,
        return_documents=True,
    )  # fmt: skip
    return {**of(answer.results), "texts": [result.document.text for result in answer.results]}


@client
def cohere_v2_relevant_spans(url: str) -> dict[str, Any]:
    import cohere
    from cohere import RerankRelevantSpans

    sdk = cohere.ClientV2("key", base_url=url)
    answer = sdk.rerank(
        model="rerank-v5.0-pro", query=QUERY, documents=DOCUMENTS, top_n=3,
        relevant_spans=RerankRelevantSpans(mode="enabled"),
    )  # fmt: skip
    spans = [[DOCUMENTS[r.index][span.start : span.end] for span in r.relevant_spans or []] for r in answer.results]
    return {**of(answer.results), "spans": spans}


@client
def langchain_cohere(url: str) -> dict[str, Any]:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    compressor = CohereRerank(base_url=url, cohere_api_key="key", model="rerank-v3.5", top_n=3)
    kept = compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    return _of_documents(kept)


@client
def langchain_infinity(url: str) -> dict[str, Any]:
    from infinity_client import Client
    from langchain_community.document_compressors import InfinityRerank
    from langchain_core.documents import Document

    compressor = InfinityRerank(client=Client(base_url=url), model="bge", top_n=3)
    return _of_documents(compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY))


@client
def langchain_jina(url: str) -> dict[str, Any]:
    from langchain_community.document_compressors import JinaRerank, jina_rerank
    from langchain_core.documents import Document

    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"  # the class has no setting for it
    compressor = JinaRerank(jina_api_key="key", top_n=3)
    return _of_documents(compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY))


@client
def infinity_client(url: str) -> dict[str, Any]:
    from infinity_client import Client
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    body = RerankInput(query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True)
    answer = rerank.sync(client=Client(base_url=url), body=body)
    texts = [result.document for result in answer.results]
    return {**of(answer.results), "texts": texts}


def _litellm(url: str, model: str, **settings: Any) -> dict[str, Any]:
    import litellm

    answer = litellm.rerank(model=model, query=QUERY, documents=DOCUMENTS, top_n=3, api_base=url, **settings)
    return of(answer.results)


@client
def litellm_cohere(url: str) -> dict[str, Any]:
    return _litellm(url, "cohere/rerank-v3.5", api_key="key")


@client
def litellm_jina_ai(url: str) -> dict[str, Any]:
    return _litellm(f"{url}/v1/rerank", "jina_ai/jina-reranker-v2", api_key="key")


@client
def litellm_huggingface(url: str) -> dict[str, Any]:
    return _litellm(url, "huggingface/BAAI/bge-reranker-v2-m3", api_key="key")


@client
def litellm_hosted_vllm(url: str) -> dict[str, Any]:
    return _litellm(url, "hosted_vllm/bge", api_key="key", return_documents=True)


@client
def litellm_hosted_vllm_v1(url: str) -> dict[str, Any]:
    return _litellm(f"{url}/v1/rerank", "hosted_vllm/bge", api_key="key")


@client
def litellm_infinity(url: str) -> dict[str, Any]:
    return _litellm(f"{url}/infinity", "infinity/bge", api_key="key", return_documents=True)


@client
def xinference(url: str) -> dict[str, Any]:
    from xinference_client import RESTfulClient

    model = RESTfulClient(url).get_model("bge-reranker")
    return of(model.rerank(DOCUMENTS, QUERY, top_n=3, return_documents=True)["results"])


@client
def milvus(url: str) -> dict[str, Any]:
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    with tempfile.TemporaryDirectory() as folder:
        store = MilvusClient(f"{folder}/m.db")
        schema = store.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("text", DataType.VARCHAR, max_length=1_000)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
        index = store.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        store.create_collection("kb", schema=schema, index_params=index)
        rows = [{"id": i, "text": text, "vector": [1.0, 0.1 * i, 0.0, 0.0]} for i, text in enumerate(DOCUMENTS)]
        store.insert("kb", rows)
        params = {
            "reranker": "model", "provider": "cohere", "model_name": "bge", "queries": [QUERY],
            "base_url": f"{url}/v2", "api_key": "key",
        }  # fmt: skip
        ranker = Function(name="ours", input_field_names=["text"], function_type=FunctionType.RERANK, params=params)
        found = store.search("kb", data=[[1.0, 0.0, 0.0, 0.0]], limit=3, output_fields=["text"], ranker=ranker)[0]
        store.close()
        return {"indices": [hit["id"] for hit in found], "scores": [hit["distance"] for hit in found]}


def _of_documents(documents: Any) -> dict[str, Any]:
    return {
        "indices": [DOCUMENTS.index(document.page_content) for document in documents],
        "scores": [document.metadata["relevance_score"] for document in documents],
    }


if __name__ == "__main__":
    base_url, *names = sys.argv[1:]
    for name in names or CLIENTS:
        try:
            got = CLIENTS[name](base_url)
        except Exception:
            got = {"error": traceback.format_exc()}
        print(json.dumps({name: got}, ensure_ascii=False))
