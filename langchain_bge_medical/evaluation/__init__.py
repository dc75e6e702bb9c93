"""How well retrieval works on a file of queries: metrics and comparison tables."""
