"""When it is better to say nothing: a text that is no complaint, or a complaint that no document fits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import Literal, NamedTuple

from langchain_core.documents import Document

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, plain_form
from langchain_bge_medical.clinical.numbers import durations
from langchain_bge_medical.clinical.polarity import AFFIRMED, Finding, affirms_nothing
from langchain_bge_medical.clinical.weights import ABSTENTION, ABSTENTION_THRESHOLD, AbstentionWeights
from langchain_bge_medical.knowledge_base import listed

_PETS = (
    r"狗狗?|小狗|狗子|猫咪?|小猫|猫猫|主子|泰迪|金毛|柯基|哈士奇|橘猫|英短|仓鼠|兔子|乌龟|鹦鹉|小鸟|鸽子"
    r"|金鱼|鱼缸|母鸡|小鸡|鸡(?!胸|眼|皮|蛋|肉)|鸭子|猪(?!肉)|小猪|牛(?!肉|奶|皮癣)|奶牛"
    r"|羊(?!癫|角风|水|肉)|蜜蜂|蚕|宠物"
)
_PLANTS = (
    r"绿萝|多肉|君子兰|月季|玫瑰花?|兰花|吊兰|发财树|盆栽|花盆|仙人掌|草坪|树叶?|叶子|叶片|番茄苗|黄瓜苗"
    r"|辣椒苗|果树|庄稼|水稻|玉米苗|菜地|花草"
)
_THINGS = (
    r"手机|电脑|笔记本|台式机|主板|显卡|屏幕|显示器|键盘|鼠标|空调|冰箱|洗衣机|热水器|电视|打印机|路由器"
    r"|网络|网速|wifi|系统|软件|服务器|代码|程序|汽车|车子|发动机|轮胎|电动车|自行车|水管|马桶|下水道"
    r"|墙皮|墙面|地板|房子|窗户|灯泡|电池|充电器|耳机(?!戴)|音响|相机|游戏机?|账号"
)
_AFFAIRS = (
    r"股市|股票|大盘|a股|房价|楼市|楼盘|基金|经济|通胀|物价|公司|球队|国足|比赛|电影|电视剧|小说|这首歌"
    r"|歌词|项目|工作|老板|领导|考试|作业|这道题|数学题?|甲方|群里|论文|市场|生意|行业|政策"
)
_SUBJECT = re.compile(
    r"^(?:医生|大夫|请问|你好|您好|想问一?下?|求助|[,。!\s])*(?:我的?|我家的?|我们的?|咱家?|家里的?"
    r"|我养的|新买的|这个?|这台|这只|那只|邻居家的?|楼下的?|最近|今天|今年|昨天|的|养的|两只|一只)*"
    rf"(?:(?:{_PETS})(?!咬|抓|挠|舔|扑|毛过敏|毛)|{_PLANTS}|{_THINGS}|{_AFFAIRS})(?!咬|看(?:久|多)"
    r"|玩(?:久|多)|前|用(?:久|多)|辐射|打|以后|后面)"
    r"|^(?:my|our|the) (?:\w+ )?(?:dog|cat|puppy|kitten|hamster|rabbit|parrot|fish|plants?|laptop"
    r"|computer|phone|car|printer|tv|screen|stocks?|server|code|bike|boss)s?\b(?! (?:bit|scratched))"
    r"|^(?:stock market|plants?|cars?)\b"
)
_FIGURE = re.compile(
    r"(?:让人|让我|真让|令人|太让|搞得我|弄得我)[^,。]{0,4}(?:头[疼痛大]|心[疼痛碎]|抓狂|上头|吐血"
    r"|脑壳[疼痛])|头[疼痛]的(?:题|作业|问题|事|数学|论文|项目|是)|[疼痛](?:数学|题)|头大(?!如)"
    r"|笑[得死][^,。]{0,4}(?:肚子|腹|喷|岔气)|心(?:在|里|都在)*滴血|手痒(?:想|得想|了?想)"
    r"|眼红(?:别人|人家|他|她|同事)|胃口(?:不小|很大|真大)(?=[^,。]{0,4}(?:公司|想|敢)?)|嘴硬"
    r"|脸皮(?:真|太|这么|好)?厚"
    r"|背锅|心碎了?[,,]?[^,。]{0,4}(?:分手|失恋|她|他)|吐槽|吐血价|发烧友|发烧级|中病毒|病毒视频|杀毒"
    r"|大出血(?:甩卖|促销)|裁员|甩卖|抽风(?:了)?的?(?:网|系统)|脑残|有病(?:吧|啊)|你(?:才)?有病|神经病啊"
    r"|气死我了|(?:高烧|发烧)不退[^,。]{0,4}(?:清仓|股|房|楼|市|行情)|疲软的|癌症晚期的?(?:球|股)"
    r"|对症下药(?:造句|是什么)|什么意思|造句|成语|下一句|出自"
    r"|headache\b[^.]{0,10}(?:homework|of a|for my)|gives? me a headache|sick of"
    r"|pain in the (?:neck|ass)|feverish(?:ly)?\b[^.]{0,20}(?:market|trading)|stock|homework"
)
_WISH = re.compile(
    r"预约|挂号(?:费|怎么|平台)|医保|报销|社保|异地就医|备案|几点(?:开|关|上|下|营业)|营业|开门|关门"
    r"|放假|多少钱|价格|贵不贵|收费|费用|哪个牌子|什么牌子|哪款|推荐(?:一|几|个|下|吗|什么|本|部)|食谱"
    r"|菜谱|做法|怎么(?:做(?:菜|饭|才好吃|好吃)|炒|炖|煮|烤|种|养|浇|校准|重装|退货|提取|贷款|注册|考"
    r"|报名|办理|补办|开通|投诉|充值|注销|换|关闭)"
    r"|翻译|写(?:一?[首篇段个封份])|帮我(?:写|查|算|翻译|订|画)|讲个|笑话|天气|气温|下雨|怎么考|分数线"
    r"|招生|学费|就业|工资|待遇|简历|疫苗(?:[^,。]{0,6}(?:预约|去哪|哪里|多少|几针|本))|可以坐飞机"
    r"|能坐飞机|多久(?:出来|出结果|能拿)|有什么(?:区别|不同|好处|作用|用)"
    r"|的(?:区别|作用|功效|用途|副作用)|一天(?:能|可以|吃)?(?:吃)?几[次片颗粒]"
    r"|怎么(?:读|念|写|拼|用|戴|选)|定义|全称|缩写|是谁(?:发|写)?|谁(?:发明|写|赢)"
    r"|什么时候(?:结束|开始|放)|首都|人口|汇率|彩票|星座|运势|梦见|周公|减肥(?:食谱|餐|期间|方法|操|药)"
    r"|健身(?:房|卡|计划)|护肤品|化妆品|口红色号|攻略|旅游|酒店|机票|高铁|火车票|快递|外卖|导航|地图"
    r"|电话号码|地址在"
    r"|你(?:好|是谁|叫什么|会什么|能做|多大)|在吗|谢谢|再见|晚安|早上好|哈哈|嘿嘿|嗯嗯|哦哦|收到|好的$"
    r"|\b(?:opening hours|appointment|insurance|how much|price|cost of|recipe|translate|poem|joke"
    r"|weather|password|what(?:'s| is| does)(?! (?:wrong|causing|happening|this (?:rash|lump|pain)"
    r"|going on))|capital of|who (?:won|is|invented|wrote)"
    r"|how (?:do|to|can) (?:i |you )?(?:lose weight|become|cook|make|reset|write|get a|book|apply"
    r"|cancel)|recommend|where can i|tell me|write me|explain|define|hello|hi there|thanks|thank you|lol"
    r"|good morning)\b"
)
_BODY = re.compile(
    r"[头脸眼耳鼻嘴唇舌牙喉咽颈脖肩臂肘腕胸背腰腹臀肛腿膝踝脚趾骨]|手(?!机|续|工|游|册|表)|身上|肚|胃"
    r"|心(?:口|脏|跳|慌|率)|肺|肝(?!脏菜)|肾|皮肤|关节|指甲|血(?:压|糖|脂|氧|块|丝)?|尿|大便|月经|例假"
    r"|白带|怀孕|睾|阴|乳|甲状腺|淋巴"
    r"|b超|彩超|ct\b|核磁|胃镜|肠镜|化验|指标|体检|拍片|查出|医生说|吃(?:了)?药|药也|手术|住院"
    r"|\b(?:head|face|eyes?|ears?|nose|mouth|lips?|tongue|tooth|teeth|gums?|throat|neck|shoulders?|arms?"
    r"|elbows?|wrists?|hands?|fingers?|chest|breasts?|back|belly|stomach|tummy|groin|hips?|legs?|knees?"
    r"|ankles?|feet|foot|toes?|skin|joints?|urine|pee|stool|poop|period|heart|breath\w*|blood|pulse"
    r"|sugar|weight|sleep\w*|slept)\b"
)


class Abstention(NamedTuple):
    """Whether to say nothing, and why."""

    abstains: bool
    score: float
    """How likely it is that the text is a complaint which a document fits, in [0, 1]. Fitted on other people's
    complaints and other talk over the bundled knowledge base; not a probability elsewhere."""
    reason: Literal["no_symptoms", "no_match"] | None


def features(
    query: str,
    said: Sequence[Finding],
    documents: Sequence[Document],
    lexicon: SymptomLexicon,
    *,
    flagged: bool = False,
) -> list[float]:
    """Return what the score is made of, in the order of `AbstentionWeights` behind `bias`.

    Args:
        query: The patient's words.
        said: Their findings.
        documents: What was found, best first.
        lexicon: Its terms count for more than a complaint that no term says.
        flagged: Whether a red flag is met.

    Returns:
        Numbers of the order of 1.
    """
    plain = plain_form(query)[0].strip()
    affirmed = [f for f in said if f.status in AFFIRMED]
    known = [f for f in said if f.term in lexicon.entries and f.status != "family"]
    symptoms = listed(documents[0].metadata, "symptoms") if documents else ()
    spoken = sum(f.end - f.start for f in said)
    return [
        math.sqrt(min(len(known), 4)),
        float(not known and bool(said)),
        min(1.0, spoken / max(1, min(len(query), 40))),
        _best(documents),
        float(any(f.term in symptoms for f in affirmed)),
        float(bool(_BODY.search(plain))),
        float(bool(durations(plain))),
        float(flagged),
        float(bool(_SUBJECT.search(plain) or _FIGURE.search(plain))),
        float(bool(_WISH.search(plain))),
    ]


def abstention(
    query: str,
    said: Sequence[Finding],
    documents: Sequence[Document],
    lexicon: SymptomLexicon,
    *,
    flagged: bool = False,
    weights: AbstentionWeights = ABSTENTION,
    threshold: float = ABSTENTION_THRESHOLD,
) -> Abstention:
    """Return whether it is better to say nothing.

    Args:
        query: The patient's words.
        said: Their findings.
        documents: What was found, best first; none is a reason to say nothing.
        lexicon: The terms that were looked for.
        flagged: Whether a red flag is met; red flags are shown in any case.
        weights: Of the features.
        threshold: The least score that is answered.

    Returns:
        The decision with its score.
    """
    if not documents:
        return Abstention(abstains=True, score=0.0, reason="no_match")
    if affirms_nothing(query, said):
        return Abstention(abstains=True, score=0.0, reason="no_symptoms")
    bias, *slopes = weights
    total = bias + sum(
        w * x for w, x in zip(slopes, features(query, said, documents, lexicon, flagged=flagged), strict=True)
    )
    score = 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))
    if score >= threshold:
        return Abstention(abstains=False, score=score, reason=None)
    return Abstention(abstains=True, score=score, reason="no_match" if said else "no_symptoms")


def relevance_scores(documents: Sequence[Document]) -> list[float | None]:
    """Return the `relevance_score` of each document that has one.

    `None` for all where any lies outside [0, 1]: an encoder of another kind has a scale of its own.
    """
    scores = [d.metadata.get("relevance_score") for d in documents]
    known = [float(score) if isinstance(score, Real) else None for score in scores]  # NumPy's, too
    return known if all(0 <= score <= 1 for score in known if score is not None) else [None] * len(known)


def _best(documents: Sequence[Document]) -> float:
    """Return the best of the `relevance_scores` on [-1, 1]; 0 where there is none."""
    return 2 * max(known) - 1 if (known := [s for s in relevance_scores(documents) if s is not None]) else 0.0
