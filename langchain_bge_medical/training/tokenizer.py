"""The bundled models' tokenizer: one token per Chinese character, word pieces for Latin script."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from langchain_bge_medical.clinical.lexicon import simplified_characters

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # XLM-R's ids for the first four
_WORD_PIECES = 3_000


def build_tokenizer(texts: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on everything that the models will be trained on.

    Text is normalised to NFKC, lower case and simplified characters inside the tokenizer, by a precompiled
    table, so that 發燒 and 发烧 are the same tokens. Every simplified character of GB 2312 has a token, seen
    in training or not.

    Args:
        texts: Training texts.
        max_length: What the models can read, in tokens.

    Returns:
        A tokenizer with XLM-R's special tokens and pair template, and two token types.
    """
    texts = list(texts)
    normalizer = normalizers.Sequence([normalizers.Precompiled(_character_table()), normalizers.StripAccents()])
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Split(Regex(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|\d"), "isolated"),
        ]
    )
    latin = Tokenizer(WordPiece(unk_token="<unk>"))  # noqa: S106 - a token, no password
    latin.normalizer, latin.pre_tokenizer = normalizer, split
    trainer = WordPieceTrainer(
        vocab_size=_WORD_PIECES, special_tokens=list(SPECIALS), min_frequency=2, show_progress=False
    )
    latin.train_from_iterator(
        (text for text in texts if any(char.isascii() and char.isalpha() for char in text)), trainer
    )
    pieces = [piece for piece, _ in sorted(latin.get_vocab().items(), key=lambda item: item[1]) if not _is_cjk(piece)]
    seen = {char for text in texts for char in normalizer.normalize_str(text) if _is_cjk(char) or not char.isspace()}
    characters = sorted(seen | _gb2312())
    vocab = list(dict.fromkeys([*SPECIALS, *pieces, *characters]))

    tokenizer = Tokenizer(WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, split
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=ends
    )
    bos, pad, eos, unk, mask = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length,
        bos_token=bos, cls_token=bos, pad_token=pad, eos_token=eos, sep_token=eos, unk_token=unk, mask_token=mask,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def _character_table() -> bytes:
    """Return NFKC, case folding and traditional → simplified as one table, in sentencepiece's format."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    simplified = simplified_characters()
    rules = []
    for code in (
        *range(0x20, 0xD800),
        *range(0xE000, 0x10000),
        *range(0x1F100, 0x1F200),
        *range(0x2F800, 0x2FA20),
    ):
        char = chr(code)
        plain = "".join(simplified.get(c, c) for c in unicodedata.normalize("NFKC", char).casefold())
        if unicodedata.category(char) == "Cf":
            plain = ""
        if plain != char:
            rules.append(f"{code:X}\t{' '.join(f'{ord(c):X}' for c in plain)}\n")
    with tempfile.TemporaryDirectory() as folder:
        table, text = Path(folder, "rules.tsv"), Path(folder, "text.txt")
        table.write_text("".join(rules), "utf-8")
        text.write_text("发烧 咳嗽 fever cough\n" * 50, "utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(Path(folder, "table")), normalization_rule_tsv=str(table),
            model_type="char", vocab_size=32, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(Path(folder, "table.model").read_bytes())
    blob: bytes = model.normalizer_spec.precompiled_charsmap
    return blob


def _is_cjk(token: str) -> bool:
    return any("\u3400" <= char <= "\u9fff" for char in token)


def _gb2312() -> set[str]:
    rows, cells = range(0xB0, 0xF8), range(0xA1, 0xFF)
    decoded = (bytes([row, cell]).decode("gb2312", "ignore") for row in rows for cell in cells)
    return {char for char in decoded if char}
