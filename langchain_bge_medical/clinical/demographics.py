"""Who the patient is, as far as their words say: age, sex, pregnancy; and which diseases that rules out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from langchain_bge_medical.clinical.lexicon import plain_form
from langchain_bge_medical.clinical.numbers import to_number

Sex = Literal["male", "female"]

_CHILDHOOD = 14  # years
_HAN = "零〇一二两三四五六七八九十百"
_N = rf"(?:\d{{1,3}}(?:\.\d)?|[{_HAN}]{{1,4}})"
_AGE = re.compile(
    rf"(?P<years>{_N})(?:多|来|几)?\s*(?:周?岁(?P<half>半)?|[- ]?years?[- ]?old|[- ]?y/?o\b)"
    rf"|(?P<months>{_N})(?P<month_half>个半)?\s*个?多?月\s*(?:大|龄"
    r"|了?的?(?:宝|娃|婴|孩|小孩|女儿|儿子|闺女)|[- ]?months?[- ]?old)"
    rf"|(?P<months_en>\d{{1,2}}|one|two|three|four|five|six|seven|eight|nine|ten|eleven)[- ]?months?[- ]?old"
    rf"|(?P<weeks_en>\d{{1,2}}|one|two|three|four|five|six|seven|eight|nine|ten)[- ]?weeks?[- ]?old"
    rf"|(?:出生|生下来|生后)(?:第|才|刚|已经|了)?(?P<days>{_N})(?P<unit>天|周|个月)"
    r"|(?:宝宝|娃儿?|宝贝|婴儿|孩子|小孩|儿子|女儿|闺女)(?:才|刚|刚刚|现在|今年|快|不到"
    rf"|满)?(?P<months_after>{_N})个?多?月(?!经|前|没|不|了(?!,|,|$)|来)"
    r"|(?:爸爸?|妈妈?|父亲|母亲|爷爷|奶奶|外公|外婆|老公|老婆|老伴|本人|我|他|她|男|女|姐姐?"
    rf"|哥哥?)(?:今年|,|,|\s|已经|都|快){{0,2}}(?P<bare>[1-9]\d"
    r"|[二三四五六七八九]?十[一二三四五六七八九]?)(?=[,,。;、\s]|了|$)"
    r"|\b(?:i['’]?m|i am|aged?|she['’]?s|he['’]?s|is) (?P<bare_en>[1-9]\d)\b(?![.\d%/:]"
    r"| (?:weeks|months|degrees|days|kg|times|per))"
)
_EN = dict(
    zip(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"],
        range(1, 12),
        strict=True,
    )
)
# Any word for a child or its world, the patient or not: wide, since where there is none it counts against a disease.
_CHILD_WORDS = re.compile(
    r"孩|娃|宝|婴|崽|仔|囡|妞|囝|幼|小儿|小朋友|小子|丫头|儿子|女儿|闺女|孙|外甥|侄|弟弟|妹妹|细路|老[二三]|学生|上学|全班|班里|班上"
    r"|托班|小班|中班|大班|老师|同学|校|奶|喂|辅食|岁|\bbb"
    r"|\b(?:bab(?:y|ies)|toddlers?|infants?|child(?:ren)?|kids?|sons?|daughters?|newborn|grand(?:son|daughter|child)"
    r"|niece|nephew|little (?:one|boy|girl|man|lad)|boys?|girls?|lad|age \d+|\d+ months"
    r"|(?:months?|weeks?|days?|years?|yrs?)[- ]?old|feeds?|nappy|diapers?|teeth(?:e|ing)|school|nursery|daycare|camp)\b"
)
_NEWBORN = re.compile(r"新生儿|没满月|未满月|刚满月|刚出生|月子里的(?:娃|宝|孩)|newborn")
_INFANT = re.compile(r"婴儿|奶娃|\binfant\b")
# Relatives: they are the patient where the text begins with them, and not where they only say or do something.
_KIN: tuple[tuple[str, Sex | None, str], ...] = (
    ("child", "female", r"女儿|闺女|囡囡|孙女|外孙女|小姑娘|女宝|女娃|女孩|my (?:daughter|granddaughter)|little girl"),
    ("child", "male", r"儿子|孙子|外孙|小子|男宝|男娃|男孩|my (?:son|grandson)|little boy"),
    ("child", None, r"孩子|宝宝|宝贝|小孩|娃儿?|仔仔|小朋友|幼儿|(?:my |our )?(?:baby|child|kid|toddler|infant)"),
    ("elderly", "female", r"奶奶|外婆|姥姥|阿婆|老太太|婆婆|太奶奶?|(?:my )?grand(?:ma|mother)"),
    ("elderly", "male", r"爷爷|外公|姥爷|阿公|老爷子|老头|太爷爷?|(?:my )?grand(?:pa|father)"),
    ("elderly", None, r"老人家?"),
    (
        "adult",
        "female",
        (
            r"妈妈?|母亲|老娘|老婆|媳妇|妻子|太太|女朋友|姐姐?|妹妹?|大姐|阿姨|姑姑|嫂子"
            r"|my (?:mom|mum|mother|wife|sister|aunt|girlfriend)"
        ),
    ),
    (
        "adult",
        "male",
        (
            r"爸爸?|父亲|老爹|俺爹|老公|丈夫|先生|男朋友|哥哥?|弟弟?|大哥|叔叔?|伯伯|舅舅?"
            r"|my (?:dad|father|husband|brother|uncle|boyfriend)"
        ),
    ),
)
_SUBJECT = re.compile(
    r"^(?:医生|大夫|您好|你好|请问|请教|[,。!\s])*(?:我家的?|我们家的?|俺家|我的?|俺|咱|阿拉|家里的?)?(?:"
    + "|".join(f"(?P<k{i}>{words})" for i, (_, _, words) in enumerate(_KIN))
    + (
        r")(?!说|问|以为|非说|笑|喂|抹|给|用|拿|看|让|叫我|嫌|觉得我|发现我|总说我|都说|催|不在|没事|出差"
        r"|的(?:朋友|同事|同学)| says? (?:i|my)\b)"
    )
)
_STATED = {
    "female": re.compile(
        r"(?:^|[,,。;\s])(?:本人)?女(?:性|士)?(?=[,,。;、\s]|\d|[二三四五六七八九十]|$)"
        r"|我(?:是|一)?(?:个)?女(?:的|生|性|人)|\bfemale\b|\bi['’]?m a (?:woman|girl)"
    ),
    "male": re.compile(
        r"(?:^|[,,。;\s])(?:本人)?男(?:性|士)?(?=[,,。;、\s]|\d|[二三四五六七八九十]|$)"
        r"|我(?:是|一)?(?:个)?男(?:的|生|性|人)|\bmale\b|\bi['’]?m a (?:man|guy|boy)"
    ),
}
_PREGNANT = re.compile(
    r"(?:(?<!备)(?<!没)怀孕|(?<!备)孕\s*\d+\s*\+?\d*周|孕(?:早|中|晚)期"
    r"|(?<!备)孕[一二三四五六七八九十]+[周个]|(?<!备)孕期|孕妇|有喜了|有身孕|身孕|有身子"
    r"|怀着(?:孩子|宝宝|二胎|双胞胎)?|怀了(?:孩子|宝宝|二胎|双胞胎|[一二三四五六七八九十\d])"
    r"|怀[一二三四五六七八九]个?月|大肚子(?:的)?(?:老婆|媳妇|女)|胎动|胎心|产检|宫口|羊水"
    r"|验孕[^,。]{0,4}(?:两道杠|阳性)|\bpregnan(?:t|cy)\b|\bweeks? along\b|third trimester)"
)
_NOT_PREGNANT = re.compile(
    r"(?:没有?|未|不是|并非|不可能|排除)(?:了)?(?:怀孕|身孕|有喜)|备孕|产后|生完|刚生"
    r"|怀孕(?:前|之前|以前)|没怀|流产后|怀过孕|生过|\bnot pregnant\b|\bafter (?:giving birth|delivery)\b"
    r"|以前怀孕|上次怀孕|怀老大|想怀孕|能怀孕|怀不上|避孕"
)
# What only one sex has goes before the words for relatives.
_BODY = {
    "female": re.compile(
        r"月经|例假|大姨妈|姨妈(?:来|巾|期)|来事|痛经|白带|阴道|外阴|子宫|卵巢|宫颈|怀孕"
        r"|孕[\d一二三四五六七八九十]|孕妇|胎动|产后|哺乳|喂奶|生完孩子|绝经|更年期|停经|宫外孕"
        r"|\bmy period\b|\bperiods?\b(?= (?:pain|late|is|are))|pregnan|vagina|menopause|breastfeed"
    ),
    "male": re.compile(
        r"睾丸|阴囊|蛋蛋|前列腺|阴茎|龟头|包皮|勃起|早泄|遗精|晨勃|射精|精液|不举|鸡鸡|testic|scrotum"
        r"|prostate|penis|erection|foreskin"
    ),
}


class Patient(BaseModel):
    """What the words tell; `None` is unknown."""

    model_config = ConfigDict(frozen=True)

    age: float | None = None
    """Years; an infant's is a fraction."""
    sex: Sex | None = None
    pregnant: bool = False
    child: bool = False
    """Whether it is told of a child, with or without an age."""
    elderly: bool = False


def patient_of(text: str) -> Patient:
    """Return who the patient is, as far as `text` says.

    Args:
        text: A patient's words, or a relative's.

    Returns:
        What is said; where it points both ways (`我妈…我爸…`), nothing.
    """
    plain = plain_form(text)[0]
    age = _age(plain)
    pregnant = bool(_PREGNANT.search(plain)) and not _NOT_PREGNANT.search(plain)
    kind, sex = _subject(plain)
    stated: list[Sex] = [s for s in ("male", "female") if _STATED[s].search(plain)]
    bodies: list[Sex] = [s for s in ("male", "female") if _BODY[s].search(plain)]
    if len(bodies) == 1:
        sex = bodies[0]
    elif len(stated) == 1:
        sex = stated[0]
    elif len(bodies) == 2:
        sex = None
    if age is not None and age < 10 and (pregnant or bodies):
        age = None  # the child's, told by its mother
    if pregnant:
        sex = "female"
    child = age < _CHILDHOOD if age is not None else kind == "child" and not pregnant
    elderly = age >= 65 if age is not None else kind == "elderly"
    return Patient(age=age, sex=sex, pregnant=pregnant, child=child, elderly=elderly)


def speaks_of_child(text: str) -> bool:
    """Return whether there is any word for a child in a text, whoever the patient is.

    Args:
        text: A patient's words, or a relative's.
    """
    return _CHILD_WORDS.search(plain_form(text)[0]) is not None


def _subject(plain: str) -> tuple[str, Sex | None]:
    """Return which kind of relative the text begins with, if any, and their sex."""
    match = _SUBJECT.match(plain)
    if match is None or match.lastgroup is None:
        return "", None
    kind, sex, _ = _KIN[int(match.lastgroup[1:])]
    return kind, sex


def _age(plain: str) -> float | None:
    ages = []
    for match in _AGE.finditer(plain):
        if match["years"]:
            said = to_number(match["years"])
            ages.append(None if said is None else said + (0.5 if match["half"] else 0))
        elif months := (match["months"] or match["months_after"]):
            if re.search(r"怀[^,。]{0,4}$", plain[max(0, match.start() - 5) : match.start()]) or "怀" in match.group():
                continue
            said = to_number(months)
            ages.append(None if said is None else (said + (0.5 if match["month_half"] else 0)) / 12)
        elif match["months_en"]:
            ages.append((_EN.get(match["months_en"]) or float(match["months_en"])) / 12)
        elif match["weeks_en"]:
            ages.append((_EN.get(match["weeks_en"]) or float(match["weeks_en"])) / 52)
        elif match["days"]:
            said = to_number(match["days"])
            per_year = {"天": 365, "周": 52, "个月": 12}[match["unit"]]
            ages.append(None if said is None else said / per_year)
        else:
            said = to_number(match["bare"] or match["bare_en"])
            ages.append(said)
    known = [age for age in ages if age is not None and age <= 120]
    if known:
        return known[0]
    if _NEWBORN.search(plain):
        return 0.05
    return 0.5 if _INFANT.search(plain) else None


def of_children_only(disease: Mapping[str, Any]) -> bool:
    """Return whether a document's metadata say by its `age` that none but children, up to 14, get a disease."""
    age = disease.get("age")
    return isinstance(age, Mapping) and float(age.get("max") or 120) <= _CHILDHOOD


def mismatch(patient: Patient, disease: Mapping[str, Any]) -> Literal["impossible", "unlikely"] | None:
    """Return how little a disease fits the patient, by its `age` (`{"min", "max"}`, years) and `sex`.

    Args:
        patient: Who it is.
        disease: A document's metadata.

    Returns:
        `impossible` for the other sex, or an age that is far outside; `unlikely` for an age just outside;
        `None` if nothing speaks against it.
    """
    sex = disease.get("sex")
    if sex in ("male", "female") and patient.sex is not None and sex != patient.sex:
        return "impossible"
    age = disease.get("age")
    if not isinstance(age, Mapping):
        return None
    low, high = float(age.get("min") or 0), float(age.get("max") or 120)
    if patient.age is None:
        # 孩子 without an age is no grown-up, and 老人 is no child.
        if (patient.child and low >= 18) or (patient.elderly and high <= _CHILDHOOD):
            return "impossible"
        return "unlikely" if patient.pregnant and (low > 50 or high < _CHILDHOOD) else None
    if low <= patient.age <= high:
        return None
    margin = max(1.0, 0.25 * (low if patient.age < low else high))
    far = patient.age < low - margin or patient.age > high + margin
    return "impossible" if far else "unlikely"
