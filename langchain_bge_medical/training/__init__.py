"""Training: the bundled models, tuning a reranker to a knowledge base, calibration. Needs the `train` extra."""
