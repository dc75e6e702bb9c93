"""Words and marks that more than one rule of context asks for: clauses, times, parts of the body."""

from __future__ import annotations

import re

# Another time than now: another episode or long ago, wherever it is said.
NUMBER = r"[0-9一二两三四五六七八九十几半好多]{1,3}"
AGO = (
    r"(?:上上?个?(?:月|周|星期|礼拜)|上一?[次回]|大?前年|去年|旧年|以前|从前(?!天)|老?早前|早[些几]?年|前[几些两]年"
    r"|前一?阵子?"
    r"|前段(?:时间|日子)|小时候|细个|年轻的?(?:时候?|那会儿?|那阵)|读(?:书|大学|高中|初中|小学)的?(?:时候?|那会儿?)"
    r"|当年(?!龄)|那年|老早(?:以前)?|早先|原先|原来|那时候?|那会儿?(?!落下|就|开始)|那[次回](?!以后|之后|起)|那阵子?"
    rf"|{NUMBER}个?(?:月|周|礼拜|星期)多?[以之]?前|(?<!几)年前|上一胎|头一?胎|怀老大|生(?:老大|老二|头胎|第一胎|上一个|他哥|她姐|我)(?:的?时候?|那会儿?|那阵)"
    rf"|当兵(?:的?时候?|那会儿?|那几?年)"
    r"|(?:幼儿园|小学|初中|高中|中专|大学|大[一二三四]|上学|读研|下乡|插队|下矿|打工|月子里?)(?:的?时候?|那会儿?|那[几两]?年|那阵)"
    rf"|(?:小学|初中|高中|大学)(?=.{{0,4}}过)|第一次阳|头一回阳|上回阳"
    rf"|(?:{NUMBER}|19[0-9]{{2}}|20[01][0-9])年[以之]?前)"
)
# Earlier in what goes on.
EARLIER = re.compile(
    r"昨[天晚儿夜日]|昨$|今早|[寻尋琴噚][日晚]|前[天晚日]|[前头][几两一][天日晚]|上周|上个?(?:星期|礼拜)|(?:周|星期|礼拜)[一二三四五六日天]"
    r"|那[天晚]|凌晨|早上|上午"
    r"|中午|夜里|半夜|刚才|开头|一?开始|刚起|起先|先是|当时|[之以]前|来着"
)
# A clause, which a number's point does not end.
REST = re.compile(r"(?:[^，,。；;!！?？\n….]|\.(?=\d))*")
HAN = re.compile("[\u3400-\u9fff]")
BODY = re.compile("[胳膀手头脑脸眼耳鼻嘴舌牙喉嗓脖颈肩臂肘腕手指胸乳心肋背腰胃腹肚臀肛腿膝踝脚趾]")
UNSURE = (
    r"(?:不知道|不晓得|不太?清楚|不[敢能太]?(?:肯定|确定)|不太确定|说不清楚?|说不准|说不好|拿不准|吃不准|搞不清楚?"
    r"|不确定|不敢说"
    r"|不好说|难说|记不清)"
)
# 右眼看不见 says what is wrong; it denies nothing unless more follows (看不见红肿).
UNSEEING = re.compile(r"看(?:都|也|东西)?不(?:见|到)了?$")
SENTENCE = re.compile(r"[。；;!！?？\n]")
STOP = re.compile(r"[，,。；;!！?？\n]")
SAYS_NOTHING = ("", " ", "、")  # what stands between most of the findings of a list, and what no pattern here matches
CLAUSE_BACK = 14  # characters before a finding in which its clause is looked for
NEAR = 8  # characters between 我 and what I have
AFTER = 40  # characters behind a finding that are looked at


def clause_start(plain: str, start: int) -> int:
    """Return where the clause begins that holds `start`, or a place near before it."""
    back = max(0, start - CLAUSE_BACK)
    return back + last_end(STOP, plain[back:start])


def last_end(pattern: re.Pattern[str], text: str) -> int:
    """Return where the last match ends, or 0."""
    end = 0
    if text not in SAYS_NOTHING:
        for match in pattern.finditer(text):
            end = match.end()
    return end
