"""What the rest of a finding's clause says of it: 出血倒没出, 头痛是年轻时候的事, 心慌有没有我没注意."""

from __future__ import annotations

import re

from langchain_bge_medical.clinical.context.finding import Status
from langchain_bge_medical.clinical.context.words import (
    AFTER,
    AGO,
    BODY,
    HAN,
    NEAR,
    NUMBER,
    REST,
    UNSEEING,
    UNSURE,
    clause_start,
)

_TURN = re.compile(r"但|不过|可是|只是|就是|而且|然后|\bbut\b|\bthough\b|(?<=[^\x00-\x7f])\s+(?=[^\x00-\x7f])")
_LONG_AGO = rf"(?:{AGO}|之前|上学期|年轻|小时候?|上学时|.天那会儿?|{NUMBER}年多?[以之]?前)"
_SOME_TIME = (
    rf"(?:{_LONG_AGO}|昨[天晚日夜儿]|前[天晚日]|大前天|琴[日晚]|寻[日晚]|前[两几]天|前些天"
    rf"|[0-9一二两三四五六七八九十几]{{1,3}}天前)"
)
_OVER_NOW = (
    r"(?:现在|如今|今天|今早|今日|这次|这回|这两天|这几天|今年|目前|已经|后来|早就?|自己|而家)(?:就|也|都|已经?|倒"
    r"|还|反而)*"
    r"(?:不(?!舒|适|好|行|得|知|晓|太好)|没(?!好|退|消|办)|冇|唔|无|好|退|消|停|恢复)"
)
_THAT_TIME = re.compile(r"[丝了着]?的?那(?:会儿?|阵子?|时候?|[次回年段])(?!起|以后|之后|开始)")  # 咳血那会儿吓死我了
_WAS = re.compile(
    rf"[那这都也倒就的还只是在呢]{{0,4}}{_LONG_AGO}(?:的?时候?|那会儿?|那[次回阵]|里|间"
    rf"|[吃怀喝][^，]{{1,3}}){{0,2}}[也倒就都还才只曾是]{{0,2}}"
    r"(?:的?老?(?:事儿?|事情|毛病)|(?:有|得|犯|发|来|痛|疼|出|流|闹|发作|出现|昏|吐|拉|晕"
    r"|肿)?过?了?(?:[一两几三四五]|好几)[次回阵趟场天]"
    r"|(?:有|得|犯|发|来|痛|疼|出|流|闹|发作|出现)过|有|很?(?:严重|厉害)过?)(?:了|啦|吧|的|呢|而已)*"
    rf"|.{{0,4}}{_SOME_TIME}.{{0,12}}?{_OVER_NOW}.{{0,6}}"
    rf"|.{{0,6}}{_SOME_TIME}的?(?:老?事儿?|事情|老黄历)(?:了|啦|吧)*|那?[是就]{{1,2}}{_LONG_AGO}的?"
    rf"|{_LONG_AGO}就?(?:治|养)?好(?:了|过)"
    rf"|(?:病)?史(?:.{{0,6}}年)?|.{{0,3}}(?:好多|好几|几|多|[0-9一二两三四五六七八九十]{{1,3}})年都?没(?:再)?(?:犯"
    rf"|有|发|来)(?:作|过)?了?"
    r"|\s(?:when i was|back in|in the past|in (?:19|20)\d\d|back then|in (?:january|february|march|april|may|june"
    r"|july|august|september"
    r"|october|november|december))(?: (?:a |my )?\w+)?\s*|\s(?:before|previously)\s*"
    r"|(?:\s(?:happened|was|were|only|just|but that was|that was|back|a while|about|like|some)){0,4}\s"
    r"(?:once(?: (?:back )?in (?:19|20)\d\d)?|only yesterday|last (?:week|month|year|spring|summer|fall|autumn"
    r"|winter)|(?:\w+ ){0,2}(?:weeks?"
    r"|months?|years?) ago"
    r"|as a (?:kid|child|teen\w*)|in (?:college|childhood|(?:my|his|her) (?:teens|youth|twenties|thirties|forties"
    r"|fifties|\d0s)))(?: only| once| ago)*\s*"
)
_WAS_CLAUSE = re.compile(rf"[，,]\s*[那这都也]{{0,2}}是?{_LONG_AGO}的?老?(?:事儿?|事情)了?(?=[，,。；;]|$)")
_ADVERB = (
    r"(?:倒是?|到是|是|也|就|都|却|还|真|可|又|亦|那|这些?|那些?|那种|这种|啥的|什么的|之类的?|的|我|他|她|自己"
    r"|从来|始终|愣是|一直|一次|一点|目前|现在|这[次回]|今[天早晚]|这[几两]天"
    r"|暂时|确实|完全|压根|根本|从|倒还|反而|呢|嘛|吧|啊|么|：|:)"
)
_NO_USE = (
    r"(?!用|没完|没日|快没|[秒钟时天夜晚儿]就|查了(?!都|也|说|没|好|几|两|三)|什么[也都]|啥[也都]|办法|法子|效|好转"
    r"|缓解|改善|力气|胃口|精神|规律|原因|时间|钱|停|断|关系|意识|反应|知觉|减轻|见好|医院|管用|睡|吃饭|锁|关门|劲"
    r"|得|一样(?!没)"
    r"|[要想敢能]|说话)"
)
_NOT_THERE = re.compile(
    rf"(?:{_NO_USE}.){{0,12}}?(?:没有|没得|没|冇|无|呒没|木有|木得|莫得|没啥|没什么|没动静|[唔不]多|已?排除|不(?:明显"
    rf"|严重|算)|[不未]曾|未|不存在|[谈说称算]不上"
    r"|不至于|没影|阴性|否认|否|零|(?<![没未不有])(?:摇头|消失|痊愈|已愈)|未诉|未及|未有|未见|未闻及?"
    rf"|未触及|不沾边?"
    r"|没到[那这]个?(?:份|程度|地步)上?|没听(?:他|她|娃|人)?(?:说|提|喊|叫)|没(?:再|怎么|咋)?(?:听|复发|看|瞧|瞅|见"
    r"|发现|摸|量|查|测|感觉|觉得?|出现|有|犯|闹|发作)(?:见|到|出来?|着|出|过|来){0,2}"
    r"|(?:看|摸|瞧|量|测|觉|感觉)[也都]?不(?:见|到|出|着)来?)(?:过|了|的|咗|晒|啊|吧|呀|呢|哦|哈|啦|嘛|出现|发生"
    r"|这回事|的事|什么|任何|高|低|多|异常|[我他她娃]?\w过){0,3}"
    rf"|{_ADVERB}{{0,4}}(?:(?:再也?没有?|(?:没有?|冇|未|不|唔)再)(?!恢复|好|长好|[睡吃喝走站看用去查管治敢能下上]|起(?!来)).{{0,3}}"
    r"|没(?:有)?(?:出(?:过|现)?|[吐咳拉流冒长起发]?出?[来过]|起|露面|找上门))"
    rf"|{_ADVERB}{{0,4}}(?:勿|唔|不)(?:会|算|再|怎么|太|大|咋){{0,2}}(?:有|了|的|啊|呢|啦|犯|发作|出现)*"
    r"|(?:已经?|都|全|基本|彻底|总算)*(?:止住|控制住|退尽|消尽|好透|好全|好彻底|好利索|断根)了?|['’]s (?:down|gone"
    r"|resolved|over)|[- ]free|\s*[(（](?:-|－|–|neg|无|阴性|否)[)）]|\s?[-–－—]\s*"
    r"|\W{0,3}(?:(?:symptoms?|spells?|attacks?|episodes?|finally|so far|yet|at all|i|i'?m|has|have|had|been|is|are"
    r"|was|were|it|all|just|completely|currently|now|though|tho)\s){0,4}"
    r"(?:never there|wasn['’]t there|(?:isn|aren)['’]t (?:happening|a thing)|not (?:noted|seen|found|reported)"
    r"|passed|stayed away|denies|none|nope|no|nil|zero|absent|negative|denied|ruled out|never|not (?:really|at all"
    r"|present|there|an issue|a problem|happening)|gone(?: away)?"
    r"|resolved|went away|stopped|settled|cleared(?: up)?|neg|isn['’]t there|nowhere|ha(?:s|ve)n['’]t (?:come back"
    r"|returned|recurred))(?:\s(?:so far|yet|at all|today|now|either|though|thankfully|anymore"
    r"|any more|recently|lately))*\s*"
)
_DAY = (
    r"(?:[今昨前琴寻][天日早晚晨夜儿朝]|大前天|上午|中午|下午|晚上|凌晨|早上|夜里|后来|这[两几]天"
    r"|上?周[一二三四五六日天]?|上个?(?:月|星期|礼拜)|第[一二三四五六七八九十0-9]{1,2}[天日周]|当[天晚日场时]|隔天|次日|立马|马上|立刻|很快|自行|自己|没几天|跟着"
    r"|一下子?)"
)
_SPELL = (
    rf"(?:[流吐拉烧痛疼咳晕麻跳抽哑肿]?[过了]?(?:{NUMBER}个?多?(?:天|晚上?|夜|宿|周|礼拜|星期|月|年"
    r"|(?:分钟|小时)(?=总算|终于|已经|才))|这事儿?))"
)
# It came to an end: 烧今早退了, 喉咙痛好了换流鼻水.
CEASED = re.compile(
    rf"\s*(?:的?(?:劲儿?|感觉|毛病|症状|情况))?{_SPELL}?(?:{_ADVERB}|{_DAY}|早就?|已经?|总算|终于|基本上?|几乎"
    rf"|差不多|完全|全部?|彻底|慢慢|渐渐|刚刚?|老早"
    rf"|算是){{0,5}}"
    r"(?:[退消](?:干净|下去|光|完|尽|的差不多|得差不多)|[没不](?:再)?(?:犯|流|出|来|发)|止住|退下去|停|止|退|好|消|不见"
    r"|(?<![吞咽吃喝瘦烂坏掉摔跌倒])(?:下来|下去)|过去|恢复|缓解|缓过来|控制住|压下去|压住|没得|没|冇|治好|断根|干净"
    r"|松活|松快|跟着走|走(?=了\s*$)|利索|瘪|褪|散|结痂|愈合|长好|收口|stop)"
    r"(?:干净|全|透|利索|彻底|光)?[了咗](?:的|啦|哈|晒)?"
    r"(?:(?<=[了咗])成?[一两三四五六七八九十几好多半0-9]{0,3}个?(?:天|小时|礼拜|星期|周|月|年)(?:了|多)?)?"
    r"(?=\s*$|\s|之后|以后|[换剩光只又接反轮变])"
    rf"|{_SPELL}?(?:{_DAY}|早就?|已经?|全|都|基本|彻底|完全|自己)*(?:(?:停|断|消失|好(?![几些多久半])){NUMBER}个?(?:天|小时|礼拜|星期|周|月|年)了"
    r"|消退|退尽|消尽|消失|痊愈|[退消][的得]差不多)(?=\s*$)|(?:早就?|已经?|都|全)(?:退|消|好|没|停)(?=\s*$)"
    r"|退(?=\s|第.[天日]|$)"
    rf"|(?:{_DAY}|刚|才|总算|终于|都|全|已经?){{0,3}}(?:[退消](?:干净|光|完|尽)|掉光)(?=\s*$)"
    # 小疙瘩抹了药膏全下去了
    rf"|(?:[抹涂敷贴吃喝打扎挂输用拔治做]|冷冻|针灸)[了完过][^，,。；;不没]{{0,6}}?[药膏针贴次片天周月](?:{_DAY}|全|都"
    r"|就|总算|终于|基本|彻底|已经?){1,3}(?:下去|好|消|退|没|停|掉光|掉)(?:光|干净)?了?(?=\s*$)"
    r"|(?:['’]s)?(?:\s(?:spells?|attacks?|episodes?|fits?|bouts?))?"
    r"\s(?:(?:but|and|has|have|had|is|are|it|all|just|finally|basically|almost|completely|mostly|nearly|now"
    r"|long) ){0,3}"
    r"(?:never happened|resolved|gone(?: (?:away|down))?|went (?:away|down)|died down|calmed down|stopped|broke"
    r"|settled|cleared(?: up)?|subsided|over with|(?<!all )over(?= now|\s*$))\b"
)
_COMES_BACK = re.compile(
    r"[^。；;!！?？\n]{0,14}?又(?:回来|找上门|卷土重来|冒出来)(?P<all>)"
    r"|[^。；;!！?？\n]{0,12}?(?:(?<![没不未])[又再](?:开始|接着|是)?|接着|还是|照样|照旧|继续)(?P<what>.)"
)
_NOT_DONE = re.compile(
    rf"{_ADVERB}{{0,4}}(?:没有?|冇|未|唔|不|勿|呒没)(?:怎么|咋|太|大|再|真)?(?P<verb>.)(?:过|着|到|起来|出来?|了"
    rf"|几次|多少)?"
)  # 出血没出
_NOT = r"(?:没有?|冇|木有|木得|没得|无)"
_EACH_NOT = re.compile(_NOT)
_NEXT_NOT = re.compile(rf"[^，,。；;!！?？\n\s没冇木无]{{1,4}}{_NOT}")
_WHETHER = r"(?:有没有|是不是|算不算|是否|(?P<one>.)[没不](?P=one)过?)"
_UNCLEAR = re.compile(
    rf".{{0,8}}?{_WHETHER}.{{0,3}}?{UNSURE}(?:有没有|是不是|算不算|到底|[算有是的了呢也]|.[没不].){{0,3}}"
    rf"|.{{0,6}}?{UNSURE}(?:有没有|是不是|算不算|到底|[算有是的了呢也]|.[没不].){{0,2}}(?:有没有|是不是|算不算"
    rf"|.[没不].)[的了呢也]{{0,2}}"
    r"|(?:似的|一样)?(?:[我也都真还]|自己|倒){0,3}(?:说不清(?:楚|是不是.{0,6})?|说不准|说不好|拿不准|吃不准"
    r"|不[敢能太]?(?:肯定|确定)|不太(?:确定"
    r"|清楚)|不敢说|不好说|难说)[的了呢也算是]{0,3}"
    r"|.{0,6}?(?:有没有|是不是|算不算|.[没不].).{0,3}?(?:没(?:仔?细|太|怎么)?(?:注意|留意|量|测|看清?|数|查)|忘了看?)"
    r"|.{0,6}?(?:好像|好象|可能|似乎|也许|大概|或许|貌似|估计|应该|恐怕|怕是|说不定|似有似无|若有若无|隐约|勉强"
    r"|疑似|待查|我猜|算是|算有|是不是)(?:[也又还是会都算能有一点些儿两几处次回吧呢啊的了过]|那么){0,6}"
    r"|.{0,8}?(?:算不算|是不是[也就都]?算?|是否算?|有没有)[啊呢呀吗的]{0,2}"
    r"|[^,.]{0,20}\b(?:maybe|perhaps|possibly|i think|i guess|i suppose|not sure|or something)\s*"
)
# A question, and its answer if the patient gives one: 头疼?不疼。恶心?有一点, 问我有没有盗汗,我说没有.
_ASKED = re.compile(r"[^，,。；;!！、\n.]{0,3}?(?:吗|[?？])|\s[a-z]{1,12}\?")
# 头痛嘛,没有的; 问我有没有盗汗,我说没有
_UNASKED = re.compile(
    r"(?:[嘛呢吧]|的话|这个)?\s*[，,]\s*(?:[量查看问摸听试][过了][，,])?(?:我|他|她)?(?:摆摆?手|摇摇?头)?就?(?:说|回答|答)?(?:那"
    r"|这个?)?(?:倒是?|还|真|确实|可|都){0,3}"
    r"(?:没有|冇)(?:的|过|呢|啊)?(?=[，,。；;!！\n]|$)|[:：]\s*(?:没有?|无|否|no|none)(?=[，,。；;!！\n\s]|$)"
    r"|,\s(?:no|nope|nah)(?=[.;!\n]|$)"
)
_ANSWER = re.compile(
    r"[吗呢的]{0,2}\s*[?？，,。]?\s*[?？]?\s*(?:(?:我|他|她)?(?:就)?(?:说|回答?|答)?(?:都|全|倒是?|那)?"
    r"(?P<no>也?(?:没有?|冇|无|否|莫得|没得|木有|木得|哪有|不是|不存在|谈不上|不至于|不会|不太?)(?:木有|的事|过|的|啊|了|呢|哈"
    r"|吧)*(?=[、，,。；;!！?？\n\s]|$)"
    r"|[不没](?:怎么|太|咋)?(?P<same>\w)|(?:no|nope|none|nah|zero|never|nil|negative|gone|not (?:really|at all|yet))\b)"
    r"|(?:我|他|她)?(?P<yes>有(?!没有)|会(?!不会)|是的|对[，,。]|嗯|经常|老是|偶尔|天天|真的"
    r"|(?:yes|yeah|yep|yup|a bit|a little|sometimes"
    r"|often|sort of|kind of)\b))"
)
_UNCLEAR_NEXT = re.compile(r"\s*,\s*(?:maybe|i think|i guess|i['’]m not sure|not sure|perhaps)\s*(?=[?,.;!\n]|$)")
_ONCE_BEFORE = re.compile(r"过(?:那么)?(?:[一两几三]|好几)[次回场]了?")
_JUST = re.compile(r"[今昨刚这]|早上|晚上|半夜|前天|连着|已经")
_MAYBE_INSIDE = re.compile(
    r".(?:好[像象]|似乎|可能)(?!.{0,2}(?:[针刀火石压被裂要隔踩塞堵蒙卡戴灌炸虫]|蚂蚁|有(?:东西|块|人|个东西|什么|团"
    r"|口)))"
)
# 痛经以前没有,今年开始有的
_NEW = re.compile(
    r"(?:以前|之前|从前|原来|过去)(?:都|从来|可){0,2}(?:没有?|冇)过?[，,]\s*(?:今年|现在|最近|这|上个?月|近)"
    r"[^，,。；;没不]{0,4}(?:有|出现|开始|才)"
)


def told_after(plain: str, start: int, end: int, following: int) -> Status | None:
    """Return what the rest of a finding's clause says of it: 出血倒没出, 头痛是年轻时候的事, 心慌有没有我没注意.

    Args:
        plain: The text in plain form.
        start: Of the finding.
        end: Of the finding.
        following: Where the next finding begins; what follows that is said of it.

    Returns:
        The status that the words give, or `None` where they give none.
    """
    if end - start > 3 and (said := _MAYBE_INSIDE.search(plain, start, end)) and said.end() < end:
        return "possible"
    said_of = plain[start:end]
    if (answer := _answered(plain, said_of, end)) is not None:
        return answer
    if following == end or plain[end:following].isspace() or _NEW.match(plain, end):
        return None
    rest = REST.match(plain, end, end + AFTER)
    stop = rest.end() if rest else end
    turn = _TURN.search(plain, end, stop)
    ceased = CEASED.match(plain, end, min(turn.start() if turn and turn.group() != "but" else stop, following))
    if turn is not None:
        stop = turn.start()
    if ceased and not _seen_no_more(said_of, ceased.group()):
        return None if comes_back(plain, said_of, ceased.end()) else "absent"
    if _THAT_TIME.match(plain, end, min(stop, following)):
        return "past"
    if stop > following:
        return "absent" if _denied_each(plain, end, following) else None
    words = plain[end:stop]
    if not HAN.search(words):
        words = words.rstrip()
    if _is_unclear(plain, said_of, words, stop):
        return "possible"
    if not said_of.endswith("没") and _was(plain, plain[clause_start(plain, start) : start], words, stop):
        return "past"
    not_done = None if "就" in words else _NOT_DONE.fullmatch(words)
    if _NOT_THERE.fullmatch(words) or (not_done and not_done["verb"] in said_of):
        return None if _seen_no_more(said_of, words) else "absent"
    return None


def _denied_each(plain: str, end: int, following: int) -> bool:
    """Return whether a finding, and the one behind it, has a denial of its own right behind: 鼻涕没有喷嚏没有."""
    return bool(_EACH_NOT.fullmatch(plain, end, following) and _NEXT_NOT.match(plain, following, following + NEAR))


def _answered(plain: str, said_of: str, end: int) -> Status | None:
    """Return what a patient answers to a question that ends in the finding before `end`; `possible` if nothing."""
    asked = _ASKED.match(plain, end, end + 12)
    if asked is None:
        return "absent" if _UNASKED.match(plain, end, end + AFTER) else None
    answer = _ANSWER.match(plain, asked.end(), end + AFTER)
    if answer is None:
        said = plain[asked.end() : asked.end() + 1]
        return "present" if said > "\x7f" and said in said_of else "possible"
    if answer["yes"]:
        return "present"
    return "absent" if answer["same"] is None or answer["same"] in said_of else "possible"


def comes_back(plain: str, said_of: str, at: int) -> bool:
    """Return whether what came to an end is there again: 烧退了,药劲一过又烧."""
    back = _COMES_BACK.match(plain, at, at + AFTER)
    if back is None or (back["what"] and back["what"] not in said_of and back["what"] not in "犯发来起上"):
        return False
    other = BODY.search(back.group())  # 腰疼好了腿又疼
    return other is None or other.group() in said_of


def _seen_no_more(said_of: str, words: str) -> bool:
    """Return whether it is an eye that sees no more: 右眼再也看不见 denies nothing."""
    return said_of.endswith(("眼", "眼睛")) and bool(UNSEEING.search(words))


def _is_unclear(plain: str, said_of: str, words: str, stop: int) -> bool:
    """Return whether `words`, which end the clause of a finding at `stop`, say that nobody knows."""
    if _UNCLEAR_NEXT.match(plain, stop):
        return True
    # 嘴歪说不清 is another complaint.
    return bool(_UNCLEAR.fullmatch(words)) and not (
        words.endswith(("说不清", "说不清楚")) and re.search("[嘴舌话口头]", said_of)
    )


def _was(plain: str, before: str, words: str, stop: int) -> bool:
    """Return whether what stands around a finding says that it is over."""
    if _WAS_CLAUSE.match(plain, stop, stop + AFTER) or _WAS.fullmatch(words):
        return True
    return bool(_ONCE_BEFORE.fullmatch(words)) and not _JUST.search(before)
