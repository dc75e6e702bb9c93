"""A text with halves of characters → one that every tokenizer, file and request takes."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """Return `text` with lone surrogates (halves of an emoji, say, which JSON can hold) as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
