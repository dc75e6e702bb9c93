"""What a chat model may say: only diseases that were retrieved, cited; no doses, no drugs, no reassurance, no orders.

The records and the patient's words are data. What looks like an instruction in them is taken out before a model sees
it; and whatever the model says is checked sentence by sentence before anybody else sees it.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_bge_medical.clinical.lexicon import Lang, SymptomLexicon, plain_form
from langchain_bge_medical.knowledge_base import listed

_KNOWLEDGE = Path(__file__).parent / "resources" / "medical_knowledge.json"

# ------------------------------------------------------------------------------------------------ what a text may hide

_INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\u034f\u180e\U000e0000-\U000e007f]"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f]"
)
# Between Chinese characters anything but a stop may be there to hide a word: 白 血 病, 白-血-病, 白|血|病.
_HIDING = re.compile(r"(?<=[\u3400-\u9fff])[\s\-‐-–_*·.|/\\~`^+=#'\"“”‘’<>〈〉()（）【】\[\]]+(?=[\u3400-\u9fff])")
_LETTERED = re.compile(r"\b(?:[a-z][\s.\-_*]){3,}[a-z]\b")  # l e u k e m i a


_BETWEEN_SCRIPTS = re.compile(r"(?<=[\u3400-\u9fff])(?=[a-z])|(?<=[a-z])(?=[\u3400-\u9fff])")  # so that words have ends


def visible(text: str) -> str:
    """Return `text` without characters that are there to hide something."""
    return _INVISIBLE.sub("", text)


def _bare(text: str) -> str:
    """Return the plain form of `text` with words that were pulled apart put together."""
    plain = plain_form(visible(text))[0]
    plain = _HIDING.sub("", plain)
    plain = _BETWEEN_SCRIPTS.sub(" ", plain)
    return _LETTERED.sub(lambda match: re.sub(r"[\s.\-_*]", "", match.group()), plain)


_MARKS = re.compile(r"['’‘ʼ′`]s?\b|['’‘ʼ′`]|\s?[\u0300-\u036f]")
_APART = re.compile(r"[\s\-‐-―−_*/·]+|(?<=\d)(?=[\u3400-\u9fff])|(?<=[\u3400-\u9fff])(?=\d)")


def _spelled(bare: str) -> str:
    """Return a bare text in which names have one spelling: Crohn's or Crohn’s, pre-eclampsia or _pre‑eclampsia_."""
    return _APART.sub(" ", _MARKS.sub("", unicodedata.normalize("NFKD", bare)))


def _as_name(text: str) -> str:
    return _spelled(_bare(text)).strip()


def _found(pattern: re.Pattern[str], bare: str) -> bool:
    """Return whether a pattern is in a bare text, with or without the blanks between its scripts."""
    return bool(pattern.search(bare) or pattern.search(_SCRIPT_BLANKS.sub("", bare)))


_SCRIPT_BLANKS = re.compile(r"(?<=[\u3400-\u9fff]) (?=[a-z])|(?<=[a-z]) (?=[\u3400-\u9fff])")


# ------------------------------------------------------------------------------------------------------- instructions

_INSTRUCTION = re.compile(
    r"(?:忽略|无视|忘记|忘掉|不要理会|不必理会|跳过|绕过|覆盖|取消|解除|停止遵守|违反|不用管"
    r"|别管)[^。;!?\n]{0,14}(?:指令|指示|要求|规则|限制|设定|提示|内容|约束|安全|资料|以上|上述|之前"
    r"|前面|系统|通知|声明|警告|免责)"
    r"|(?:系统|管理员|开发者|超级用户|root|最高)[^。;!?\n]{0,6}(?:指令|命令|提示|模式|权限|消息|通知"
    r"|要求|授权)|新(?:的)?(?:指令|规则|任务|设定)[:,是]"
    r"|(?:指令|命令|任务|system|assistant|user|human|ai|instruction)s?\s*[::]|更新后的(?:规则|指令)"
    r"|你(?:现在|从现在起|此刻|今后|将|必须|要|应|需要)*(?:是|扮演|成为|变成|充当"
    r"|叫)(?:一?[个名位])?[^。;!?,\n]{0,12}(?:助手|模型|机器人|医生|专家|角色|黑客|dan|ai|猫|诗人|海盗"
    r"|药师|没有限制)|扮演|角色扮演|假装|假设你(?:是|没有)|越狱|开发者模式|不受(?:任何)?(?:限制|约束)"
    r"|(?:请|务必|必须|一定要|只能|只需|直接|马上|现在|开头|结尾|最后|首先|立即|严格|你要|你应该|你得"
    r"|帮我|给我|麻烦|要求你)[^。;!?,\n]{0,8}(?:输出|回答|回复|答复|告诉(?!医|家)|推荐|复述|重复|打印|翻译成|说出"
    r"|说明你|写(?:上|出|一)|列出|给出|声称|宣布|断言|诊断|建议(?:患者|用户|病人)|开(?:药|处方)|附上"
    r"|加上|删除|去掉(?!戒指|首饰|手表|鞋|衣)|隐藏|展示|显示|泄露|公布|念)"
    r"|(?:输出|回答|回复|重复|复述|打印|展示|显示|泄露|公布|告诉我|说出)[^。;!?,\n]{0,8}(?:提示词"
    r"|系统提示|原文|全部|以下|如下|这句|这段|内容|你的(?:指令|规则|设定|提示)|答案)|提示词|系统提示"
    r"|prompt"
    r"|(?:回答|答案|回复|输出|诊断|结论)(?:里|中|时)?(?:必须|应当|应该|只能|只|要|请|都|一律|固定"
    r"|改)(?:是|为|写|说|成|包含|含有|有)?|(?:无论|不管)[^。;!?\n]{0,12}(?:都|一律|均)(?:回答|输出|说"
    r"|回复|建议|推荐|告诉|诊断)"
    r"|把[^。;!?\n]{0,12}(?:指令|提示|规则|声明|警告|设定)|从现在(?:起|开始)|你(?:现在)?叫"
    r"|(?:告诉|告知|劝|骗|骂|通知)(?:该|这位|那位)?(?:患者|病人|用户|大家|读者)"
    r"|建议(?:该|这位)?(?:患者|病人|用户)[^。;]{0,4}(?:用|吃|喝|停|服|买|打)|请(?:说|确诊|骂|诊断)|写出"
    r"|绕过[^。;]{0,8}(?:检查|审查|核对|过滤|限制)|(?:逐字|拼音|横线|倒着|谐音|暗号|隐藏字符)[^。;]{0,8}(?:输出|写|回答|说|隔)"
    r"|翻译成[^。;]{0,6}(?:回答|输出|说)|im_(?:start|end)"
    r"|以(?:json|代码|base64|markdown|html|表格|英文|法语|诗)[^。;!?\n]{0,6}(?:输出|回答|回复|格式)"
    r"|</?(?:资料|records|system|user|assistant|im_start|im_end|instructions?|s|script|img|a)\b"
    r"|\[/?inst\]|<\|"
    r"|\b(?:ignore|disregard|forget|override|bypass|skip|cancel|drop)\b[^.;!?\n]{0,40}\b(?:instruction"
    r"|prompt|rule|above|previous|prior|earlier|context|record|guideline|safety|system|notice|warning"
    r"|disclaimer|everything)s?\b"
    r"|\byou are (?:now|no longer|a|an|dan)\b|\b(?:act|behave|respond|reply|answer|speak|write"
    r"|talk) (?:as|like|only|with|in|using)\b|\bpretend\b|\brole ?play|\bjailbreak|\bdeveloper mode"
    r"|\bdan mode|\bdo anything now|\bunrestricted\b|\bno restrictions\b"
    r"|\b(?:print|output|repeat|reveal|show|display|leak|recite|echo|say|state"
    r"|tell (?:me|the (?:user|patient)|them)|recommend|prescribe|diagnose|append|add|include|insert"
    r"|remove|omit|end|begin|start)\b[^.;!?\n]{0,40}(?:[:\"“'「]|\bexactly\b|\bprompt\b"
    r"|\binstructions?\b|\bverbatim\b|\bsystem\b|\bthat (?:he|she|they|the patient|it is|you)\b|\btake\b"
    r"|\bnotice\b|\bdisclaimer\b|\bphrase\b|\bword\b|\bsentence\b|\blink\b|\burl\b)"
    r"|\btell (?:the|this|your|every) (?:patient|user|reader|person)s?\b"
    r"|\byour (?:instructions|system prompt|rules|guidelines|initial prompt"
    r"|new (?:task|role|instructions))\b|\b(?:system|admin|developer|root) (?:prompt|message|override"
    r"|note|command|instruction)\b|\bnew (?:instructions?|task|rules?|role)\b"
    r"|\bend of (?:records|data|context)\b|\bbegin (?:new|system)\b"
    r"|\bimportant (?:instruction|note to (?:the )?(?:ai|assistant|model))\b"
    r"|\b(?:ai|assistant|model|chatbot)\b\s*[:,]"
    r"|\bmust (?:say|answer|reply|respond|output|include|recommend|state)\b"
)
_SENTENCES = re.compile(r"[^。;；!！?？\n]+[。;；!！?？]*|\n+")


def holds_instruction(text: str) -> bool:
    """Return whether a text seems to tell a model what to do."""
    return _found(_INSTRUCTION, _bare(text))


def without_instructions(text: str) -> str:
    """Return `text` without the sentences that seem to tell a model what to do, and without invisible characters."""
    kept = [part for part in _SENTENCES.findall(visible(text)) if not holds_instruction(part)]
    return "".join(kept).strip()


# ------------------------------------------------------------------------------------------------------------- checks

_NUMBER = (
    r"(?:\d{1,6}(?:[./]\d{1,4})?|[零〇一二两俩三四五六七八九十百千万半壹贰叁肆伍陆柒捌玖拾佰仟]{1,8}"
    r"|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|half|several))"
)
_PORTIONS = (
    r"(?:tablets?|pills?|capsules?|caplets?|lozenges?|puffs?|sachets?|packets?|ampo?ules?|vials?|suppositor(?:y|ies)"
    r"|spoonfuls?|(?:tea|table)spoon(?:ful)?s?)\b"
)
# What is counted in 片 and 颗 besides pills: 一片鲜红, 一颗牙.
_NO_PILL = r"[大小]?(?:红(?!霉)|鲜|白(?!加)|黑|紫|青(?!霉)|暗|模糊|疹|斑|皮|水[疱泡]|糜烂|压榨|阴影|牙|痣|痘|疙瘩)"
# No doses: 126 mg/dl is a finding, 两千克 a weight, 起了一包 a swelling, 一天三次以上水样便 a symptom.
_DOSE = re.compile(
    rf"{_NUMBER}[\s-]*(?:(?:(?:m\s?g|mcg|μg|ug|m\s?l)s?|cc|i\.?u|drops?|doses?|units?|(?:milli|micro)?grams?"
    r"|millilit(?:er|re)s?)(?![a-z]|\s?/\s?d?l\b)"
    rf"|毫克|微克|公克|毫升|微升|(?<!千)克(?!星|隆)|(?:国际)?单位|片(?!片|{_NO_PILL}|卫生巾|且)|粒(?!粒)|颗(?!颗|{_NO_PILL})|丸|支|滴|袋|瓶|胶囊|[大小]?[勺匙]|喷(?!嚏)|贴"
    r"|剂|枚|格)"
    rf"|{_NUMBER}[\s-]+(?:[a-z]+[\s-]+){{0,2}}{_PORTIONS}|\b(?:an?|another|few|couple of)[\s-]+{_PORTIONS}"
    rf"|(?<![鼓起肿长冒大])(?<![鼓起肿长冒]了){_NUMBER}\s*包(?![块皮括裹膜扎脓水血])"
    rf"|[每一][日天晚早]\s*(?:{_NUMBER}\s*[-~至到]?\s*){{0,2}}(?:次(?!以上|水样|稀|大便|腹泻|呕吐)|回|顿|片|粒)"
    rf"|(?:每|隔)\s*{_NUMBER}?\s*(?:个)?(?:小时|天|日|晚|周)\s*(?:一次|{_NUMBER}次|服|吃|用|打|注射)"
    rf"|(?:早|中|晚|睡前|饭前|饭后|空腹)[^。,;]{{0,3}}(?:各)?{_NUMBER}(?:次|片|粒)"
    rf"|(?:once|twice|three times|{_NUMBER} times)[\s-]+(?:a|per|each|every) ?(?:day|week)"
    rf"|(?:once|twice|times)[\s-]+daily|every[\s-]+{_NUMBER}[\s-]*(?:hours|hrs?|h)\b|\b(?:bid|tid|qid|qd|prn)\b"
    rf"|{_NUMBER}[\s-]*(?:g|l)\b(?!/d?l)|加倍(?:服|剂量|用药|吃)|双倍剂量|足量|首剂|剂量|用量|疗程{_NUMBER}"
    r"|dosage|\bdose\b|double the|[早晚][早晚饭]?(?:各)?(?:服用?|口服)|[服用吃][^。,;]{0,2}[一两二三四]次"
    rf"|\b(?:one|two|three|half|it (?:once|twice)) (?:in the (?:morning|evening)|at night|at bedtime"
    r"|with (?:food|meals)|(?:before|after) (?:bed|food|meals))\b"
    rf"|{_NUMBER} times (?:with|before|after) (?:food|meals)\b"
)
_DRUG = re.compile(
    r"阿司匹林|布洛芬|对乙酰氨基酚|扑热息痛|泰诺|芬必得|散利痛|去痛片|感冒灵|连花清瘟|板蓝根"
    r"|头孢[\u4e00-\u9fff]{0,3}|青霉素|[\u4e00-\u9fff]{1,3}西林|[\u4e00-\u9fff]{1,3}沙星"
    r"|[\u4e00-\u9fff]{1,3}霉素|甲硝唑|奥硝唑|[\u4e00-\u9fff]{1,3}硝唑|[\u4e00-\u9fff]{1,3}康唑"
    r"|[\u4e00-\u9fff]{1,3}拉唑|[\u4e00-\u9fff]{1,3}替丁|[\u4e00-\u9fff]{1,3}地平"
    r"|[\u4e00-\u9fff]{1,3}普利|[\u4e00-\u9fff]{1,3}沙坦|[\u4e00-\u9fff]{1,3}洛尔"
    r"|[\u4e00-\u9fff]{1,3}他汀|[\u4e00-\u9fff]{1,3}唑仑|[\u4e00-\u9fff]{1,3}西泮"
    r"|[\u4e00-\u9fff]{1,3}西汀|[\u4e00-\u9fff]{1,3}松(?:片|针|龙)|地塞米松|泼尼松|强的松|甲氨蝶呤"
    r"|胰岛素注射|二甲双胍|华法林|氯吡格雷|(?<!放)(?<!分泌)肾上腺素|吗啡|杜冷丁|哌替啶|可待因|曲马多|芬太尼|安定片"
    r"|氯雷他定|西替利嗪|扑尔敏|蒙脱石|思密达|黄连素|整肠生|奥司他韦|[\u4e00-\u9fff]{1,3}洛韦|利巴韦林"
    r"|硝酸甘油|速效救心丸|安宫牛黄|云南白药|砒霜|百草枯|大麻|冰毒|双黄连"
    r"|(?:神|特效|祖传|秘|偏)(?:药|方)|安乃近|双氯芬酸|氨溴索|沐舒坦|右美沙芬|沙丁胺醇|秋水仙碱"
    r"|藿香正气|糖浆|口服液|冲剂"
    r"|\b(?:aspirin|ibuprofen|paracetamol|acetaminophen|tylenol|advil|naproxen|morphine|codeine"
    r"|oxycodone|fentanyl|tramadol|opioids?|insulin injection|metformin|warfarin|prednison\w*"
    r"|cetirizine|colchicine|benadryl|imodium|loperamide|steroids?|antihistamines?|painkillers?|decongestants?"
    r"|dexamethasone|epinephrine|diazepam|alprazolam|xanax|valium|antibiotics?|penicillin"
    r"|[a-z]{3,}(?:cillin|mycin|floxacin|azole|olol|pril|sartan|statin|dipine|zepam|vir|cycline"
    r"|adine|tirizine|solone|sonide|profen|fenac|methorphan|phedrine|butamol|terol|setron|triptan|oxetine|gliptin"
    r"|gliflozin|xaban|parin|coxib|tidine))\b"
)
# What anybody may take, use or drink.
_HARMLESS_EN = (
    r"(?:(?:a|an|the|one|two|three|four|few|several|to|or|your|his|her|some|any|enough|more|plenty of|lots of|sips of"
    r"|warm|cool|clear|deep|good|chest|lung|blood|stool|urine|throat) )*"
    r"(?:care|notes?|seat|rest(?! of)|break|time|days|weeks|it easy|water|fluids?|liquids?"
    r"|drinks?|temperature|pulse|pressure|x[ -]?rays?|scans?|samples?|swabs?|breaths?|history|photos?|pictures?"
    r"|emergency (?:department|room|number)|ambulance|taxi|table|mask)\b"
)
_PRESCRIBING = re.compile(
    r"(?:需要?|应|可以?|建议|尽早|通常|首选|给予)[^。,;、]{0,4}(?:抗生素|激素)|"
    r"处方|开药|(?:自行|可以|建议|请|应|需|先|直接|马上|立即|立刻)(?:先|自行|立即|在家)?(?:服用|口服"
    r"|吃点?药|用药|注射|静滴|输液|打针|涂抹?药|买药|停药|加药|减药"
    r"|吃(?:止痛|退烧|消炎|降压|降糖|安眠|抗生|激素|中|偏)|使用(?:激素|抗生素|偏方|药))"
    r"|放弃(?:治疗|抢救|就医)|截肢|安乐死|停(?:用|服|掉)[^。,;]{0,6}(?:药|胰岛素)"
    r"|(?:自己|在家)[^。,;]{0,4}(?:放血|催吐|灌肠|拔罐|针灸|刮痧)|喝(?:尿|漂白|消毒|酒精|白酒)"
    r"|\bprescri\w+|\b(?:should|can|may|must|please|just) (?:take|use|inject|swallow|drink"
    rf"|stop taking)\b(?! {_HARMLESS_EN})"
    r"|\bstop (?:your|the|all|taking) (?:medic\w*|insulin|meds|pills)"
)
_CERTAIN = re.compile(
    r"确诊|诊断(?:为|是(?!否)|结果(?![以由需应])|明确)|(?:你|您|患者|病人)(?:就|已经?|确实|肯定|一定|必然"
    r"|无疑)*(?:得(?:了|的是)|患(?:了|有|的是|上)|是得了)"
    r"|(?:肯定|一定|绝对|百分之百|100%|毫无疑问|可以断定|显然就?)(?:是|患|得|为)"
    r"|(?<!也)就是(?!说)[^。,;]{0,10}(?:病(?![情史程])|炎(?!症)|癌|症(?!状)|瘤)(?!吗)"
    r"|(?:您|你|患者|病人|已)[^。,;]{0,8}(?<!孕)晚期|(?<!孕)晚期(?!可能|可以|会|常|多|才)|活不(?:过|久)|没救|绝症|只剩[^。]{0,6}(?:天|月|年)"
    r"|\b(?:you|he|she|they|patient) (?:definitely |certainly |surely |clearly |now )?(?:have|has"
    r"|is suffering from|are suffering from|got) (?:a |an |the )?(?:\w+ )?(?:\w+itis|cancer|disease"
    r"|syndrome|tumou?r|\w+oma|\w+emia|infection|stroke|diabetes)"
    r"|\b(?:diagnosis is(?! (?:not|only|made|based))|diagnosed (?:with|as)|i diagnose|definitely|certainly|100 ?%"
    r"|without (?:a )?doubt|terminal|months to live|will die|going to die)\b"
)
# The same of a name, whatever it is: masked, and without its number.
_FACT_MARKS = re.compile(r"\s*[\[【〔][\d,、 ]+[\]】〕]")
_AS_FACT = re.compile(
    r"(?:您|你|患者|病人)(?:这|的病|得的)?(?:就|已经?|确实)?(?:是|为|患|得了?|感染了?)□"
    r"|(?<![不难])(?:可以|基本|能够?)?(?:判断|确定|断定|认定)[^。,;]{0,6}[是为]□|^\W*这就?是□+(?=[,。;!?]|$)"
    r"|\b(?:you|he|she|patient) (?:\w+ly |now |just )?(?:have|has|got|(?:have |has )(?:got|caught)"
    r"|(?:is|are) suffering from) (?:an? |the )?□|\b(?:it|this)(?: is|['’]s) □+(?=\W*$|[,;])|\bdiagnosis(?: is)?:? □"
)
_DISMISSING = re.compile(
    r"(?:不用|不必|无需|无须|没必要|别|不要|不需要|用不着|没必要|大可不必)(?:再|去|太|急着|立即|马上"
    r"|着急)*(?:去|看|就|叫|打|拨打|找|做)?(?:医院|急诊|医生|就医|就诊|120|救护车|检查|担心|害怕|紧张"
    r"|理会|在意|治疗|面诊)|没(?:有)?(?:什么|啥)?(?:大碍|大事|事的|危险|问题的)"
    r"|(?:不是|并非|不属于|不算)(?:急症|急诊|紧急|危险)"
    r"|(?:并不|(?<!如果)(?<!若)(?:情况|病情|症状|这)[^。,;]{0,2}不)(?:太|很|算)?(?:严重|紧急|要紧)(?!时|的话)|不(?:急着|急于|考虑)(?:马上)?(?:去|看|就)"
    r"|(?:可以?|先|暂时?)(?:先|暂时)?不(?:用|必)?(?:就医|就诊|去医院|去急诊|看医生)"
    r"|不(?:就医|就诊|去医院|去急诊|看医生|看病)(?:也|都)?(?:可以|行|没事|没关系|无妨)(?=[,。;!?]|$)"
    r"|再(?:去|看|就)[^。,;]{1,6}也(?:可以|行|来得及|不[迟晚])"
    r"|(?:误报|虚惊|警告|危险信号|急诊提示|上述提示|上面的提示|以上提醒|以上提示)[^。,;]{0,8}(?:误|取消"
    r"|忽略|无效|不用|作废|可以不|错)|在家(?:观察|休息|等)[^。,;]{0,6}(?:就行|即可|就好|足够)"
    r"|(?:拖|等)(?:几天|一周|到明天)(?:再|也)|可以(?:放心|忽略|不管|不去)|放心(?:吧|即可|,|。)"
    r"|\b(?:no need|not necessary|unnecessary|(?:don['’]t|do not) (?:need|have to|bother|worry|call"
    r"|go(?! to (?:work|school))|see)|needn['’]t|shouldn['’]t (?:see|call|go))\b"
    r"|(?:\bnot|n['’]t) (?:an? |very |really |that |so |too )*(?:emergency|urgent|serious|dangerous)\b"
    r"|(?:do|need)(?: not|n['’]t)(?: have to| need to)? (?:see|call|visit|seek)\b|\bneed not go\b"
    r"|\bno (?:urgent |immediate )?need\b"
    r"|\bno (?:doctor|hospital|medical)[a-z ]{0,16} (?:is|are) (?:needed|necessary|required)\b"
    r"|\b(?:doctor|hospital|visit|care)[a-z ]{0,16} (?:is|are)(?: not|n['’]t) (?:needed|necessary|required)\b"
    r"|\bskip (?:the|your|seeing|going)\b|\b(?:can|could|may) wait\b"
    r"|\b(?:false alarm|nothing (?:serious|dangerous|urgent|to worry)"
    r"|safe to (?:ignore|wait|stay)|ignore (?:the|this|that|any)|stay (?:at )?home"
    r"|wait (?:it out|a (?:few|couple)))\b"
)
# Words of the checks above that an honest answer has, too: what only a doctor can tell, what nobody should do on his
# own, and what is true if something else is.
_HARMLESS = re.compile(
    r"(?:才能?|方能?|才可以?|方可|无法|不能|难以|是否)(?:最终|完全|明确)?确诊"
    r"|(?:需|应|须|由|请)[^。,;]{0,14}(?:医生|检查|化验|拍片|胸片|影像|ct|活检|培养|后|再|来|以)(?:最终|明确)?确诊(?![为是您你患了])"
    r"|(?:勿|不要|不可|不应|不宜|不能|不得|避免|别)(?:自行|擅自|随意|盲目)(?:或?(?:自行|擅自|随意|盲目))?"
    r"(?:(?:服用|使用|口服|吃|买|用|停|加|减)[或、]?){1,3}(?:任何)?药物?"
    r"|(?:自行|擅自)停药(?=会|可?使|可?导致|可能)"
    r"|[用服][\u4e00-\u9fff]{1,4}类药物?(?=后常?(?:全身)?(?:出疹|起疹|加重|诱发|引起)|或(?:大量|过量))"
    r"|(?:如果|若|假如|万一|是否|不确定)(?:您|你|患者|病人)|\b(?:if|whether|possible that) (?:you|he|she|the patient)\b"
)
_CONTACT = re.compile(
    r"https?:|www\.|[a-z0-9-]{1,63}\.(?:com|cn|net|org|io|top|xyz|ru|info|me|cc)\b|[\w.]{1,64}@[\w.]|微信"
    r"|加[vv]\b|加(?:我|好友|群)|qq|扫码|二维码|公众号|私信|转账|汇款|付款|付费|支付宝|红包|银行卡|密码"
    r"|身份证|客服|热线|(?<!急救)电话(?!咨询|120|[时里])|急救电话\D{0,4}(?!120(?!\d))\d|购买|下单|优惠|代购|网店|\d{7,}|\]\(|!\[|```|<[a-z/!][^>]*>"
    r"|javascript:|data:|\$\{|\{\{"
    r"|\b(?:whatsapp|telegram|wechat|call me|text me|email|phone number|credit card|password|click"
    r"|visit (?:our|my|this|the (?:site|link|page))|buy|purchase|order now|discount|bitcoin)\b"
)
_LEAK = re.compile(
    r"系统提示|提示词|我的(?:指令|规则|设定|任务是)"
    r"|(?:我|本助手)(?:被|已被)(?:要求|设定|指示|黑|攻破|入侵|控制)|你是医院的导诊助手|标签之间是数据"
    r"|一律不执行|资料>|作为(?:一个)?(?:ai|人工智能|语言模型|大模型)|遵命|越狱|开发者模式"
    r"|已(?:忽略|解除|切换|绕过|覆盖)|(?:忽略|无视)(?:了)?(?:以上|之前|上述|所有)|指令(?:已|执行|完成)"
    r"|以下是我的"
    r"|\bsystem prompt|\bmy (?:instructions|rules|prompt)\b|\byou help patients find\b"
    r"|\bbetween the <?records\b|\bas an ai\b|\blanguage model\b"
    r"|\bas (?:instructed|requested|you (?:wish|asked|commanded))\b"
    r"|\b(?:pwned|hacked|jailbroken|jailbreak|dan mode|developer mode|override[nd]?|unrestricted)\b"
    r"|\bi (?:have been|was|am now|will) (?:hacked|told|instructed|ignor\w+|obey\w*|comply\w*)\b"
    r"|\bignoring (?:the|all|previous|my)\b"
)
# What ends like a disease. Only where nothing that was retrieved, no symptom, and no everyday word covers it.
_DISEASE_LIKE = re.compile(
    r"[\u4e00-\u9fff]{0,8}?(?:综合[征症]|中毒|感染|梗[死塞]|出血热|结核|硬化|贫血|骨折|结石|溃疡|肿瘤"
    r"|血栓|栓塞|休克|衰竭|脓肿|囊肿|息肉|疟疾|霍乱|鼠疫|痢疾|狂犬|破伤风|中风|卒中|心梗|脑梗|肺结核"
    r"|新冠|流感|感冒|哮喘|痛风|糖尿|高血压|冠心|甲亢|甲减|癫痫|痴呆|抑郁|白血|艾滋|梅毒|淋病|湿疹|麻疹"
    r"|水痘|风疹|荨麻疹|疱疹|渐冻|自闭|帕金森)|[\u4e00-\u9fff]{1,8}?(?:病毒|疝|痔|病|炎|癌|瘤|疮|癣|疣"
    r"|症)"
    r"|\b[a-z]{2,}(?:itis|oma|omas|emia|aemia|osis|opathy|ectasia|plegia|sclerosis)\b"
    r"|\b(?:[a-z]+['’]?s? ){0,2}(?:syndrome|cancer|disease|disorder|infection|tumou?r|stroke|attack"
    r"|failure|fracture|embolism|diabetes|asthma|flu|influenza|pneumonia|covid(?:-19)?|hiv|aids|ebola"
    r"|malaria|cholera|plague|rabies|tetanus|measles|lupus|gout|epilepsy|dementia|sepsis|migraine)\b"
)
_GENERAL = re.compile(
    r"(?:感染|炎|症|肿瘤|病毒|中毒|溃疡|脓肿|囊肿|息肉|结石|骨折|血栓|休克|衰竭|贫血|infection|failure|disease|itis)$"
)
_EVERYDAY = re.compile(
    r"疾病|看病|生病|发病|起病|病情|病史|病因|病人|病程|病症|病房|病历|毛病|得病|急病|重病|大病|小病"
    r"|同病|伴病|患病|此病|该病|本病|的病|几种病|什么病|这种病|这类病|种病|常见病|传染病|多发病|炎症"
    r"|发炎|消炎|症状|急症|重症|轻症|并发症|后遗症|适应症|对症|危急重症|感染科|感染性|肿瘤科|传染科"
    r"|病毒性?(?=感染科)|防病|治病|查病|疾患|问病|病灶|病变|诊病|如果病|若病|因病|诱因"
    r"|\bdiagnosis\b|\bprognosis\b|\b(?:possibly related |related |these |the |this |which |other "
    r"|such a |a |any |each |that )*(?:disease|diseases|disorder|infection|condition)s?\b"
)
_CITATION = re.compile(r"[\[【〔]\s*(\d{1,3}(?:\s*[,、]\s*\d{1,3})*)\s*[\]】〕]")
_LETTER = re.compile(r"[^\W\d_]|□")

# Words that an honest answer is made of besides those of the records; a sentence with hardly any of either is not one.
_PHRASES = (
    "根据您描述的您说的您提到的您的症状情况表现来看从这些资料中可以看出最可能相关的疾病是其次还有以及此外另外也与有关相符符合一致提示考虑可能性较大较小较低相关程度不同区别在于相比之下而则多见常见往往通常一般主要特点"
    "建议尽快尽早及时今天立即就诊就医前往医院急诊挂号科室门诊内科外科妇科儿科耳鼻喉科眼科皮肤科神经内科心血管内科呼吸内科消化内科泌尿外科骨科口腔科精神科感染科由医生进一步检查化验血常规影像拍片彩超心电图确认明确判断评估面诊如果若出现以下加重不缓解持续请马上拨打并不是诊断仅供参考不能代替以便"
    "目前资料不足以无法确定需要补充更多信息例如是否有没有发热疼痛持续多久什么时候开始注意休息观察变化第一第二第三第四第五编号记录两者三者都有区别鉴别较急较慢较轻较重起病病程明显突出可以伴有多为少见时间更加告诉家人寻求帮助陪同前往看一看查一查突然出现意识不清剧烈头痛呼吸困难胸痛便血高热补充水分清淡饮食保暖避免劳累放松作息规律知识库提到指出其中首先最后总之综上因此所以因为由于但是不过同时伴随先后排在前面后面属于情况下紧急程度近日预约危险信号"
    "您好依据诱因其他原因其它疾病您所说的年龄性别病情加重病情变化的信号症状特点炎症刺激引起急症"
    "急救电话需拍胸片才能确诊请勿不要自行用药服用药物也就是说孕早期孕晚期要注意症状严重时不严重时"
)
_WORDS = (
    "based on your you describe described mention mentioned say said symptoms symptom complaint the a an and or of to "
    "in is are be with for as at by from it its this that these those most likely closely related possibly condition "
    "conditions record records first second third fourth fifth next then also other others while whereas differ "
    "difference differs unlike compared more less usually often typically fits fit match matches because since but "
    "however if any should see doctor department visit go hospital emergency soon today now urgent urgently within "
    "days hours please get checked check examination test tests tell apart which what how not no have has had there "
    "may might can could would do does so both only one two all after before when where into about over under than "
    "very much well help note information enough suggest suggests point points toward towards lists listed describes "
    "seek care medical attention worse worsens clinic appointment book evaluate evaluation confirm appear appears "
    "associated accompanied followed caused cause causes due confused mistaken similar same different milder mild "
    "severe serious dangerous common rare typical unlikely possible needed necessary helpful important better best "
    "closest close strong good clear pattern picture description finding findings sign signs feature features person "
    "people patient child specialist advised history onset course long short early late sudden sometimes mainly "
    "rather already further later together alone without during such each another some many several too even yet was "
    "been being made given start starts last lasts week weeks month minute minutes night morning time side part area "
    "level ill quickly slowly unusual uncommon untreated ray scan ultrasound"
)
# What a sentence says is possible, listed behind such words or before them.
_NAMING = re.compile(
    r"(?:(?:可能|疾病|相关|其次|首先|较[大高小])[^,。、;:]{0,4}?(?:是|(?<!因)为|像)|更像|符合|考虑(?![到做去])|怀疑|排除)"
    r"(?![否不因由])(?=(?P<listed>[^。;!?\n]*))"
    r"|(?<![^,。;是有虑在为])(?=(?P<possible>[^,。;是有虑在为]{2,40})的可能)"
    r"|\b(?:(?:can|could|may|might|would)(?: \w+)? be|(?:you|he|she|patient|child) (?:may|might|could)(?: \w+)? have"
    r"|(?:condition|cause|possibilit(?:y|ies)|explanation|match|candidate|likely|first|next|other)s?(?: \w+){0,2}?"
    r" (?:is|are|include)|(?:suggest|indicate|suspect|consider|resemble|fit|match|relate)(?:s|es|d)?(?: to)?"
    r"|consistent with|points? to|rule out)\b(?=(?P<english>[^.;!?\n]*))"
)
# What is to be taken, or helps.
_TREATING = re.compile(
    r"(?:[可以能先请应试些点]|建议|^|[,。;、])(?:服用|使用|[吃喝服]|用(?!力))[些点]?(?P<object>[\u3400-\u9fff]{2,4})"
    r"|\b(?:take|try|use|drink|swallow|inhale|inject|apply|such as)(?: an?| the| your| some| any)?"
    r" (?P<english>[a-z]+(?: [a-z]+)?)"
    r"|(?:^|[.;,] ?)(?P<subject>[a-z]+) (?:can |may |might |will |usually )*(?:helps?|relieves?|eases?|treats?)\b"
)
_TAKEN_BY_ALL = frozenset(
    re.findall(
        "[a-z]+",
        "water fluid fluids liquids plenty lots rest easy temperature pulse pressure photo photos picture ambulance "
        "taxi mask sips deep breath breaths break seat seats place medicine medicines medication warm cool sleep weeks",
    )
)
_LISTED = re.compile(r"[、:()]|(?<!以)和(?!信)|或者?|以及|(?<!以)及(?![时早])|与|\b(?:and|or)\b")
_LITTLE = frozenset("的了您我它其这该是在有与也都就较更最很比常多会要")
_QUOTATION = re.compile(r"[“「『\"‘]([^“”「」『』\"\n]{2,60})[”」』\"’]")
_STOPS = re.compile(r"(?<=[\u3400-\u9fff])[^\u3400-\u9fffa-z0-9□]+(?=[\u3400-\u9fff])")
_LAST_RUN = re.compile(r"([\u3400-\u9fff]{2,})[^\u3400-\u9fffa-z0-9□]*$")
_FIRST_RUN = re.compile(r"[^\u3400-\u9fffa-z0-9□]*([\u3400-\u9fff]{2,})")
_CLAUSES = re.compile(r"[^,。;!\n]+")
_RECORD_CLAUSES = re.compile(r"[^,。;:!?\[\]\n]{4,}")
_HAVING = re.compile(
    r"(?:患有?|(?<!没)有|得过|得了|查出|既往|合并|您的)(?:过|了)?|\b(?:have|has|had|having|your|history of)(?: an?)? "
)
# Who has it is somebody else, or nobody.
_NOT_TOLD = re.compile(
    r"[没无不未否怕会吗如若说您你他她它家爸妈父母爷奶]|可能|担心|怀疑|患者|病人|\?"
    r"|n['’]t\b|\b(?:no|not|without|if|do|could|might|may|maybe|think|worr\w+|afraid|say|says|said|you|he|she|they"
    r"|patient|(?:grand)?(?:mother|father)|mom|dad|mum|wife|husband|sister|brother|family)\b"
)
# Where such a word is, a number may be of a drug, or of one that is asked for.
_TAKING = re.compile(
    r"[吃服喝用含药针贴敷打]|可以|行|够|好|吗|\?|毫克|毫升|克|单位"
    r"|\b(?:tak(?:e|es|en|ing)|took|us(?:e|es|ed|ing)|swallow\w*|drink\w*|give\w*|pills?|tablets?|drops?|doses?|can|may"
    r"|should|enough|m\s?[gl]|mcg|iu|units?)\b"
)
_SECRET_RUN = 10  # Chinese characters in a row that may not be repeated of what is secret
_LEAST_GROUNDED = 0.4
_ENGLISH_IN_CHINESE = frozenset(["ct", "mri", "x", "b", "icu", "bmi", "hiv", "ecg", "ekg", "crp", "spo2", "kb", "ok"])


_FACT = "gives a diagnosis as a fact"
_LOOKS_UNKNOWN = "names what looks like a disease that was not retrieved"
_NO_SUCH_RECORD = "cites a record that there is not"
_WRONG_NUMBER = "names a disease without its number, or with another's"
_UNGROUNDED = "says what neither the records nor the patient's words say"
UNSUPPORTED = frozenset({_LOOKS_UNKNOWN, _NO_SUCH_RECORD, _WRONG_NUMBER, _UNGROUNDED})
"""What makes `AnswerGuard.violation` refuse a sentence of an honest model, too: such a one is left out, and the answer
goes on. After any other nothing more of it is heard."""


class OtherDiseases:
    """Tells whether a text names a disease that is not among some documents."""

    def __init__(self, documents: Sequence[Document], names: Iterable[str], lexicon: SymptomLexicon) -> None:
        """Take what may be named and all that there is.

        Args:
            documents: Their names and aliases are allowed.
            names: All disease names and aliases that are known.
            lexicon: Its terms are symptoms, not diseases.
        """
        self._documents = documents
        own = [frozenset(_as_name(name) for name in names_of(document)) for document in documents]
        self._names = _all_names(tuple(names), frozenset().union(*own), lexicon)
        self._own = [re.compile(_spellings(names)) for names in own]

    def __call__(self, text: str) -> str | None:
        """Return the name of another disease in `text`, or `None`."""
        # The longest name at a place is the one that is meant: 支原体肺炎 is not 肺炎.
        return next((name for _, name, numbers in self.named(_bare(text)) if not numbers), None)

    @functools.cached_property
    def records(self) -> list[str]:
        """What a model may read of each document; see `record_text`."""
        return [record_text(document, self) for document in self._documents]

    def masked(self, plain: str) -> str:
        """Return a bare text with what may be named struck out."""
        if self._names is None:
            return plain
        spelled = _spelled(plain)
        return self._names.sub(lambda m: "□" * len(m.group()) if self._numbers(m.group()) else m.group(), spelled)

    def named(self, plain: str) -> list[tuple[int, str, set[int]]]:
        """Return where a bare text names documents: the place, the name, and the numbers of the documents."""
        found = self._names.finditer(_spelled(plain)) if self._names is not None else ()
        return [(match.start(), match.group(), self._numbers(match.group())) for match in found]

    def _numbers(self, name: str) -> set[int]:
        return {number for number, own in enumerate(self._own, start=1) if own.fullmatch(name)}


class AnswerGuard:
    """Checks a model's answer against the documents that it may use."""

    def __init__(
        self,
        documents: Sequence[Document],
        names: Iterable[str],
        lexicon: SymptomLexicon,
        *,
        quotes: Iterable[str] = (),
        query: str = "",
        secret: str = "",
        lang: Lang = "zh",
    ) -> None:
        """Take what may be said.

        Args:
            documents: What was retrieved, in the order of their numbers.
            names: All disease names and aliases there are; those of `documents` are allowed.
            lexicon: Its terms are symptoms, not diseases; so is what patients call them where patient or records do.
            quotes: Words of the patient that may be repeated, besides.
            query: What the patient says now; between quotation marks all of it but orders and doses may be repeated.
            secret: What may not be repeated at any length, such as the prompt.
            lang: Language of the answer.
        """
        self._count = len(documents)
        self._lang = lang
        self.others = OtherDiseases(documents, names, lexicon)
        self._symptoms, self._sayings = _symptom_words(lexicon), _sayings(lexicon)
        departments = (str(d.metadata.get("department", "")) for d in documents if not is_tainted(d))
        own = [name for document in documents for name in names_of(document)]
        self._records = _bare("\n".join([*self.others.records, *departments, *own]))
        quotes = list(quotes)
        self._said = _bare("\n".join(quotes))
        self._query = _bare(query)
        self._clauses = frozenset(_RECORD_CLAUSES.findall(self._records)) - {_as_name(name) for name in own}
        self._history = _history(_bare(without_instructions(query)), self.others)
        self._counts = _counts(self._query, [bare for quote in quotes if (bare := _bare(quote).strip())])
        self._read = f"{self._records}\n{self._said}"
        self._pairs = _pairs(self._read) | _pairs(_PHRASES) | _term_pairs(lexicon)
        self._vocabulary = _latin_words(f"{_WORDS} {self._read}")
        self._english = _english_words(lexicon) | _latin_words(_spelled(f"{_WORDS} {self._read}")) | _ENGLISH_IN_CHINESE
        self._secrets = set(_shingles(_bare(secret)))
        self._tail = ""
        self.said_something = False
        """Whether there are words in what has passed."""
        self._cited: set[int] = set()

    def violation(self, sentence: str) -> str | None:
        """Return why a sentence may not be shown, or `None`; sentences are to be given in order.

        Args:
            sentence: Of the answer, whole. Words that run over into it from the sentence before count, too.
        """
        whole = self._after_tail(_bare(sentence))
        own = self._without_history(_bare(self._without_quotations(sentence)))
        besides_records = self._without_records(own)
        plain = self._after_tail(besides_records)
        # Struck out, as the rest of a name that may be said can be one that may not: [Secretory otitis] media.
        self._tail = self.others.masked(plain)[-24:]
        if not own.strip():
            return None
        named, left = self.others.named(own), self.others.masked(besides_records)
        if _AS_FACT.search(_HARMLESS.sub("…", _FACT_MARKS.sub("", self.others.masked(own)))):
            return _FACT
        if any(not numbers for _, _, numbers in named) or self.others(self._rejoined(plain)):
            return "names a disease that was not retrieved"
        whole = self._without_counts(_HARMLESS.sub("□", self._without_history(whole)))
        own_words = self._without_counts(_HARMLESS.sub("□", own))
        if reason := _broken(_CHECKS, whole, own_words):
            return reason
        if reason := _broken(_CHECKS_BESIDES_RECORDS, self._without_records(whole), self._without_records(own_words)):
            return reason
        if any(shingle in self._secrets for shingle in _shingles(own)):
            return "speaks of its instructions"
        return self._unsupported(own, named, left)

    def _unsupported(self, own: str, named: Sequence[tuple[int, str, set[int]]], left: str) -> str | None:
        """Return which of `UNSUPPORTED` a bare sentence is, or `None`; what passes counts as said and cited."""
        if self._unknown_disease(left):
            return _LOOKS_UNKNOWN
        marks = sorted([*named, *_citations(_spelled(own))], key=lambda mark: mark[0])
        numbers = {number for _, name, cited in marks if not name for number in cited}
        if any(not 1 <= number <= self._count for number in numbers):
            return _NO_SUCH_RECORD
        # [1]社区获得性肺炎 is as good as 社区获得性肺炎[1].
        if not self._fit(marks) and (marks[0][1] or not self._fit(marks[::-1])):
            return _WRONG_NUMBER
        if not self._grounded(own) or self._names_something_strange(left) or self._treats_with_something_strange(left):
            return _UNGROUNDED
        # [1] alone says nothing.
        self.said_something = self.said_something or bool(_LETTER.search(own))
        self._cited |= numbers
        return None

    def _without_counts(self, plain: str) -> str:
        """Return a bare text without what the patient has counted, where nobody is told to take anything."""
        if not _TAKING.search(plain):
            for told in self._counts:
                plain = plain.replace(told, "□")
        return plain

    def _without_records(self, plain: str) -> str:
        """Return a bare text without whole clauses of the records, which may say what a model may not."""
        return _RECORD_CLAUSES.sub(
            lambda clause: "□" * len(clause[0]) if clause[0] in self._clauses else clause[0], plain
        )

    def _without_history(self, plain: str) -> str:
        """Return a bare text without the diseases that the patient says he has, where it says that he has them."""
        return plain if self._history is None else self._history.sub("□", plain)

    def _after_tail(self, own: str) -> str:
        """Return a bare sentence behind the end of the one before."""
        return _bare(f"{self._tail}{';' if self._are_symptoms(self._tail, own) else ''}{own}")

    def _rejoined(self, plain: str) -> str:
        """Return a bare text as `_joined` does, but symptoms of a list apart: 口干、眼干 does not name 干眼."""
        return _STOPS.sub(
            lambda stop: ";" if self._are_symptoms(plain[: stop.start()], plain[stop.end() :]) else "", plain
        )

    def _are_symptoms(self, before: str, behind: str) -> bool:
        """Return whether one text ends with a symptom and the other begins with one."""
        last, first = _LAST_RUN.search(before[-20:]), _FIRST_RUN.match(behind[:20])
        if last is None or first is None:
            return False
        ends, beginnings = ([last[1], *_tails(last[1])], (first[1][:n] for n in range(2, len(first[1]) + 1)))
        return any(map(self._is_symptom, ends)) and any(map(self._is_symptom, beginnings))

    def _without_quotations(self, sentence: str) -> str:
        """Return a sentence without the patient's own words between quotation marks, which may name any disease."""
        return _QUOTATION.sub(lambda match: "□" if _bare(match[1]).strip() in self._query else match.group(), sentence)

    def incomplete(self) -> str | None:
        """Return why the whole answer may not stand, once all its sentences were checked, or `None`."""
        if not self.said_something:
            return "says nothing"
        return None if self._cited else "cites no record"

    def _fit(self, marks: Sequence[tuple[int, str, set[int]]]) -> bool:
        """Return whether numbers stand behind the diseases that have them, and each disease has got its number by now.

        Args:
            marks: Names, and citations, which have none, in order.
        """
        runs = [
            (named, {number for _, _, numbers in run for number in numbers})
            for named, run in itertools.groupby(marks, key=lambda mark: bool(mark[1]))
        ]
        everyone = {number for named, numbers in runs if named for number in numbers}
        if not everyone:
            return True
        cited = set(self._cited)
        for i, (named, numbers) in enumerate(runs):
            if not named:
                if not numbers <= (runs[i - 1][1] if i else everyone):
                    return False
                # What stands before all names may speak of the next one, 资料[1]提示社区获得性肺炎.
                cited |= numbers if i else numbers & runs[1][1]
        # Some names are a symptom's, too: 流鼻血.
        return all(
            numbers & cited or name in self._symptoms or name in self._said for _, name, numbers in marks if name
        )

    def _unknown_disease(self, left: str) -> bool:
        left = _EVERYDAY.sub(lambda match: "□" * len(match.group()), left)
        for match in _DISEASE_LIKE.finditer(left):
            word = match.group()
            if any(self._is_symptom(way) for way in (word, *_tails(word))):
                continue
            # A general word that a record of the retrieved diseases says may be said again: 颅内感染.
            if _GENERAL.search(word) and (word[-3:] if not word.isascii() else word) in self._records:
                continue
            return True
        return False

    def _is_symptom(self, word: str) -> bool:
        # Some of the patients' sayings are names of diseases: 缠腰疮. Those may only be repeated.
        return word in self._symptoms or (word in self._sayings and word in self._read)

    def _grounded(self, plain: str) -> bool:
        words = _latin_words(plain)
        strange = {word for word in words if word not in self._vocabulary}
        if self._lang == "zh" and any(word not in _ENGLISH_IN_CHINESE and len(word) > 1 for word in strange):
            return False
        if words and len(words) >= 4 and len(strange) > (1 - _LEAST_GROUNDED) * len(words):
            return False
        pairs = _pair_list(plain)
        if not pairs:
            return not strange or self._lang == "en"
        return sum(pair in self._pairs for pair in pairs) >= _LEAST_GROUNDED * len(pairs)

    def _names_something_strange(self, left: str) -> bool:
        for match in _NAMING.finditer(_CITATION.sub("", left)):
            for place, clause in enumerate(match[match.lastgroup or 0].split(",")):
                if any(self._is_strange(item, first=not place) for item in _LISTED.split(clause) if "□" not in item):
                    return True
        return False

    def _treats_with_something_strange(self, left: str) -> bool:
        """Return whether something is to be taken or used that neither the records nor the patient speak of."""
        for match in _TREATING.finditer(left):
            item = match[match.lastgroup or 0]
            words = _latin_words(item) - _TAKEN_BY_ALL
            if any(pair not in self._pairs for pair in _pair_list(item)) or not words <= self._english:
                return True
        return False

    def _is_strange(self, item: str, *, first: bool) -> bool:
        """Return whether an item as short as a name is said neither in the records nor by the patient.

        Args:
            item: What is said to be possible.
            first: Whether it follows at once; what comes behind a comma is more often no name.
        """
        pairs, words = _pair_list(item), _latin_words(item)
        if 0 < len(pairs) < 8:
            known = sum(pair in self._pairs or not _LITTLE.isdisjoint(pair) for pair in pairs)
            return known < (len(pairs) if first else 1)
        return 0 < len(words) <= 4 and not words <= self._english


_CHECKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (_DOSE, "gives a dose"),
    (_DRUG, "names a drug"),
    (_PRESCRIBING, "prescribes"),
)
# Of what a record says itself, these take no heed.
_CHECKS_BESIDES_RECORDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (_CERTAIN, _FACT),
    (_DISMISSING, "talks out of seeing a doctor"),
    (_CONTACT, "gives a contact, a link or code"),
    (_LEAK, "speaks of its instructions"),
)


def _broken(checks: Iterable[tuple[re.Pattern[str], str]], whole: str, own: str) -> str | None:
    """Return the reason of the first check that finds something in a bare text, or in a sentence of it joined."""
    return next((why for pattern, why in checks if _found(pattern, whole) or pattern.search(_joined(own))), None)


def _history(query: str, others: OtherDiseases) -> re.Pattern[str] | None:
    """Return what tells of the diseases that the patient, in a bare query, says he has; `None` if there are none."""
    told = set()
    for clause in _CLAUSES.findall(query):
        if _NOT_TOLD.search(clause):
            continue
        for match in _HAVING.finditer(clause):
            rest = clause[match.end() :]
            named = [name for place, name, _ in others.named(rest) if place == 0]
            like = _DISEASE_LIKE.match(rest)
            told |= {*named, *([rest[: like.end() + (rest[like.end() :][:1] in ("病", "症"))]] if like else ())}
    names = "|".join(map(re.escape, sorted(told, key=len, reverse=True)))
    return re.compile(rf"(?:{_HAVING.pattern})(?:{names})(?:\b|(?<![a-z]))(?:病史|史)?") if told else None


def _counts(query: str, symptoms: Sequence[str]) -> frozenset[str]:
    """Return how often and how many symptoms there are, as a bare query says it, with a little around: 每天5次水样."""
    told = set()
    for clause in _CLAUSES.findall(query):
        if not _TAKING.search(clause) and any(symptom in clause for symptom in symptoms):
            for match in _DOSE.finditer(clause):
                behind = clause[match.end() : match.end() + 2]
                told.add(match.group() + behind if behind.strip() else clause[: match.end()][-20:].strip())
    return frozenset(told)


def _citations(plain: str) -> list[tuple[int, str, set[int]]]:
    """Return where a text cites, as `OtherDiseases.named` does where it names."""
    return [
        (match.start(), "", {int(number) for number in re.findall(r"\d+", match[1])})
        for match in _CITATION.finditer(plain)
    ]


def names_of(document: Document) -> list[str]:
    """Return a document's disease and its aliases."""
    metadata = document.metadata
    names = [metadata.get("disease") or document.page_content.partition("\n")[0]]
    return [str(name) for name in (*names, *listed(metadata, "aliases")) if name]


def is_tainted(document: Document) -> bool:
    """Return whether a document holds an instruction, or a contact, anywhere in what is read of it."""
    metadata = document.metadata
    texts = [
        document.page_content,
        *(str(metadata.get(key) or "") for key in ("disease", "description", "department")),
        *listed(metadata, "red_flags"),
    ]
    plain = _bare("\n".join(texts))
    return _found(_INSTRUCTION, plain) or _found(_CONTACT, plain)


def record_text(document: Document, others: Callable[[str], object]) -> str:
    """Return what a model may read of a document: no instruction, no dose or link, no sentence about other diseases.

    Who has put one instruction into a record may have put more: of such a record only name and listed symptoms are
    left.

    Args:
        document: Not modified.
        others: Tells whether a sentence names a disease that was not retrieved.
    """
    if is_tainted(document):
        symptoms = (s for s in listed(document.metadata, "symptoms") if len(s) <= 20 and not unfit(s))
        return "\n".join([fit_name(names_of(document)[0][:40].split("\n")[0]), "、".join(symptoms)])
    kept = []
    for line in visible(document.page_content).split("\n"):
        sentences = [part for part in _SENTENCES.findall(line) if not unfit(part) and not others(part)]
        kept.append("".join(sentences))
    return "\n".join(line for line in kept if line.strip())


def fit_sentences(text: str, others: Callable[[str], object]) -> str:
    """Return the sentences of a record that may be quoted to a patient."""
    return "".join(part for part in _SENTENCES.findall(visible(text)) if not unfit(part) and not others(part)).strip()


def unfit(text: str) -> bool:
    """Return whether what a record says may not be repeated: an order, a dose, a contact, a drug."""
    return _is_order(text) or _found(_DRUG, _HARMLESS.sub("□", _bare(text)))


def fit_name(name: str) -> str:
    """Return a disease's name as a record has it, or … if it is more than a name; a drug may be in it: 青霉素过敏."""
    return "…" if _is_order(name) else visible(name)


def _is_order(text: str) -> bool:
    plain = _bare(text)
    harmful = _HARMLESS.sub("□", plain)
    return _found(_INSTRUCTION, plain) or any(
        _found(check, harmful) for check in (_DOSE, _CONTACT, _LEAK, _DISMISSING, _PRESCRIBING)
    )


@functools.cache
def bundled_names() -> tuple[str, ...]:
    """Return all names and aliases of the bundled knowledge base."""
    records: list[Mapping[str, Any]] = json.loads(_KNOWLEDGE.read_text("utf-8"))
    return tuple(name for record in records for name in (record["disease"], *record.get("aliases", ())))


@functools.lru_cache(maxsize=4)
def _symptom_words(lexicon: SymptomLexicon) -> frozenset[str]:
    return frozenset(plain_form(form)[0] for entry in lexicon.entries.values() for form in (entry.term, *entry.en))


@functools.lru_cache(maxsize=4)
def _sayings(lexicon: SymptomLexicon) -> frozenset[str]:
    return frozenset(plain_form(form)[0] for entry in lexicon.entries.values() for form in entry.colloquial)


@functools.lru_cache(maxsize=4)
def _english_words(lexicon: SymptomLexicon) -> frozenset[str]:
    return frozenset(
        word for entry in lexicon.entries.values() for form in entry.en for word in _latin_words(_spelled(_bare(form)))
    )


@functools.lru_cache(maxsize=4)
def _term_pairs(lexicon: SymptomLexicon) -> frozenset[str]:
    return frozenset(pair for term in lexicon.entries for pair in _pair_list(term))


@functools.lru_cache(maxsize=64)
def _all_names(names: tuple[str, ...], allowed: frozenset[str], lexicon: SymptomLexicon) -> re.Pattern[str] | None:
    known = _known_names(names, lexicon)
    return _alternation(frozenset(name for name in known if len(name) > 1) | allowed)


@functools.lru_cache(maxsize=4)
def _known_names(names: tuple[str, ...], lexicon: SymptomLexicon) -> frozenset[str]:
    terms = {_as_name(term) for term in lexicon.entries}
    return frozenset(plain for name in names if (plain := _as_name(name)) and plain not in terms)


@functools.lru_cache(maxsize=64)
def _alternation(names: frozenset[str]) -> re.Pattern[str] | None:
    return re.compile(_spellings(names)) if any(names) else None


def _spellings(names: Iterable[str]) -> str:
    parts = []
    for name in sorted(filter(None, names), key=len, reverse=True):
        words = map(re.escape, name.split())
        # Crohn disease, Crohns disease; preeclampsia, pre eclampsia.
        parts.append(rf"\b{'s? ?'.join(words)}(?:s|es)?\b" if name.isascii() else " ?".join(words))
    return "|".join(parts)


def _joined(plain: str) -> str:
    """Return the text without blanks and stops between Chinese characters, so that a name cannot be cut by one."""
    return _STOPS.sub("", plain)


def _tails(word: str) -> list[str]:
    return [word[i:] for i in range(1, len(word) - 1)]


def _shingles(plain: str) -> list[str]:
    """Return all runs of `_SECRET_RUN` letters, blanks and stops left out."""
    letters = "".join(char for char in plain if char.isalnum())
    run = _SECRET_RUN if not letters.isascii() else 3 * _SECRET_RUN
    return [letters[i : i + run] for i in range(len(letters) - run + 1)]


def _pair_list(text: str) -> list[str]:
    runs = re.findall(r"[\u3400-\u9fff]+", text)
    return [run[i : i + 2] for run in runs for i in range(len(run) - 1)]


def _pairs(text: str) -> set[str]:
    return set(_pair_list(text))


def _latin_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z][a-z']+|\b[a-z]\b", text))
