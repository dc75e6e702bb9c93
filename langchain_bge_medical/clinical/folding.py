"""One writing for words that say the same of a symptom: 疼 and 痛, 唔 and 不, 冇 and 没."""

from __future__ import annotations

import functools
import re
from typing import Any

from langchain_bge_medical.clinical.lexicon import plain_form

# Characters that say the same in a symptom; one to one, so that offsets stay.
_TWINS = {
    "疼": "痛",
    "得": "的",
    "地": "的",
    "唔": "不",
    "勿": "不",
    "弗": "不",
    "冇": "没",
    "呒": "没",
    "咗": "了",
    "嘅": "的",
    "呕": "吐",
    "裏": "里",
    "佢": "他",
    "睇": "看",
    "瞓": "睡",
    "喺": "在",
    "’": "'",
    "‘": "'",
}
SAME_LETTERS = str.maketrans(_TWINS)  # for patterns, whose ? and ! must stay
SAME = str.maketrans(_TWINS | {",": "，", ";": "；", "?": "？", "!": "！"})
_SAME_PAIRS = re.compile(r"没的(?=[^了]|$)|莫的|木有|么有|米有|没的")


def folded(text: str) -> tuple[str, Any]:
    """Return `text` in plain form with words of equal meaning written alike, and each character's place in `text`."""
    plain, offsets = plain_form(text)
    plain = plain.translate(SAME)
    return _SAME_PAIRS.sub("没有", plain), offsets


@functools.lru_cache(maxsize=65_536)
def folded_form(form: str) -> str:
    """Return a form of the lexicon as `folded` writes it."""
    return folded(form)[0]


def fold_pattern(pattern: str) -> str:
    """Return a regular expression with its letters folded as `folded` folds those of a text."""
    return pattern.translate(SAME_LETTERS)
