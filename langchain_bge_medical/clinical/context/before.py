"""What the words before a finding say of it: that it is denied, supposed, of another time."""

from __future__ import annotations

import re
from typing import NamedTuple

from langchain_bge_medical.clinical.context.whose import told_of
from langchain_bge_medical.clinical.context.words import AGO, HAN, SAYS_NOTHING, UNSEEING, last_end
from langchain_bge_medical.clinical.lexicon import Mention

# What ends the reach of every word before it.
_CLAUSE_END = re.compile(
    r"[。；;!！?？\n…]|\.(?!\d)|但是|但|不过|然而|(?<!应该)只是|(?<!应该)(?<!是不是)(?<!兴许)(?<!可能)就是|却|可是|(?<![没有认])可(?=$)|而是|而且|\bbut\b|\bthough\b"
    r"|\bhowever\b|(?<!i['’]m )(?<!i am )\bjust\b|\bonly\b"
)
# A comma ends a denial in people's everyday words ("没发烧,咳嗽三天了"), but not after the words of a medical record
# ("无发热,咳嗽,胸痛").
_COMMA = re.compile(r"[，,]")
_RECORD_STYLE = re.compile(r"否认|未见|不伴|无|(?<!with )\bno\b|\bden(?:y|ies|ied)\b|\bwithout\b|\bnegative for\b")
_JOINTS = re.compile(r"(?:[、和或及与跟，,\s/]|或者|以及|还有|什么的|\band\b|\bor\b|\bany\b)*")
DENYING = re.compile(
    r"(?<![痛疼痒好对])伐(?=$)|没有|没得|木得|没|無|无|未见|未|不伴|不太|不怎么|不大|并不|从不|否认|排除|不|别说|冇|唔|呒"
    r"|勿|弗|毋|莫得|莫(?=$)|木有"
    r"|袂|𣍐|并非|哪有|哪来的?|何来|零(?=$)|\((?:-|–|−|neg)\)|\b(?:neg|denying|w/o|lack(?:s|ing)?|rul(?:es?|ed"
    r"|ing) out|nil|-ve for|minus|anything but|far from)\b|(?<![a-z])no\b"
    r"|(?<![a-z])not\b|\bneither\b|\bnor\b|\bnever\b|\bwithout\b"
    r"|\bden(?:y|ies|ied)\b|n['’]t\b|\bnegative for\b|\bnone\b"
    r"|\b(?:do|does|did|is|are|was|were|has|have|had)nt\b"
)
# Two denials affirm.
_DOUBLE = re.compile(
    r"(?:未|没有?)(?:试|见|遇|疼|痛|得|病)过?(?:咁|这么|那么|这样)|不是(?:说)?(?:没有?|不)|不能说(?:没有?|不)|(?:没|不)说(?:过)?(?:我|他|她)?(?:没有?|不)"
    r"|并非(?:没有?|不)|(?:不|怎么|咋|哪|怎)(?:可能|会)(?:没有?|不)|哪有不|哪能不|没有不(?!舒服|适|想|对|好)|没一天不"
    r"|哪[天次回][能会]?不|(?:从来|以前|之前)?没有?过?(?:这么|这样|那么|如此|像这)|\bnot a (?:day|night|minute"
    r"|moment)[^.,;]{0,10}without"
    r"|没有?[哪一]?[天日晚夜][^，。]{0,2}?(?:不|没有?)|谁说[^，。]{0,4}?(?:不|没有?)|(?:不"
    r"|没)能说[^，。]{0,6}?(?:不|没有?)"
    r"|(?:can['’]t|cannot|can not|unable to|couldn['’]t)[^.,;]{1,40}?without"
    r"|说不[^，。]{0,4}(?:那|都|才)?是(?:假|骗)|\bnot that i don['’]t\b"
    r"|\bnot that (?:i|he|she|it) do(?:es)?n['’]t\b|\bcan['’]t say i don['’]t\b"
)
# Words that deny though they hold what looks like no denial.
_HARDLY = re.compile(
    r"[谈说称算]不上(?!来)|不至于|还?不到(?=$)|没到(?=$)|很少|极少|甚少|(?<![没不未])(?<!没有)退(?=$)|(?:摸|看|瞧|查|找|瞅)(?:也|都)?不(?:到|着"
    r"|见|出)来?(?=$|什么|任何|有)"
    r"|\b(?:can['’]t|cannot|wouldn['’]t) say (?:that )?(?:i['’]?m|i am|i have|i feel|it['’]?s|there['’]?s)\b"
    r"|\bcan['’]t say (?:that )?(?=$)|\b(?:hardly|barely|scarcely) any\b|\bzero\b|\bminus the\b|\bnone of\b"
    r"|\bfree (?:of|from)\b|\bnothing\b"
    r"|(?:\b(?:stopped|quit)|(?<!can )\b(?:rarely|seldom|hardly)|(?<!\d)\b0)\s*(?=$)"
)
# Words that hold 没/不/无 and deny nothing.
_PSEUDO = re.compile(
    r"(?:没有?|未|不)(?:怎么|能|见|全|完全)?[退消止](?:住|下去)?(?=$)|[没沒]成?想到?|没有?停|没缓|没顾|没发现|不料|不溜|不掉|不是(?:普通|一般)的?|没干(?![咳呕])|没怀|没减肥|没盖|没戴|没打(?![喷呼嗝颤哆摆鼾哈寒])|尿不湿|无名指|无啦啦|无事"
    r"|没(?:几|半|一会|两|多)[^，,。；;]{0,2}(?:天|小时|分钟|钟头|月|年|周|步|口)|不干净|不[^，,。、没不也都]{1,2}就|没多久|没穿|没颜色|没血色|没反应|没意识|没知觉|没尿|不省人事|不醒|没过|没事|没法|没人"
    r"|没精神|没力气|没胃口|没劲|没用|没好|没睡|没吃|没喝|没注意|没(?:太|怎么|咋)?(?:当回事|在意)|没来得及|没去|没(?:怎么|咋|太|去|顾上)?(?:看(?!出|到|见|着)|管|治|理会|重视)"
    r"|没查(?!出|到)|没量|没敢"
    r"|没有?(?:见好|好转|缓解|效果|用|作用|改善|办法|规律|力气|精神|胃口|减轻|好)"
    r"|不仅|不但|不光|不只|不单|不得不|不由得|不知道?|不晓得|不清楚|不确定|不一定|不管|不论|不小心|不久"
    r"|(?P<aa>[^，,。；;!！?？\s])[不没](?P=aa)|不太?敢?能?(?:肯定|确定)|不太清楚"
    r"|莫不是|莫非|备不住|保不齐|不同|不断|不停|不住|不止|不间断|不歇"
    r"|不见好|不见效|不缓解|不管用|不起作用|不好|不了|不动|不着|不过来|不上|不下|不出(?!$)|(?<=[说讲喊叫喘呼吐咳拉尿解哭])不出|不清|不退|不舒服"
    r"|不安|不适|不行|不对|不能|不敢|不想|不愿|不肯|不让"
    r"|没有?(?:以前|之前|原来|先前|昨天|前[几两]天|上次)?(?:那么|这么|那样)"
    r"|不会(?=是|说|走|笑)|不到|差不多|无论|无意|无力|无法|无神|无精打采|是不是|有没有|要不要|会不会"
    r"|能不能|好不好|要不|不如|不然"
    r"|了没(?!$|有)|未来|不明|时不时|不时|冷不丁|不定时|不由自主|不得了|不一样|不规[则律]|不轻|不小|不少|不堪"
    r"|不已|不大对|不太对|不太好|不太舒服|不大舒服"
    r"|(?:没有?|无)(?:任何|什么|明显|明确)?(?:诱因|原因|征兆|预兆|先兆|来由|规律|理由)|[没未不]满|不足"
    r"|无缘无故|无端|无时无刻|没完没了|没日没夜|没轻没重"
    r"|不[^，,。、没不就也都]{1,5}(?:的时候|时候)|谁说我?不"
    r"|(?:不|没有?)[^，,。；、没不]{1,3}(?:又|就会|便会?|还会|根本|更|照样|照旧|压根)"  # 不擦又痒
    r"|(?:不|没有?)[^，,。；、没不]{1,8}(?:根本|压根|怎么|居然|竟然?|照样|反而|反倒|结果|却)"  # 没生过孩子怎么也秃
    r"|不(?:吃|喝|睡|走|动|用|活动|运动|说话|碰|按|咳|打针|吃药)[^，,。、没不]{0,3}[就也都]"
    r"|[不没](?:怎么|咋)[^，,。；、没不]{1,2}[就也都]"  # 没怎么动就出汗
    r"|\bnot only\b|\bnot exactly\b|\bwithout (?:the|my|his|her) \w+ (?:my|i|he|she|it)\b|\bwithout warning\b"
    r"|\bnot sure\b|\bno (?:idea|reason|matter|relief|sleep|rest"
    r"|peace)\b"
    r"|\b(?:can|couldn|won)['’]t\b|\bcan ?not\b|\bcould not\b|(?:n['’]t|\bnot) (?:go|going|help|stop|work|know|get)\b"
)
# After a finding that is denied, these begin what is affirmed: "没发烧还咳嗽", "没有发烧只流鼻涕".
_RESTART = re.compile(
    r"^是$|后$|有|还|也|出现|总|老是|老|一直|突然|忽然|现在|最近|这次|今天|只|光|仅|反而|倒是(?!没|不)|就|主要"
    r"|的时候|变成|轮到|换成|改成|开始|\bhave\b|\bhas\b|\bnow\b|\bstill\b|\bhad\b"
)
_POSSIBLE = re.compile(
    r"算不算|不[能敢太]?确定|(?<!没有)(?<!不)(?<!怎么)(?<!咋)可能|疑似|好像|好似|似乎|怀疑|是不是|是否|会不会|有没有|怕是|担心|生怕"
    r"|害怕是|万一|如果|要是|假如"
    r"|(?:不知道?|不晓得|说不[清上]来?)(?:到底|究竟)?(?:是|算)(?!不|因|怎|什|啥|谁|哪)|像是(?![针刀火石压被裂要隔踩塞堵蒙卡戴灌炸虫]|蚂蚁|有(?:东西|块|人|个|什么|团|口|根"
    r"|股))|兴许|许是|或许|惊(?:佢|住|会|又|系)|(?<!不)怕(?:吃|喝|一|是|术后|手术|打完|吃完|停药|路上|心|血|喘|晕|疼|痛|摔|咳|吐|烧|烂|留|肿|抽)(?!不|什|啥|冷|热|水|光|风)"
    r"|(?:网上|说明书|听人|人家|听)说[^，,。；;！!？?]{0,6}(?:会|能|容易)变?"
    r"|好象|应该(?:只|就)?是|八成|搞不好|弄不好|怕不是|莫不是|莫非|没准|疑为|拟诊|说不好(?:是|有)|估计|大概是|也许|说不定"
    r"|恐怕|貌似|不排除|考虑"
    r"|(?<![可害不恐])怕(?:$|半夜|晚上|夜里|睡着|哪天|以后|将来|万一|再|又|会|是|要|他|她|娃|孩子|传|突然|路上|别是|得)"
    r"|(?:医生|大夫|护士|医师|[他她你]们?|别人|人家|网上|药店|邻居|听[说讲人]|据说|据讲|说明书|都|有人"
    r"|有的)[^，,。；;！!？?]{0,10}"
    r"(?<!不)(?:会|要是|如果|留意|留神|注意|小心|当心|提防|警惕|观察|容易)(?!不|没)"
    r"|(?:留意|留神|当心|提防|警惕)(?:着|是不是|有没有|别)?$|^(?:要说|说是)$"
    r"|\bmaybe\b|\bpossibl[ey]\b|\bif\b|\bmight\b|\bperhaps\b|\bsuspect\b|\bworried (?:about|it)"
    r"|\bcould (?:it |this |that )?(?:also )?be\b|\b(?:not sure|unsure)\b|\bi think (?:i|my|it|he|she|his|her"
    r"|there)\b|\bquery\b|\bseems? like\b"
    r"|^\s*\?\s"
    r"|\b(?:watch(?:ing)?|look(?:ing)?) (?:out )?for\b|\bwarned (?:me |us )?(?:about|of)\b|\bin case\b|\b(?:afraid"
    r"|scared) of\b"
    r"|\bwhat if\b|\b(?:can|could|may) (?:cause|give|lead to|turn into)\b"
    r"|\b(?:scared|afraid|worried|terrified|worry) (?:that )?(?:i|he|she|it|we|they)['’]?(?:ll|d| will| might"
    r"| would| could)\b"
    r"|\b(?:could|can|might|may) (?:\w+ ){1,2}(?:make|give) (?:him|her|me|you)\b"
    r"|\bwonder|\bnot exactly\b|\bprobably\b"
)
_NOW_WORDS = (
    r"现在|如今|目前|最近|近来|近日|这[一两几]?天|这[两几]个月|这(?:一)?个?(?:礼拜|星期)|这次|这回|这胎|这一胎|今天"
    r"|昨天|昨晚|今早"
    r"|刚才|刚刚|突然|忽然|开始|至今|以来|又|这周|这个月|近[一两三]?周|当下|眼下"
    r"|\bnow\b|\bthis time\b|\btoday\b|\blately\b|\bsince\b"
)
_PAST_WORDS = (
    rf"(?<![从自打比跟和像]){AGO}(?!(?:从来)?没有?(?:这么|那么|这样|过这)|开始|起|就|到现在|至今|以来)|曾经?|既往|当时|先是|起初|一开始|(?:^"
    rf"|(?<=[，,。；;我他她]))之前(?!就|一直|开始)|已经好了|(?<!现)病史"
    r"|\bused to\b|\bhistory of\b|\b(?:pmh|hx|h/o|s/p)\b|\bonce had\b|\b(?:past|prior|previous)\s(?=$|[a-z]*\s?$)"
    r"|\bgrowing up\b|\b(?:back )?in (?:19|20)\d\d\b|\bwhen i was (?:a )?(?:child|kid|young|little|small|teen\w*"
    r"|in)\b|\byears ago\b|\blast (?:year|month|winter|summer)\b|\bas a (?:kid|child)\b"
    r"|\bin college\b|\bpreviously\b|\bhad (?=[^.,]{0,30}last )"
)
_WHEN = re.compile(rf"(?P<now>{_NOW_WORDS})|(?P<past>{_PAST_WORDS})")
# What is only supposed, so that its contrary is, too.
_SUPPOSED = re.compile(r"如果|要是|假如|万一|倘若|\bif\b")
_SPACE = re.compile(r"(?<![a-z0-9有没不无、,，.)）])\s(?![a-z0-9\s])")
_RIGHT_BEFORE = re.compile(rf"(?:{DENYING.pattern})(?:再|太|怎么|是|那么|觉得|感觉|说我?|我)?\s*$")
_FEW = re.compile(r"没(?:吃|喝|走|爬|站|坐|说|动|干|睡)(?:几|两|多|一会)")  # 没吃几口就饱
_ENDS = re.compile("(?<![没不])(?P<how>[消退止])(?:住|下去)?[了咗]?$")  # 消了肿, 止住血
_ENDED = {"消": "肿腫", "退": "烧燒热熱黄黃", "止": "血痛疼泻瀉咳痒癢"}
_LIE = re.compile(r"(?:那|都|才)?是?(?:假|骗)")  # 说不疼那是假的
_CANNOT = re.compile(r"(?:can['’]?t|cannot|couldn['’]?t|won['’]?t|unable|trouble|hard to)\b")
_OR = re.compile(r"[,\s]*\bn?or\b(?: any)?\s*")
_AT_TIME = re.compile("夜里|夜间|半夜|晚上|白天|早上|早晨|清早|下午|中午")  # 白天不咳夜里咳
_NOW_INSIDE = re.compile("现在|如今|这两天|最近")
# Chinese characters from a denial or a guess, and from a word of the past, to what it is said of. Beyond them, hardly
# one in ten was one in the training corpus, much of which has no comma: 冲也冲不掉现在还疼.
_REACH, _PAST_REACH = 5, 7
_SAID_OF_BEFORE = re.compile(r"(?:都|也|倒是?|是|这[次回]|目前|现在|今天){0,2}(?:没有|没得|冇|无)\s+")
_STILL = re.compile(r"还|仍|依旧|\b(?:still|by (?:evening|night))\b|倒(?!是?[不没])")
# 无发热,咳嗽一周: what has lasted so long is there.
_FOR_DAYS = re.compile(
    r"(?:约|近|已|有|了)?[0-9一二两三四五六七八九十几半多余]{1,3}个?(?:天|日|周|月|年|小时|礼拜|星期)"
)
_NOT_SO = re.compile("(?<!是)不[^，,。；;、有]{1,4}的[大小硬软红白圆]{0,3}$")  # 不痒的红疹; 没有红的疹子 denies both
_BARE = re.compile(r"[，,]\s*(?:my |his |her )?$")  # no blood, no burning, ankles puffy
_OR_ELSE = re.compile(r"(?:还是|或者?是?|又?像|是)[^，,。；;!！?？\n]{0,3}")  # 说不清是头晕还是脚下发飘


def denied_within(words: str) -> bool:
    """Return whether the last clause of `words`, in plain form, holds a denial: `耳后不红不肿`, not `耳后不红,肿`."""
    heard = _heard(UNSEEING.sub("", words))
    return bool(DENYING.search(heard, max(last_end(_CLAUSE_END, heard), last_end(_COMMA, heard))))


class Context(NamedTuple):
    """What the words before a finding say of it."""

    denied: bool = False
    record_style: bool = False
    possible: bool = False
    supposed: bool = False
    when: str | None = None
    who: str | None = None
    kin: bool = False
    """Whether it is told of somebody who is not the patient."""
    own: bool = False
    """Whether the teller says `我` right before the finding."""
    repeated: bool = False
    """Whether each finding of a list has a denial of its own: what has none is there."""


class State(NamedTuple):
    """What is carried on from one mention to the next."""

    context: Context = Context()
    who: str | None = None
    end: int = 0
    patient: str | None = None
    """Of whom the first finding is told: a relative, `self`, or `?` if that is not said."""


def advance(plain: str, state: State, mention: Mention) -> tuple[Context, State]:
    """Return a mention's context, carried on from the one before as far as its clause and list reach.

    Looks at the words between two mentions once, so that a long text takes linear time.
    """
    context, end = state.context, state.end
    told = plain[mention.start : mention.end]
    # Between Chinese words a space is a comma.
    between = plain[end : mention.start]
    if end and (own_denial := _SAID_OF_BEFORE.match(between)):  # 咳嗽没有 就疼
        context, between = Context(when=context.when), "，" + between[own_denial.end() :]
    between = _SPACE.sub("，", between)
    who, own, patient, kin = told_of(plain, between, state.who, state.patient, mention)
    turned = bool(cut := last_end(_CLAUSE_END, between))
    if cut:
        context, between = Context(), between[cut:]
    in_list = end > 0 and bool(_JOINTS.fullmatch(between))
    kin = kin or (in_list and context.kin)
    if (cut := last_end(_COMMA, between)) and not (in_list and context.record_style):
        context, between = Context(when=context.when if in_list else None), between[cut:]
    ends = _ENDS.search(between)
    # Pseudo-denials are looked for here, so that 无意识障碍 is not heard as 无意.
    heard = _heard(between)
    denies = (ends is not None and plain[mention.start] in _ENDED[ends["how"]]) or _reaches(DENYING, heard, _REACH)
    denies = denies and not told.startswith("又") and not _FEW.match(plain, mention.start - 1)
    # no phlegm, can't sleep; but no phlegm or trouble breathing
    if not denies and _CANNOT.match(plain, mention.start) and not _OR.fullmatch(between):
        context = Context(when=context.when)
    if mention.opposite and denies:  # 不红不肿: only a denial right before 不肿 denies it
        denies = bool(_RIGHT_BEFORE.search(heard))
    if heard.endswith("说不") and _LIE.match(plain, mention.end):
        denies = False
    if (
        context.denied
        and not denies
        and (
            _RESTART.search(heard)
            or _AT_TIME.match(plain, mention.start)
            or _STILL.search(told)
            or _NOT_SO.search(plain, max(0, mention.start - 8), mention.start)
            or (between.startswith("了") and not _JOINTS.fullmatch(between[1:2]))
            or (context.repeated and _BARE.match(between))
            or (_BARE.match(between) and _FOR_DAYS.match(plain, mention.end))
        )
    ):
        context = Context(when=context.when)
    repeated = denies and state.context.denied and not turned
    context = Context(
        # A contrary (胃口好) is denied by its own words only.
        denied=denies or (context.denied and not mention.opposite),
        record_style=context.record_style or bool(_RECORD_STYLE.search(heard)),
        possible=(_reaches(_POSSIBLE, between, _REACH) and not _like(between, told))
        or (state.context.possible and bool(_OR_ELSE.fullmatch(between)))
        or (in_list and context.possible),
        supposed=bool(_SUPPOSED.search(between)) or (in_list and context.supposed),
        when="now" if _NOW_INSIDE.search(plain, mention.start, mention.end) else _when(between) or context.when,
        who=who,
        kin=kin,
        own=own,
        repeated=repeated,
    )
    carried = context
    if mention.opposite:  # 不恶心、呕吐 denies both
        carried = context._replace(denied=bool(DENYING.search(_heard(plain[mention.start : mention.end]))))
    return context, State(carried, who, mention.end, patient)


def _like(between: str, told: str) -> bool:
    """Return whether 像是 compares and does not guess: 像是针扎一样疼."""
    return between.endswith("像是") and ("一样" in told or "似的" in told)


def _reaches(pattern: re.Pattern[str], words: str, reach: int) -> bool:
    """Return whether the last match is followed by at most so many characters, a list left out, or by English only."""
    end = last_end(pattern, words)
    rest = words[max(end, words.rfind("、") + 1) :]
    return end > 0 and (len(rest) <= reach or not HAN.search(rest))


def _when(words: str) -> str | None:
    """Return which time the words speak of last, `now` or `past`; a past that is far off is that of something else."""
    if words in SAYS_NOTHING:
        return None
    when = _last_kind(_WHEN, words)
    return when if when != "past" or _reaches(_WHEN, words, _PAST_REACH) else None


def _heard(words: str) -> str:
    """Return the words without what looks like a denial and is none."""
    if words.isspace():
        return words
    return _PSEUDO.sub("□", _DOUBLE.sub("□", _HARDLY.sub("没有", words)))


def _last_kind(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the name of the group that matched last."""
    return next((match.lastgroup for match in reversed(list(pattern.finditer(text)))), None)
