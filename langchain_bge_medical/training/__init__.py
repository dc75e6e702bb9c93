"""How the bundled models are made: synthetic queries, tokenizer, training. Needs the `train` extra."""
