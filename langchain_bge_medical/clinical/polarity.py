"""Which findings a patient affirms, denies, suspects, had before, or tells of somebody else."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence

from langchain_bge_medical.clinical.context.after import told_after
from langchain_bge_medical.clinical.context.again import UNSURE_BEFORE, either_way, insists, said_once
from langchain_bge_medical.clinical.context.before import DENYING, Context, State, advance
from langchain_bge_medical.clinical.context.course import with_ends
from langchain_bge_medical.clinical.context.english import told_in_english
from langchain_bge_medical.clinical.context.finding import AFFIRMED, Finding, Status
from langchain_bge_medical.clinical.context.whose import ALL_BUT_ME, ASKED_FOR, NOT_ME, SELF_WELL
from langchain_bge_medical.clinical.context.words import AFTER, STOP
from langchain_bge_medical.clinical.lexicon import Mention, SymptomLexicon, plain_form
from langchain_bge_medical.clinical.mentions import mentions_of

__all__ = ["AFFIRMED", "Finding", "Reading", "Status", "affirmed_text", "affirms_nothing", "findings", "has_findings"]

_COURSES = frozenset({"反复发作"})  # what is said of another finding: 又烧,反反复复
_LIST = re.compile(r"(?:[、和或及与跟\s/啊呀啦]|还是|或者|以及|也好|也罢|什么的|啥的)*")
_AFTER_WORDS = r"(?:的?(?:情况|现象|症状|念头|那种|这种|感觉|毛病)(?:也|都|倒|是|就)?)?"
_NEITHER = re.compile(
    rf"{_AFTER_WORDS}(?:啊|呀|啥的|也好|也罢|这些|之类的?|等等?|那些)?\s*(?:[，,]\s*(?=统统|通通|一概|一样都|哪样都))?(?P<all>都|一概|均|全都?|[统通]{{2}}都?|一个都|一样都?"
    rf"|哪样都|哪个都|什么的都|啥都|皆|俱)(?:没有?|无|冇|不存在|不明显|阴性|正常)[了过的]*\s*(?=[、，,。；;!！?？\n]|$)"
)  # 胸痛、胸闷都没有
_TOUCHING = re.compile(r"[、和或及与跟]?|或者|\s?/\s?|\s(?:or|and)\s")


def findings(text: str, lexicon: SymptomLexicon) -> list[Finding]:
    """Return the findings in `text` in order of occurrence, each with what is said of it.

    A denial before a finding, inside it (`腰也不疼`), or right after it denies it within its clause; words that
    only look like denials (高烧不退, 睡不着) do not. Linear in the length of the text.

    Args:
        text: A patient's words, Chinese or English or both.
        lexicon: The terms to look for.

    Returns:
        Findings without overlaps; offsets count code points of `text`. A term that is not in the lexicon
        stands for a complaint that no term says (`疼痛` without a body part).
    """
    return Reading(text, mentions_of(text, lexicon)).findings


class Reading:
    """A text with its findings, which also knows what is said of any other span of it.

    Attributes:
        findings: One for each mention that is no more than the course of another, in order.
    """

    def __init__(self, text: str, mentions: Sequence[Mention]) -> None:
        """Read a text.

        Args:
            text: A patient's words.
            mentions: Where it speaks of a symptom, in order, without overlaps.
        """
        self._plain = _aligned(text)
        if any(mention.term not in _COURSES for mention in mentions):
            mentions = [mention for mention in mentions if mention.term not in _COURSES]
        self._states = [State()]
        contexts = []
        for mention in mentions:
            context, state = advance(self._plain, self._states[-1], mention)
            contexts.append(context)
            self._states.append(state)
        self._ends = [mention.end for mention in mentions]
        self._asked_for = bool(ASKED_FOR.search(self._plain))
        told_apart = any(context.own for context in contexts) or bool(SELF_WELL.search(self._plain))
        self._teller_is_ill = told_apart and not self._asked_for
        found: list[Finding] = []
        commas = False  # and may hold commas
        all_denied = False  # whether a list goes on behind the mention that ends in "都没有"
        for i in reversed(range(len(mentions))):
            mention = mentions[i]
            if all_denied:
                all_denied = self._goes_on(mentions, i, commas=commas)
            if not all_denied:
                neither = _NEITHER.match(self._plain, mention.end, mention.end + AFTER)
                all_denied = bool(neither)
                # 发烧,头疼,拉肚子都没有: one thing in the last clause cannot be "all"
                commas = all_denied and not self._goes_on(mentions, i - 1, commas=False)
            following = mentions[i + 1].start if i + 1 < len(mentions) else len(self._plain)
            status = self._status(contexts[i], mention.start, mention.end, following, denied=all_denied)
            if status == "present" and found and found[-1].status == "past" and mention.end == following:
                status = "past" if contexts[i + 1].when != "past" else status  # 咳嗽带血那会儿
            supposed = contexts[i].supposed and status == "possible"
            status = self._by_itself(mention, mentions[i - 1].end if i else 0, status, supposed=supposed)
            found.append(Finding(mention.term, mention.start, mention.end, status))
            if status == "absent" and not all_denied and not contexts[i].denied and not mention.opposite:
                # 怕风怕水倒没有
                touching = i > 0 and _TOUCHING.fullmatch(self._plain, mentions[i - 1].end, mention.start)
                all_denied, commas = bool(touching), False
        heard = with_ends(self._plain, said_once(self._plain, found[::-1]))
        self.findings = told_in_english(self._plain, heard)

    def _by_itself(self, mention: Mention, before: int, status: Status, *, supposed: bool) -> Status:
        """Return the status of a mention by its own words, too: 不恶心 is absent if said to be present."""
        plain = self._plain
        if either_way(plain, mention, before):
            return "possible"
        if insists(plain, mention) or _SO_POOR.match(plain, mention.end - 1):
            return "present"
        if ALL_BUT_ME.search(plain, mention.start, mention.end):
            return "family"
        if mention.opposite and status == "family":
            return "absent"
        if not mention.opposite:
            return "absent" if _SAYS_NOT.search(plain[mention.start : mention.end]) else status
        if not supposed and status in ("present", "possible", "absent"):
            return "present" if status == "absent" else "absent"
        return status

    def _goes_on(self, mentions: Sequence[Mention], i: int, *, commas: bool) -> bool:
        """Return whether mention `i` stands in a list with the one behind it."""
        if i < 0:
            return False
        end, start = mentions[i].end, mentions[i + 1].start
        if _LIST.fullmatch(self._plain, end, start):
            return True
        bare = i == 0 or STOP.search(self._plain, mentions[i - 1].end, mentions[i].start)
        opens = not mentions[i].start or STOP.match(self._plain, mentions[i].start - 1)
        return bool(commas and bare and opens and STOP.fullmatch(self._plain, end, start))

    def status(self, start: int, end: int) -> Status:
        """Return what is said of `text[start:end]`, whatever it is.

        Args:
            start: In code points.
            end: After the last.

        Returns:
            As if it were a mention; what is inside of a denied finding is denied. Looks back at most `_BACK`
            characters.
        """
        i = bisect.bisect_right(self._ends, start)
        around = self.findings[i] if i < len(self.findings) else None
        if around and around.status == "absent" and around.start < start and end <= around.end:
            return "absent"  # 没有呼气有烂苹果味
        state = self._states[i]
        if start - state.end > _BACK:
            state = State(end=start - _BACK)
        context, _ = advance(self._plain, state, Mention("", start, end, opposite=False))
        neither = _NEITHER.match(self._plain, end, end + AFTER)
        return self._status(context, start, end, len(self._plain), denied=neither is not None)

    def _status(self, context: Context, start: int, end: int, following: int, *, denied: bool) -> Status:
        plain = self._plain
        if context.denied and not denied and _THIS_BAD.match(plain, end, end + 20):
            context = context._replace(denied=False)
        if _HOW_NOT.search(plain, max(0, start - 3), start) and plain.startswith(("吗", "么", "嘛"), end):
            return "present"  # 能不疼吗
        if _NOT_SURELY.search(plain, max(0, start - 6), start) and plain.startswith(("吧", "了吧"), end):
            return "possible"
        if denied or context.denied:
            return "absent"
        if _AGAIN_BEFORE.search(plain, max(0, start - 2), start) and _WHAT_THEN.match(plain, end):
            return "possible"
        others = context.kin or context.who == "others"
        if others and NOT_ME.match(plain, end):
            return "family"
        after = told_after(plain, start, end, following)
        if after == "absent" and plain.startswith("没", end):
            unsure = context.possible or UNSURE_BEFORE.search(plain, max(0, start - 10), start)
            if unsure:
                return "possible"  # 不确定烧没
        if after == "absent":
            return "absent"
        if context.kin or (context.own if self._asked_for else context.who == "others" and self._teller_is_ill):
            return "family"
        if context.when == "past" or after == "past":
            return "past"
        return "possible" if (context.possible and after != "present") or after == "possible" else "present"


_THIS_BAD = re.compile(  # never had pain this bad
    r"\s(?:this|that|so|as) (?:bad|badly|much|severe|strong|intense|awful)\b"
    r"|[得到]?(?:这么|这样|那么|如此)(?:厉害|重|凶|狠|严重|剧烈|频繁|久)"
)
_SAYS_NOT = re.compile(
    r"[咳拉吐泻喘疼痛痒]停了?$|消[了咗]?[肿腫]了?$|(?<!没)退[了咗]?[烧燒]了?$|(?P<it>[痛疼痒咳吐烧晕肿麻喘胀红抖热酸闷拉泻汗堵黄]).{1,5}[不没](?P=it)(?:过|了|啊)?$"
)  # 痒是一点不痒
_NOT_SURELY = re.compile("(?:不是|别是|不会是?|该不会是?|不至于).{0,2}$")  # 不是出血吧
_AGAIN_BEFORE = re.compile("再$")
_WHAT_THEN = re.compile("了?(?:咋[整办弄]|怎么[办弄整]|点算)")  # 再头疼咋整
_SO_POOR = re.compile("好[差烂少]")  # 胃口好差
_HOW_NOT = re.compile("能不$")
_BACK = 200  # and before a span that is no mention


_APOSTROPHES = str.maketrans("‘’", "''")


def _aligned(text: str) -> str:
    """Return the plain form, character for character: one that unfolds (℃ → °C) stays as it is.

    The apostrophe of a phone is the plain one.
    """
    text = text.translate(_APOSTROPHES)
    plain, offsets = plain_form(text)
    if len(plain) == len(text):
        return plain
    unfolded = {a for a, b in itertools.pairwise(offsets) if a == b}
    twins = {i: char for char, i in zip(plain, offsets, strict=True) if i not in unfolded}
    return "".join(twins.get(i, char) for i, char in enumerate(text))


# A clause, which a number's point does not end.
_CLAUSE = re.compile(r"(?:[^，,。；;！!？?\n.]|\.(?=\d))*(?:[，,。；;！!？?\n]|\.(?!\d))*")


def affirmed_text(text: str, found: Sequence[Finding]) -> str:
    """Return `text` without the clauses that only deny something, tell what is past, or are about others.

    Searching with `没有胸痛,就是反酸` finds chest pain, since words and vectors do not know what 没有 does.

    Args:
        text: A patient's words.
        found: What `findings` returns for them.

    Returns:
        What is left, or `text` itself if nothing of it affirms anything.
    """
    kept, i = [], 0
    affirms = False
    for clause in _CLAUSE.finditer(text):
        inside = []
        while i < len(found) and found[i].start < clause.end():
            inside.append(found[i])
            i += 1
        if inside and all(finding.status in ("absent", "past", "family") for finding in inside):
            continue
        affirms = affirms or bool(inside)
        kept.append(_without_denials(clause.group(), clause.start(), inside))
    left = "".join(kept).strip()
    return left if affirms and left else text


def has_findings(found: Sequence[Finding]) -> bool:
    """Return whether the patient affirms anything, of what `findings` returns for their words."""
    return any(finding.status in AFFIRMED for finding in found)


def affirms_nothing(text: str, found: Sequence[Finding]) -> bool:
    """Return whether every clause of `text` only denies, tells what is past, or is about others: `我不头痛`.

    Args:
        text: A patient's words.
        found: What `findings` returns for them.
    """
    if not found or has_findings(found):
        return False
    starts = [finding.start for finding in found]
    for clause in _CLAUSE.finditer(text):
        told = sum(char.isalnum() for char in clause.group())
        says = bisect.bisect_left(starts, clause.end()) - bisect.bisect_left(starts, clause.start())
        if told > 1 and not says:
            return False
    return True


def _without_denials(clause: str, offset: int, inside: Sequence[Finding]) -> str:
    """Return a clause that affirms something without what it denies: `没有发烧有咳嗽` → `有咳嗽`."""
    pieces, end, affirmed = [], 0, 0
    for finding in inside:
        if finding.status in AFFIRMED:
            affirmed = finding.end - offset  # a denial before it is its own: 没有力气
        elif finding.status == "absent":
            start = finding.start - offset
            denials = list(DENYING.finditer(clause, max(end, affirmed), start))
            pieces.append(clause[end : denials[-1].start() if denials else start])
            end = finding.end - offset
    return "".join([*pieces, clause[end:]])
