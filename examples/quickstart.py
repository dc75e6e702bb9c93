"""Five lines from a knowledge base file to five reranked diseases with scores."""

from langchain_bge_medical import (
    BGEEmbeddings,
    BGERerankerCompressor,
    BGERerankRetriever,
    MedicalKBLoader,
    SymptomCoverage,
    build_index,
    bundled_knowledge_base,
)


def main() -> None:
    loader = MedicalKBLoader(bundled_knowledge_base())
    vectorstore = build_index(loader.lazy_load(), BGEEmbeddings("bundled"))
    reranker = BGERerankerCompressor(model_name="bundled", top_n=5, adjust=SymptomCoverage())
    recall = vectorstore.as_retriever(search_kwargs={"k": 50})
    retriever = BGERerankRetriever(base_retriever=recall, compressor=reranker)

    for document in retriever.invoke("最近三天一直发烧,咳嗽得很厉害,痰很多,晚上睡不好。"):
        metadata = document.metadata
        score, rank = metadata["relevance_score"], metadata["recall_rank"]
        print(f"{score:.3f}  {metadata['disease']}  ({metadata['department']}, recall rank {rank})")


if __name__ == "__main__":
    main()
