"""The service: one app that rerank clients connect to unchanged, and a page that is a plain client of it."""
