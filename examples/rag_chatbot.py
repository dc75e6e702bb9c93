"""A chatbot in the terminal: describe symptoms, add to them, see the sources. --demo answers three complaints.

    python examples/rag_chatbot.py [--demo] [--llm MODEL --base-url URL]

Without --llm the answers are put together from the knowledge base. With it, any OpenAI-compatible server writes
them (DeepSeek, Qwen, Ollama, vLLM, …; the key is read from OPENAI_API_KEY; needs the extra `llm`).
"""

from __future__ import annotations

import argparse
import os

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.vectorstores import VectorStore

from langchain_bge_medical import (
    BGEEmbeddings,
    BGERerankerCompressor,
    BGERerankRetriever,
    ChatSession,
    MedicalKBLoader,
    SymptomCoverage,
    build_answer_chain,
    build_hybrid_retriever,
    build_index,
    bundled_knowledge_base,
)

COMPLAINTS = [
    "最近三天一直发烧,咳嗽得很厉害,痰很多,晚上睡不好。",
    "我有糖尿病,最近总是口渴,还经常头痛。",
    "孩子发烧三天了,耳朵后面有点红肿,摸起来疼。",
]


def build(llm: BaseChatModel | None) -> tuple[ChatSession, VectorStore]:
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    vectorstore = build_index(documents, BGEEmbeddings("bundled"))
    retriever = BGERerankRetriever(
        base_retriever=build_hybrid_retriever(vectorstore, documents, fetch_k=50),
        compressor=BGERerankerCompressor(model_name="bundled", top_n=5, adjust=SymptomCoverage()),
    )
    return ChatSession(build_answer_chain(retriever, llm)), vectorstore


def demo(session: ChatSession, vectorstore: VectorStore) -> None:
    """For each complaint: the five by vectors alone beside the five after reranking, then the answer."""
    for complaint in COMPLAINTS:
        print(f"\n{'=' * 78}\n患者: {complaint}\n")
        session.new()
        answer = "".join(session.ask(complaint))
        by_vectors = [document.metadata["disease"] for document in vectorstore.similarity_search(complaint, k=5)]
        print(f"    {pad('仅向量检索', 30)}重排之后")
        for rank, (before, after) in enumerate(zip(by_vectors, session.documents, strict=False), start=1):
            metadata = after.metadata
            place = f"{metadata['disease']} {metadata['relevance_score']:.3f} (召回第{metadata['recall_rank']})"
            print(f"{rank:>2}  {pad(before, 30)}{place}")
        print(f"\n{answer}")


def chat(session: ChatSession) -> None:
    print("请描述症状。补充的话会与前面的合并;/new 重新开始,/sources 查看依据,/quit 退出。")
    while (line := input("\n您> ").strip()) != "/quit":
        if line == "/new":
            session.new()
        elif line == "/sources":
            show_sources(session.documents)
        elif line:
            for piece in session.ask(line):
                print(piece, end="", flush=True)
            print()


def show_sources(documents: list[Document]) -> None:
    for number, document in enumerate(documents, start=1):
        print(f"[{number}] {document.page_content}\n    依据: {'; '.join(document.metadata.get('sources', []))}")


def pad(text: str, width: int) -> str:
    """Pad to `width` columns; a Chinese character takes two."""
    return text + " " * (width - sum(2 if ord(char) > 0x2E80 else 1 for char in text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="answer three complaints and end")
    parser.add_argument("--llm", metavar="MODEL", help="chat model that writes the answers")
    parser.add_argument("--base-url", help="address of an OpenAI-compatible server")
    options = parser.parse_args()
    llm: BaseChatModel | None = None
    if options.llm:
        from langchain_openai import ChatOpenAI

        key = os.environ.get("OPENAI_API_KEY", "none")
        llm = ChatOpenAI(model=options.llm, base_url=options.base_url, api_key=key)
    session, vectorstore = build(llm)
    print("使用随包附带的小模型(仅在本项目自带知识库上训练),仅供演示。")
    if options.demo:
        demo(session, vectorstore)
        return
    try:
        chat(session)
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
