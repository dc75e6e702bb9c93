"""The encoder of a BERT- or XLM-R-shaped cross-encoder without padding, in float32, bfloat16, float16 or int8."""
