"""Where a patient's words speak of a symptom: lexicon forms with words between them, body part + complaint, numbers.

People seldom say a form of the lexicon to the letter. `头还是有点晕` is `头晕` with adverbs in between; `腰也不疼` is
`腰疼` denied from inside; `不痒` after `脸上起疹子` is said of the face. Six finders, each linear in the text, and the
first that finds something at a place has it:

1. forms of the lexicon, letter for letter;
2. forms with adverbs, places or a denial between their characters;
3. measured values (`39度5`, `血压180/110`);
4. patterns: body part, words in between and predicate, results, measures (`phrases`);
5. a body part and a complaint (`脚脖子` + `肿`), a complaint alone (`喘`), a body part carried on from before;
6. forms that share most of their rarer characters with a clause, in order (`站了半天才尿得出` for `半天尿不出`).
"""

from __future__ import annotations

import bisect
import difflib
import functools
import heapq
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from langchain_bge_medical.clinical.folding import SAME, fold_pattern, folded, folded_form
from langchain_bge_medical.clinical.lexicon import LexiconEntry, Mention, SymptomLexicon
from langchain_bge_medical.clinical.needed_words import PatternSieve, needed_words
from langchain_bge_medical.clinical.numbers import Measurement, measurements
from langchain_bge_medical.clinical.phrases import phrases

# Body parts, complaints, and what may stand between the two; entries may be regular expressions.
_WORDS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "resources" / "symptom_words.json").read_text("utf-8"))

# ------------------------------------------------------------------------------------- what may stand between two parts

# Words that hold a character of a symptom and are none: they are hidden from finders 2, 4 and 5.
_NO_TYPO = re.compile(fold_pattern("|".join(_WORDS["no_typos"])))
_HARMLESS = re.compile("|".join(_WORDS["harmless"]))

_N = r"(?:[0-9]{1,3}|[零一二两三四五六七八九十半几好多]{1,4})"
_ADVERBS: list[str] = _WORDS["between"]
_DENIALS: list[str] = _WORDS["denials"]


def _alternatives(words: Iterable[str]) -> str:
    escaped = {re.escape(word.translate(SAME)) for word in words}
    return "|".join(sorted(escaped, key=lambda word: (-len(word), word)))


_GAP = re.compile(
    rf"(?P<deny>{_alternatives(_DENIALS)})"
    rf"|(?:{_alternatives(_ADVERBS)}|{_N}(?:天|次|周|个月|月|年|小时|个小时|分钟|个多小时|宿|夜|回|遍|趟"
    rf"|个星期|个礼拜|礼拜)(?:多)?|从(?:昨|前|今|上|早)[^，。]{{0,4}}?(?:开始|起|就))"
)
_GAP_BEGINS = frozenset(
    word.translate(SAME)[0] for word in (*_ADVERBS, *_DENIALS, *"0123456789零一二三四五六七八九十两半几好多从")
)
_LATIN_GAP = re.compile(
    r"(?:\s{1,3}(?:the|my|his|her|their|our|a|an|some|really|very|so|quite|pretty|bit|little|is|are|was|were"
    r"|been|being|be|has|have|had|feels?|felt|got|getting|gets|all|still|also|of|on|in|both|left|right"
    r"|most|constantly|always|slightly|a bit|a little|kind of|sort of|just|too|at|from|with|up|badly"
    r"|severe|bad|mild|it|keeps?|lots? of))+(?=\s)"
    r"|\s{1,3}(?P<deny>not|no|never|isn't|aren't|wasn't|weren't|doesn't|don't|didn't|hasn't|haven't)(?=\s)"
)
_BEFORE = frozenset("以之目饭睡经餐")  # 以前胸痛 is not 前胸痛
_MAX_GAPS, _MAX_GAP_LENGTH, _MAX_LATIN_GAP = 3, 10, 24


# ------------------------------------------------------------------------------------------------ the lexicon's forms

_END = ""


class _Form(NamedTuple):
    term: str
    opposite: bool


class _Match(NamedTuple):
    form: _Form
    end: int
    length: int  # characters of the form that were matched
    denied: bool
    gaps: int


class MentionFinder:
    """Finds what a text says of the terms of a lexicon. Thread-safe after construction."""

    def __init__(self, lexicon: SymptomLexicon) -> None:
        """Index the forms, and learn from them which body part and complaint make which term."""
        self._trie: dict[str, Any] = {}
        entries = list(lexicon.entries.values())
        for entry in entries:
            self._add(entry.term, _Form(entry.term, opposite=False))
        for entry in entries:
            for form in (*entry.colloquial, *entry.en):
                self._add(form, _Form(entry.term, opposite=False))
            for form in entry.opposite:
                if not _affirms(folded_form(form)):
                    self._add(form, _Form(entry.term, opposite=True))
        self._terms = _learn(entries)
        self._known = set(lexicon.entries)
        self._paraphrases = _Paraphrases(entries)
        self._homophones = _Homophones(entries)
        folded_form.cache_clear()

    def find(self, text: str) -> list[Mention]:
        """Return the mentions in `text`, left to right, without overlaps; `text[start:end]` is how it is said."""
        plain, offsets = folded(text)
        masked = _HARMLESS.sub(lambda match: "□" * len(match.group()), plain)
        chosen = self._forms(plain, masked)
        taken = bytearray(len(plain) + 1)
        for mention in chosen:
            taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
        chosen = self._with_values(plain, chosen, taken)
        chosen += self._courses(masked, taken, chosen)
        chosen += self._phrases(plain, masked, taken)
        chosen += self._homophones.find(masked, taken)
        chosen += self._complaints(masked, taken, chosen)
        chosen = self._paraphrases.join(plain, chosen, self._known)
        chosen += _descriptions(masked, chosen)
        chosen.sort(key=lambda m: m.start)
        return _in_text(_with_the_pain(plain, chosen), offsets, len(text))

    # -- 1 and 2: forms

    def _add(self, form: str, value: _Form) -> None:
        node = self._trie
        for char in folded_form(form).strip():
            node = node.setdefault(char, {})
        if node is not self._trie:
            node.setdefault(_END, value)

    def _forms(self, plain: str, masked: str) -> list[Mention]:
        found = []
        i, n = 0, len(plain)
        while i < n:
            best = self._longest(plain, masked, i) if self._may_begin(plain, i) else None
            if best is None:
                i += 1
                continue
            end = best.end
            if (
                end - i > _LEAST
                and (also := _AND.search(plain, i + 2, end))
                and _ALONE.fullmatch(plain, also.end(), end)
            ):
                end = also.start()  # 吃的多还瘦 says two things
            found.append(Mention(best.form.term, i, end, best.form.opposite != best.denied))
            i = end
        return found

    def _may_begin(self, plain: str, i: int) -> bool:
        """Return whether a form may begin at a place, by a look at two characters: most of a text is none."""
        node = self._trie.get(plain[i])
        if node is None or (plain[i] == "前" and plain[i - 1 : i] in _BEFORE):
            return False
        following = plain[i + 1 : i + 2]
        return following in node or _END in node or following in _GAP_BEGINS

    def _longest(self, plain: str, masked: str, start: int) -> _Match | None:
        latin = _is_latin(plain[start])
        if start and latin and _is_latin(plain[start - 1]):
            return None
        best: _Match | None = None
        # (node, position, matched, gaps, gap length, denied); at most 2 ** _MAX_GAPS of them.
        states: list[tuple[dict[str, Any], int, int, int, int, bool]] = [(self._trie, start, 0, 0, 0, False)]
        limit = min(len(plain), start + 48)
        while states:
            node, at, matched, gaps, gap_length, denied = states.pop()
            text = masked if gaps else plain
            while at < limit:
                if matched and gaps < _MAX_GAPS and not (latin and matched < 3):
                    # Twice as far tells what is too long from what is not, without reading all of it at every word.
                    gap = _LATIN_GAP.match(masked, at, at + 2 * _MAX_LATIN_GAP) if latin else _GAP.match(masked, at)
                    if gap and (latin or not gap.group().isspace()):
                        length = gap.end() - at
                        if gap_length + length <= (_MAX_LATIN_GAP if latin else _MAX_GAP_LENGTH) and not (
                            denied and gap["deny"]
                        ):
                            states.append(
                                (node, gap.end(), matched, gaps + 1, gap_length + length, denied or bool(gap["deny"]))
                            )
                following = node.get(text[at])
                if following is None:
                    break
                node, at, matched = following, at + 1, matched + 1
                if _END not in node or (end := _form_end(plain, start, at)) is None:
                    continue
                if masked[at - 1 : at + 1] == "□□" and _cuts_a_word(plain, masked, start, at):
                    continue
                if gaps and (matched < 2 or "□" in masked[start:end]):
                    continue
                if best is None or (matched, -gaps) > (best.length, -best.gaps):
                    best = _Match(node[_END], end, matched, denied, gaps)
        return best

    # -- 3: values

    def _with_values(self, plain: str, chosen: list[Mention], taken: bytearray) -> list[Mention]:
        told: list[Mention] = []
        end_before = 0
        for value in measurements(plain):
            said = _value_term(value)
            if said is None or said[0] not in self._known:
                continue
            start, end = value.start, value.end
            if stop := re.search(
                "[，。；](?=[^，。；]*$)", plain[start:end]
            ):  # 血压高,头晕,量着130: what stands between is not hidden
                start += stop.start() + 1
            before = plain[max(end_before, start - 12) : start]
            if near := re.search(r"(?:发?高?低?烧|体温|血压|量|fever|temp)[^，。；、]{0,6}$", before):
                start -= len(near.group())
            if after := re.match(r"[多几]?[，的 ]?(?:高|发)?烧", plain[end : end + 4]):
                end += after.end()
            told.append(Mention(said[0], start, end, said[1]))
            end_before = end
        if not told:
            return chosen
        for mention in told:
            taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
        # A form that ends in digits is a poor reading of the value itself: 烧到39度 in 烧到39度5.
        starts = [mention.start for mention in told]
        kept = []
        for mention in chosen:
            i = bisect.bisect_left(starts, mention.end) - 1
            if i < 0 or told[i].end <= mention.start:
                kept.append(mention)
        return kept + told

    # -- what is as it should be, and when it is worse or better

    def _courses(self, masked: str, taken: bytearray, chosen: list[Mention]) -> list[Mention]:
        found = []
        spoken = sorted(chosen, key=lambda m: m.start)
        ends = [mention.end for mention in spoken]
        sieve = PatternSieve(masked)
        for match in sieve.finditer(_FINE):
            if match["held" if _HIGH.fullmatch(match["what"]) else "fell"]:
                continue
            if not any(taken[match.start() : match.end()]):
                term = next(term for words, term in _FINE_TERMS if re.fullmatch(words, match["what"]))
                found.append(Mention(term, match.start(), match.end(), opposite=True))
                taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
        for match in sieve.finditer(_ABLE):
            cannot = masked[max(0, match.start() - 2) : match.start()]
            if not any(taken[match.start() : match.end()]) and not re.search("[不没未才]", cannot):
                assert match.lastindex is not None  # noqa: S101 - each alternative is a group
                term = _ABLE_TERMS[match.lastindex - 1][1]
                found.append(Mention(term, match.start(), match.end(), opposite=True))
        for pattern, terms in ((_BETTER, _BETTER_TERMS), (_WORSE, _WORSE_TERMS)):
            for match in sieve.finditer(pattern):
                if any(taken[match.start() : match.end()]):
                    continue
                i = bisect.bisect_right(ends, match.start()) - 1
                if i < 0 and pattern is _BETTER and _CHOICE.search(masked, max(0, match.start() - 8), match.end() + 2):
                    continue  # 空腹好还是吃点东西好
                site = _site_of(masked[spoken[i].start : spoken[i].end], spoken[i].term) if i >= 0 else ""
                said = (t for s, words, t in terms if (not s or s == site) and re.search(words, match.group()))
                if (known := next(said, "")) in self._known:
                    found.append(Mention(known, match.start(), match.end(), opposite=False))
        for mention in found:
            taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
        return found

    # -- 4: patterns

    def _phrases(self, plain: str, masked: str, taken: bytearray) -> list[Mention]:
        found = []
        for term, start, end, denied in phrases(plain, masked):
            if term in self._known and not any(taken[start:end]):
                found.append(Mention(term, start, end, denied))
                taken[start:end] = b"\1" * (end - start)
        return found

    # -- 5: body part and complaint

    def _complaints(self, masked: str, taken: bytearray, chosen: list[Mention]) -> list[Mention]:
        found: list[Mention] = []
        site: re.Match[str] | None = None  # the last body part in this clause
        carried = ""  # the body part that was last spoken of
        denied_at = -1  # where the last denial of this clause ends
        placeless = -1  # where a mention ends that is of no body part: 痰不多 is said of no part before it
        spoken = sorted(chosen, key=lambda m: m.start)
        k = 0
        for token in _tokens(masked):
            kind = token.lastgroup
            while k < len(spoken) and spoken[k].start <= token.start():
                said_of = _site_of(masked[spoken[k].start : spoken[k].end], spoken[k].term)
                carried = said_of or carried
                placeless = -1 if said_of else spoken[k].end
                k += 1
            if kind == "stop":
                site, denied_at = None, -1
                continue
            if kind == "deny":
                denied_at = token.end()
                continue
            if any(taken[token.start() : token.end()]):
                if kind == "site":
                    carried = _SITE_OF[token.group()]
                continue
            if kind == "site":
                site, carried = token, _SITE_OF[token.group()]
                continue
            if kind == "needs" and site is None and token.start() - placeless == 1 and _is_vague(token.group()):
                continue
            mention = self._complaint(masked, taken, token, site, carried, denied_at)
            if mention is not None:
                found.append(mention)
                taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
                if site is None:
                    placeless = mention.end
                site = None
        return found

    def _complaint(
        self,
        masked: str,
        taken: bytearray,
        token: re.Match[str],
        site: re.Match[str] | None,
        carried: str,
        denied_at: int,
    ) -> Mention | None:
        kind, (start, end) = token.lastgroup, token.span()
        complaint = _complaint_of(kind, token.group())
        near = site if site is not None and start - site.end() <= _NEAR_SITE else None
        where = carried if near is None else _SITE_OF[near.group()]
        free = near is not None and not any(taken[near.start() : start])  # nothing else was said in between
        gap = _ONLY_GAPS.fullmatch(masked[near.end() : start]) if near is not None and free else None
        if kind == "needs":
            known = self._known_pair(where, complaint)
            if complaint in _VAGUE and not known:
                return None
            if _GOES.match(masked, end) and where:  # 红退了
                return Mention(self._term(where, complaint), start, end, opposite=False)
            directly_denied = known and 0 <= start - denied_at <= 2
            if not known and _NOR.search(masked, max(0, start - 4), start):  # 不红不硬
                return Mention(_GENERIC.get(complaint, complaint), start, end, opposite=False)
            if not directly_denied and (near is None or (free and not gap)):
                return None
        if kind == "english" and near is None and (ahead := _IN_SITE.match(masked, end)):
            where, end = _SITE_OF[ahead["site"]], ahead.end()
        term = self._term(where, complaint)
        if near is not None and gap:
            return Mention(term, near.start(), end, bool(gap["deny"]))
        return Mention(term, start, end, opposite=False)

    def _known_pair(self, site: str, complaint: str) -> str | None:
        """Return the term of a complaint at a body part or at what that is a part of, if there is one."""
        place: str | None = site
        while place:
            for said in (complaint, *_ALSO.get(complaint, ())):
                if term := self._terms.get((place, said)):
                    return term
            place = _PART_OF.get(place)
        return None

    def _term(self, site: str, complaint: str) -> str:
        return self._known_pair(site, complaint) or _GENERIC.get(complaint, complaint)


# Functions that are said to be as they should be, and what is thereby denied.
_FINE_TERMS = (
    ("体温|烧", "发热"),
    ("血压", "血压升高"),
    ("听力|听声音|听嘢|听电话|听东西|耳朵", "听力下降"),
    ("视力|看东西|看字|看的|眼神", "视力下降"),
    ("眼睛", "眼痛"),
    ("食欲|胃口|吃饭|饭量|饭", "食欲减退"),
    ("吃奶|喝奶|奶量", "拒食"),
    ("睡觉|睡眠|睡的|觉", "失眠"),
    ("说话|讲话|口齿", "言语不清"),
    ("精神头|精神状态|精神", "精神萎靡"),
    ("呼吸|喘气|出气|气", "呼吸困难"),
    ("心跳|心率|心脏", "心悸"),
    ("胸口|胸", "胸痛"),
    ("大小便|大便|排便|拉屎", "便秘"),
    ("放屁|屁|排气", "停止排气排便"),
    ("小便|尿尿|排尿|解小便|尿", "排尿困难"),
    ("月经|例假", "月经不规律"),
    ("胎动", "胎动减少"),
    ("走路|行走", "行走困难"),
    ("手指活动|关节活动|活动", "活动受限"),
    ("手脚|胳膊腿|四肢|肢体活动", "肢体瘫痪"),
    ("吞咽|咽东西", "吞咽困难"),
    ("嗓子|喉咙|咽喉", "咽痛"),
    ("声音", "声音嘶哑"),
    ("闻味儿?|闻东西|嗅觉", "嗅觉减退"),
    ("鼻子", "鼻塞"),
    ("味道|气味", "白带异味"),
    ("意识|神志|脑子", "意识障碍"),
    ("心情|情绪", "情绪低落"),
    ("记性|记忆力", "记忆力减退"),
    ("成绩", "成绩下降"),
    ("体重", "体重下降"),
    ("脸色|面色", "面色苍白"),
    ("力气|劲儿", "乏力"),
    ("肚子", "腹痛"),
    ("胃", "上腹痛"),
    ("腰", "腰痛"),
    ("脖子", "颈部疼痛"),
    ("关节", "关节疼痛"),
    ("皮肤", "皮疹"),
    (r"\bbreath(?:e|ing)", "呼吸困难"),
    (r"\b(?:eating|appetite)", "食欲减退"),
    (r"\bsleep(?:s|ing)?", "失眠"),
    (r"\b(?:vision|sight|eyesight)", "视力下降"),
    (r"\bhearing", "听力下降"),
    (r"\b(?:bowels?|poops?|stools?)", "便秘"),
    (r"\b(?:pee|urine|bladder)", "排尿困难"),
    (r"\b(?:mood|spirits?)", "情绪低落"),
    (r"\b(?:energy|strength)", "乏力"),
    (r"\b(?:balance)", "步态不稳"),
    (r"\b(?:memory)", "记忆力减退"),
    (r"\b(?:bp|blood pressure)", "血压升高"),
    (r"\b(?:pulse|heart rate)", "心悸"),
    (r"\bperiods?", "月经不规律"),
    (r"\b(?:temp|temperature)", "发热"),
    (r"\bgrip", "握力下降"),
    (r"\bweight", "体重下降"),
    (r"\b(?:walks?|walking)", "行走困难"),
    (r"\b(?:speech|talks?|talking)", "言语不清"),
    ("功课", "成绩下降"),
    ("屎尿|拉尿|□□便", "大小便失禁"),
)
_HIGH = re.compile("体温|烧|血压|心跳|心率|bp|pulse|heart rate|temp")  # what is well when it falls: 烧没退 is not
# Every repetition is bounded, so that a text of adverbs takes no longer than another.
_FINE = re.compile(
    rf"(?P<what>{'|'.join(words for words, _ in _FINE_TERMS)})(?:[查量测]了[^，。]{{0,3}}|这块|方面|一直|也|都"
    r"|还|倒是?|挺|很|蛮|比较|算|基本上?|完全|是|的|现在|目前|照样|上|里|挺|特别|[跟和]?(?:平时|平常|以前|往常|之前"
    r"|原来)){0,4}"
    r"(?:正常|还行|还可以|可以|不错|没[啥什么]{0,2}问题|清楚|清醒|利索|顺畅|平稳|规律|有劲|照常|照旧|没[啥什么]{0,2}事"
    r"|控制住了|(?P<fell>降下来|降下去|下来|降)了|(?:'s)?\s?(?:(?:is|are|was|still|just|perfectly"
    r"|completely)\s){0,2}(?:fine|normal(?:ly)?|steady|stable|the same"
    r"|ok(?:ay)?|good|well|unchanged)\b"
    r"|没变(?=[，。；！？\n\s]|$)|没受?[到啥什么]{0,3}影响|没[啥什么]{0,2}(?:毛病|影响|异常|不舒服|感觉|变化)|没啥"
    r"|没什么|好好的|好着|如常|能[控憋夹管忍]住|[管憋夹控忍]的住|(?P<held>没[退下掉]步?)|照[吃喝睡放拉玩跑跳]|(?:一样|差不多"
    r"|准|欢|有在放|够用|畅通|通畅|顺|通|灵|好|稳|香|对)(?:的|呢)?(?=[，。；！？\n\s]|$))"
)
# What somebody can do: 睡得着, 能自己走.
_ABLE_TERMS = (
    ("睡的(?:着|下)(?!才)", "失眠"),
    (
        "吃的(?:下|进)|喝的(?:下|进)|[奶饭](?:量)?(?:倒|还|都|也|倒是)?照[喝吃]|饭量(?:倒|也|还)?没[减少变小]|胃口(?:倒|也|还)?没变",
        "食欲减退",
    ),
    (
        "能自己走|能下地|走的[稳动了]|走路(?:倒|还|也)?(?:稳|利索|没事)"
        "|can (?:still )?(?:walk|run|stand|bear weight|put weight on)",
        "行走困难",
    ),
    (
        "(?:手|脚|腿|胳膊|手脚|指头|四肢)(?:都|还|也)?能(?:动|抬|举|弯|伸)|[抬举]的起(?:来|胳膊|手)?"
        "|can (?:still )?(?:move|lift|bend|raise|wiggle)",
        "肢体活动受限",
    ),
    ("弯的下(?:腰)?", "腰部活动受限"),
    ("(?:腹部?|肚子|肚皮)(?:是|平|摸着)?软的?(?=[，。；]|$)|abdomen soft", "腹肌僵硬"),
    ("(?:脖子|颈)(?:部)?(?:是)?(?:能动|软的?(?=[，。]|$)|能转)|neck (?:is )?supple", "颈强直"),
    ("[站立]的[稳住]", "站立不稳"),
    ("躺的平|能(?:平)?躺(?:平)?|平躺没事", "端坐呼吸"),
    ("[尿解]的出|尿尿?(?:倒|还|也)?顺|pee(?:s|ing)? (?:normally|fine|ok)", "排尿困难"),
    ("[拉排]的出|大便(?:倒|还|也)?(?:一天一次|成形|正常|规律)", "便秘"),
    ("[喘透]的上(?:气)?|呼吸(?:倒|还|也)?(?:匀|稳)", "呼吸困难"),
    ("(?:话)?说的(?:清楚?|出|利索)|舌头不打(?:卷|结)|speech is (?:clear|normal|fine)", "言语不清"),
    (
        "(?:神志|神智|人|意识|脑子)(?:倒|还|也|是|都)*(?:清醒|清楚|明白|清)(?:的)?|叫的(?:应|醒)"
        "|alert and|awake and alert",
        "意识障碍",
    ),
    ("记的(?:住|清)|认的(?:人|出|清人)|记性(?:倒|还|也)*(?:好|行)", "记忆力减退"),
    (
        "(?:人|娃|孩子|宝宝)(?:倒|还|也|挺|很|是)*(?:精神(?![病科不差分])|活泼|活跃)"
        "|[玩耍](?:的|得)?(?:挺|很|好)?(?:欢|好)|反应(?:倒|还|也|都)*(?:好|灵)|playful|active and",
        "精神萎靡",
    ),
    ("咽的(?:下|进)|吞的下|喝水不呛|吃(?:东西|饭)不噎|can swallow", "吞咽困难"),
    ("闻的(?:到|出|见)", "嗅觉减退"),
    ("(?:手|手上|胳膊|腿)(?:上)?(?:还|也|都|倒)*有(?:劲|力)|力气(?:倒|还|也)?没减|strength is", "肢体无力"),
    ("不哭不闹|好哄|(?:人|她|他|娃|孩子)(?:倒|倒是|也|还)*不闹", "哭闹不安"),
    ("哭声(?:响|洪)亮?", "哭声尖"),
    ("afebrile|temp (?:is |was )?normal", "发热"),
    ("heart rate (?:is |was )?normal|hr normal", "心悸"),
    ("bp (?:is |was )?normal", "血压升高"),
    ("(?:eat|drink)(?:s|ing)? (?:and drinking )?(?:well|ok(?:ay)?|fine|normally)|fine with food", "食欲减退"),
    ("mood is (?:fine|good|ok)", "情绪低落"),
    ("energy is (?:fine|good|ok)", "乏力"),
)
_ABLE = re.compile("|".join(f"({words})" for words, _ in _ABLE_TERMS))  # they hold no groups of their own
_BETTER = re.compile(
    r"(?:动一动|动动|活动(?:一下|开|活动)?|走一?走|歇歇|歇一?(?:会儿?|下)|休息(?:一下|一?会儿?)?"
    r"|躺(?:下|平|一会儿?|着)|坐(?:下|起来|着)|蹲(?:下|着)|弯腰|前倾|身子往前|抱着?膝盖"
    r"|吃(?:点|两口|几口|了)?(?:东西|饭|饼干|点心)?|喝(?:点|口)?热?水|拉完|排便后?|解完大便|吐完|放屁后?"
    r"|放个屁|热敷|冷敷|按(?:着|一按|按)|揉一?揉|捂着|甩甩手|甩手|起来走走?)(?:完|后|以后|之后|了|就|能"
    r"|也|反而|反倒|倒|会|又|都){0,4}"
    r"(?:好(?:点|些|了|受|一点|多了|转)?|轻(?:点|些|了)?|舒服(?:点|些)?|缓解|减轻|没事|消失|不痛(?=了)|能走)"
)
_CHOICE = re.compile("还是|好吗|好么|[?？]")
_BETTER_TERMS = (
    ("腰", "", "活动后腰痛减轻"),
    ("腿", "", "活动后腿部缓解"),
    ("小腿", "歇|休息", "间歇性跛行"),
    ("", "甩", "甩手后缓解"),
    ("", "拉完|排便|大便|放.?屁", "排便后腹痛缓解"),
    ("", "吃", "进食后腹痛缓解"),
    ("胸", "前倾|坐", "前倾坐位胸痛减轻"),
    ("", "弯腰|抱着?膝盖|前倾|往前", "弯腰抱膝稍缓解"),
    ("", "", "休息后缓解"),
)
_WORSE = re.compile(
    r"(?:晚上|夜里|夜间|半夜|躺下|平躺|躺着|早上|早起|晨起|下午|上午|饭后|饭前|吃完饭|空腹|上下楼|上楼"
    r"|下楼|爬楼|走路|活动|久坐|久站|弯腰|低头|翻身|受凉|阴雨?天|下雨天?|变天|天冷|冬天|夏天|出汗|遇热"
    r"|热水澡|洗澡|日晒|晒太阳|生气|紧张|累了|劳累|喝酒|吃辣|吃油腻|深呼吸|咳嗽)"
    r"(?:的时候|时|以后|后|了|完|躺下){0,4}[^，。；、]{0,4}?(?:更|最|特别|尤其|加"
    r"|比[^，。；]{1,4}?)(?:加)?(?:重|厉害|明显|严重|难受|痛|痒|剧)"
)
_WORSE_TERMS = (
    ("", "夜|晚", "夜间症状加重"),
    ("", "晨|早上.*重|早起", "晨重暮轻"),
    ("", "下午.*重", "晨轻暮重"),
    ("", "晒", "日晒后加重"),
    ("膝", "楼", "上下楼梯膝痛"),
    ("腰", "坐", "久坐腰痛加重"),
    ("", "", "活动后加重"),
)


def _affirms(form: str) -> bool:
    """Return whether a contrary affirms a complaint of its own: 痰是黄的, said to be the contrary of 白色黏痰."""
    if re.search(r"[不没无软]|正常|好|稳|成形", form):
        return False
    # 咳嗽有痰 is said of the cough, and no denial of 干咳 that a patient would hear.
    return bool(re.search(r"[痛痰汗](?!.*[退消少净减])|尿多|低烧|更重|咳一声", form)) or (
        "有" not in form and _parse(form) is not None
    )


_SUFFIX = re.compile(r"(?:e?s|ed|ing)?(?![a-z])")


_DENIED_TOO = re.compile("没|也不")


def _form_end(plain: str, start: int, at: int) -> int | None:
    """Return where a form that was read from `start` to `at` ends, with its suffix; `None` if it is none there."""
    # 没咳嗽没痰 denies two things; it is not a denied 咳嗽没痰.
    if start and plain[start - 1] in "没不无" and _DENIED_TOO.search(plain, start + 1, at):
        return None
    if _is_latin(plain[start]) or _is_latin(plain[at - 1]):
        suffix = _SUFFIX.match(plain, at)
        if suffix is None:
            return None
        at = suffix.end()
    if plain[at - 1] == "好" and plain[at : at + 1] in tuple("像几多久"):  # 听力好像差了点
        return None
    return None if plain.startswith("喘气", at - 1) else at


# -- 6: paraphrases

# Characters that carry no symptom; left out of both sides before they are compared.
_EMPTY = frozenset(
    "了的着过就也都还很太又再才会是在一个点些儿呢啊吧吗我你他她它们这那么真老总个把给跟像样似般有到上里头子"
)
_CLAUSE = re.compile(r"[^，。；？！、\n…\s]+")
_OVER = re.compile(
    r".{0,10}(?:全|都|就|已经|自己|总算)(?:好|消|退|没|过去|恢复|没事)(?:透|下去|干净)?了"
)  # 睡一觉全好了
_LEAST, _MOST = 4, 40  # characters of a clause that is compared


class _Paraphrases:
    """Compares clauses with forms by the pairs of characters that they share."""

    def __init__(self, entries: Iterable[LexiconEntry]) -> None:
        self._forms: list[tuple[str, _Form, float]] = []
        rows: list[tuple[str, _Form]] = []
        for entry in entries:
            for opposite, forms in ((False, (entry.term, *entry.colloquial)), (True, entry.opposite)):
                for form in forms:
                    skeleton = "".join(c for c in folded_form(form) if c not in _EMPTY and not c.isspace())
                    if len(skeleton) >= _LEAST and not skeleton.isascii():
                        rows.append((skeleton, _Form(entry.term, opposite)))
        frequency = Counter(pair for skeleton, _ in rows for pair in set(itertools.pairwise(skeleton)))
        total = len(rows) or 1
        self._weight = {pair: math.log(total / count) for pair, count in frequency.items()}
        self._index: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for number, (skeleton, value) in enumerate(rows):
            pairs = list(itertools.pairwise(skeleton))
            self._forms.append((skeleton, value, math.fsum(self._weight[pair] for pair in pairs)))
            for pair in set(pairs):
                if frequency[pair] <= _COMMON:
                    self._index[pair].append(number)

    def join(self, plain: str, chosen: list[Mention], known: set[str]) -> list[Mention]:
        """Add what only a paraphrase explains; it goes before complaints that no term says."""
        chosen = sorted(chosen, key=lambda m: m.start)
        starts = [m.start for m in chosen]
        added: list[Mention] = []
        replaced: set[Mention] = set()
        known_clauses: dict[str, tuple[_Form, int, int, bool] | None] = {}  # of this text: it may repeat itself
        for clause in _CLAUSE.finditer(plain):
            if not _LEAST <= len(clause.group()) <= _MOST or _OVER.fullmatch(clause.group()):
                continue
            if clause.group() not in known_clauses:
                known_clauses[clause.group()] = self._best(clause.group())
            found = known_clauses[clause.group()]
            if found is None:
                continue
            form, start, end, denied = found
            start, end = start + clause.start(), end + clause.start()
            low, high = bisect.bisect_left(starts, clause.start()), bisect.bisect_left(starts, clause.end())
            inside = [m for m in chosen[low:high] if m.start < end and m.end > start]
            if any(m.term in known or m.start < start or m.end > end for m in inside):
                continue
            replaced.update(inside)
            added.append(Mention(form.term, start, end, form.opposite != denied))
        return [m for m in chosen if m not in replaced] + added

    def _best(self, clause: str) -> tuple[_Form, int, int, bool] | None:
        places = [i for i, c in enumerate(clause) if c not in _EMPTY]
        skeleton = "".join(clause[i] for i in places)
        pairs = list(itertools.pairwise(skeleton))
        # A pair may have one character between its halves.
        pairs += [(a, c) for a, _, c in zip(skeleton, skeleton[1:], skeleton[2:], strict=False)]
        scores: defaultdict[int, float] = defaultdict(float)
        for pair in dict.fromkeys(pairs):  # in order, so that sums and ties come out alike in every process
            weight = self._weight.get(pair, 0.0)
            for number in self._index.get(pair, ()):
                scores[number] += weight
        best, best_share = None, _SHARE
        for number, score in heapq.nsmallest(_TRIED, scores.items(), key=lambda item: (-item[1], item[0])):
            form_skeleton, form, weight = self._forms[number]
            share = score / weight if weight else 0.0
            if share < best_share * 0.7:
                continue
            aligned = _align(form_skeleton, skeleton)
            if aligned is None:
                continue
            matched, first, last, missing = aligned
            if matched < 4 or matched < 0.75 * len(form_skeleton) or _VITAL.intersection(missing):
                continue
            span = last - first + 1
            share = 0.5 * share + 0.5 * matched / len(form_skeleton)
            if share > best_share and span <= 2 * len(form_skeleton):
                window = skeleton[first : last + 1]
                negated = sum(c in "不没无" for c in window) - sum(c in "不没无" for c in form_skeleton)
                if negated < 0 or negated > 1:
                    continue
                best, best_share = (form, places[first], places[last] + 1, negated == 1), share
        return best


# -- 7: words typed as others that sound alike

# Which characters sound alike, without tones, -n like -ng and sh- like s-, as many people type and speak them.
_SYLLABLES: dict[str, str] = {
    char.translate(SAME): syllable
    for syllable, chars in json.loads(
        (Path(__file__).parents[1] / "resources" / "syllables.json").read_text("utf-8")
    ).items()
    for char in chars
}
_USUAL = frozenset(
    "的都是有样一二两三四五六七八九十手脚头可先儿为又也就要着没不我你他她它这那个只总被跟们长多大小上下里后内以而但和及与或在到地了过起来去出入"
    "伐会能眼脸皮嘴尿血红白黑黄青奶家说看时年天月日号点分次回妈爸人什么怎几很最太更还再已经把给让叫从向往对比像使正带打拿吃喝"
)  # characters that somebody means
_ALIKE = (2, 3, 4)  # characters of a form that may be mistyped
_MISTYPED = {2: 1, 3: 1, 4: 2}  # and how many of them


class _Homophones:
    """Finds short forms in which a character or two are others of the same sound: 恶新 for 恶心, 腿中 for 腿肿."""

    def __init__(self, entries: Iterable[LexiconEntry]) -> None:
        self._forms: defaultdict[tuple[str, ...], list[tuple[str, _Form]]] = defaultdict(list)
        usual: dict[str, list[str]] = _WORDS["typed_often"]
        for entry in entries:
            for form in map(folded_form, dict.fromkeys((entry.term, *usual.get(entry.term, ())))):
                if len(form) in _ALIKE and (key := self._key(form)):
                    self._forms[key].append((form, _Form(entry.term, opposite=False)))
        self._begins = {key[0] for key in self._forms}

    @staticmethod
    def _key(words: str) -> tuple[str, ...] | None:
        syllables = tuple(_SYLLABLES.get(char, "") for char in words)
        return syllables if all(syllables) else None

    def find(self, masked: str, taken: bytearray) -> list[Mention]:
        """Return what nothing else explains; marks it in `taken`."""
        found = []
        heard = [_SYLLABLES.get(char, "") for char in masked]
        i = 0
        while i < len(masked):
            if not taken[i] and heard[i] in self._begins and (mention := self._at(masked, heard, taken, i)):
                found.append(mention)
                taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
                i = mention.end
            else:
                i += 1
        return found

    def _at(self, masked: str, heard: list[str], taken: bytearray, i: int) -> Mention | None:
        for length in reversed(_ALIKE):
            end = i + length
            if end > len(masked) or any(taken[i:end]):
                continue
            for form, value in self._forms.get(tuple(heard[i:end]), ()):
                wrong = [b for a, b in zip(form, masked[i:end], strict=False) if a != b]
                if (
                    0 < len(wrong) <= _MISTYPED[length]
                    and not _USUAL.intersection(wrong)
                    and not _NO_TYPO.match(masked, i)
                ):
                    return Mention(value.term, i, end, value.opposite)
        return None


_SITE_OF: dict[str, str] = {
    word.translate(SAME): part
    for key in ("body_parts", "body_parts_en")
    for part, words in _WORDS[key].items()
    for word in words
}
_CHINESE_SITES = _alternatives(word for word in _SITE_OF if not word.isascii())
_LATIN_SITES = _alternatives(word for word in _SITE_OF if word.isascii())


# -- 8: descriptions

_DESCRIBED = "其他表现"  # what no term says
_DESCRIPTIONS = re.compile(
    fold_pattern("|".join(f"(?:{pattern})" for pattern in _WORDS["descriptions"])).replace("…", "[^，。；、]{0,6}")
)
_DESCRIPTIONS_EN = re.compile(rf"\b(?:{'|'.join(_WORDS['descriptions_en'])})")
# A part of the body, and anything but that it is well.
_SITE_SAID = re.compile(
    rf"(?:{_alternatives(w for w in _SITE_OF if not w.isascii() and len(w) > 1)})(?![^，。；]{{0,8}}(?:正常|没事"
    rf"|没问题|好好的|还好|还行|好了|好的|干净|光光的?|利索))[^，。；、]{{1,12}}"
)
_SITE_SAID_EN = re.compile(
    rf"\b(?:{_LATIN_SITES})\b(?! (?:is|are|was|looks?|feels?|seems?)? ?(?:fine|normal|ok|okay|clear|good|alright"
    rf"|back to normal)\b)(?: [a-z'-]+){{1,6}}"
)
_SITE = re.compile(rf"{_CHINESE_SITES}|\b(?:{_LATIN_SITES})\b")
_DENIED_IN = re.compile(r"[不没无未]|n't\b|\b(?:no|not|never|without|none)\b")
_NO_DESCRIPTION = re.compile(fold_pattern("|".join(_WORDS["no_descriptions"])))
_STRETCH = re.compile(r"(?:[^，。；？！?!\n….]|\.(?=\d))+")
_LONGEST_STRETCH = 160
_REACH = 6  # characters between a mention and the clause that paints it


def _descriptions(masked: str, chosen: list[Mention]) -> list[Mention]:
    """Return what clauses without a mention describe, in a text that speaks of a symptom or of a part of the body.

    A comparison (`像踩在棉花上`), what somebody can do no more (`扣子都扣不上`), what will not stop or grows: no term
    says it, but it is a complaint.
    """
    spoken = sorted(chosen, key=lambda m: m.start)
    ends = [mention.end for mention in spoken]
    found = []
    for clause in _STRETCH.finditer(masked):
        start, end = clause.span()
        i = bisect.bisect_right(ends, start)
        if (i < len(spoken) and spoken[i].start < end) or end - start > _LONGEST_STRETCH:
            continue
        latin = not _HAN.search(clause.group())
        match = (_DESCRIPTIONS_EN if latin else _DESCRIPTIONS).search(masked, start, end)
        if match is None and spoken and not _DENIED_IN.search(clause.group()):
            match = (_SITE_SAID_EN if latin else _SITE_SAID).search(masked, start, end)
        if match is None or _NO_DESCRIPTION.search(clause.group()):
            continue
        # What only paints what the clause before it says: 一大块红,跟泼了墨水一样.
        if match.start() == start and masked[start] in "像跟" and i and start - ends[i - 1] <= _REACH:
            continue
        if spoken or _SITE.search(clause.group()):
            found.append(Mention(_DESCRIBED, match.start(), match.end(), opposite=False))
    return found


def _align(form: str, text: str) -> tuple[int, int, int, str] | None:
    """Return how many characters of the form stand in the text in order, where the first and last do, and the rest."""
    matcher = difflib.SequenceMatcher(None, form, text, autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    if not blocks:
        return None
    met = {i for block in blocks for i in range(block.a, block.a + block.size)}
    missing = "".join(char for i, char in enumerate(form) if i not in met)
    return len(met), blocks[0].b, blocks[-1].b + blocks[-1].size - 1, missing


_COMMON = 300  # a pair in more forms than this finds no candidates
_TRIED = 12  # forms that are compared character by character
_SHARE = 0.72  # of a form that a clause must share
_VITAL = frozenset(
    "抽痛痒麻肿胀酸喘咳吐晕烧抖累乏困瘦血脓疹包泡溃汗噎呛痰涕泪红黄黑紫白硬凉热干烂破臭哑响歪斜卡掉秃多少稀深高低不没无"
    "转忘怕哭闹头眼耳鼻口嘴舌牙喉咽嗓颈脖肩臂肘腕手指胸乳背腰胃腹肚臀肛阴尿便经腿膝踝脚足脸伤痣"
)  # may not be missing


def _value_term(value: Measurement) -> tuple[str, bool] | None:
    """Return the term that a value means, and whether it says the contrary."""
    if value.kind == "temperature":
        if value.value < 37.3:
            return "发热", True
        return ("低热" if value.value <= 38 else "发热" if value.value < 39 else "高热"), False
    if value.kind in ("blood_pressure", "systolic"):
        if value.value >= 140 or (value.second or 0) >= 90:
            return "血压升高", False
        return ("血压下降", False) if value.value < 90 else ("血压升高", True)
    if value.kind == "pulse" and value.value > 100:
        return "心悸", False
    return None


# What a pattern ends before: its own last word is 刺, and 小便时刺痛 was said.
_PAIN_OF_A_KIND = re.compile("(?<=[刺胀酸绞灼隐钝抽跳坠])[痛疼]")


def _with_the_pain(plain: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Return the mentions, those that name the kind of a pain with the word for it."""
    following = [mention.start for mention in mentions[1:]] + [len(plain)]
    return [
        mention._replace(end=mention.end + 1)
        if mention.end < start and _PAIN_OF_A_KIND.match(plain, mention.end)
        else mention
        for mention, start in zip(mentions, following, strict=False)  # one too many if there is no mention
    ]


def _in_text(mentions: list[Mention], offsets: Any, length: int) -> list[Mention]:
    placed: list[Mention] = []
    for mention in mentions:
        start, end = offsets[mention.start], offsets[mention.end - 1] + 1
        if placed and start < placed[-1].end:  # both in one character that unfolds
            continue
        placed.append(mention._replace(start=start, end=min(end, length)))
    return placed


def _is_latin(char: str) -> bool:
    return "a" <= char <= "z"


# ------------------------------------------------------------------------------------------- body parts and complaints

_PART_OF: dict[str, str] = _WORDS["part_of"]
# Complaints that are one wherever they stand, and those that need a body part in their clause or a denial before them.
# Patterns, folded; the first that fits has it.
_COMPLAINTS: dict[str, dict[str, str]] = {
    kind: {name: fold_pattern("|".join(words)) for name, words in _WORDS[key].items()}
    for kind, key in (("alone", "complaints"), ("needs", "complaints_of_a_part"), ("english", "complaints_en"))
}
# Of these, only what the lexicon knows of the body part: 头大 is none, 例假多 is one.
_VAGUE = frozenset(_WORDS["vague"])
# What a complaint is, too, where the lexicon has no word for both: 又红又肿 is a swelling.
_ALSO: dict[str, list[str]] = _WORDS["also"]
# What a complaint is called where no body part says more.
_GENERIC: dict[str, str] = _WORDS["terms"]


_HAN = re.compile("[\u3400-\u9fff]")


def _named(kind: str, *, latin: bool = False) -> str:
    """Return a pattern of all complaints of a kind, or of those that a text without Chinese characters may hold."""
    patterns = list(_COMPLAINTS[kind].values())
    if latin:
        needed = {pattern: needed_words(pattern) for pattern in patterns}
        patterns = [p for p, words in needed.items() if not words or any(not _HAN.search(word) for word in words)]
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def _token_pattern(*, latin: bool) -> re.Pattern[str]:
    """Return what tells tokens apart in any text, or for speed in one without Chinese characters."""
    stop, site = r"[，。；？！\n…]|\.(?!\d)", rf"\b(?:{_LATIN_SITES})\b"
    deny = r"\b(?:no|not|never|without|doesn't|don't|isn't|aren't|didn't|hasn't|haven't|denies)\b"
    if not latin:
        stop, site = rf"{stop}|但是|但|不过|可是", rf"{_CHINESE_SITES}|{site}"
        deny = rf"{_alternatives(_DENIALS)}|{deny}"
    kinds = {
        "stop": stop,
        "alone": _named("alone", latin=latin),
        "site": site,
        "deny": deny,
        "english": rf"\b(?:{_named('english')})\b",
        "needs": _named("needs", latin=latin),
    }
    return re.compile("|".join(f"(?P<{kind}>{words})" for kind, words in kinds.items() if words))


_TOKENS, _LATIN_TOKENS = _token_pattern(latin=False), _token_pattern(latin=True)


def _tokens(words: str) -> Iterator[re.Match[str]]:
    return (_TOKENS if _HAN.search(words) else _LATIN_TOKENS).finditer(words)


_AND = re.compile("[还却]")
_ALONE = re.compile(_named("alone"))
_IN_SITE = re.compile(
    r"(?:\s{1,3}(?:in|on|of|at|behind|around|under|down|across|over"
    r"|inside)(?:\s{1,3}(?:both|the|my|his|her|one|left|right|side|of|sides|lower|upper"
    rf"|all)){{0,6}}\s{{1,3}})(?P<site>{_LATIN_SITES})\b"
)
_ONLY_GAPS = re.compile(
    rf"(?:(?:{_alternatives(_ADVERBS)}|{_N}(?:天|次|周|个月|年|小时)|是|颜色|看着|摸着|变|变的|又|有|带"
    r"|像|\s|\b(?:is|are|was|feels?|felt|really|so|very|a bit|a little|kind of|has been|have been|been"
    r"|keeps?|still)\b)"
    rf"|(?P<deny>{_alternatives(_DENIALS)}|\b(?:isn't|aren't|doesn't|don't|not|never|didn't)\b))*"
)


_GOES = re.compile("(?:倒是?|是|也|都|早|已经?|还没|没|全){0,2}[退消](?:了|尽|得|下去|干净)")
_NOR = re.compile("[不没无][^，。；、不没]{1,2}[也又]?[不没无]$")
_NEAR_SITE = 12  # characters between a body part and its complaint
_LONGEST_PARSED = 24  # characters of a form that may be a body part and a complaint


@functools.cache
def _compiled(kind: str) -> list[tuple[str, re.Pattern[str]]]:
    return [(name, re.compile(pattern)) for name, pattern in _COMPLAINTS[kind].items()]


def _complaint_of(kind: str | None, words: str) -> str:
    for name, pattern in _compiled(kind or "alone"):
        if pattern.fullmatch(words):
            return name
    for name, pattern in _compiled(kind or "alone"):
        if pattern.match(words):
            return name
    return words


def _cuts_a_word(plain: str, masked: str, start: int, end: int) -> bool:
    """Return whether a form that ends at `end` takes the beginning of a harmless word: 手脚麻 of 手脚麻利."""
    begins = end - 1
    while begins > start and masked[begins - 1] == "□":
        begins -= 1
    word = _HARMLESS.match(plain, begins)
    return begins > start and word is not None and word.end() > end


def _is_vague(words: str) -> bool:
    return _complaint_of("needs", words) in _VAGUE


def _learn(entries: Iterable[LexiconEntry]) -> dict[tuple[str, str], str]:
    """Return which body part and complaint make which term, by what the forms of the lexicon mostly say."""
    votes: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for weight, forms in ((3, (entry.term,)), (1, (*entry.colloquial, *entry.en))):
            for form in forms:
                parsed = _parse(folded_form(form))
                if parsed is not None:
                    votes[parsed][entry.term] += weight
    # Between equals the shorter term is the more general one.
    return {key: min(counts, key=lambda term: (-counts[term], len(term), term)) for key, counts in votes.items()}


def _parse(form: str) -> tuple[str, str] | None:
    """Return the body part and the complaint that a form is made of, if it holds nothing else."""
    if len(form) > _LONGEST_PARSED or not _TOKENS.match(form):
        return None
    tokens = [token for token in _TOKENS.finditer(form) if token.lastgroup != "stop"]
    kinds = [token.lastgroup for token in tokens]
    if kinds[:1] == ["site"] and len(kinds) == 2 and kinds[1] in ("alone", "needs", "english"):
        site, complaint = tokens
        if (
            site.start() == 0
            and complaint.end() == len(form)
            and _ONLY_GAPS.fullmatch(form, site.end(), complaint.start())
        ):
            return _SITE_OF[site.group()], _complaint_of(kinds[1], complaint.group())
    if len(kinds) == 1 and kinds[0] in ("alone", "english") and tokens[0].span() == (0, len(form)):
        return "", _complaint_of(kinds[0], form)
    return None


def _site_of(words: str, term: str) -> str:
    """Return the body part that a mention speaks of, or `""`."""
    return _first_site(words) or _site_of_term(term)


@functools.cache
def _site_of_term(term: str) -> str:
    return _first_site(term)


def _first_site(words: str) -> str:
    for token in _tokens(words.translate(SAME)):
        if token.lastgroup == "site":
            return _SITE_OF[token.group()]
    return ""


_finders: dict[int, tuple[SymptomLexicon, MentionFinder]] = {}


def finder_of(lexicon: SymptomLexicon) -> MentionFinder:
    """Return the finder over a lexicon, made once for each."""
    known = _finders.get(id(lexicon))
    if known is None or known[0] is not lexicon:
        known = _finders[id(lexicon)] = (lexicon, MentionFinder(lexicon))
    return known[1]


def mentions_of(text: str, lexicon: SymptomLexicon) -> list[Mention]:
    """Return where `text` speaks of a symptom, left to right, without overlaps."""
    return finder_of(lexicon).find(text)
