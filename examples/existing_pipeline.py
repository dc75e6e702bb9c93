"""Drop the reranker into a FAISS index and a ContextualCompressionRetriever that somebody already has."""

import warnings

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document

from langchain_bge_medical import BGEEmbeddings, BGERerankerCompressor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # langchain-community announces its sunset at import
    from langchain_community.vectorstores import FAISS

NOTES = [
    "急性肾盂肾炎:寒战高热,腰痛,尿频尿急尿痛。",
    "尿路结石:突发的腰部绞痛,向腹股沟放射,血尿。",
    "腰椎间盘突出症:腰痛,向一侧下肢放射,咳嗽时加重。",
    "急性腰扭伤:搬重物后突然腰痛,活动受限。",
]


def main() -> None:
    # What is already there: any documents, any embeddings, any vector store.
    documents = [Document(page_content=note, metadata={"note": number}) for number, note in enumerate(NOTES)]
    vectorstore = FAISS.from_documents(documents, BGEEmbeddings("bundled"))

    # What is new. With a hub in reach: BGERerankerCompressor(top_n=2) takes BAAI/bge-reranker-v2-m3.
    reranker = BGERerankerCompressor(model_name="bundled", top_n=2)
    retriever = ContextualCompressionRetriever(
        base_compressor=reranker, base_retriever=vectorstore.as_retriever(search_kwargs={"k": 4})
    )
    for document in retriever.invoke("腰一侧绞着疼,疼得打滚,尿是红的"):
        metadata = document.metadata
        # The bundled model was not trained on these notes, so that its ranks are fused with recall's.
        print(
            f"{metadata['relevance_score']:.3f}  fused={metadata.get('rerank_fused', False)}  {document.page_content}"
        )


if __name__ == "__main__":
    main()
