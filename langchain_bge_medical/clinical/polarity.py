"""Which findings a patient affirms, denies, suspects, had before, or tells of somebody else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from langchain_bge_medical.clinical.lexicon import Mention, SymptomLexicon, plain_form

Status = Literal["present", "absent", "possible", "past", "family"]

# A denial reaches to the end of its clause. A list joined by 、 or 和/或 is one clause; a comma ends it in people's
# everyday words ("没发烧,咳嗽三天了"), but not after the words of a medical record ("无发热,咳嗽,胸痛").
_CLAUSE_END = re.compile(
    r"[。；;!！?？\n…]|\.(?!\d)|但是|但|不过|然而|只是|就是|却|倒是|可是|而是|\bbut\b|\bthough\b|\bhowever\b"
)
_COMMA = re.compile(r"[，,]")
_RECORD_STYLE = re.compile(r"否认|未见|不伴|无|\bno\b|\bden(?:y|ies|ied)\b|\bwithout\b|\bnegative for\b")
_JOINTS = re.compile(r"(?:[、和或及与跟，,\s]|或者|以及|\band\b|\bor\b)*")
_DENYING = re.compile(
    r"没有|没|無|无|未见|未|不伴|不太|不怎么|不大|并不|从不|否认|不|别说"
    r"|\bno\b|\bnot\b|\bnever\b|\bwithout\b|\bden(?:y|ies|ied)\b|n['’]t\b|\bnegative for\b"
)
# Words that hold 没/不/无 and deny nothing; double denials first, since some hold a shorter one.
_PSEUDO = re.compile(
    r"不是没有|不是没|不能说没有|并非没有|并非不|不是不|"
    r"没想到|没多久|没穿|没颜色|没血色|没反应|没意识|没知觉|没尿|不省人事|不醒|没过|没事|没法|没人|没精神|没力气|没胃口|没劲|没用|没好|没睡|没吃|没有?(?:见好|好转|缓解|效果)|"
    r"不仅|不但|不光|不只|不得不|不由得|不知道?|不晓得|不一定|不管|不论|不小心|不久|不同|不断|不停|不住|不止|"
    r"不见好|不缓解|不好|不了|不动|不着|不过来|不上|不下|不出|不清|不退|不舒服|不安|不适|不行|不对|不能|不敢|不想|"
    r"不会(?=是|说|走|笑)|不到|差不多|无论|无意|无力|无法|无神|无精打采|是不是|有没有|要不要|会不会|能不能|好不好|"
    r"了没|未来|不明|时不时|不时|冷不丁|不定时|不间断|不由自主|不得了|不一样|不规[则律]|不轻|不小|不少|"
    r"(?:没有?|无)(?:任何|什么|明显|明确)?(?:诱因|原因|征兆|预兆|先兆|来由|规律)|[没未不]满|不足|无缘无故|无端|无时无刻|没完没了|没日没夜|"
    r"不(?:吃|喝|睡|走|动|用|活动|运动|说话)[^，,。、没不]{0,3}[就也]|"
    r"\bnot only\b|\bwithout warning\b|\bnot sure\b|\bno (?:idea|reason|matter)\b|"
    r"\b(?:can|couldn|won)['’]t\b|\bcan ?not\b|\bcould not\b|"
    r"(?:n['’]t|\bnot) (?:go|going|help|stop|work|know|get)\b"
)
# After a finding that is denied, these begin what is affirmed: "没发烧还咳嗽".
_RESTART = re.compile(r"有|还|也|出现|总|老是|一直|突然|忽然|现在|最近|这次|今天|\bhave\b|\bhas\b|\bnow\b|\bstill\b")
_POSSIBLE = re.compile(
    r"可能|疑似|好像|似乎|怀疑|是不是|会不会|怕是|担心|万一|如果|要是|\bmaybe\b|\bpossibl[ey]\b|\bif\b"
)
_WHEN = re.compile(
    r"(?P<now>现在|如今|目前|最近|这几天|这两天|这次|今天|昨天|昨晚|今早|刚才|刚刚|突然|忽然|开始|至今|以来"
    r"|\bnow\b|\bthis time\b)"
    r"|(?P<past>以前|曾经|曾|既往|小时候|从前|去年|前年|年前|早年|已经好了|\bused to\b|\bhistory of\b|\byears ago\b)"
)
# Whom it is told of. What I feel or do about the patient ("我不知道怎么办") does not make me the patient.
_WHO = re.compile(
    r"(?P<self>我自己|本人|我[也还都]?(?:没|不(?!知|晓|懂|敢|在|会|放心|确定|清楚)|有(?!点?(?:害怕|担心|慌|急))"
    r"|是(?!不是|他|她)|最近|今天|现在(?!该|要|怎么|应)|就)|我[也还都]?\s*$|\bi\b|\bmy own\b)"
    r"|(?P<others>(?:我的?)?(?:父亲|母亲|爸|妈|爷爷|奶奶|外公|外婆|姥姥|姥爷|家里人|家人|同事|室友|同学|邻居|亲戚)"
    r"|他|她|family|colleague|\bs?he\b)"
)
_BACKWARD = re.compile(
    r"\s*(?:\(-\)|（-）|阴性|已?排除|(?:现在|目前|已经)?(?:消失|没有|没|好|退|消)了|不明显|\bresolved\b|\bis gone\b)"
)
_NEITHER = re.compile(r"\s*(?:(?P<all>都|一概)|也)没有?[了过的]?\s*(?=[、，,。；;!！?？\n]|$)")  # 胸痛、胸闷都没有
_HEALED = re.compile(r"[^，,。不才]{0,4}已?经?好了")


class Finding(NamedTuple):
    """A term in a patient's words; `text[start:end]` is how it is said."""

    term: str
    start: int
    end: int
    status: Status


def findings(text: str, lexicon: SymptomLexicon) -> list[Finding]:
    """Return the findings in `text` in order of occurrence, each with what is said of it.

    Rules in the manner of ConText: a denial before a finding, or right after it, denies it within its clause;
    words that only look like denials (高烧不退, 睡不着) do not, because the lexicon's longer form is found
    first or because they are listed. Linear in the length of the text.

    Args:
        text: A patient's words, Chinese or English or both.
        lexicon: The terms to look for.

    Returns:
        Findings without overlaps; offsets count code points of `text`.
    """
    return status_of(text, lexicon.find(text))


def status_of(text: str, mentions: Sequence[Mention]) -> list[Finding]:
    """Return what is said of each mention, which need not come from a lexicon.

    Args:
        text: A patient's words.
        mentions: In order, without overlaps.

    Returns:
        A finding per mention, in order.
    """
    plain = _aligned(text)
    contexts = _contexts(plain, mentions)
    subjects = {context.who for context in contexts}
    found = []
    all_denied = False  # whether a list goes on behind the mention that ends in "都没有"
    for i in reversed(range(len(mentions))):
        mention, context = mentions[i], contexts[i]
        if all_denied:
            all_denied = bool(_JOINTS.fullmatch(plain, mention.end, mentions[i + 1].start))
        if neither := _NEITHER.match(plain, mention.end):
            all_denied = neither["all"] is not None
        if context.denied or all_denied or neither or _BACKWARD.match(plain, mention.end):
            status: Status = "absent"
        elif context.who == "others" and "self" in subjects:
            status = "family"
        elif context.when == "past" or _HEALED.match(plain, mention.end):
            status = "past"
        else:
            status = "possible" if context.possible else "present"
        if mention.opposite and status in ("present", "possible", "absent"):
            status = "present" if status == "absent" else "absent"
        found.append(Finding(mention.term, mention.start, mention.end, status))
    return found[::-1]


def denied_within(words: str) -> bool:
    """Return whether the last clause of `words`, in plain form, holds a denial: `耳后不红不肿`, not `耳后不红,肿`."""
    heard = _PSEUDO.sub("□", words)
    return bool(_DENYING.search(heard, max(_last_end(_CLAUSE_END, heard), _last_end(_COMMA, heard))))


class _Context(NamedTuple):
    """What the words before a finding say of it."""

    denied: bool = False
    record_style: bool = False
    possible: bool = False
    when: str | None = None
    who: str | None = None


def _contexts(plain: str, mentions: Sequence[Mention]) -> list[_Context]:
    """Return each mention's context, carried on from the one before as far as its clause and list reach.

    Looks at the words between two mentions once, so that a long text takes linear time.
    """
    contexts: list[_Context] = []
    context, end = _Context(), 0
    for mention in mentions:
        between = plain[end : mention.start]
        if cut := _last_end(_CLAUSE_END, between):
            context, between = _Context(), between[cut:]
        who = _last_kind(_WHO, between) or context.who
        possible = bool(_POSSIBLE.search(between))
        in_list = end > 0 and bool(_JOINTS.fullmatch(between))
        if (cut := _last_end(_COMMA, between)) and not (in_list and context.record_style):
            context, between = _Context(when=context.when if in_list else None), between[cut:]
        # Pseudo-denials are looked for here, so that 无意识障碍 is not heard as 无意.
        heard = _PSEUDO.sub("□", between)
        denies = bool(_DENYING.search(heard))
        if context.denied and not denies and _RESTART.search(heard):
            context = _Context()
        context = _Context(
            # A contrary (胃口好) is denied by its own words only.
            denied=denies or (context.denied and not mention.opposite),
            record_style=context.record_style or bool(_RECORD_STYLE.search(heard)),
            possible=possible,
            when=_last_kind(_WHEN, between) or context.when,
            who=who,
        )
        contexts.append(context)
        if mention.opposite:  # 不恶心、呕吐 denies both
            words = _PSEUDO.sub("□", plain[mention.start : mention.end])
            context = context._replace(denied=bool(_DENYING.search(words)))
        end = mention.end
    return contexts


def _aligned(text: str) -> str:
    """Return the plain form, character for character: one that unfolds (℃ → °C) stays as it is."""
    plain, offsets = plain_form(text)
    if len(plain) == len(text):
        return plain
    unfolded = {a for a, b in itertools.pairwise(offsets) if a == b}
    twins = {i: char for char, i in zip(plain, offsets, strict=True) if i not in unfolded}
    return "".join(twins.get(i, char) for i, char in enumerate(text))


def _last_end(pattern: re.Pattern[str], text: str) -> int:
    """Return where the last match ends, or 0."""
    return max((match.end() for match in pattern.finditer(text)), default=0)


def _last_kind(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the name of the group that matched last."""
    return next((match.lastgroup for match in reversed(list(pattern.finditer(text)))), None)
