"""Whom a finding is told of: the patient, a relative, the neighbours."""

from __future__ import annotations

import re

from langchain_bge_medical.clinical.context.words import NEAR, SAYS_NOTHING, STOP, last_end
from langchain_bge_medical.clinical.lexicon import Mention

_RELATIVES = (
    r"(?:[娃孩][子儿]?他[爸妈爹娘]|老板|领导|上司|父亲|母亲|爸爸|妈妈|[老阿俺]?(?:爸|妈|爹|娘)|爷爷|奶奶|外公|外婆"
    r"|姥姥|姥爷|阿公|阿婆|阿嬷|阿爷|爹爹|家里人|家人|家里"
    r"|[大二三小]?(?:舅妈|舅母|姑妈|姑父|姨妈|姨父|姨夫|婶婶|伯父|伯母|伯|舅|姑|叔|婶)|公公|婆婆|岳[父母]|丈母娘"
    r"|同事|同伴|工友|室友|舍友|同学|邻居|隔壁[^，,。]{0,4}|邻床[^，,。]{0,3}|亲戚|朋友|闺蜜|老公|老婆"
    r"|爱人|对象|男朋友|女朋友|媳妇|丈夫|妻子|先生|太太"
    r"|男友|女友|老伴儿?|老头子|老头儿|老汉儿|老[妹弟哥姐]儿?|老[李王张刘陈杨赵黄周吴]头?|老大哥|儿女|对门[^，,。]{0,3}|外甥女?|侄[子女儿]|表[叔姑姨舅]"
    r"|(?<=[我俺咱])[爷奶姥](?![水粉量头爷奶姥])|阿[哥姐弟妹嫂]|细佬|老豆|老窦|家姐"
    r"|哥哥|弟弟|姐姐|妹妹|大哥|大姐|大爷|大妈|大叔|表姐|表哥|表弟|表妹|堂[哥弟姐妹]|[哥弟姐妹](?!们)"
    r"|舅舅|叔叔|伯伯|姑姑|[大二三小]?姨|儿子|女儿|闺女|孩子|宝宝|娃|孙子|孙女|病友|同桌|邻桌|同屋的?|同班的?"
    r"|同车的?|同住的?|村里[^，,。]{0,3}"
    r"|别人|人家)"
)
_KIN_EN = (
    r"(?:everyone|everybody|husband|wife|dad|father|mom|mum|mother|sister|brother|friend|roommate|flatmate"
    r"|classmate|co-?worker|colleague|grandm(?:a|other)"
    r"|grandpa|grandfather|granny|nan|aunt(?:ie)?|uncle|cousin|partner|boyfriend|girlfriend|fiancee?|bf|gf|boss"
    r"|neighbou?r|twin|niece|nephew)s?"
)
# Whom it is told of. What I feel or do about the patient ("我不知道怎么办") does not make me the patient.
_WHO = re.compile(
    rf"(?P<others>(?:我们?|俺|咱|我家|我们家|他|她)?(?:的)?(?<![\w]){_RELATIVES}"
    rf"|(?:我们?|俺|咱|我家|我们家)(?:的)?{_RELATIVES}|(?<![生怀带抱喂养过]){_RELATIVES}(?=[^，,。]{{0,8}}$)|他(?!们"
    rf"|旁边|那|身边|一起)|她"
    rf"|\b(?:my|his|her|our) (?:{_KIN_EN}|son|daughter|kid|child|baby|toddler|wife|husband)\b|\bcolleague\b|\bs?he\b)"
    r"|(?P<teller>(?:我|俺)(?:(?:现在|也|都|就|还|真|又|先|当时|该|应该)*(?:想|要|该|怎么|担心|怕|害怕"
    r"|看|瞧|瞅|闻|发现|摸(?!了摸自己)|拍|量|查|请|陪|送|接|劝|催|守|照顾|哄|回|下班|上班|心里|给|带|让"
    r"|问|听|认为|以为|记得|不知|不晓|不懂|不敢|不确定|不清楚|不在|不放心|数|说|跟|把|去|能|可以|用|抱"
    r"|打|叫|赶紧|马上|急|吓|慌|一个人|家|们|这边|有点?(?:害怕|担心|慌|急)|是不是(?:要|该)))"
    r"|(?<=[在到往靠趴])(?:我|俺)(?:怀|身边|旁边|跟前|面前|床|肩|背上|腿上|手[里上]))"
    r"|(?P<mine>我(?:反而|反倒|现在|目前|最近|这(?:次|回|[几两]天|腰|头|肚|嗓|胸|腿|手)|倒是?))"
    r"|(?P<self>我家[这那][个位]|我自己|本人|(?<![他她佢它您妈爸娃人说])自己|我|俺|\bi\b|\bi['’]ve\b|\bi['’]m\b"
    r"|\bmy own\b|\bmyself\b|\bmy\b|\bmine\b|\bme\b)"
)
# Who asks for somebody else: that one is the patient, and what the teller has is not asked about.
ASKED_FOR = re.compile(
    rf"(?:替|帮|代|给|为)(?:我|俺|咱)?(?:们)?(?:家|屋里)?(?:的|个)?(?:{_RELATIVES}|[他她])[^，,。；;]{{0,4}}(?:问"
    rf"|咨询|看看|查查|挂号|打听)"
    r"|(?:替|帮|代)(?:我|俺|咱)[^，,。；;问]{1,6}(?:问|咨询|打听)"
    rf"|不是(?:我|俺)(?!们|家|[的]).{{0,8}}?[，,]?(?:而)?是(?:我|俺)(?:们)?(?:家)?的?{_RELATIVES}"
    rf"|(?:我|俺)(?:自己)?(?:不|没)[^，,。；]{{1,6}}[，,](?:主要)?是(?:我|俺)?(?:们)?家?的?{_RELATIVES}"
    rf"|\basking for my {_KIN_EN}|\bdo (?:for|about) (?:him|her)\b|\bhelp (?:him|her)\b"
)
SELF_WELL = re.compile(
    r"[，,。；;]\s*(?:但|可|而|倒|倒是|就|唯独|所以)?是?我(?:自己)?(?:还[好行](?=[，,。；;！!\n]|$)|(?:现在|目前|最近|今年|这两年|这几年"
    r"|[0-9一二三四五六七八九十]{1,3}岁?了?"
    r"|才|也|都|倒|一向|的?(?:头发|大便|小便|血压|血糖|身体|胃口|睡眠|眼睛|记性|[头胸腰腿脚手嗓肚]\w{0,2})"
    r"){0,3}(?:还|一向|倒|都|从来){0,2}(?:没(?!有?(?:好|退|办法|时间|来得及|注意|当回事|敢(?!吃|用|打|试)|[在见看去带给让问听跟陪管睡]|多想|告诉|发现|想到))|不(?!知|晓|懂|敢"
    r"|在|会|放心|确定|清楚|想|要|能|觉|舒|得|太)|好好|正常|挺[密好]|好着|稳定))"
    r"|\bmine (?:is|are|was)\b|[,.;]\s*(?:but )?my (?:own )?\w+(?:['’]s| is| are) (?:still )?(?:thick|fine|ok|okay"
    r"|normal|good)\b|"
    r"[就唯独单]{1,2}(?:剩|有)?(?:我|俺|他|她)(?:一个)?[^，,。；;没不]{0,4}?(?:没有?|不|啥事|好好的|例外|没事)|(?:我"
    r"|俺)(?:自己)?(?:啥|一点|什么)(?:事|毛病"
    r"|感觉)?(?:也|都)?没"
    r"|\bi['’]?(?:m| am| feel) (?:fine|ok(?:ay)?|well|good|healthy|not sick|not ill)\b|\b(?:except|but|besides"
    r"|not) me\b|"
    r"(?:我|俺)(?:自己)?(?:倒|倒是|都|就|是)?(?:没有?(?=[，,。；;！!\n]|$)|好好的|没事|没啥事"
    r"|不(?!知|晓|懂|敢|在|会|放心|确定|清楚|想|要|能|觉)|没(?!有?(?:好|退|办法|时间|注意|敢|[在见看去带给让问听跟陪管睡]|多想|来得及|告诉|发现|想到|当)))"
    r"|(?:同事|同学|邻居|隔壁|邻床|室友|舍友|工友|病友|亲戚|(?<![男女])朋友)[^。！？!?\n]{1,30}[，,。]\s*(?:我家"
    r"|我(?![们爸妈哥姐弟妹老奶爷外姑姨叔能该要怎想可]|同事|同学|朋友|室友)|俺)"
)
# 老婆发烧我没有, 全家拉肚子就我没拉
NOT_ME = re.compile(
    r"(?:[得的]\w{1,5}|了|过|\w{1,4}回)?[，,]?\s*(?:但|可)?(?:我|俺)(?:自己)?(?:就|倒|可|却|还|目前|现在|一点){0,3}(?:没有?|冇|啥事(?:也|都)?没)"
    r"(?:过|事儿?|的|有)?(?=[，,。；;!！\n]|$)"
)
ALL_BUT_ME = re.compile("[就唯独只](?:有|剩)?(?:我|俺).{0,3}没")
# A relative who begins a clause, and is neither told what to do nor tells of the patient: 我爸也这样, 她姐姐有过.
_RELATIVE = re.compile(
    rf"(?:^|[，,。；;!！?？\n\s：:])(?:我们?|俺|咱|他|她|佢|娃|孩子|宝宝)?(?:家|屋)?里?的?(?P<han>{_RELATIVES}|宿舍"
    rf"|幼儿园(?=好|有|都|里)|班[上里]|办公室(?=好|有|都|里|[一两三四五几半]个)"
    r"|厂里|(?:周围|身边)(?=的?人|有|好|都)|单位(?=里|好|有|都)|家族|老家|全(?:家|班|校|厂|村|寝室?|宿舍|办公室|公司"
    r"|车间|单位|队)|一家子|(?:公司|车间|学校|店里"
    r"|工地)(?=里|上|都|好|有|[一两三四五几半]个)|接触过?)"
    r"(?![们都还也老总就又]{0,2}(?:说|讲|话|看|觉得|发现|让|叫|带|陪|给|摸|问|劝|催|逼|送|抱|打|帮|代|家属|以为|夸"
    r"|喊|骂|笑|嫌|怀疑|担心|吓|听|记|一捏|一碰))"
    r"(?P<rest>(?:(?!说我|说他|说她|以为|夸[我他她]|喊[我他她]|看[我他她])[^，,。；;!！?？\n]){0,16})$"
    rf"|(?:^|[,.;!?\n]|\band\b)\s*(?:my |his |her |our )?(?P<latin>{_KIN_EN})\b(?! (?:says?|said|thinks?|noticed"
    rf"|told|brought|made|records?|recorded|heard|hears|saw|complains?|caught|found))[^,.;!?\n]{{0,30}}$"
    r"|(?P<runs>\bfamily history of|\bfh(?:x)? of)[^,.;]{0,20}$"
    r"|(?:^|[，,。；;])\s*(?P<mother>母孕期|母亲孕期|孕母)[^，,。；;]{0,8}$"
)
_CHILDREN = frozenset(("孩子", "宝宝", "娃", "儿子", "女儿", "闺女", "孙子", "孙女"))
_OUR_CHILD = re.compile(
    r"(?:我|俺|咱)们?(?:家|屋)?里?的?[大小老]?(?P<child>孩子|宝宝?|娃|儿子|女儿|闺女|姑娘|丫头|小子|崽|孙子|孙女|外孙|妞|囡|仔)"
)
_OUTSIDER = re.compile("隔壁|对门|邻|同|室友|舍友|工友|病友|朋友|幼儿园|班|办公室|公司|学校|全|宿舍|单位|别人|人家")
# Such a one anywhere in a text, where less must do: 全 and 班 begin other words, too.
_OUTSIDE = re.compile("隔壁|对门|邻居|同学|同事|室友|小朋友|幼儿园|班上|班里|学校|全校|全班|别人家|人家|单位|公司")
_SAME_AS = re.compile(r"[也都]|过|年轻|以前|当年|得的|\b(?:too|also|as well)\b")
_ONE_NAME = {"母": "妈", "娘": "妈", "父": "爸", "爹": "爸", "阿": "", "老": "", "俺": ""}
# What another one does for the patient says nothing of how that one is: 同学把我拖到树荫下, 邻居给了几片药.
_DOES_TO_ME = re.compile(
    r"[^，,。；;!！?？\n我俺]{0,6}?(?:[把给带让叫劝送拉扶推喊陪帮拖抱背]|说|笑|看|摸|骂|催)[了着过]?(?:我|俺)(?![们家爸妈爷奶爹娘哥姐弟妹儿女孙公婆])"
    r"|(?:给|送|拿|介绍|推荐|教)[了过的](?![^，,。；;]{0,4}(?:他|她))"
)


def told_of(
    plain: str, between: str, before: str | None, patient: str | None, mention: Mention
) -> tuple[str | None, bool, str, bool]:
    """Return whom a finding is told of, whether that is the teller, who the patient is, and whether it is another.

    Args:
        plain: The text in plain form.
        between: What of it stands between the finding before and this one.
        before: Whom the finding before is told of.
        patient: Who the patient is, as far as was said.
        mention: The finding.
    """
    if between in SAYS_NOTHING:
        relative = ours = None
        who, own = before, False
    else:
        relative, ours = _relative(between), _OUR_CHILD.search(between)
        who, own = _last_who(between, before)
    if relative is not None:
        who, own = "others", False
    if ours is not None and (_OUTSIDER.match(patient) if patient else _OUTSIDE.search(between, 0, ours.start())):
        relative, patient, who, own = None, ours["child"], "self", True  # 好几个小朋友都红眼睛,我家娃也红了,眼屎…
    elif relative in _CHILDREN and patient is not None and _OUTSIDER.match(patient):
        patient, who, own = relative, "self", True  # 邻居家孩子出水痘,我家娃…
    if patient is None:
        patient = relative or ("self" if own else "?")
    kin = relative is not None and _is_kin(relative, patient, between, plain[mention.start : mention.end + 12])
    if plain.startswith("my ", mention.start):
        whose = _WHO.match(plain, mention.start, mention.end + 12)
        if whose is not None and whose.lastgroup == "self":
            who, own = "self", True
    return who, own, patient, kin


def _relative(between: str) -> str | None:
    """Return who is the subject of the clause that a finding stands in, if that is a relative or a friend."""
    said = _RELATIVE.search(between[-40:])
    if said is None:
        return None
    return said["han"] or said["latin"] or said["mother"] or said["runs"]


def _is_kin(relative: str, patient: str, between: str, after: str) -> bool:
    """Return whether a finding told of `relative` is told of somebody else than the patient."""
    if _name(relative) == _name(patient):
        return False
    if relative in ("别人", "人家"):
        return bool(_SAME_AS.search(between[-12:] + after))
    if relative in _CHILDREN or relative in ("husband", "wife"):
        return patient != "?" and bool(_SAME_AS.search(between[-12:] + after))
    return True


def _name(relative: str) -> str:
    word = relative.lstrip("阿老俺") or relative
    return _ONE_NAME.get(word[0], word[0]) or word if not word.isascii() else word[:3]


def _last_who(words: str, before: str | None) -> tuple[str | None, bool]:
    """Return whom the next finding is told of, and whether that is the teller, in their own words right before it."""
    who = before
    clause = last_end(STOP, words)
    for match in _WHO.finditer(words):
        if match.lastgroup == "others" and _DOES_TO_ME.match(words, match.end()):
            continue
        kind = "self" if match.lastgroup == "mine" else match.lastgroup
        if kind == "others" or match.lastgroup == "mine" or (kind == "self" and match.start() >= clause):
            who = kind
            near = 2 * NEAR if match.group().isascii() else NEAR
            if who == "self" and len(words) - match.end() <= near:
                return who, True
    return who, False
