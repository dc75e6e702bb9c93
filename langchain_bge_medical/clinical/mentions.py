"""Where a patient's words speak of a symptom: lexicon forms with words between them, body part + complaint, numbers.

People seldom say a form of the lexicon to the letter. `头还是有点晕` is `头晕` with adverbs in between; `腰也不疼` is
`腰疼` denied from inside; `不痒` after `脸上起疹子` is said of the face. Four finders, each linear in the text, and the
first that finds something at a place has it:

1. forms of the lexicon, letter for letter;
2. forms with adverbs, places or a denial between their characters;
3. measured values (`39度5`, `血压180/110`);
4. a body part and a complaint (`脚脖子` + `肿`), a complaint alone (`喘`), a body part carried on from before;
5. forms that share most of their rarer characters with a clause, in order (`站了半天才尿得出` for `半天尿不出`).
"""

from __future__ import annotations

import bisect
import difflib
import functools
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from langchain_bge_medical.clinical.lexicon import LexiconEntry, Mention, SymptomLexicon, plain_form
from langchain_bge_medical.clinical.numbers import Measurement, measurements

# ---------------------------------------------------------------------------------------------- one writing of a word

# Characters that say the same in a symptom; one to one, so that offsets stay.
_TWINS = {
    "疼": "痛", "得": "的", "地": "的", "唔": "不", "勿": "不", "弗": "不", "冇": "没", "呒": "没", "咗": "了", "嘅": "的",
    "呕": "吐", "裏": "里", "佢": "他", "睇": "看", "瞓": "睡", "喺": "在", "’": "'", "‘": "'",
}  # fmt: skip
_SAME_LETTERS = str.maketrans(_TWINS)  # for patterns, whose ? and ! must stay
_SAME = str.maketrans(_TWINS | {",": "，", ";": "；", "?": "？", "!": "！"})
_SAME_PAIRS = re.compile(r"没的(?=[^了]|$)|莫的|木有|么有|米有|没的")


def folded(text: str) -> tuple[str, Any]:
    """Return `text` in plain form with words of equal meaning written alike, and each character's place in `text`."""
    plain, offsets = plain_form(text)
    plain = plain.translate(_SAME)
    return _SAME_PAIRS.sub("没有", plain), offsets


@functools.lru_cache(maxsize=65_536)
def _folded_form(form: str) -> str:
    return folded(form)[0]


def fold_pattern(pattern: str) -> str:
    """Return a regular expression with its letters folded as `folded` folds those of a text."""
    return pattern.translate(_SAME_LETTERS)


# ------------------------------------------------------------------------------------- what may stand between two parts

# Words that hold a character of a symptom and are none: they are hidden from finders 2 and 4.
_HARMLESS = re.compile(
    r"(?:以|之|目|饭|睡|经|餐)前(?=胸)|麻烦|麻将|芝麻|麻辣|麻醉|麻药|肉麻|麻花|大麻|麻利|酸奶|酸菜|酸辣|尿酸|硝酸|乳酸|叶酸|碳酸|酸碱|酸性|胃酸|心痛钱|痛快|痛苦|痛恨"
    r"|头痛的(?=数学|题|问题|作业|事)|抖音|抖动(?=手机)|发烧友|烧烤|烧水|烧饭|烧菜|烧火|烧香|烧纸|烧炭|烧煤|红烧|燃烧|烧鸡|烧开|烧伤|烧钱|烧脑|烧酒|发烧级|黄瓜|黄豆|黄金|黄色的车"
    r"|头发|头像|头条|头目|头绪|头胎|头一|头几|头两|钟头|石头|馒头|念头|里头|外头|前头|年头|街头|镜头|口头|手头|老头|罐头|枕头|个头|码头|工头|风头|线头|拳头|龙头|床头|骨头汤|地头|势头"
    r"|手机|手术|手工|手续|手表|手册|手段|手法|对手|动手|分手|二手|助手|高手|选手|拿手|亲手|手游|手套|手感|新手|扶手|把手"
    r"|脚本|脚步|脚手架|脚印|眼光|眼镜|眼神|一眼|眼看|眼下|眼药|眼科|屁眼|心眼|眼睁睁|耳机|耳环|耳语|口袋|口水|口红|口味|口罩|口气|口服|口诀|人口|出口|进口|路口|胃口|窗口|门口|港口|口吃|口头"
    r"|恶心|担心|小心|当心|关心|放心|开心|中心|心情|心里话|心想|耐心|信心|操心|核心|扎心|闹心|糟心|心态|点心|安心|粗心|细心|心理|爱心|热心|伤心|心思|虚心|心得|心的体会|心脏病|心电图|心血管|心愿"
    r"|背包|背书|背单词|背诵|背景|背后|违背|腰带|腰包|腰果|面包|面条|面粉|面试|面前|面对|见面|方便面|表面|全面|片面|面积|面膜|面霜|书包|包子|钱包|包括|包含|包装|红包|打包|包裹|荷包|包容|承包|豆包"
    r"|困难户|困境|围困|贫困|累计|积累|连累|堵车|堵路|堵在|吐槽|吐司|吐鲁番|谈吐|吐露|抽烟|抽奖|抽空|抽血|抽屉|抽时间|抽查|抽象|抽签|抽调|抽纸|抽水|拉面|拉着|拉黑|拉链|拉手|拉开|拉住|拉车|拉力|卡车|卡片|银行卡|信用卡|卡路里|刷卡|卡里|医保卡|打卡|卡牌|发卡|卡通|"
    r"咳咳(?=[，。])|水肿瘤|肿瘤|肿么|干净|干活|干嘛|干啥|干什么|干脆|干部|干杯|能干|若干|干预|饼干|干扰|干掉|干涉|响应|影响|音响|跳舞|跳槽|跳绳|跳过|跳广场|跳起来|跳楼|跳河|掉头|掉线|掉链|硬盘|硬件|硬币|强硬|红包|红灯|红酒|红枣|口红|红绿|网红|分红|红利|红薯|黑板|黑人|黑暗|拉黑|黑客|天黑|摸黑|黑色|白天|白领|白酒|白菜|明白|白白|表白|白糖|白色|蛋白|空白|青菜|青年|青春|年青|紫菜|紫薯"
    r"|晕车药|冷饮|冷冻|冷静|冷气|冷门|冷笑话|寒冷|冷战|制冷|凉拌|凉菜|凉水|凉快|着凉|受凉|乘凉|凉鞋|热水|热闹|热门|热情|热饭|热爱|热量|热点|亲热|热心|热菜|加热|天热|炎热|热饮|热敷|天冷|天凉|大事|大家|大概|大夫|大学|多大|大小|老大|大人|大哥|大姐|大妈|大爷|大叔|大三|大四|自大|破产|破坏|破解|突破|打破|读破|烂片|烂尾|腐烂|臭豆腐|味道(?=不错|好|鲜)|美味|调味|口味"
    r"|响亮|闷热|闷骚|闷声|僵尸|僵局|慌张|惊慌|涨价|涨停|胀痛乳|汗水|汗衫|血压计|血型|血统|血汗|吸血鬼|流血事件|献血|水果|水平|水杯|喝水|开水|流水线|流水账|胖子|减肥药|瘦肉|瘦身(?=食谱|操|餐)|抖擞|歪理|斜坡|斜对"
)

_N = r"(?:[0-9]{1,3}|[零一二两三四五六七八九十半几好多]{1,4})"
_ADVERBS = [
    "有一点点",
    "有一点儿",
    "有一点",
    "有点儿",
    "有点",
    "有些",
    "有的",
    "一点点",
    "一点儿",
    "一点",
    "些许",
    "稍微",
    "略微",
    "略",
    "微微",
    "轻微",
    "轻轻",
    "隐隐",
    "隐隐约约",
    "很是",
    "非常",
    "特别",
    "特",
    "极其",
    "极",
    "相当",
    "十分",
    "超级",
    "超",
    "贼",
    "老是",
    "老",
    "总是",
    "总",
    "一直",
    "一直在",
    "一直都",
    "始终",
    "整天",
    "成天",
    "天天",
    "每天",
    "整夜",
    "整晚",
    "通宵",
    "夜里",
    "晚上",
    "半夜",
    "白天",
    "早上",
    "早晨",
    "早起",
    "下午",
    "一阵一阵的",
    "一阵一阵",
    "一阵阵的",
    "一阵阵",
    "一阵",
    "阵阵",
    "一抽一抽的",
    "一跳一跳的",
    "一下一下的",
    "一直在那",
    "又",
    "也",
    "也是",
    "也有点",
    "都",
    "还",
    "还是",
    "还有点",
    "还在",
    "就",
    "就是",
    "就开始",
    "更",
    "更加",
    "越来越",
    "越",
    "慢慢",
    "渐渐",
    "逐渐",
    "突然",
    "突然间",
    "突然就",
    "忽然",
    "猛然",
    "一下子",
    "猛的",
    "开始",
    "会",
    "就会",
    "总会",
    "偶尔",
    "偶尔会",
    "有时",
    "有时候",
    "时不时",
    "时不时的",
    "动不动",
    "动不动就",
    "经常",
    "常常",
    "经常会",
    "反复",
    "持续",
    "不停的",
    "不断",
    "拼命",
    "厉害",
    "严重",
    "剧烈",
    "猛烈",
    "明显",
    "真",
    "真的",
    "是真",
    "确实",
    "好",
    "挺",
    "太",
    "蛮",
    "几",
    "里",
    "里面",
    "里边",
    "里头",
    "上",
    "上面",
    "上边",
    "上头",
    "下面",
    "下边",
    "底下",
    "外面",
    "这儿",
    "那儿",
    "这里",
    "那里",
    "那块",
    "这块",
    "那块儿",
    "那片",
    "那一片",
    "那一块",
    "这一块",
    "这边",
    "那边",
    "这个地方",
    "那个地方",
    "那地方",
    "的地方",
    "部位",
    "位置",
    "处",
    "一带",
    "附近",
    "周围",
    "四周",
    "旁边",
    "中间",
    "正中间",
    "之间",
    "左边",
    "右边",
    "左侧",
    "右侧",
    "左",
    "右",
    "一边",
    "一侧",
    "单侧",
    "两边",
    "两侧",
    "双侧",
    "半边",
    "前面",
    "后面",
    "后边",
    "外侧",
    "内侧",
    "里侧",
    "过",
    "了",
    "着",
    "的",
    "个",
    "点",
    "些",
    "一下",
    "几下",
    "几次",
    "好几次",
    "一次",
    "一回",
    "好几回",
    "次",
    "感觉",
    "感觉到",
    "觉得",
    "感到",
    "觉着",
    "像是",
    "好像",
    "好像有点",
    "似乎",
    "可能",
    "应该",
    "倒是",
    "倒",
    "却",
    "反而",
    "反倒",
    "到",
    "起来",
    "出来",
    "出",
    "成",
    "块",
    "一块",
    "一片",
    "一大片",
    "一个",
    "一些",
    "好多",
    "很多",
    "大量",
    "许多",
    "不少",
    "一身",
    "满头",
    "满身",
    "一头",
    "浑身",
    "全身",
    "一天比一天",
    "比以前",
    "比昨天",
    "比之前",
    "比平时",
    "今天",
    "昨天",
    "前天",
    "昨晚",
    "今早",
    "这几天",
    "这两天",
    "最近",
    "现在",
    "目前",
    "刚才",
    "又开始",
    "也开始",
    "都开始",
    "还会",
    "那种",
    "这种",
    "什么",
    "任何",
    "啥",
    "怎么",
    "自己",
    "我",
    "他",
    "她",
    "它",
    "人",
    "孩子",
    "宝宝",
    "两个",
    "两只",
    "两条",
    "两",
    "双",
    "整个",
    "整",
]
_DENIALS = [
    "不怎么",
    "不太",
    "不是很",
    "不是太",
    "不是特别",
    "不大",
    "不咋",
    "不算",
    "不是",
    "不",
    "没有",
    "没怎么",
    "没啥",
    "没什么",
    "没有什么",
    "没有任何",
    "没任何",
    "没咋",
    "没再",
    "没",
    "未",
    "并不",
    "并没有",
    "并没",
    "也不",
    "也没有",
    "也没",
    "都不",
    "都没有",
    "都没",
    "倒不",
    "倒没有",
    "倒没",
    "倒是不",
    "倒是没",
    "不会",
    "不再",
    "从来不",
    "从来没有",
    "从来没",
    "从不",
    "从没",
    "从未",
    "一点不",
    "一点也不",
    "一点都不",
    "一点儿也不",
    "一点儿都不",
    "丝毫不",
    "毫不",
    "毫无",
    "无",
    "已经不",
    "现在不",
    "就不",
    "就没",
    "还没",
    "还没有",
    "还不",
    "又不",
    "又没",
]


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, {w.translate(_SAME) for w in words}), key=len, reverse=True))


_GAP = re.compile(
    rf"(?P<deny>{_alternatives(_DENIALS)})"
    rf"|(?:{_alternatives(_ADVERBS)}|{_N}(?:天|次|周|个月|月|年|小时|个小时|分钟|个多小时|宿|夜|回|遍|趟|个星期|个礼拜|礼拜)(?:多)?|从(?:昨|前|今|上|早)[^，。]{{0,4}}?(?:开始|起|就))"
)
_LATIN_GAP = re.compile(
    r"(?:\s+(?:the|my|his|her|their|our|a|an|some|really|very|so|quite|pretty|bit|little|is|are|was|were|been|being|be|has|have|had|feels?|felt|got|getting|gets|all|still|also|of|on|in|both|left|right|most|constantly|always|slightly|a bit|a little|kind of|sort of|just|too|at|from|with|up|badly|severe|bad|mild|it|keeps?|lots? of))+(?=\s)"
    r"|\s+(?P<deny>not|no|never|isn't|aren't|wasn't|weren't|doesn't|don't|didn't|hasn't|haven't)(?=\s)"
)
_BEFORE = frozenset("以之目饭睡经餐")  # 以前胸痛 is not 前胸痛
_MAX_GAPS, _MAX_GAP_LENGTH, _MAX_SPAN = 3, 10, 24


# ---------------------------------------------------------------------------------------------------- the lexicon's forms

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
                if not _affirms(_folded_form(form)):
                    self._add(form, _Form(entry.term, opposite=True))
        self._terms = _learn(entries)
        self._known = set(lexicon.entries)
        self._paraphrases = _Paraphrases(entries)
        _folded_form.cache_clear()

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
        chosen += self._complaints(masked, taken, chosen)
        chosen = self._paraphrases.join(plain, chosen, self._known)
        chosen.sort(key=lambda m: m.start)
        return _in_text(chosen, offsets, len(text))

    # -- 1 and 2: forms

    def _add(self, form: str, value: _Form) -> None:
        node = self._trie
        for char in _folded_form(form).strip():
            node = node.setdefault(char, {})
        if node is not self._trie:
            node.setdefault(_END, value)

    def _forms(self, plain: str, masked: str) -> list[Mention]:
        found = []
        i, n = 0, len(plain)
        while i < n:
            known = plain[i] in self._trie and not (plain[i] == "前" and plain[i - 1 : i] in _BEFORE)
            best = self._longest(plain, masked, i) if known else None
            if best is None:
                i += 1
                continue
            found.append(Mention(best.form.term, i, best.end, best.form.opposite != best.denied))
            i = best.end
        return found

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
                    gap = _LATIN_GAP.match(masked, at) if latin else _GAP.match(masked, at)
                    if gap and (latin or not gap.group().isspace()):
                        length = gap.end() - at
                        if gap_length + length <= (24 if latin else _MAX_GAP_LENGTH) and not (denied and gap["deny"]):
                            states.append(
                                (node, gap.end(), matched, gaps + 1, gap_length + length, denied or bool(gap["deny"]))
                            )
                following = node.get(text[at])
                if following is None:
                    break
                node, at, matched = following, at + 1, matched + 1
                if _END in node:
                    end = at
                    # 没咳嗽没痰 denies two things; it is not a denied 咳嗽没痰.
                    if start and plain[start - 1] in "没不无" and "没" in plain[start + 1 : end]:
                        continue
                    if latin or _is_latin(plain[at - 1]):
                        suffix = re.compile(r"(?:e?s|ed|ing)?(?![a-z])").match(plain, at)
                        if suffix is None:
                            continue
                        end = suffix.end()
                    if (gaps and (matched < 2 or "□" in masked[start:end])) or plain.startswith("喘气", end - 1):
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
        for match in _FINE.finditer(masked):
            if not any(taken[match.start() : match.end()]):
                term = next(term for words, term in _FINE_TERMS if re.fullmatch(words, match["what"]))
                found.append(Mention(term, match.start(), match.end(), opposite=True))
        for pattern, terms in ((_BETTER, _BETTER_TERMS), (_WORSE, _WORSE_TERMS)):
            for match in pattern.finditer(masked):
                if any(taken[match.start() : match.end()]):
                    continue
                before = [m for m in spoken if m.end <= match.start()]
                site = _site_of(masked[before[-1].start : before[-1].end], before[-1].term) if before else ""
                term = next(t for s, words, t in terms if (not s or s == site) and re.search(words, match.group()))
                found.append(Mention(term, match.start(), match.end(), opposite=False))
        for mention in found:
            taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
        return found

    # -- 4: body part and complaint

    def _complaints(self, masked: str, taken: bytearray, chosen: list[Mention]) -> list[Mention]:
        found: list[Mention] = []
        site: re.Match[str] | None = None  # the last body part in this clause
        carried = ""  # the body part that was last spoken of
        denied_at = -1  # where the last denial of this clause ends
        spoken = sorted(chosen, key=lambda m: m.start)
        k = 0
        for token in _TOKENS.finditer(masked):
            kind = token.lastgroup
            while k < len(spoken) and spoken[k].start <= token.start():
                carried = _site_of(masked[spoken[k].start : spoken[k].end], spoken[k].term) or carried
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
            complaint = _complaint_of(kind, token.group())
            directly_denied = 0 <= token.start() - denied_at <= 2
            inside = site is not None and token.start() - site.end() <= 12
            where = _SITE_OF[site.group()] if inside and site is not None else carried
            if kind == "needs" and not inside and not (directly_denied and self._known_pair(where, complaint)):
                continue
            if kind == "needs" and complaint in _VAGUE and not self._known_pair(where, complaint):
                continue
            end = token.end()
            if kind == "english" and not inside and (ahead := _IN_SITE.match(masked, end)):
                where, end = _SITE_OF[ahead["site"]], ahead.end()
            term = self._term(where, complaint)
            start = token.start()
            opposite = False
            if inside and site is not None and not any(taken[site.start() : start]):
                between = masked[site.end() : start]
                gap = _ONLY_GAPS.fullmatch(between)
                if kind == "needs" and not gap and not (directly_denied and self._known_pair(where, complaint)):
                    continue
                if gap:
                    start = site.start()
                    opposite = bool(gap["deny"])
            found.append(Mention(term, start, end, opposite))
            taken[start:end] = b"\1" * (end - start)
            site = None
        return found

    def _known_pair(self, site: str, complaint: str) -> str | None:
        """Return the term of a complaint at a body part or at what that is a part of, if there is one."""
        place: str | None = site
        while place:
            for said in (complaint, *_ALSO.get(complaint, ())):
                if term := self._terms.get((place, said)):
                    return term
            place = _PARENT.get(place)
        return None

    def _term(self, site: str, complaint: str) -> str:
        return self._known_pair(site, complaint) or _GENERIC.get(complaint, complaint)


# Functions that are said to be as they should be, and what is thereby denied.
_FINE_TERMS = (
    ("体温|烧", "发热"), ("血压", "血压升高"), ("听力|听声音", "听力下降"), ("视力|看东西|看字|眼神", "视力下降"), ("食欲|胃口|吃饭|饭量", "食欲减退"),
    ("睡觉|睡眠|睡的", "失眠"), ("说话|讲话|口齿", "言语不清"), ("精神|精神头|精神状态", "精神萎靡"), ("呼吸|喘气", "呼吸困难"), ("心跳|心率", "心悸"), ("大小便|大便|排便", "便秘"),
    ("小便|尿尿|排尿", "排尿困难"), ("月经|例假", "月经不规律"), ("走路|行走", "行走困难"), ("手脚|胳膊腿|四肢|肢体活动", "肢体瘫痪"), ("吞咽", "吞咽困难"), ("意识|神志|脑子", "意识障碍"),
)  # fmt: skip
_FINE = re.compile(
    rf"(?P<what>{'|'.join(words for words, _ in _FINE_TERMS)})(?:量了[^，。]{{0,3}}|这块|方面|一直|也|都|还|倒|倒是|挺|很|蛮|比较|算|基本|完全|是|的|现在|目前|照样)*"
    r"(?:正常|还行|可以|还可以|不错|没问题|清楚|清醒|利索|顺畅|平稳|规律|有劲|照常|没事|没变|好着|如常|好(?=[，。；！？\n]|$))"
)
_BETTER = re.compile(
    r"(?:动一动|动动|活动(?:一下|开|活动)?|走一?走|歇歇|歇一?(?:会儿?|下)|休息(?:一下|一?会儿?)?|躺(?:下|平|一会儿?|着)|坐(?:下|起来|着)|蹲(?:下|着)|弯腰|前倾|身子往前|抱着?膝盖"
    r"|吃(?:点|两口|几口|了)?(?:东西|饭|饼干|点心)?|喝(?:点|口)?热?水|拉完|排便后?|解完大便|吐完|放屁后?|放个屁|热敷|冷敷|按(?:着|一按|按)|揉一?揉|捂着|甩甩手|甩手|起来走走?)(?:完|后|以后|之后|了|就|能|也|反而|反倒|倒|会|又|都)*"
    r"(?:好(?:点|些|了|受|一点|多了|转)?|轻(?:点|些|了)?|舒服(?:点|些)?|缓解|减轻|没事|消失|不痛|能走)"
)
_BETTER_TERMS = (
    ("腰", "", "活动后腰痛减轻"), ("腿", "", "活动后腿部缓解"), ("小腿", "歇|休息", "间歇性跛行"), ("", "甩", "甩手后缓解"), ("", "拉完|排便|大便|放.?屁", "排便后腹痛缓解"), ("", "吃", "进食后腹痛缓解"),
    ("胸", "前倾|坐", "前倾坐位胸痛减轻"), ("", "弯腰|抱着?膝盖|前倾|往前", "弯腰抱膝稍缓解"), ("", "", "休息后缓解"),
)  # fmt: skip
_WORSE = re.compile(
    r"(?:晚上|夜里|夜间|半夜|躺下|平躺|躺着|早上|早起|晨起|下午|上午|饭后|饭前|吃完饭|空腹|上下楼|上楼|下楼|爬楼|走路|活动|久坐|久站|弯腰|低头|翻身|受凉|阴雨?天|下雨天?|变天|天冷|冬天|夏天|出汗|遇热|热水澡|洗澡|日晒|晒太阳|生气|紧张|累了|劳累|喝酒|吃辣|吃油腻|深呼吸|咳嗽)"
    r"(?:的时候|时|以后|后|了|完|躺下)*[^，。；、]{0,4}?(?:更|最|特别|尤其|加|比[^，。；]{1,4}?)(?:加)?(?:重|厉害|明显|严重|难受|痛|痒|剧)"
)
_WORSE_TERMS = (
    ("", "夜|晚", "夜间症状加重"), ("", "晨|早上.*重|早起", "晨重暮轻"), ("", "下午.*重", "晨轻暮重"), ("", "晒", "日晒后加重"), ("膝", "楼", "上下楼梯膝痛"), ("腰", "坐", "久坐腰痛加重"), ("", "", "活动后加重"),
)  # fmt: skip


def _affirms(form: str) -> bool:
    """Return whether a contrary affirms a complaint of its own: 痰是黄的, said to be the contrary of 白色黏痰."""
    return not re.search(r"[不没无]|正常|好|稳|成形|有", form) and _parse(form) is not None


# -- 5: paraphrases

# Characters that carry no symptom; left out of both sides before they are compared.
_EMPTY = frozenset(
    "了的着过就也都还很太又再才会是在一个点些儿呢啊吧吗我你他她它们这那么真老总个把给跟像样似般有到上里头子"
)
_CLAUSE = re.compile(r"[^，。；？！、\n…\s]+")
_LEAST, _MOST = 4, 40  # characters of a clause that is compared


class _Paraphrases:
    """Compares clauses with forms by the pairs of characters that they share."""

    def __init__(self, entries: Iterable[LexiconEntry]) -> None:
        self._forms: list[tuple[str, _Form, float]] = []
        rows: list[tuple[str, _Form]] = []
        for entry in entries:
            for opposite, forms in ((False, (entry.term, *entry.colloquial)), (True, entry.opposite)):
                for form in forms:
                    skeleton = "".join(c for c in _folded_form(form) if c not in _EMPTY and not c.isspace())
                    if len(skeleton) >= _LEAST and not skeleton.isascii():
                        rows.append((skeleton, _Form(entry.term, opposite)))
        frequency = Counter(pair for skeleton, _ in rows for pair in set(itertools.pairwise(skeleton)))
        total = len(rows) or 1
        self._weight = {pair: math.log(total / count) for pair, count in frequency.items()}
        self._index: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for number, (skeleton, form) in enumerate(rows):
            pairs = list(itertools.pairwise(skeleton))
            self._forms.append((skeleton, form, sum(self._weight[pair] for pair in pairs)))
            for pair in set(pairs):
                if frequency[pair] <= _COMMON:
                    self._index[pair].append(number)

    def join(self, plain: str, chosen: list[Mention], known: set[str]) -> list[Mention]:
        """Add what only a paraphrase explains; it goes before complaints that no term says."""
        chosen = sorted(chosen, key=lambda m: m.start)
        starts = [m.start for m in chosen]
        added: list[Mention] = []
        replaced: set[Mention] = set()
        for clause in _CLAUSE.finditer(plain):
            if not _LEAST <= len(clause.group()) <= _MOST:
                continue
            found = self._best(clause.group())
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
        for pair in set(pairs):
            weight = self._weight.get(pair, 0.0)
            for number in self._index.get(pair, ()):
                scores[number] += weight
        best, best_share = None, _SHARE
        for number, score in sorted(scores.items(), key=lambda item: -item[1])[:12]:
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
_SHARE = 0.72  # of a form that a clause must share
_VITAL = frozenset(
    "抽痛痒麻肿胀酸喘咳吐晕烧抖累乏困瘦血脓疹包泡溃汗噎呛痰涕泪红黄黑紫白硬凉热干烂破臭哑响歪斜卡掉秃多少稀深高低不没无"
    "头眼耳鼻口嘴舌牙喉咽嗓颈脖肩臂肘腕手指胸乳背腰胃腹肚臀肛阴尿便经腿膝踝脚足脸伤痣"
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

_SITES = {
    "头": "头 头部 头上 头里 头壳 脑袋 脑袋瓜子 脑袋瓜 脑瓜子 脑瓜 脑瓜仁 脑壳 脑阔 脑仁 脑子 脑门 脑门子 额头 前额 后脑勺 后脑 后脑壳 太阳穴 头顶 天灵盖 半边头 半边脑袋 半个头 头颅 枕部",
    "头皮": "头皮",
    "脸": "脸 脸上 脸部 脸蛋 脸蛋子 面部 面颊 脸颊 两颊 颧骨 腮帮子 腮帮 腮 脸皮 半边脸 面孔",
    "下颌": "下巴 下颌 下巴颏 颌骨 牙关",
    "眼": "眼睛 眼 双眼 两眼 左眼 右眼 一只眼 眼珠 眼珠子 黑眼珠 眼球 眼眶 眼窝 眼角 眼白 眼底 眼部 眼里 目",
    "眼皮": "眼皮 眼皮子 眼睑 上眼皮 下眼皮 眼泡 眼泡子",
    "耳": "耳朵 耳 耳道 耳朵眼 耳朵眼儿 耳朵里 耳里 耳根 耳根子 耳垂 耳廓 左耳 右耳 双耳 耳部",
    "耳后": "耳后 耳朵后面 耳朵后头 耳朵背后 耳背后 耳根后 耳朵后",
    "鼻": "鼻子 鼻 鼻孔 鼻腔 鼻头 鼻梁 鼻尖 鼻部",
    "口": "嘴 嘴巴 嘴里 口腔 口里 嘴角 口角 腮帮里",
    "唇": "嘴唇 嘴皮 嘴皮子 口唇 唇 上唇 下唇",
    "舌": "舌头 舌 舌尖 舌面",
    "牙": "牙 牙齿 大牙 槽牙 后槽牙 智齿 门牙 虎牙 后牙",
    "牙龈": "牙龈 牙床 牙床子 牙肉 牙花子 牙根",
    "咽": "嗓子 嗓子眼 喉咙 喉咙管 喉头 喉 咽喉 咽 咽部 嗓 胡咙 喉部 扁桃体",
    "声音": "声音 声 嗓音 说话声",
    "颈": "脖子 脖颈 脖颈子 后脖子 后颈 颈 颈部 颈项 颈子 脖梗 脖梗子 颈椎 后脖颈 脖",
    "肩": "肩膀 肩 肩部 肩头 肩胛 肩胛骨 肩关节 左肩 右肩 膀子头",
    "臂": "胳膊 手臂 膀子 上臂 手膀子 大臂 小臂 前臂 手杆 臂 左臂 右臂 双臂 手杆子 上肢",
    "肘": "胳膊肘 肘 手肘 肘子 肘关节 手拐子 肘部 倒拐子",
    "腕": "手腕 手腕子 腕 腕子 腕关节 腕部",
    "手": "手 双手 两手 手掌 手掌心 掌心 手心 手背 手上 左手 右手 手部 两只手",
    "手指": "手指 手指头 指头 指尖 拇指 大拇指 食指 中指 无名指 小指 指关节 指节 手指关节 手指节 十指",
    "指甲": "指甲 手指甲 趾甲 脚趾甲 指甲盖 甲床",
    "手脚": "手脚 四肢 手足 胳膊腿 胳膊腿儿 肢体 脚手 手手脚脚",
    "胸": "胸口 胸 胸部 前胸 胸前 胸膛 心口 心口头 心窝 心窝子 心前区 胸骨 胸骨后 胸腔 胸脯 胸口窝",
    "心": "心脏 心 心里 心头 心尖",
    "肋": "肋骨 肋巴骨 肋 两肋 肋下 胸肋 肋条 肋叉子",
    "乳房": "乳房 乳 奶 奶子 咪咪 胸脯子",
    "乳头": "乳头 奶头",
    "背": "背 后背 背部 脊背 背心 后心 后心窝 脊梁 脊梁骨 脊椎 脊柱 背上 背壳 后背心",
    "腰": "腰 腰部 腰杆 腰杆子 老腰 后腰 腰眼 腰子 腰椎 腰背 尾巴骨 尾椎 尾骨 骶尾部 腰骶",
    "上腹": "胃 胃里 胃部 上腹 上腹部 心口窝 心窝窝 剑突 剑突下 胃脘",
    "右上腹": "右上腹 肝区 肝 右肋下 右上腹部",
    "左上腹": "左上腹",
    "腹": "肚子 肚 腹部 腹 肚皮 肚肚 肚里 肚子里 小肚皮 肠子",
    "下腹": "小肚子 下腹 下腹部 小腹 下肚子 小肚 少腹",
    "右下腹": "右下腹 右下腹部 右小肚子 肚子右下边 肚子右下",
    "左下腹": "左下腹 左下腹部",
    "脐": "肚脐 肚脐眼 肚脐周围 脐周 肚脐眼周围",
    "臀": "屁股 臀 臀部 屁股蛋 屁股蛋子",
    "肛门": "肛门 屁眼 屁眼儿 肛周 菊花 肛门口 屁股眼 屁股沟 肛",
    "外阴": "下面 下身 下体 私处 外阴 阴部 阴唇 外阴部 私密处 隐私部位",
    "阴道": "阴道",
    "阴茎": "龟头 阴茎 包皮 鸡鸡 小鸡鸡 小弟弟 丁丁 马眼 尿道口",
    "尿道": "尿道",
    "睾丸": "睾丸 蛋蛋 阴囊 蛋 卵子",
    "会阴": "会阴 会阴部 鞍区",
    "腹股沟": "大腿根 腹股沟 胯下 大腿根部 大腿根儿 胯窝",
    "髋": "髋 胯 胯骨 髋部 髋关节 胯骨轴",
    "大腿": "大腿",
    "腿": "腿 双腿 两腿 两条腿 一条腿 下肢 腿上 左腿 右腿 腿脚 双下肢 脚杆",
    "小腿": "小腿 腿肚子 小腿肚 小腿肚子 腿肚",
    "膝": "膝盖 膝 膝关节 波棱盖 磕膝盖 膝头 膝盖骨 克膝头 髌骨",
    "踝": "脚踝 踝 脚脖子 脚腕 脚腕子 踝关节 脚孤拐 脚踝骨",
    "脚": "脚 双脚 脚上 脚背 脚面 足 足部 两脚 左脚 右脚 脚丫",
    "脚底": "脚底 脚心 脚掌 脚掌心 脚底板 足底 脚板 脚板心 前脚掌",
    "脚跟": "脚后跟 足跟 脚跟 后跟",
    "脚趾": "脚趾 脚趾头 大脚趾 脚趾缝 脚丫子 脚丫缝 趾 大脚趾根 大脚骨 脚拇趾 大拇趾",
    "关节": "关节 骨节 关节处",
    "骨": "骨头 骨",
    "肌肉": "肌肉 肉",
    "皮肤": "皮肤 身上 皮 全身 浑身 周身 身子 一身 身体 表皮 通身 皮上",
    "伤口": "伤口 创口 刀口 疤 咬的地方 疮口",
    "淋巴结": "淋巴结 淋巴",
    "甲状腺": "甲状腺",
    "痣": "痣 黑痣",
    "腋": "腋下 腋窝 胳肢窝 夹肢窝 咯吱窝",
    "痰": "痰",
    "鼻涕": "鼻涕",
    "尿": "尿 小便 尿液 小解",
    "大便": "大便 便 屎 粑粑 便便 排便 解大便 拉的 拉出来的",
    "月经": "月经 例假 大姨妈 姨妈 月事 经血 来例假",
    "白带": "白带 分泌物",
    "眼屎": "眼屎 眼眵",
    "血压": "血压",
    "头发": "头毛",
    "体重": "体重",
    "睡眠": "睡眠 睡觉 觉",
    "食欲": "饭量 食欲",
    "呼吸": "呼吸 喘气 出气",
    "说话": "说话 讲话 口齿 吐字 话",
    "吞咽": "吞咽 吞东西 咽东西 吃饭 咽口水 吞口水 喝水",
    "视力": "视力 看东西 视物 看字",
    "听力": "听力 听声音",
    "走路": "走路 走道 走起路",
}
_PARENT = {
    "眼皮": "眼", "耳后": "耳", "唇": "口", "舌": "口", "牙龈": "牙", "手指": "手", "指甲": "手指", "腕": "手", "手": "手脚", "臂": "手脚",
    "肘": "臂", "肩": "臂", "心": "胸", "肋": "胸", "上腹": "腹", "下腹": "腹", "右上腹": "上腹", "左上腹": "上腹", "右下腹": "下腹", "左下腹": "下腹",
    "脐": "腹", "小腿": "腿", "大腿": "腿", "膝": "腿", "踝": "脚", "脚底": "脚", "脚跟": "脚", "脚趾": "脚", "脚": "腿", "腿": "手脚",
    "阴道": "外阴", "会阴": "外阴", "尿道": "外阴", "阴茎": "外阴", "乳头": "乳房", "头皮": "皮肤", "脸": "皮肤", "手脚": "皮肤", "颈": "皮肤", "胸": "皮肤", "背": "皮肤",
    "伤口": "皮肤", "外阴": "皮肤", "腋": "皮肤", "臀": "皮肤", "耳": "皮肤", "腹": "皮肤",
}  # fmt: skip

# Complaints that are one wherever they stand.
_ALONE = {
    "红肿": r"又?红又?肿(?:热痛|胀|痛)?|又肿又[红痛烫硬]|又[红痛烫]又[肿烫痛]|红肿热痛|肿痛",
    "停呼吸": r"不喘气|没有?呼吸|呼吸停|停了?呼吸|没有?气了",
    "痛": (
        r"(?:(?:火辣辣|火烧火燎|热辣辣|一跳一跳|一抽一抽|一揪一揪|一阵一阵|丝丝拉拉|滋啦滋啦|隐隐|针扎(?:一样|似)?|刀割(?:一样|似)?|刀绞(?:一样|似)?|电击样|撕裂(?:样|般)?|钻心|坠着|抽着|揪着|胀着|拧着|闷|钝|剧|绞|隐|刺|抽|跳|灼|坠|酸|胀|肿|生|窜|压|抽抽)的?)?痛"
        r"(?!快|风(?!$)|改)|针扎(?:一样|似的)|刀割(?:一样|似的)?|刀绞|钻心"
    ),
    "痒": r"(?:瘙|发|刺|奇|好)?痒|刺挠",
    "麻": r"发麻|麻木|酥麻|发木|(?<![发酥])麻",
    "肿": r"(?:又)?(?:红|水|浮|虚)?肿(?:胀|痛|热痛)?|发肿",
    "胀": r"发胀|鼓胀|胀气|胀满|胀",
    "酸": r"酸痛|酸胀|酸软|发酸|酸",
    "喘": r"气喘|喘",
    "咳": r"咳",
    "吐": r"作吐|吐",
    "晕": r"头?晕乎|发晕|晕眩|晕|眩",
    "烧": r"发烧|烧",
    "拉": r"泻|窜稀|拉(?=了?[0-9一二两三四五六七八九十好几]{1,3}[次回趟天]|的?(?:稀|水)|[，。；、]|过[，。]|没发|吐|$)|(?:肚|屙)痾|屙",
    "抽": r"抽(?=了?[，。；、？\n]|$|过[，。]|风|起来|搐|了[0-9一两三几好][次回下分])|抽动|抽抽",
    "抖": r"发抖|直抖|哆嗦|打抖|颤抖|抖|打颤|发颤|(?<!房)颤",
    "累": r"累|发虚|疲",
    "乏力": r"没(?:有)?(?:什么|啥|一点)?(?:劲儿?|力气|力)|无力|使不上劲|使不上力|发软|软绵绵|软趴趴|乏|酸软|提不起劲|不的劲|有劲|有力气",
    "困": r"犯困|发困|困的|困倦|瞌睡",
    "瘦": r"消瘦|变瘦|瘦",
    "出血": r"出血|流血|冒血|滴血|渗血|带血|有血|血丝|血块|见红|来血|便血|咳血|吐血|尿血|落红|(?<![查验抽量输贫献补活放晕充采心])血(?![糖压氧脂管型常清象小浆红素检透液友淋肉汗缘亲])",
    "流脓": r"流脓|化脓|有脓|出脓|脓",
    "流水": r"流水|淌水|渗液|渗水|流液|流黄水|溢液",
    "疹": r"(?:起|长|出|冒|发)?(?:了)?(?:一?[片些个身]|很多|好多)?(?:红|小|皮)?(?:疹子|疹|红点点?|小红点|风团|痘痘?|痘痘)|红斑|斑点|起斑",
    "包": r"(?:起|鼓|长|摸到|摸着|有|冒)(?:了|出)?(?:一?个|几个|些|一片|好多)?(?:小|大|硬|红|软|肉)?(?:包|疙瘩|硬块|肿块|疱|肉球|肉疙瘩|结节|坨)|硬块|硬包|疙瘩|肿块|包块|结节|鼓包|肉疙瘩|肉赘|赘肉|硬结|条索",
    "水泡": r"水泡|水疱|起泡|血泡|泡泡|大疱|脓包|脓疱",
    "溃疡": r"溃疡|溃烂|糜烂|破溃",
    "脱皮": r"脱皮|起皮|掉皮|掉屑|蜕皮|皮屑|掉渣",
    "抽筋": r"抽筋|痉挛|转筋",
    "发冷": r"发冷|怕冷|畏寒|打冷战|打寒战|寒战|打摆子|发寒|打冷颤|冷颤|冷震|冷战",
    "出汗": r"出汗|冒汗|盗汗|大汗|冷汗|虚汗|淌汗|流汗|汗多|多汗|汗[^，。]{0,3}(?:透|湿)|一身汗|满身汗|一头汗",
    "噎": r"噎的慌|噎着|发噎|噎",
    "呛": r"呛咳|呛着|呛",
    "痰": r"痰",
    "鼻涕": r"鼻涕|清涕|脓涕|涕",
    "动不了": r"(?:抬|举|伸|弯|蹲|站|转|睁|张|闭|动|走|提|握|合|翻|直|迈|坐|拿|端|拧|穿|梳|蜷|绷)不(?:起来?|高|直|开|了|动|稳|住|上|紧|下去?|过来?|成)|不能动|不敢动|瘫|瘫痪|不听使唤",
    "看不清": r"看不(?:清楚?|见|到|清)|模糊|重影|看着糊|发花|眼花|视物不清",
    "听不清": r"听不(?:清楚?|见|到)|耳背|聋",
    "说不清": r"说不(?:清|出)话?|讲不清|口齿不清|含糊|大舌头|结巴",
    "吃不下": r"(?:吃|咽|吞)不(?:下|进|动)去?|没胃口",
    "睡不着": r"睡不(?:着|好|踏实|实|安稳|香|沉)|失眠",
    "喘不上": r"(?:喘|透|上|呼吸|出|接)不(?:上|过|匀|来)来?气?|憋的?(?:慌|闷|气|难受)|憋气|憋醒|气短|气促|气紧|气急|胸闷",
    "拉不出": r"(?:拉|解|尿|排|屙|撒)不(?:出|出来|净|干净|尽|完)",
    "难受": r"不舒服|难受|不自在|不的劲|不适|别扭|不舒坦|不对劲",
    "呕恶": r"恶心|反胃|想吐|干吐|作呕|犯恶心|作吐|泛恶|胃里?翻|心头翻",
    "想死": r"(?<![痛累困烦热痒难羞气])(?<![痛累困烦热痒难羞气]的)想死(?!你|我|他|她)|不想活|想轻生|想自杀",
    "没兴趣": r"(?:啥|什么)?都?(?:没|没有|不感)兴趣|提不起兴趣|不想动",
    "怕人": r"不(?:爱|想|敢|愿)(?:出门|见人|说话|理人)|怕见人|躲着人",
    "渴": r"口渴|爱渴|老渴|渴的?(?:很|厉害|慌)?",
    "饿": r"饿的(?:快|慌|很)|老饿|总饿|易饿",
    "撑": r"撑的慌|顶的慌|饱胀|撑着|顶着|发撑|撑(?!不|伞|地|起|着腰)",
    "健忘": r"忘事|健忘|记不(?:住|的|清)|忘东忘西|丢三落四|转头就忘|认不(?:的|出|清)人?|不认人|认错人|走丢|找不(?:到|着)家|迷路",
    "走不稳": r"走路?(?:不稳|发?飘|打?晃|跛|一瘸一拐|歪|偏)|一瘸一拐|打晃|打软腿|拖着(?:腿|脚)|深一脚浅一脚|踩(?:棉花|云)",
    "重影": r"重影|双影|成双|(?:变|看)成?两个|一个变俩|看(?:人|东西|字)(?:是|有)?两个",
    "变形": r"变形|变弯|扭曲|歪歪扭扭",
    "闪光": r"闪光|亮光一?闪|一闪一闪",
    "黑影": r"黑影|黑点|飘黑|飞蚊|小黑点|黑(?:了)?一块",
    "耷拉": r"耷拉|下垂|往下掉|往下坠|睁不开",
    "瘀": r"瘀青|淤青|瘀斑|紫斑|紫点|青紫|青一块|一块块青|出血点",
    "白点": r"白点|白膜|白苔|白斑|白块|白屑",
    "张口喘": r"张(?:着)?嘴(?:睡|呼吸|喘)|张口呼吸",
    "夜尿": r"起夜|夜尿|(?:一夜|晚上|夜里)(?:要)?起(?:来)?[0-9一二两三四五六七八好几]+(?:次|回|趟)",
    "泪": r"泪汪汪|眼泪汪汪|流泪|淌泪|流眼泪|眼泪直流|掉眼泪|老想哭|想哭",
    "慌": r"发慌|心慌|慌的很|慌的|怦怦跳|砰砰跳|突突跳|扑通扑通跳|乱跳",
    "堵": r"堵的慌|堵塞|发堵|不通气|不透气|堵",
    "闷": r"发闷|闷的慌|憋闷|闷胀|闷",
    "火辣": r"火辣辣|火烧火燎|烧的慌|灼热|热辣辣|烧灼",
    "漏": r"漏尿|漏",
    "黑": r"发黑|一黑",
    "失禁": r"失禁|尿裤子|拉裤子|憋不住",
    "僵": r"僵硬|发僵|僵",
    "发烫": r"发烫|滚烫|烫手",
    "浮肿": r"浮肿",
    "糊涂": r"糊涂|犯迷糊|迷迷糊糊|昏昏沉沉|迷糊|神志不清|说胡话|意识模糊|叫不醒",
    "昏": r"昏倒|昏过去|晕倒|晕过去|倒下|昏迷",
    "消化": r"反酸|嗳气|打嗝|烧心|消化不良",
    "惊": r"烦躁|哭闹|闹腾|心烦|焦虑|紧张",
}
# Complaints only of a body part named in the same clause, or directly denied.
_NEEDS = {
    "红": r"发红|通红|又红|红彤彤|红", "黄": r"发黄|蜡黄|焦黄|黄", "黑": r"发黑|乌黑|黑", "紫": r"发紫|发乌|发青|青紫|紫|发绀", "白": r"发白|苍白|惨白|煞白|没(?:有)?(?:颜色)|白的?(?:像|跟|吓人)|白",
    "青": r"青一块紫一块|瘀青|淤青", "硬": r"发硬|硬邦邦|变硬|硬", "软": r"发软|软", "凉": r"冰凉|冰冷|发凉|凉|冷", "热": r"发热|发烫|烫|热", "干": r"发干|干燥|干涩|干巴巴|干",
    "涩": r"发涩|涩", "大": r"变大|长大|肿大|大了", "粗": r"变粗|粗", "突": r"突出来?|鼓出来?|凸", "凹": r"凹进去|凹陷|凹|瘪", "烂": r"烂", "破": r"破皮|破了?|裂开?|裂口|皲裂",
    "臭": r"臭|异味|有味|味儿?|气味", "哑": r"沙哑|嘶哑|发哑|哑|嘶", "响": r"嗡嗡响?|响|鸣|咔咔响", "跳": r"直跳|跳", "歪": r"歪|斜", "卡": r"卡着|卡住|卡|锁住|交锁",
    "掉": r"掉|脱落|松动|松", "秃": r"秃", "费劲": r"费劲|困难|费力|吃力|不利索|不顺|不畅", "多": r"多|变多|量大|频繁", "少": r"少|变少|量少|减少", "稀": r"稀|不成形|稀水", "稠": r"稠|黏|粘|浓",
    "深": r"深|浓茶", "沫": r"泡沫|泡泡|沫子", "高": r"高|偏高|升高", "低": r"低|偏低", "差": r"差|不好|下降|变差|减退", "模糊": r"糊|花", "油": r"出油|油腻|油",
    "变形": r"变形|畸形|弯", "萎缩": r"萎缩|变细", "沉": r"发沉|沉重|沉", "紧": r"发紧|紧绷|紧|绷", "压": r"压着|压的慌|压迫",
    "异物": r"有东西|有异物|像有东西|异物感", "乱": r"乱|不准|不规律|提前", "不来": r"推迟|不来|没来|迟了?", "空": r"空",
}  # fmt: skip
# Of these, only what the lexicon knows of the body part: 头大 is none, 例假多 is one.
_VAGUE = frozenset(
    [
        "多",
        "少",
        "高",
        "低",
        "差",
        "深",
        "大",
        "粗",
        "乱",
        "不来",
        "空",
        "跳",
        "响",
        "花",
        "油",
        "紧",
        "压",
        "沉",
        "稀",
        "稠",
        "软",
        "热",
        "凉",
        "白",
        "掉",
        "模糊",
        "异物",
        "费劲",
        "卡",
        "干",
        "青",
    ]
)
_ENGLISH = {
    "痛": r"hurt(?:s|ing)?|pains?|painful|aches?|aching|achy|sore(?:ness)?|cramps?|cramping|tender(?:ness)?",
    "痒": r"itch(?:es|y|ing|iness)?", "麻": r"numb(?:ness)?|tingl(?:es?|ing|y)|pins and needles", "肿": r"swollen|swelling|swells?|puffy|puffiness", "胀": r"bloat(?:ed|ing)",
    "喘": r"wheez(?:e|es|ing|y)|breathless|short of breath|out of breath", "咳": r"cough(?:s|ed|ing)?", "吐": r"vomit(?:s|ed|ing)?|throw(?:s|ing)? up|threw up|puk(?:e|ed|ing)",
    "晕": r"dizz(?:y|iness)|lightheaded|light-headed|vertigo|woozy", "烧": r"fever(?:s|ish)?", "拉": r"diarrh?o?ea", "抽": r"seizures?|convulsions?", "抖": r"trembl(?:e|es|ing)|shak(?:e|es|y|ing)|tremors?",
    "累": r"tired(?:ness)?|fatigued?|exhausted|exhaustion", "乏力": r"weak(?:ness)?", "出血": r"bleed(?:s|ing)?|bled|blood(?:y)?", "疹": r"rash(?:es)?|hives|spots|blisters?", "包": r"lumps?|bumps?|nodules?",
    "流脓": r"pus|discharge", "发冷": r"chills?|shiver(?:s|ing)?", "出汗": r"sweat(?:s|ing|y)?", "火辣": r"burn(?:s|ing)?|stings?|stinging", "堵": r"stuffy|congest(?:ed|ion)|blocked", "呕恶": r"nause(?:a|ous|ated)|queasy",
    "昏": r"faint(?:ed|ing|s)?|pass(?:ed|ing) out|black(?:ed|ing)? out", "僵": r"stiff(?:ness)?", "瘦": r"weight loss|los(?:t|ing) weight", "看不清": r"blur(?:ry|red)|double vision", "慌": r"palpitations?", "睡不着": r"insomnia|can't sleep",
    "便秘": r"constipat(?:ed|ion)",
}  # fmt: skip
_ENGLISH_SITES = {
    "头": "head", "脸": "face cheek cheeks", "眼": "eye eyes", "耳": "ear ears", "鼻": "nose", "口": "mouth", "唇": "lip lips", "舌": "tongue", "牙": "tooth teeth", "牙龈": "gum gums", "咽": "throat", "颈": "neck",
    "肩": "shoulder shoulders", "臂": "arm arms", "肘": "elbow elbows", "腕": "wrist wrists", "手": "hand hands", "手指": "finger fingers thumb", "胸": "chest", "乳房": "breast breasts", "背": "back", "腰": "lower back", "腹": "belly stomach tummy abdomen",
    "臀": "butt buttock", "肛门": "anus", "外阴": "vagina down there", "睾丸": "testicle testicles scrotum", "腹股沟": "groin", "髋": "hip hips", "大腿": "thigh thighs", "腿": "leg legs", "小腿": "calf calves", "膝": "knee knees", "踝": "ankle ankles", "脚": "foot feet",
    "脚趾": "toe toes", "脚跟": "heel heels", "关节": "joint joints", "皮肤": "skin body", "尿": "urine pee", "大便": "stool poop", "月经": "period periods",
}  # fmt: skip

# What a complaint is, too, where the lexicon has no word for both: 又红又肿 is a swelling.
_ALSO = {"红肿": ("肿", "红", "痛")}
# What a complaint is called where no body part says more.
_GENERIC = {
    "痛": "疼痛", "痒": "皮肤瘙痒", "麻": "肢体麻木", "肿": "水肿", "胀": "腹胀", "酸": "肌肉酸痛", "喘": "喘息", "咳": "咳嗽", "吐": "呕吐", "晕": "头晕", "烧": "发热", "拉": "腹泻", "抽": "抽搐",
    "抖": "手抖", "累": "乏力", "乏力": "乏力", "困": "嗜睡", "瘦": "消瘦", "疹": "皮疹", "水泡": "水疱", "脱皮": "皮肤脱皮", "抽筋": "小腿抽筋", "发冷": "畏寒", "出汗": "多汗", "噎": "吞咽困难", "呛": "呛咳", "痰": "咳痰",
    "鼻涕": "流清涕", "想死": "自杀念头", "没兴趣": "兴趣减退", "怕人": "回避社交", "泪": "流泪", "渴": "口渴", "饿": "饥饿感", "撑": "餐后饱胀", "健忘": "记忆力减退", "走不稳": "步态不稳", "重影": "复视", "变形": "视物变形", "闪光": "闪光感", "黑影": "飞蚊症", "耷拉": "眼睑下垂", "瘀": "皮肤瘀斑",
    "白点": "皮肤白斑", "张口喘": "张口呼吸", "夜尿": "夜尿增多", "看不清": "视物模糊", "听不清": "听力下降", "说不清": "言语不清", "吃不下": "食欲减退", "睡不着": "失眠", "喘不上": "呼吸困难", "难受": "多部位不适", "呕恶": "恶心", "慌": "心悸",
    "漏": "尿失禁", "失禁": "尿失禁", "僵": "肌肉僵硬", "发烫": "发热", "浮肿": "水肿", "糊涂": "意识障碍", "昏": "晕厥", "惊": "烦躁不安", "包": "皮肤肿物", "便秘": "便秘", "火辣": "皮肤灼热感", "动不了": "肢体活动受限", "停呼吸": "呼吸暂停", "拉不出": "排便费力",
}  # fmt: skip

_SITE_OF = {
    word.translate(_SAME): canonical
    for table in (_SITES, _ENGLISH_SITES)
    for canonical, words in table.items()
    for word in (
        words.split()
        if table is _SITES
        else [*words.replace("lower back", "lower_back").replace("down there", "down_there").split()]
    )
}
_SITE_OF = {word.replace("_", " "): canonical for word, canonical in _SITE_OF.items()}
_CHINESE_SITES = _alternatives(word for word in _SITE_OF if not word.isascii())
_LATIN_SITES = _alternatives(word for word in _SITE_OF if word.isascii())


def _named(table: dict[str, str]) -> str:
    return "|".join(f"(?:{pattern.translate(_SAME_LETTERS)})" for pattern in table.values())


_TOKENS = re.compile(
    rf"(?P<stop>[，。；？！\n…]|\.(?!\d)|但是|但|不过|可是)"
    rf"|(?P<alone>{_named(_ALONE)})"
    rf"|(?P<site>{_CHINESE_SITES}|\b(?:{_LATIN_SITES})\b)"
    rf"|(?P<deny>{_alternatives(_DENIALS)}|\b(?:no|not|never|without|doesn't|don't|isn't|aren't|didn't|hasn't|haven't|denies)\b)"
    rf"|(?P<english>\b(?:{_named(_ENGLISH)})\b)"
    rf"|(?P<needs>{_named(_NEEDS)})"
)
_IN_SITE = re.compile(
    rf"(?:\s+(?:in|on|of|at|behind|around|under|down|across|over|inside)(?:\s+(?:both|the|my|his|her|one|left|right|side|of|sides|lower|upper|all))*\s+)(?P<site>{_LATIN_SITES})\b"
)
_ONLY_GAPS = re.compile(
    rf"(?:(?:{_alternatives(_ADVERBS)}|{_N}(?:天|次|周|个月|年|小时)|是|颜色|看着|摸着|变|变的|又|有|带|像|\s|\b(?:is|are|was|feels?|felt|really|so|very|a bit|a little|kind of|has been|have been|been|keeps?|still)\b)"
    rf"|(?P<deny>{_alternatives(_DENIALS)}|\b(?:isn't|aren't|doesn't|don't|not|never|didn't)\b))*"
)


_LONGEST_PARSED = 24  # characters of a form that may be a body part and a complaint


@functools.cache
def _compiled(kind: str) -> list[tuple[str, re.Pattern[str]]]:
    table = {"alone": _ALONE, "needs": _NEEDS, "english": _ENGLISH}[kind]
    return [(name, re.compile(pattern.translate(_SAME_LETTERS))) for name, pattern in table.items()]


@functools.lru_cache(maxsize=4096)
def _complaint_of(kind: str | None, words: str) -> str:
    for name, pattern in _compiled(kind or "alone"):
        if pattern.fullmatch(words):
            return name
    for name, pattern in _compiled(kind or "alone"):
        if pattern.match(words):
            return name
    return words


def _learn(entries: Iterable[LexiconEntry]) -> dict[tuple[str, str], str]:
    """Return which body part and complaint make which term, by what the forms of the lexicon mostly say."""
    votes: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for weight, forms in ((3, (entry.term,)), (1, (*entry.colloquial, *entry.en))):
            for form in forms:
                parsed = _parse(_folded_form(form))
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
    return _first_site(words) or _first_site(term)


@functools.lru_cache(maxsize=8192)
def _first_site(words: str) -> str:
    for token in _TOKENS.finditer(words.translate(_SAME)):
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


def _iter_terms(mentions: Iterable[Mention]) -> Iterator[str]:
    return (mention.term for mention in mentions)
