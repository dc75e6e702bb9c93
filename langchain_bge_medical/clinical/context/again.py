"""A finding that is said twice, or said and denied in one: 恶心倒不恶心, 咳没咳不知道, 能不咳吗."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from langchain_bge_medical.clinical.context.finding import Finding
from langchain_bge_medical.clinical.context.words import STOP, UNSURE
from langchain_bge_medical.clinical.lexicon import Mention

# What stands between a symptom and the same symptom said again of it: 恶心倒不恶心, 肿没肿, 痒是真痒.
_AGAIN = re.compile(
    r"(?:倒是?|是|也|都|还|又|就|真的?|的确|确实|一点儿?|[我它他她]|可|却|现在|已经|并|反[倒而]|怎么也"
    r"|从来){0,4}(?P<deny>没有?|不|唔|勿|冇|无|袂|未)?"
    r"(?:怎么|太|大|见|再|咋)?"
)
_QUESTION = re.compile(r"没?有?[?？]\s*(?:没有?|不|唔)?")
_TOPIC = re.compile(r"[，,]\s*(?:倒|倒是|也|还|是)?(?:没有?|不|冇|唔)?")
_WHO_KNOWS = re.compile(rf"[也都我]?{UNSURE}")  # 烧不知道烧没烧
_NEGATION = re.compile("[没不]")
_EITHER = re.compile(r"(.)[没不]\1")
UNSURE_BEFORE = re.compile(rf"(?:{UNSURE}|会|不记得)(?:到底|究竟|是不是)?$")
_UNSURE_AFTER = re.compile(rf".{{0,2}}{UNSURE}|.{{0,3}}没(?:太|怎么)?(?:注意|留意|看清|量|数)")


def either_way(plain: str, mention: Mention, before: int) -> bool:
    """Return whether a mention is of the form 咳没咳 and the teller does not know."""
    if not _NEGATION.search(plain, max(0, mention.start - 1), mention.end + 2):
        return False
    start = max(before, mention.start - 1)
    if not _EITHER.search(plain, start, min(len(plain), mention.end + 2)):
        return False
    words = plain[max(before, mention.start - 10) : mention.start]
    return bool(UNSURE_BEFORE.search(words) or _UNSURE_AFTER.match(plain, mention.end, mention.end + 8))


_ASKS = re.compile(r"[^，,。；;!！\n]{0,3}(?:[?？吗呢]|知道|清楚|确定)")
# What another symptom is so bad that it does: 痒得坐不住 says one thing.
_SO_BAD = re.compile(r"[的得地到着咗][^，,。；;!！?？\n\s]{0,3}")
_CONSEQUENCES = frozenset(
    {
        "肢体活动受限", "失眠", "注意力不集中", "翻身困难", "腰部活动受限", "夜间痛醒", "活动受限", "行走困难",
        "颈部活动受限", "易哭泣", "哭闹不安", "情绪低落", "疼痛", "头痛", "背痛", "腹痛", "站立不稳", "口腔灼痛",
    }
)  # fmt: skip


def _new(plain: str, found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings but those that say when one told before was done with: 咳得脸通红,咳完…."""
    told: set[str] = set()
    for finding in found:
        if finding.term not in told or not plain.startswith("完", finding.end - 1):
            yield finding
        told.add(finding.term)


def said_once(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings without those that only say the one before again."""
    kept: list[Finding] = []
    for finding in _new(plain, found):
        before = kept[-1] if kept else None
        if before is None or finding.start - before.end > _REPEAT:
            kept.append(finding)
            continue
        first, second = plain[before.start : before.end], plain[finding.start : finding.end]
        between = plain[before.end : finding.start]
        again = _AGAIN.fullmatch(between)
        if (
            _WHO_KNOWS.fullmatch(between)
            and second[:1] in first
            and _EITHER.search(plain, finding.start, finding.end + 4)
        ):
            kept[-1] = before._replace(end=finding.end, status="possible")
            continue
        if _QUESTION.fullmatch(between) and second.lstrip("不没")[:1] in first:  # 疼不疼?疼
            kept[-1] = before._replace(end=finding.end, status=finding.status)
            continue
        topic = before.start == 0 or STOP.match(plain, before.start - 1)
        same = finding.term == before.term and second.lstrip("不没") in first
        what = between in ("啥", "什么", "个啥") and second in first  # 晕啥晕
        if what or (topic and same and _TOPIC.fullmatch(between) and finding.status == "absent"):
            kept[-1] = before._replace(end=finding.end, status="absent")
            continue
        core = second.lstrip("不没有无唔勿未")
        if again and core and (core in first or first in core):
            denied = again["deny"] or len(core) < len(second)
            if between or len(core) == 1:
                status = before.status
                if denied and not _ASKS.match(plain, finding.end):
                    status = "absent" if finding.status == "present" else finding.status
                elif denied:
                    status = "possible"
                if denied and (
                    before.status == "possible"
                    or UNSURE_BEFORE.search(plain, max(0, before.start - 10), before.start)
                    or _UNSURE_AFTER.match(plain, finding.end, finding.end + 8)
                ):
                    status = "possible"
                kept[-1] = before._replace(end=finding.end, status=status)
                continue
        if _SO_BAD.fullmatch(between) and finding.term in _CONSEQUENCES and finding.status == before.status:
            continue
        kept.append(finding)
    return kept


# 能不咳吗, 谁说我不咳, 也不是完全不喘: two denials, the second inside the mention.
_INSISTS = re.compile(
    r"(?:(?<![可才])能|哪能|哪会|怎么?[能会]|咋能|谁说(?:我|他|她|人家)?|没有?[哪一][天晚夜宿日]|不是(?:说|讲)?(?:完全|一点|真的?|就)?"
    r"|不[敢能]说(?:完全|一点儿?(?:也|都)?)?|不可能|不会|难免)$"
)
_NOT_FIRST = re.compile("[不没]")


def insists(plain: str, mention: Mention) -> bool:
    """Return whether words before a mention that says `不` or `没` deny the denial: 能不咳吗."""
    if not _NOT_FIRST.match(plain, mention.start) or not mention.opposite:
        return False
    back = max(0, mention.start - 8)
    said = _INSISTS.search(plain, back, mention.start)
    if said is None:
        return False
    return said.group() not in ("能", "不会") or plain.startswith(("吗", "么", "嘛"), mention.end)


_REPEAT = 8  # characters between a finding and the same one said again
