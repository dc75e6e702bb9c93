"""Text or file → the digest that it is known by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""
        ...


def text_digest(text: str) -> bytes:
    """Return 16 bytes that tell a text from all others; it may hold halves of characters."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def document_digest(text: str) -> str:
    """Return the 16 digits under which a model's `known_documents.txt` lists a text that it was trained on."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    take_file(digest, file)
    return digest.hexdigest()


def take_file(digest: Hash, file: Path) -> None:
    """Add all that a file holds to a digest, a part at a time."""
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
