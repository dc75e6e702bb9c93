"""What was there and is over: 昨天还吐,今天不吐了; 停了药都好了."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence

from langchain_bge_medical.clinical.context.after import CEASED, comes_back
from langchain_bge_medical.clinical.context.finding import Finding
from langchain_bge_medical.clinical.context.words import (
    AFTER,
    BODY,
    CLAUSE_BACK,
    EARLIER,
    NEAR,
    REST,
    SENTENCE,
    STOP,
    clause_start,
    last_end,
)

_AGAIN_AND_AGAIN = r"[，,]\s*(?:一天|每|天天|反复|又|老|经常|来回|时好时坏|隔)"
# An attack that is over: 筷子掉了,右手不听使唤,十来分钟又好了.
_ATTACK_OVER = re.compile(
    r"[，,]\s*(?:大概|也就|差不多|过了?)?(?:[0-9一二两三几十半]{1,3}[来多几]?(?:秒|分)钟?|[半一]个?小时"
    r"|半个?钟头?)(?:左右|后|以后)?(?:又|自己|才|慢慢)?"
    rf"(?:好|过|恢复|缓过来|缓解|没事)了(?=[，,。；;!！]|$)(?!{_AGAIN_AND_AGAIN})"
)
_SIDE = re.compile("[左右]")
_NOW = re.compile(r"今[天早晨日没不]|现在|目前|如今|这会儿?|已经|后来|这两天|早上|[了咗]$")
_NOW_NOT = re.compile(
    r"(?:现在|如今|目前|眼下|今[天早晨儿日]|这会儿?|已经)(?:我|人|他|她|起来|醒来|一早|早上|就|也|都|倒是?|又|完全"
    r"|一点也?|再也?)*[不没]$"
)
# 前两天拉肚子,现在不拉了
_NO_MORE = re.compile(
    r"[，,]\s*(?:但|可|不过)?(?:现在|如今|目前|眼下|今[天早晨儿日]|这会儿?|后来|已经|上午|下午|晚上|后半夜|过了?[0-9一二两三四五六七八九十几半]{1,3}个?(?:天|周|礼拜|星期|月|年)|第[一二三四五六七八九十0-9]{1,2}天"
    r"|隔天|这[两几]天)"
    r"(?:我|人|他|她|起来|醒来|就|也|都|倒是?|又|完全|再也?)*"
    r"(?:不怎么|不|没再|没)(?P<what>[^，,。；;!！?？\n])(?:过|了|啦)?(?=[，,。；;!！?？\n]|$)"
    r"|[，,]\s*[^，,。；;!！?？\n]{0,8}?(?:[没冇未]再|没有再|再也?没有?)(?P<again>[^，,。；;!！?？\n])(?:过|了)?(?=[，,。；;!！?？\n]|$)"
    r"|[，,]\s*[^，,。；;!！?？\n]{0,8}?(?P<which>[痛疼痒咳吐烧晕肿麻喘胀红血痰汗泪])(?:也|都|就|全|已经)?(?:退|消"
    r"|没|止|好)了(?=[，,。；;!！?？\n]|$)"
)
_FEVER_GONE = re.compile("[，,。；;]\\s*退[烧热](?:以|之)?后")  # 烧了四天,退烧后一直咳
_NOT_ANY_MORE = re.compile(r"(?:不|没|没再|没怎么)[^，,。；;不没]{1,3}了$|(?:就|再也?)没[^，,。；;不没]{1,3}过$")
_ITCHES = re.compile("刺[挠闹痒]")
_ENDED_INSIDE = re.compile("[退消好停止]了$")  # 烧反倒退了
_COMPLAINT = re.compile("[痛疼痒咳吐烧晕肿麻喘胀抖热酸闷拉泻汗堵塞慌心昏哑血痰泪]")
_RELIEF = re.compile(
    "走|活动|动一?动|甩|伸|翻身|坐|躺|歇|站|蹲|休息|按|揉|捂|不动|停下|下车|平卧|弯腰|抱|趴|白天|夜里|晚上"
)
_HABIT = re.compile(
    r"一[^，,。；]{1,6}就|老(?![伴公婆爸妈爷头太师人板子妹弟哥姐娘爹李王年])是?|总|经常|有时|时不时|每|反复|容易|平时|动不动|偶尔"
)
# A clause by itself that says that what was told before it came to an end: 停了都好了, 换了药就消了, gone now.
_ALL_OVER = re.compile(
    r"[，,。；;]\s*(?P<cause>[^，,。；;!！?？\n]{0,10}?)(?P<all>都|全都?|统统|通通|总算都)?(?:就|也|又|自己|自动"
    r"|慢慢|基本|彻底){0,2}"
    r"(?:[消退][的得]差不多|消停|马上好|立马好|清醒?|(?:好|消|退|没得?|停|通|缓过来|恢复|正常|过去|止住|控制住|压下去|降下[来去]"
    r"|(?<=[温烧])下来|(?<![吃喝看说持过活走不躺坐咽])下去|瘪|褪|(?<=[青肿血])散|结痂|愈合))(?:干净|下去|下来|光|完|透|利索"
    r"|全)?[了咗](?=[，,。；;!！?？\n\s]|$|反倒|反而|(?:现在|如今)[^，,]{0,3}[没不])"
    r"|[，,]\s*(?:后来|后面|接着|慢慢|现在|今天)就?(?:转|跑|移|挪"
    r"|窜)到(?=[^，,。；;!！?？\n]{0,3}[头胸背腰腹肚肋腿脚手右左下边侧])(?![^，,。；;!！?？\n]{0,6}[院科区市县])"
    r"|[，,]\s*(?P<soon>[^，,。；;!！?？\n]{0,8}?(?:(?:马上|立马|立刻)就?|[后了]就?|才))(?:好|松|缓|停|消|退|清醒|(?<!后)缓解|消退|消失|过去|恢复)(?:过来"
    r"|下[来去])?[了咗]?(?=[，,。；;!！?？\n]|$)"
    r"|[，,。；;]\s*(?P<day>(?:第[一二三四五六七八九十0-9]{1,2}[天日周]|隔天|次日|当[天晚]"
    r"|[^，,。；;!！?？\n]{0,6}[0-9一二两三四五六七八九十几]{1,3}天)[后就便才自行都也全]{0,3})"
    r"(?:过去|好|没|退|消退?|消失|痊愈|停|ok)[了咗]?(?:的)?(?=[，,。；;!！?？\n\s]|$)"
    r"|[，,]\s*(?P<calm>(?:现在|如今|而家|依家|今天|这会儿?)(?:就|也|都|已经|人){0,2}(?:[没冇]事儿?|没啥事儿?|好好的)[了喇啦]?(?=[，,。；;!！?？\n]|$)"
    r"|[但可不过]{0,2}(?P<nothing>(?:我|他|她|孩子|娃)?(?:第[一二三四五六七八九十0-9]{1,2}[天日周]|[^，,。；;!！?？\n]{0,6}(?:现在"
    r"|如今|今天)|[^，,。；;!！?？\n]{0,3}[吃喝用][^，,。；;!！?？\n]{0,5}|(?=(?:哪|一)(?:样|条|种)))(?:(?:哪|一)(?:样|个|条|种)|啥|什么)(?:症状|感觉"
    r"|毛病|反应|事)?儿?(?:也|都)没有?(?:摊上|沾上?|占|碰上|出现|犯|遇[上到]|赶上|中招|有|得)?[过了]?)(?=[，,。；;!！?？\n]|$)|(?:(?!以前|从来|从没|之前|原来"
    r"|过去)[^，,。；;!！?？\n]){0,10}?没(?:再|怎么|有再)?(?:犯|复发"
    r"|发作)(?:过|了)?|(?:(?!以前|从来|从没|之前|原来|过去)[^，,。；;!！?？\n]){0,8}?(?:(?:没有?|冇|未)再|再(?:也)?(?:没有?|冇|未))"
    r"(?:出现|见着?|来|有|出来?|冒|发生|发|闹)(?:过|了|到)?"
    r"|(?:现在|如今|这会儿?|第.[天日周]|今[天早儿日]|后来|隔天|之后|过后)[^，,。；;!！?？\n]{0,3}?(?:(?:啥|什么|一点)(?:事|感觉|症状|毛病)?(?:也|都|儿)*没有?|没事"
    r"|ok|正常)了?"
    r"|(?:现在|如今|这[次回]|今[天早年])(?:就|也|都|倒是?|还)*(?:没有|没得|没|冇|不会)(?:过"
    r"|了)?)(?=[，,。；;!！?？\n]|$)"
    r"|(?:[,;]|\.\s| (?=but ))\s*(?P<gone>(?:but |and |though )?(?:(?:it |that )?ha[sd] |it['’]?s |that['’]?s "
    r"|they['’]?re |which (?:is|are) |all |now |since |finally ){0,3}"
    r"(?:never (?:seen|had|noticed|felt|got) (?:any|it|one|that|either)|gone|resolved|over|stopped|went away"
    r"|cleared up|better|settled|none|not any ?more|never since|not since"
    r"|no longer"
    r"|nothing|fine (?:now|today|this morning|again))(?: (?:now|by now|today|this morning|since"
    r"|since \w+|completely)){0,2})(?=[,.;!\n]|$| but)"
)
_LEFT = re.compile(r"(?:只|就|光|还)剩下?|剩下(?!的)")
_FINE_NOW = re.compile(
    r"[，,]?\s*(?:现在|如今|这会儿?)(?:就|也|都|人|已经)*(?:[不没](?!好|舒|行|力|劲|精)|好|正常|(?:啥|什么|一点)事?儿?(?:也|都)?没)"
    r"|[，,]\s*(?:之后|后来|以后)?(?:(?:再也?)?没|没有)再"
)
_TIME_OF_DAY = re.compile("凌晨|早上|上午|中午|夜里|半夜")  # may be every day's
_YESTERDAY = re.compile("昨|前天|今早|当天|当晚")
_REMEDY = re.compile("[减停换松含打]|放平|开窗|补")
_LISTED = 12  # findings that one clause may end
_SOOTHES = re.compile(
    "休息|歇|[坐躺]下|饭|进食|餐|[拉吐排便][完后]|睡醒|热敷|退[烧热]|止[痛疼]|布洛芬|美林|泰诺|对乙酰|降压"
)  # and what it soothes is still there
_CAUSE = re.compile(
    r"了[一两三四五六七八九十几半好]{1,2}(?:天|周|个月|盒)|(?:[喷抹涂敷贴挂输滴含拔刮灌打][了完过]|[吃喝用](?:了|过)(?!饭|东西|点|两|几|糖|面|饼|水|热|口|早|午|晚))|天亮"
    r"|[松减放开][了回量窗平]|后(?:就|便|又|才)?$|停|换|补|断了|戒|拔|摘|不吃|不用|现在|如今|已经|今[天早晨儿日]|后来|总算|终于|第.天|睡一觉|过了?.{1,2}天"
    r"|没几天|这[两几]天|前[两几]天|好几天|.天[盐药水]|上午|下午|昨"
)


def with_ends(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those as past or absent that were there and are now denied: 昨天还吐,今天不吐了."""
    last: dict[str, tuple[int, bool]] = {}
    recent: list[int] = []
    told = _all_over(plain, _only_left(plain, _no_more(plain, _attacks_over(plain, found))))
    for i, finding in enumerate(told):
        kind = _kind(finding.term)
        clause = plain[clause_start(plain, finding.start) : finding.start]
        if finding.status == "present":
            begins = plain[finding.start : min(finding.end, finding.start + 3)]
            then, habit = bool(EARLIER.search(clause + begins)), _HABIT.search(clause)
            if then or not habit:
                last[kind] = i, then
                recent = [*recent[-3:], i]
            else:
                last.pop(kind, None)
        elif finding.status == "absent" and kind in last:
            j, then = last.pop(kind)
            near = plain[max(told[j].end, finding.start - 10) : finding.end + 1]
            if then and _NOW.search(near):
                told[j] = told[j]._replace(status="past")
            elif _NOW_NOT.search(clause + plain[finding.start : finding.start + 1]) or _NOW_NOT.search(clause):
                told[j] = told[j]._replace(status="absent")
        if finding.status == "absent" and _stopped(plain, finding):
            for j in recent:
                close = finding.start - told[j].end <= AFTER
                if told[j].status == "present" and close and _same(plain, told[j], finding):
                    told[j] = told[j]._replace(status="absent")
    return told


def _same(plain: str, first: Finding, second: Finding) -> bool:
    """Return whether two findings are the same complaint at the same place: 右腿肿好了 ends no 左腿肿."""
    words, again = (plain[max(0, f.start - 1) : f.end] for f in (first, second))
    words, again = (_ITCHES.sub("痒", heard) for heard in (words, again))
    complaint = _COMPLAINT.findall(again)[-1:]
    for places in (BODY, _SIDE):
        here, there = set(places.findall(words)), set(places.findall(again))
        if here and there and not here & there:
            return False
    return bool(complaint) and complaint[0] in words


def _stopped(plain: str, finding: Finding) -> bool:
    """Return whether a denial says that something has stopped: 吃了药就不晕了, not 坐着不晕了."""
    clause = plain[clause_start(plain, finding.start) : finding.end + 1]
    rest = REST.match(plain, finding.end, finding.end + AFTER)
    ended = (
        _NOT_ANY_MORE.search(clause)
        or _NOT_ANY_MORE.search(clause[:-1])
        or CEASED.match(plain, finding.end, rest.end() if rest else finding.end)
    )
    ended = ended or _ENDED_INSIDE.search(plain, finding.start, finding.end)
    return bool(ended) and not _HABIT.search(clause) and not _RELIEF.search(clause)


def _no_more(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those as absent that are said again to be no more: 前两天拉肚子,现在不拉了."""
    told = list(found)
    starts = [finding.start for finding in told]
    for over in _FEVER_GONE.finditer(plain):
        i = bisect.bisect_left(starts, over.start()) - 1
        hot = i >= 0 and told[i].status == "present" and _kind(told[i].term) == "发热"
        if hot and over.start() - told[i].end <= AFTER and not comes_back(plain, "烧热", over.end()):
            told[i] = told[i]._replace(status="absent")
    for over in _NO_MORE.finditer(plain):
        i = bisect.bisect_left(starts, over.start()) - 1
        if i < 0 or told[i].status != "present" or STOP.search(plain, told[i].end, over.start()):
            continue
        said_again = i + 1 < len(told) and starts[i + 1] < over.end()
        if said_again or _HABIT.search(plain, max(0, starts[i] - NEAR), starts[i]):
            continue
        if (over["what"] or over["again"] or over["which"]) in plain[told[i].start : told[i].end]:
            told[i] = told[i]._replace(status="absent")
    return told


def _only_left(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those as absent that are not what is left: 昨天有吐,今天只剩打嗝."""
    told = list(found)
    for left in _LEFT.finditer(plain):
        for i in _shortly_before(plain, told, left.start(), NEAR):
            start = told[i].start
            if told[i].status == "present" and EARLIER.search(plain, clause_start(plain, start), start):
                told[i] = told[i]._replace(status="absent")
    return told


def _all_over(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those as absent or past that a clause behind them says are over: 停了都好了."""
    told = list(found)
    starts = [finding.start for finding in told]
    for over in _ALL_OVER.finditer(plain):
        first = bisect.bisect_left(starts, over.start())
        if first == len(told) or starts[first] >= over.end():  # else it tells of what stands in it
            _end(plain, told, first, over)
    return told


def _end(plain: str, told: list[Finding], first: int, over: re.Match[str]) -> None:
    """Mark in `told` what `over` ends of that which stands before `first`."""
    cause = over["cause"] or over["day"] or over["soon"] or ""
    everything = bool(over["all"] or (over["gone"] and "all" in over["gone"]))
    known = _CAUSE.search(cause) is not None and not (_SOOTHES.search(cause) or _RELIEF.search(cause))
    known = known or "止住" in over.group()
    sure = everything or bool(over["nothing"]) or not cause or known or _FINE_NOW.match(plain, over.end())
    everything = everything or bool(over["nothing"])
    remedy = known and bool(_REMEDY.search(cause))
    end = over.start()
    for i in range(first - 1, max(-1, first - 1 - _LISTED), -1):
        # One clause may stand in between: 头昏,早饭没吃,吃了两口就缓过来了
        aside = i == first - 1 and bool(cause or over["calm"])
        most = _LISTED if everything else int(aside or (remedy and i >= first - 3))
        if not 0 <= end - told[i].end <= AFTER or len(STOP.findall(plain, told[i].end, end)) > most:
            return
        if SENTENCE.search(plain, told[i].end, end):
            return
        earlier = EARLIER.search(plain, clause_start(plain, told[i].start), told[i].end) or EARLIER.search(
            plain, told[i].end, min(told[i].end + NEAR, over.start())
        )
        once = earlier is not None and _TIME_OF_DAY.fullmatch(earlier.group()) is None
        once = once or _one_day(plain, told[i].start)
        if not everything and not once and _HABIT.search(plain, clause_start(plain, told[i].start), told[i].start):
            return  # 每次来例假肚子疼,第二天就好
        if not (sure or once) or comes_back(plain, plain[told[i].start : told[i].end], over.end()):
            return
        if told[i].status == "present":
            told[i] = told[i]._replace(status="absent")
        end = told[i].end


def _one_day(plain: str, start: int) -> bool:
    """Return whether the sentence tells, shortly before `start`, of one day that is over: 昨天跑步,肋骨下疼."""
    words = plain[max(0, start - 2 * CLAUSE_BACK) : start]
    words = words[last_end(SENTENCE, words) :]
    return bool(_YESTERDAY.search(words)) and not _HABIT.search(words)


def _attacks_over(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those of an attack as past that was over some minutes later."""
    told = list(found)
    for over in _ATTACK_OVER.finditer(plain):
        for i in _shortly_before(plain, told, over.start(), AFTER):
            if told[i].status == "present":
                told[i] = told[i]._replace(status="past")
    return told


def _shortly_before(plain: str, told: Sequence[Finding], at: int, near: int) -> Iterator[int]:
    """Yield which findings of a sentence stand before `at`, the last first, none that ends farther off than `near`."""
    for i in range(bisect.bisect_left(told, at, key=lambda finding: finding.start) - 1, -1, -1):
        if at - told[i].end > near or SENTENCE.search(plain, told[i].end, at):
            return
        yield i


def _kind(term: str) -> str:
    return "发热" if term in ("低热", "高热", "持续高热", "午后低热") else term
