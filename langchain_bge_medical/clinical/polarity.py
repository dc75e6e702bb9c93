"""Which findings a patient affirms, denies, suspects, had before, or tells of somebody else."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from langchain_bge_medical.clinical.lexicon import Mention, SymptomLexicon, plain_form
from langchain_bge_medical.clinical.mentions import mentions_of

Status = Literal["present", "absent", "possible", "past", "family"]


class Finding(NamedTuple):
    """A term in a patient's words; `text[start:end]` is how it is said."""

    term: str
    start: int
    end: int
    status: Status


# Rules in the manner of ConText (Harkema et al. 2009), written for Chinese: no such list was public.

AFFIRMED: tuple[Status, ...] = ("present", "possible")
"""What counts as said of the patient as he is now."""

# What ends the reach of every word before it.
_CLAUSE_END = re.compile(
    r"[。；;!！?？\n…]|\.(?!\d)|但是|但|不过|然而|(?<!应该)只是|(?<!应该)(?<!是不是)(?<!兴许)(?<!可能)就是|却|可是|(?<![没有认])可(?=$)|而是|而且|\bbut\b|\bthough\b"
    r"|\bhowever\b|(?<!i['’]m )(?<!i am )\bjust\b|\bonly\b"
)
# A comma ends a denial in people's everyday words ("没发烧,咳嗽三天了"), but not after the words of a medical record
# ("无发热,咳嗽,胸痛").
_COMMA = re.compile(r"[，,]")
_RECORD_STYLE = re.compile(r"否认|未见|不伴|无|\bno\b|\bden(?:y|ies|ied)\b|\bwithout\b|\bnegative for\b")
_JOINTS = re.compile(r"(?:[、和或及与跟，,\s/]|或者|以及|还有|什么的|\band\b|\bor\b|\bany\b)*")
_LIST = re.compile(r"(?:[、和或及与跟\s/啊呀啦]|还是|或者|以及|也好|也罢|什么的|啥的)*")
_DENYING = re.compile(
    r"(?<![痛疼痒好对])伐(?=$)|没有|没得|没|無|无|未见|未|不伴|不太|不怎么|不大|并不|从不|否认|排除|不|别说|冇|唔|呒"
    r"|勿|弗|毋|莫得|莫(?=$)|木有"
    r"|袂|𣍐|并非|哪有|哪来的?|何来|零(?=$)|\((?:-|–|−|neg)\)|\b(?:neg|denying|w/o|lack(?:s|ing)?|rul(?:es?|ed"
    r"|ing) out|nil|-ve for|minus|anything but|far from)\b|\bno\b|\bnot\b|\bneither\b|\bnor\b|\bnever\b|\bwithout\b"
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
# Another time than now: another episode or long ago, wherever it is said.
_NUMBER = r"[0-9一二两三四五六七八九十几半好多]{1,3}"
_AGO = (
    r"(?:上上?个?(?:月|周|星期|礼拜)|上一?[次回]|大?前年|去年|旧年|以前|从前(?!天)|老?早前|早[些几]?年|前[几些两]年"
    r"|前一?阵子?"
    r"|前段(?:时间|日子)|小时候|细个|年轻的?(?:时候?|那会儿?|那阵)|读(?:书|大学|高中|初中|小学)的?(?:时候?|那会儿?)"
    r"|当年(?!龄)|那年|老早(?:以前)?|早先|原先|原来|那时候?|那会儿?(?!落下|就|开始)|那[次回](?!以后|之后|起)|那阵子?"
    rf"|{_NUMBER}个?(?:月|周|礼拜|星期)多?[以之]?前|(?<!几)年前|上一胎|头一?胎|怀老大|生(?:老大|老二|头胎|第一胎|上一个|他哥|她姐|我)(?:的?时候?|那会儿?|那阵)"
    rf"|当兵(?:的?时候?|那会儿?|那几?年)"
    r"|(?:幼儿园|小学|初中|高中|中专|大学|大[一二三四]|上学|读研|下乡|插队|下矿|打工|月子里?)(?:的?时候?|那会儿?|那[几两]?年|那阵)"
    rf"|(?:小学|初中|高中|大学)(?=.{{0,4}}过)|第一次阳|头一回阳|上回阳"
    rf"|(?:{_NUMBER}|19[0-9]{{2}}|20[01][0-9])年[以之]?前)"
)
# Earlier in what goes on.
_EARLIER = re.compile(
    r"昨[天晚儿夜日]|昨$|今早|[寻尋琴噚][日晚]|前[天晚日]|[前头][几两一][天日晚]|上周|上个?(?:星期|礼拜)|(?:周|星期|礼拜)[一二三四五六日天]"
    r"|那[天晚]|凌晨|早上|上午"
    r"|中午|夜里|半夜|刚才|开头|一?开始|刚起|起先|先是|当时|[之以]前|来着"
)
_PAST_WORDS = (
    rf"(?<![从自打比跟和像]){_AGO}(?!(?:从来)?没有?(?:这么|那么|这样|过这)|开始|起|就|到现在|至今|以来)|曾经?|既往|当时|先是|起初|一开始|(?:^"
    rf"|(?<=[，,。；;我他她]))之前(?!就|一直|开始)|已经好了|(?<!现)病史"
    r"|\bused to\b|\bhistory of\b|\b(?:pmh|hx|h/o|s/p)\b|\bonce had\b|\b(?:past|prior|previous)\s(?=$|[a-z]*\s?$)"
    r"|\bgrowing up\b|\b(?:back )?in (?:19|20)\d\d\b|\bwhen i was (?:a )?(?:child|kid|young|little|small|teen\w*"
    r"|in)\b|\byears ago\b|\blast (?:year|month|winter|summer)\b|\bas a (?:kid|child)\b"
    r"|\bin college\b|\bpreviously\b|\bhad (?=[^.,]{0,30}last )"
)
_WHEN = re.compile(rf"(?P<now>{_NOW_WORDS})|(?P<past>{_PAST_WORDS})")
# What is only supposed, so that its contrary is, too.
_SUPPOSED = re.compile(r"如果|要是|假如|万一|倘若|\bif\b")
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
_ASKED_FOR = re.compile(
    rf"(?:替|帮|代|给|为)(?:我|俺|咱)?(?:们)?(?:家|屋里)?(?:的|个)?(?:{_RELATIVES}|[他她])[^，,。；;]{{0,4}}(?:问"
    rf"|咨询|看看|查查|挂号|打听)"
    r"|(?:替|帮|代)(?:我|俺|咱)[^，,。；;问]{1,6}(?:问|咨询|打听)"
    rf"|不是(?:我|俺)(?!们|家|[的]).{{0,8}}?[，,]?(?:而)?是(?:我|俺)(?:们)?(?:家)?的?{_RELATIVES}"
    rf"|(?:我|俺)(?:自己)?(?:不|没)[^，,。；]{{1,6}}[，,](?:主要)?是(?:我|俺)?(?:们)?家?的?{_RELATIVES}"
    rf"|\basking for my {_KIN_EN}|\bdo (?:for|about) (?:him|her)\b|\bhelp (?:him|her)\b"
)
_SELF_WELL = re.compile(
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
_NOT_ME = re.compile(
    r"(?:[得的]\w{1,5}|了|过|\w{1,4}回)?[，,]?\s*(?:但|可)?(?:我|俺)(?:自己)?(?:就|倒|可|却|还|目前|现在|一点){0,3}(?:没有?|冇|啥事(?:也|都)?没)"
    r"(?:过|事儿?|的|有)?(?=[，,。；;!！\n]|$)"
)
_ALL_BUT_ME = re.compile("[就唯独只](?:有|剩)?(?:我|俺).{0,3}没")
_AFTER_WORDS = r"(?:的?(?:情况|现象|症状|念头|那种|这种|感觉|毛病)(?:也|都|倒|是|就)?)?"
_NEITHER = re.compile(
    rf"{_AFTER_WORDS}(?:啊|呀|啥的|也好|也罢|这些|之类的?|等等?|那些)?\s*(?P<all>都|一概|均|全都?|统统|一个都|一样都?"
    rf"|哪样都|哪个都|什么的都|啥都|皆|俱)(?:没有?|无|冇|不存在|不明显|阴性|正常)[了过的]*\s*(?=[、，,。；;!！?？\n]|$)"
)  # 胸痛、胸闷都没有
_TOUCHING = re.compile(r"[、和或及与跟]?|或者|\s?/\s?|\s(?:or|and)\s")


def findings(text: str, lexicon: SymptomLexicon) -> list[Finding]:
    """Return the findings in `text` in order of occurrence, each with what is said of it.

    A denial before a finding, inside it (`腰也不疼`), or right after it denies it within its clause; words that
    only look like denials (高烧不退, 睡不着) do not. Linear in the length of the text.

    Args:
        text: A patient's words, Chinese or English or both.
        lexicon: The terms to look for.

    Returns:
        Findings without overlaps; offsets count code points of `text`. A term that is not in the lexicon
        stands for a complaint that no term says (`疼痛` without a body part).
    """
    return Reading(text, mentions_of(text, lexicon)).findings


_COURSES = frozenset({"反复发作"})  # what is said of another finding: 又烧,反反复复


class Reading:
    """A text with its findings, which also knows what is said of any other span of it.

    Attributes:
        findings: One for each mention that is no more than the course of another, in order.
    """

    def __init__(self, text: str, mentions: Sequence[Mention]) -> None:
        """Read a text.

        Args:
            text: A patient's words.
            mentions: Where it speaks of a symptom, in order, without overlaps.
        """
        self._plain = _aligned(text)
        if any(mention.term not in _COURSES for mention in mentions):
            mentions = [mention for mention in mentions if mention.term not in _COURSES]
        self._states = [_State()]
        contexts = []
        for mention in mentions:
            context, state = _advance(self._plain, self._states[-1], mention)
            contexts.append(context)
            self._states.append(state)
        self._ends = [mention.end for mention in mentions]
        self._asked_for = bool(_ASKED_FOR.search(self._plain))
        told_apart = any(context.own for context in contexts) or bool(_SELF_WELL.search(self._plain))
        self._teller_is_ill = told_apart and not self._asked_for
        found: list[Finding] = []
        commas = False  # and may hold commas
        all_denied = False  # whether a list goes on behind the mention that ends in "都没有"
        for i in reversed(range(len(mentions))):
            mention = mentions[i]
            if all_denied:
                all_denied = self._goes_on(mentions, i, commas=commas)
            if not all_denied:
                neither = _NEITHER.match(self._plain, mention.end, mention.end + _AFTER)
                all_denied = bool(neither)
                # 发烧,头疼,拉肚子都没有: one thing in the last clause cannot be "all"
                commas = all_denied and not self._goes_on(mentions, i - 1, commas=False)
            following = mentions[i + 1].start if i + 1 < len(mentions) else len(self._plain)
            status = self._status(contexts[i], mention.start, mention.end, following, denied=all_denied)
            if status == "present" and found and found[-1].status == "past" and mention.end == following:
                status = "past" if contexts[i + 1].when != "past" else status  # 咳嗽带血那会儿
            supposed = contexts[i].supposed and status == "possible"
            status = self._by_itself(mention, mentions[i - 1].end if i else 0, status, supposed=supposed)
            found.append(Finding(mention.term, mention.start, mention.end, status))
            if status == "absent" and not all_denied and not contexts[i].denied and not mention.opposite:
                # 怕风怕水倒没有
                touching = i > 0 and _TOUCHING.fullmatch(self._plain, mentions[i - 1].end, mention.start)
                all_denied, commas = bool(touching), False
        self.findings = _over(self._plain, _once(self._plain, found[::-1]))

    def _by_itself(self, mention: Mention, before: int, status: Status, *, supposed: bool) -> Status:
        """Return the status of a mention by its own words, too: 不恶心 is absent if said to be present."""
        plain = self._plain
        if _either(plain, mention, before):
            return "possible"
        if _insists(plain, mention) or _SO_POOR.match(plain, mention.end - 1):
            return "present"
        if _ALL_BUT_ME.search(plain, mention.start, mention.end):
            return "family"
        if mention.opposite and status == "family":
            return "absent"
        if not mention.opposite:
            return "absent" if _SAYS_NOT.search(plain[mention.start : mention.end]) else status
        if not supposed and status in ("present", "possible", "absent"):
            return "present" if status == "absent" else "absent"
        return status

    def _goes_on(self, mentions: Sequence[Mention], i: int, *, commas: bool) -> bool:
        """Return whether mention `i` stands in a list with the one behind it."""
        if i < 0:
            return False
        end, start = mentions[i].end, mentions[i + 1].start
        if _LIST.fullmatch(self._plain, end, start):
            return True
        bare = i == 0 or _STOP.search(self._plain, mentions[i - 1].end, mentions[i].start)
        opens = not mentions[i].start or _STOP.match(self._plain, mentions[i].start - 1)
        return bool(commas and bare and opens and _STOP.fullmatch(self._plain, end, start))

    def status(self, start: int, end: int) -> Status:
        """Return what is said of `text[start:end]`, whatever it is.

        Args:
            start: In code points.
            end: After the last.

        Returns:
            As if it were a mention. Looks back at most `_BACK` characters.
        """
        state = self._states[bisect.bisect_right(self._ends, start)]
        if start - state.end > _BACK:
            state = _State(end=start - _BACK)
        context, _ = _advance(self._plain, state, Mention("", start, end, opposite=False))
        neither = _NEITHER.match(self._plain, end, end + _AFTER)
        return self._status(context, start, end, len(self._plain), denied=neither is not None)

    def _status(self, context: _Context, start: int, end: int, following: int, *, denied: bool) -> Status:
        plain = self._plain
        if context.denied and not denied and _THIS_BAD.match(plain, end, end + 20):
            context = context._replace(denied=False)
        if _HOW_NOT.search(plain, max(0, start - 3), start) and plain.startswith(("吗", "么", "嘛"), end):
            return "present"  # 能不疼吗
        if _NOT_SURELY.search(plain, max(0, start - 6), start) and plain.startswith(("吧", "了吧"), end):
            return "possible"
        if denied or context.denied:
            return "absent"
        if _AGAIN_BEFORE.search(plain, max(0, start - 2), start) and _WHAT_THEN.match(plain, end):
            return "possible"
        others = context.kin or context.who == "others"
        if others and _NOT_ME.match(plain, end):
            return "family"
        after = _told_after(plain, start, end, following)
        if after == "absent" and plain.startswith("没", end):
            unsure = context.possible or _UNSURE_BEFORE.search(plain, max(0, start - 10), start)
            if unsure:
                return "possible"  # 不确定烧没
        if after == "absent":
            return "absent"
        if context.kin or (context.own if self._asked_for else context.who == "others" and self._teller_is_ill):
            return "family"
        if context.when == "past" or after == "past":
            return "past"
        return "possible" if (context.possible and after != "present") or after == "possible" else "present"


# ------------------------------------------------------------------- what is said after a finding, in its own clause

# A clause, which a number's point does not end.
_REST = re.compile(r"(?:[^，,。；;!！?？\n….]|\.(?=\d))*")
_TURN = re.compile(r"但|不过|可是|只是|就是|而且|然后|\bbut\b|\bthough\b|(?<=[^\x00-\x7f])\s+(?=[^\x00-\x7f])")
_LONG_AGO = rf"(?:{_AGO}|之前|上学期|年轻|小时候?|上学时|.天那会儿?|{_NUMBER}年多?[以之]?前)"
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
_AGAIN_AND_AGAIN = r"[，,]\s*(?:一天|每|天天|反复|又|老|经常|来回|时好时坏|隔)"
# An attack that is over: 筷子掉了,右手不听使唤,十来分钟又好了.
_ATTACK_OVER = re.compile(
    r"[，,]\s*(?:大概|也就|差不多|过了?)?(?:[0-9一二两三几十半]{1,3}[来多几]?(?:秒|分)钟?|[半一]个?小时"
    r"|半个?钟头?)(?:左右|后|以后)?(?:又|自己|才|慢慢)?"
    rf"(?:好|过|恢复|缓过来|缓解|没事)了(?=[，,。；;!！]|$)(?!{_AGAIN_AND_AGAIN})"
)
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
    rf"(?:{_NO_USE}.){{0,12}}?(?:没有|没得|没|冇|无|呒没|木有|莫得|没啥|没什么|没动静|[唔不]多|已?排除|不(?:明显"
    rf"|严重|算)|[不未]曾|未|不存在|[谈说称算]不上"
    r"|不至于|没影|阴性|否认|否|零|(?<![没未不有])(?:摇头|消失|痊愈|已愈)|未诉|未及|未有|未见|未闻及?"
    rf"|未触及|不沾边?"
    r"|没到[那这]个?(?:份|程度|地步)上?|没听(?:他|她|娃|人)?(?:说|提|喊|叫)|没(?:再|怎么|咋)?(?:听|复发|看|瞧|瞅|见"
    r"|发现|摸|量|查|测|感觉|觉得?|出现|有|犯|闹|发作)(?:见|到|出来?|着|出|过|来){0,2}"
    r"|(?:看|摸|瞧|量|测|觉|感觉)[也都]?不(?:见|到|出|着)来?)(?:过|了|的|咗|晒|啊|吧|呀|呢|哦|哈|啦|嘛|出现|发生"
    r"|这回事|的事|什么|任何|高|低|异常){0,3}"
    rf"|{_ADVERB}{{0,4}}(?:(?:再也?没有?|(?:没有?|冇|未|不|唔)再)(?!恢复|好|长好|[睡吃喝走站看用去查管治敢能下上]|起(?!来)).{{0,3}}"
    r"|没(?:有)?(?:出(?:过|现)?|出来|冒出来|起来|发出来|长出来|露面|找上门))"
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
    r"|周[一二三四五六日天]|第[一二三四五六七八九十0-9]{1,2}[天日周]|当[天晚日场时]|隔天|次日|立马|马上|立刻|很快|自行|自己|没几天|跟着"
    r"|一下子?)"
)
_SPELL = (
    rf"(?:[流吐拉烧痛疼咳晕麻跳抽哑肿]?[过了]?(?:{_NUMBER}个?多?(?:天|晚上?|夜|宿|周|礼拜|星期|月|年"
    r"|(?:分钟|小时)(?=总算|终于|已经|才))|这事儿?))"
)
# It came to an end: 烧今早退了, 喉咙痛好了换流鼻水.
_CEASED = re.compile(
    rf"\s*(?:的?(?:劲儿?|感觉|毛病|症状|情况))?{_SPELL}?(?:{_ADVERB}|{_DAY}|早就?|已经?|总算|终于|基本上?|几乎"
    rf"|差不多|完全|全部?|彻底|慢慢|渐渐|刚刚?|老早"
    rf"|算是){{0,5}}"
    r"(?:[退消](?:干净|下去|光|完|尽|的差不多|得差不多)|[没不](?:再)?(?:犯|流|出|来|发)|止住|退下去|停|止|退|好|消|不见"
    r"|(?<![吞咽吃喝瘦烂坏掉摔跌倒])(?:下来|下去)|过去|恢复|缓解|缓过来|控制住|压下去|压住|没得|没|冇|治好|断根|干净"
    r"|松活|松快|跟着走|走(?=了\s*$)|利索|瘪|褪|散|结痂|愈合|长好|收口)"
    r"(?:干净|全|透|利索|彻底|光)?[了咗](?:的|啦|哈|晒)?"
    r"(?:(?<=[了咗])成?[一两三四五六七八九十几好多半0-9]{0,3}个?(?:天|小时|礼拜|星期|周|月|年)(?:了|多)?)?"
    r"(?=\s*$|\s|之后|以后|[换剩光只又接反轮变])"
    rf"|{_SPELL}?(?:{_DAY}|早就?|已经?|全|都|基本|彻底|完全|自己)*(?:(?:停|断|消失|好(?![几些多久半])){_NUMBER}个?(?:天|小时|礼拜|星期|周|月|年)了"
    r"|消退|退尽|消尽|消失|痊愈|[退消][的得]差不多)(?=\s*$)|(?:早就?|已经?|都|全)(?:退|消|好|没|停)(?=\s*$)"
    r"|\s(?:(?:but|and|has|have|had|is|are|it|all|just|finally|basically|almost|completely|mostly|nearly|now) ){0,3}"
    r"(?:never happened|resolved|gone(?: (?:away|down))?|went (?:away|down)|died down|calmed down|stopped|broke"
    r"|settled|cleared(?: up)?|subsided|over with)\b"
)
_COMES_BACK = re.compile(
    r"[^。；;!！?？\n]{0,14}?又(?:回来|找上门|卷土重来|冒出来)(?P<all>)"
    r"|[^。；;!！?？\n]{0,12}?(?:(?<![没不未])[又再](?:开始|接着|是)?|接着|还是|照样|照旧|继续)(?P<what>.)"
)
_SIDE = re.compile("[左右]")
_BODY = re.compile("[胳膀手头脑脸眼耳鼻嘴舌牙喉嗓脖颈肩臂肘腕手指胸乳心肋背腰胃腹肚臀肛腿膝踝脚趾]")
_NOT_DONE = re.compile(
    rf"{_ADVERB}{{0,4}}(?:没有?|冇|未|唔|不|勿|呒没)(?:怎么|咋|太|大|再|真)?(?P<verb>.)(?:过|着|到|起来|出来?|了"
    rf"|几次|多少)?"
)  # 出血没出
_UNSURE = (
    r"(?:不知道|不晓得|不太?清楚|不[敢能太]?(?:肯定|确定)|不太确定|说不清楚?|说不准|说不好|拿不准|吃不准|搞不清楚?"
    r"|不确定|不敢说"
    r"|不好说|难说|记不清)"
)
_WHETHER = r"(?:有没有|是不是|算不算|是否|(?P<one>.)[没不](?P=one)过?)"
_UNCLEAR = re.compile(
    rf".{{0,8}}?{_WHETHER}.{{0,3}}?{_UNSURE}(?:有没有|是不是|算不算|到底|[算有是的了呢也]|.[没不].){{0,3}}"
    rf"|.{{0,6}}?{_UNSURE}(?:有没有|是不是|算不算|到底|[算有是的了呢也]|.[没不].){{0,2}}(?:有没有|是不是|算不算"
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
_ASKED = re.compile(r"[^，,。；;!！、\n.]{0,3}?(?:吗|[?？])|\s(?:though|then|too|either|anything)\?")
# 头痛嘛,没有的; 问我有没有盗汗,我说没有
_UNASKED = re.compile(
    r"(?:[嘛呢吧]|的话|这个)?\s*[，,]\s*(?:[量查看问摸听试][过了][，,])?(?:我|他|她)?就?(?:说|回答|答)?(?:那"
    r"|这个?)?(?:倒是?|还|真|确实|可|都){0,3}"
    r"(?:没有|冇)(?:的|过|呢|啊)?(?=[，,。；;!！\n]|$)|[:：]\s*(?:没有?|无|否|no|none)(?=[，,。；;!！\n\s]|$)"
)
_ANSWER = re.compile(
    r"[吗呢的]{0,2}\s*[?？，,。]?\s*[?？]?\s*(?:(?:我|他|她)?(?:就)?(?:说|回答?|答)?(?:都|全|倒是?|那)?"
    r"(?P<no>(?:没有?|冇|无|否|莫得|没得|不是|不存在|谈不上|不会|不太?)(?:过|的|啊|了|呢|哈"
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


def _told_after(plain: str, start: int, end: int, following: int) -> Status | None:
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
    if following == end or _NEW.match(plain, end):
        return None
    rest = _REST.match(plain, end, end + _AFTER)
    stop = rest.end() if rest else end
    turn = _TURN.search(plain, end, stop)
    ceased = _CEASED.match(plain, end, min(turn.start() if turn and turn.group() != "but" else stop, following))
    if turn is not None:
        stop = turn.start()
    if ceased and not _seen_no_more(said_of, ceased.group()):
        return None if _comes_back(plain, said_of, ceased.end()) else "absent"
    if _THAT_TIME.match(plain, end, min(stop, following)):
        return "past"
    if stop > following:
        return None
    words = plain[end:stop]
    if words.isascii():
        words = words.rstrip()
    if _is_unclear(plain, said_of, words, stop):
        return "possible"
    if not said_of.endswith("没") and _was(plain, plain[_clause_start(plain, start) : start], words, stop):
        return "past"
    not_done = None if "就" in words else _NOT_DONE.fullmatch(words)
    if _NOT_THERE.fullmatch(words) or (not_done and not_done["verb"] in said_of):
        return None if _seen_no_more(said_of, words) else "absent"
    return None


def _answered(plain: str, said_of: str, end: int) -> Status | None:
    """Return what a patient answers to a question that ends in the finding before `end`; `possible` if nothing."""
    asked = _ASKED.match(plain, end, end + 12)
    if asked is None:
        return "absent" if _UNASKED.match(plain, end, end + _AFTER) else None
    answer = _ANSWER.match(plain, asked.end(), end + _AFTER)
    if answer is None:
        said = plain[asked.end() : asked.end() + 1]
        return "present" if said > "\x7f" and said in said_of else "possible"
    if answer["yes"]:
        return "present"
    return "absent" if answer["same"] is None or answer["same"] in said_of else "possible"


def _comes_back(plain: str, said_of: str, at: int) -> bool:
    """Return whether what came to an end is there again: 烧退了,药劲一过又烧."""
    back = _COMES_BACK.match(plain, at, at + _AFTER)
    if back is None or (back["what"] and back["what"] not in said_of and back["what"] not in "犯发来起上"):
        return False
    other = _BODY.search(back.group())  # 腰疼好了腿又疼
    return other is None or other.group() in said_of


def _seen_no_more(said_of: str, words: str) -> bool:
    """Return whether it is an eye that sees no more: 右眼再也看不见 denies nothing."""
    return said_of.endswith(("眼", "眼睛")) and bool(_UNSEEING.search(words))


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
    if _WAS_CLAUSE.match(plain, stop, stop + _AFTER) or _WAS.fullmatch(words):
        return True
    return bool(_ONCE_BEFORE.fullmatch(words)) and not _JUST.search(before)


# 右眼看不见 says what is wrong; it denies nothing unless more follows (看不见红肿).
_UNSEEING = re.compile(r"看(?:都|也|东西)?不(?:见|到)了?$")
_THIS_BAD = re.compile(  # never had pain this bad
    r"\s(?:this|that|so|as) (?:bad|badly|much|severe|strong|intense|awful)\b"
    r"|[得到]?(?:这么|这样|那么|如此)(?:厉害|重|凶|狠|严重|剧烈|频繁|久)"
)
_SAYS_NOT = re.compile(
    r"消[了咗]?[肿腫]了?$|(?<!没)退[了咗]?[烧燒]了?$|(?P<it>[痛疼痒咳吐烧晕肿麻喘胀红抖热酸闷拉泻汗堵黄]).{1,5}[不没](?P=it)(?:过|了|啊)?$"
)  # 痒是一点不痒


# What stands between a symptom and the same symptom said again of it: 恶心倒不恶心, 肿没肿, 痒是真痒.
_AGAIN = re.compile(
    r"(?:倒是?|是|也|都|还|又|就|真的?|的确|确实|一点儿?|[我它他她]|可|却|现在|已经|并|反倒|怎么也"
    r"|从来){0,4}(?P<deny>没有?|不|唔|勿|冇|无|袂|未)?"
    r"(?:怎么|太|大|见|再|咋)?"
)
_QUESTION = re.compile(r"没?有?[?？]\s*(?:没有?|不|唔)?")
_TOPIC = re.compile(r"[，,]\s*(?:倒|倒是|也|还|是)?(?:没有?|不|冇|唔)?")
_WHO_KNOWS = re.compile(rf"[也都我]?{_UNSURE}")  # 烧不知道烧没烧
_NEGATION = re.compile("[没不]")
_EITHER = re.compile(r"(.)[没不]\1")
_UNSURE_BEFORE = re.compile(rf"(?:{_UNSURE}|会|不记得)(?:到底|究竟|是不是)?$")
_UNSURE_AFTER = re.compile(rf".{{0,2}}{_UNSURE}|.{{0,3}}没(?:太|怎么)?(?:注意|留意|看清|量|数)")


def _either(plain: str, mention: Mention, before: int) -> bool:
    """Return whether a mention is of the form 咳没咳 and the teller does not know."""
    if not _NEGATION.search(plain, max(0, mention.start - 1), mention.end + 2):
        return False
    start = max(before, mention.start - 1)
    if not _EITHER.search(plain, start, min(len(plain), mention.end + 2)):
        return False
    words = plain[max(before, mention.start - 10) : mention.start]
    return bool(_UNSURE_BEFORE.search(words) or _UNSURE_AFTER.match(plain, mention.end, mention.end + 8))


_ASKS = re.compile(r"[^，,。；;!！\n]{0,3}(?:[?？吗呢]|知道|清楚|确定)")
_NOT_SURELY = re.compile("(?:不是|别是|不会是?|该不会是?|不至于).{0,2}$")  # 不是出血吧
_AGAIN_BEFORE = re.compile("再$")
_WHAT_THEN = re.compile("了?(?:咋[整办弄]|怎么[办弄整]|点算)")  # 再头疼咋整
# What another symptom is so bad that it does: 痒得坐不住 says one thing.
_SO_BAD = re.compile(r"[的得地到着咗][^，,。；;!！?？\n\s]{0,3}")
_CONSEQUENCES = frozenset(
    {
        "肢体活动受限", "失眠", "注意力不集中", "翻身困难", "腰部活动受限", "夜间痛醒", "活动受限", "行走困难",
        "颈部活动受限", "易哭泣", "哭闹不安", "情绪低落", "疼痛", "头痛", "背痛", "腹痛", "站立不稳", "口腔灼痛",
    }
)  # fmt: skip


def _new(plain: str, found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings but those that say when one told before was done with: 咳得脸通红,咳完…."""
    told: set[str] = set()
    for finding in found:
        if finding.term not in told or not plain.startswith("完", finding.end - 1):
            yield finding
        told.add(finding.term)


def _once(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings without those that only say the one before again."""
    kept: list[Finding] = []
    for finding in _new(plain, found):
        before = kept[-1] if kept else None
        if before is None or finding.start - before.end > _REPEAT:
            kept.append(finding)
            continue
        first, second = plain[before.start : before.end], plain[finding.start : finding.end]
        between = plain[before.end : finding.start]
        again = _AGAIN.fullmatch(between)
        if (
            _WHO_KNOWS.fullmatch(between)
            and second[:1] in first
            and _EITHER.search(plain, finding.start, finding.end + 4)
        ):
            kept[-1] = before._replace(end=finding.end, status="possible")
            continue
        if _QUESTION.fullmatch(between) and second.lstrip("不没")[:1] in first:  # 疼不疼?疼
            kept[-1] = before._replace(end=finding.end, status=finding.status)
            continue
        topic = before.start == 0 or _STOP.match(plain, before.start - 1)
        same = finding.term == before.term and second.lstrip("不没") in first
        what = between in ("啥", "什么", "个啥") and second in first  # 晕啥晕
        if what or (topic and same and _TOPIC.fullmatch(between) and finding.status == "absent"):
            kept[-1] = before._replace(end=finding.end, status="absent")
            continue
        core = second.lstrip("不没有无唔勿未")
        if again and core and (core in first or first in core):
            denied = again["deny"] or len(core) < len(second)
            if between or len(core) == 1:
                status = before.status
                if denied and not _ASKS.match(plain, finding.end):
                    status = "absent" if finding.status == "present" else finding.status
                elif denied:
                    status = "possible"
                if denied and (
                    before.status == "possible"
                    or _UNSURE_BEFORE.search(plain, max(0, before.start - 10), before.start)
                    or _UNSURE_AFTER.match(plain, finding.end, finding.end + 8)
                ):
                    status = "possible"
                kept[-1] = before._replace(end=finding.end, status=status)
                continue
        if _SO_BAD.fullmatch(between) and finding.term in _CONSEQUENCES and finding.status == before.status:
            continue
        kept.append(finding)
    return kept


# 能不咳吗, 谁说我不咳, 也不是完全不喘: two denials, the second inside the mention.
_INSISTS = re.compile(
    r"(?:(?<![可才])能|哪能|哪会|怎么?[能会]|咋能|谁说(?:我|他|她|人家)?|没有?[哪一][天晚夜宿日]|不是(?:说|讲)?(?:完全|一点|真的?|就)?"
    r"|不[敢能]说(?:完全|一点儿?(?:也|都)?)?|不可能|不会|难免)$"
)
_SO_POOR = re.compile("好[差烂少]")  # 胃口好差
_NOT_FIRST = re.compile("[不没]")


def _insists(plain: str, mention: Mention) -> bool:
    """Return whether words before a mention that says `不` or `没` deny the denial: 能不咳吗."""
    if not _NOT_FIRST.match(plain, mention.start) or not mention.opposite:
        return False
    back = max(0, mention.start - 8)
    said = _INSISTS.search(plain, back, mention.start)
    if said is None:
        return False
    return said.group() not in ("能", "不会") or plain.startswith(("吗", "么", "嘛"), mention.end)


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
    r"|nothing)(?: (?:now|by now|today|since|completely)){0,2})(?=[,.;!\n]|$| but)"
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


def _over(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those as past or absent that were there and are now denied: 昨天还吐,今天不吐了."""
    last: dict[str, tuple[int, bool]] = {}
    recent: list[int] = []
    told = _all_over(plain, _only_left(plain, _no_more(plain, _attacks_over(plain, found))))
    for i, finding in enumerate(told):
        kind = _kind(finding.term)
        clause = plain[_clause_start(plain, finding.start) : finding.start]
        if finding.status == "present":
            begins = plain[finding.start : min(finding.end, finding.start + 3)]
            then, habit = bool(_EARLIER.search(clause + begins)), _HABIT.search(clause)
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
                close = finding.start - told[j].end <= _AFTER
                if told[j].status == "present" and close and _same(plain, told[j], finding):
                    told[j] = told[j]._replace(status="absent")
    return told


def _clause_start(plain: str, start: int) -> int:
    """Return where the clause begins that holds `start`, or a place near before it."""
    back = max(0, start - _CLAUSE_BACK)
    return back + _last_end(_STOP, plain[back:start])


def _same(plain: str, first: Finding, second: Finding) -> bool:
    """Return whether two findings are the same complaint at the same place: 右腿肿好了 ends no 左腿肿."""
    words, again = (plain[max(0, f.start - 1) : f.end] for f in (first, second))
    words, again = (_ITCHES.sub("痒", heard) for heard in (words, again))
    complaint = _COMPLAINT.findall(again)[-1:]
    for places in (_BODY, _SIDE):
        here, there = set(places.findall(words)), set(places.findall(again))
        if here and there and not here & there:
            return False
    return bool(complaint) and complaint[0] in words


def _stopped(plain: str, finding: Finding) -> bool:
    """Return whether a denial says that something has stopped: 吃了药就不晕了, not 坐着不晕了."""
    clause = plain[_clause_start(plain, finding.start) : finding.end + 1]
    rest = _REST.match(plain, finding.end, finding.end + _AFTER)
    ended = (
        _NOT_ANY_MORE.search(clause)
        or _NOT_ANY_MORE.search(clause[:-1])
        or _CEASED.match(plain, finding.end, rest.end() if rest else finding.end)
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
        if hot and over.start() - told[i].end <= _AFTER and not _comes_back(plain, "烧热", over.end()):
            told[i] = told[i]._replace(status="absent")
    for over in _NO_MORE.finditer(plain):
        i = bisect.bisect_left(starts, over.start()) - 1
        if i < 0 or told[i].status != "present" or _STOP.search(plain, told[i].end, over.start()):
            continue
        said_again = i + 1 < len(told) and starts[i + 1] < over.end()
        if said_again or _HABIT.search(plain, max(0, starts[i] - _NEAR), starts[i]):
            continue
        if (over["what"] or over["again"] or over["which"]) in plain[told[i].start : told[i].end]:
            told[i] = told[i]._replace(status="absent")
    return told


def _only_left(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those as absent that are not what is left: 昨天有吐,今天只剩打嗝."""
    told = list(found)
    starts = [finding.start for finding in told]
    for left in _LEFT.finditer(plain):
        for i in range(bisect.bisect_left(starts, left.start()) - 1, -1, -1):
            if left.start() - told[i].end > _NEAR or _SENTENCE.search(plain, told[i].end, left.start()):
                break
            if told[i].status == "present" and _EARLIER.search(plain, _clause_start(plain, starts[i]), starts[i]):
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
        if not 0 <= end - told[i].end <= _AFTER or len(_STOP.findall(plain, told[i].end, end)) > most:
            return
        if _SENTENCE.search(plain, told[i].end, end):
            return
        earlier = _EARLIER.search(plain, _clause_start(plain, told[i].start), told[i].end) or _EARLIER.search(
            plain, told[i].end, min(told[i].end + _NEAR, over.start())
        )
        once = earlier is not None and _TIME_OF_DAY.fullmatch(earlier.group()) is None
        once = once or _one_day(plain, told[i].start)
        if not everything and not once and _HABIT.search(plain, _clause_start(plain, told[i].start), told[i].start):
            return  # 每次来例假肚子疼,第二天就好
        if not (sure or once) or _comes_back(plain, plain[told[i].start : told[i].end], over.end()):
            return
        if told[i].status == "present":
            told[i] = told[i]._replace(status="absent")
        end = told[i].end


def _one_day(plain: str, start: int) -> bool:
    """Return whether the sentence tells, shortly before `start`, of one day that is over: 昨天跑步,肋骨下疼."""
    words = plain[max(0, start - 2 * _CLAUSE_BACK) : start]
    words = words[_last_end(_SENTENCE, words) :]
    return bool(_YESTERDAY.search(words)) and not _HABIT.search(words)


def _attacks_over(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with those of an attack as past that was over some minutes later."""
    told = list(found)
    starts = [finding.start for finding in told]
    for over in _ATTACK_OVER.finditer(plain):
        for i in range(bisect.bisect_left(starts, over.start()) - 1, -1, -1):
            if over.start() - told[i].end > _AFTER or _SENTENCE.search(plain, told[i].end, over.start()):
                break
            if told[i].status == "present":
                told[i] = told[i]._replace(status="past")
    return told


def _kind(term: str) -> str:
    return "发热" if term in ("低热", "高热", "持续高热", "午后低热") else term


def denied_within(words: str) -> bool:
    """Return whether the last clause of `words`, in plain form, holds a denial: `耳后不红不肿`, not `耳后不红,肿`."""
    heard = _heard(_UNSEEING.sub("", words))
    return bool(_DENYING.search(heard, max(_last_end(_CLAUSE_END, heard), _last_end(_COMMA, heard))))


_SPACE = re.compile(r"(?<![a-z0-9有没不无、,，.)）])\s(?![a-z0-9\s])")
_RIGHT_BEFORE = re.compile(rf"(?:{_DENYING.pattern})(?:再|太|怎么|是|那么|觉得|感觉|说我?|我)?\s*$")
_SENTENCE = re.compile(r"[。；;!！?？\n]")
_STOP = re.compile(r"[，,。；;!！?？\n]")
_FEW = re.compile(r"没(?:吃|喝|走|爬|站|坐|说|动|干|睡)(?:几|两|多|一会)")  # 没吃几口就饱
_ENDS = re.compile("(?<![没不])(?P<how>[消退止])(?:住|下去)?[了咗]?$")  # 消了肿, 止住血
_ENDED = {"消": "肿腫", "退": "烧燒热熱黄黃", "止": "血痛疼泻瀉咳痒癢"}
_LIE = re.compile(r"(?:那|都|才)?是?(?:假|骗)")  # 说不疼那是假的
_HOW_NOT = re.compile("能不$")
_CANNOT = re.compile(r"(?:can['’]?t|cannot|couldn['’]?t|won['’]?t|unable|trouble|hard to)\b")
_AT_TIME = re.compile("夜里|夜间|半夜|晚上|白天|早上|早晨|清早|下午|中午")  # 白天不咳夜里咳
_NOW_INSIDE = re.compile("现在|如今|这两天|最近")
_CLAUSE_BACK = 14  # characters before a finding in which its clause is looked for
# Chinese characters from a denial or a guess, and from a word of the past, to what it is said of. Beyond them, hardly
# one in ten was one in the training corpus, much of which has no comma: 冲也冲不掉现在还疼.
_REACH, _PAST_REACH = 5, 7
_NEAR = 8  # characters between 我 and what I have
_AFTER = 40  # characters behind a finding that are looked at
_REPEAT = 8  # characters between a finding and the same one said again
_BACK = 200  # and before a span that is no mention


_SAID_OF_BEFORE = re.compile(r"(?:都|也|倒是?|是|这[次回]|目前|现在|今天){0,2}(?:没有|没得|冇|无)\s+")
_STILL = re.compile(r"还|仍|依旧|\b(?:still|by (?:evening|night))\b|倒(?!是?[不没])")
# 无发热,咳嗽一周: what has lasted so long is there.
_FOR_DAYS = re.compile(
    r"(?:约|近|已|有|了)?[0-9一二两三四五六七八九十几半多余]{1,3}个?(?:天|日|周|月|年|小时|礼拜|星期)"
)
_NOT_SO = re.compile("(?<!是)不[^，,。；;、有]{1,4}的[大小硬软红白圆]{0,3}$")  # 不痒的红疹; 没有红的疹子 denies both
_BARE = re.compile(r"[，,]\s*(?:my |his |her )?$")  # no blood, no burning, ankles puffy


class _Context(NamedTuple):
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


class _State(NamedTuple):
    """What is carried on from one mention to the next."""

    context: _Context = _Context()
    who: str | None = None
    end: int = 0
    patient: str | None = None
    """Of whom the first finding is told: a relative, `self`, or `?` if that is not said."""


def _advance(plain: str, state: _State, mention: Mention) -> tuple[_Context, _State]:
    """Return a mention's context, carried on from the one before as far as its clause and list reach.

    Looks at the words between two mentions once, so that a long text takes linear time.
    """
    context, end = state.context, state.end
    told = plain[mention.start : mention.end]
    # Between Chinese words a space is a comma.
    between = plain[end : mention.start]
    if end and (own_denial := _SAID_OF_BEFORE.match(between)):  # 咳嗽没有 就疼
        context, between = _Context(when=context.when), "，" + between[own_denial.end() :]
    between = _SPACE.sub("，", between)
    who, own, patient, kin = _whose(plain, between, state, mention)
    turned = bool(cut := _last_end(_CLAUSE_END, between))
    if cut:
        context, between = _Context(), between[cut:]
    in_list = end > 0 and bool(_JOINTS.fullmatch(between))
    kin = kin or (in_list and context.kin)
    if (cut := _last_end(_COMMA, between)) and not (in_list and context.record_style):
        context, between = _Context(when=context.when if in_list else None), between[cut:]
    ends = _ENDS.search(between)
    # Pseudo-denials are looked for here, so that 无意识障碍 is not heard as 无意.
    heard = _heard(between)
    denies = (ends is not None and plain[mention.start] in _ENDED[ends["how"]]) or _reaches(_DENYING, heard, _REACH)
    denies = denies and not told.startswith("又") and not _FEW.match(plain, mention.start - 1)
    if not denies and _CANNOT.match(plain, mention.start):  # no phlegm, can't sleep
        context = _Context(when=context.when)
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
        context = _Context(when=context.when)
    repeated = denies and state.context.denied and not turned
    context = _Context(
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
        carried = context._replace(denied=bool(_DENYING.search(_heard(plain[mention.start : mention.end]))))
    return context, _State(carried, who, mention.end, patient)


_OR_ELSE = re.compile(r"(?:还是|或者?是?|又?像|是)[^，,。；;!！?？\n]{0,3}")  # 说不清是头晕还是脚下发飘


def _like(between: str, told: str) -> bool:
    """Return whether 像是 compares and does not guess: 像是针扎一样疼."""
    return between.endswith("像是") and ("一样" in told or "似的" in told)


def _whose(plain: str, between: str, state: _State, mention: Mention) -> tuple[str | None, bool, str, bool]:
    """Return whom a finding is told of, whether that is the teller, who the patient is, and whether it is another."""
    who, own = _last_who(between, state.who)
    patient = state.patient
    relative = _relative(between) if between else None
    if relative is not None:
        who, own = "others", False
    ours = _OUR_CHILD.search(between)
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


def _reaches(pattern: re.Pattern[str], words: str, reach: int) -> bool:
    """Return whether the last match is followed by at most so many characters, a list left out, or by English only."""
    end = _last_end(pattern, words)
    rest = words[max(end, words.rfind("、") + 1) :]
    return end > 0 and (rest.isascii() or len(rest) <= reach)


def _when(words: str) -> str | None:
    """Return which time the words speak of last, `now` or `past`; a past that is far off is that of something else."""
    when = _last_kind(_WHEN, words)
    return when if when != "past" or _reaches(_WHEN, words, _PAST_REACH) else None


def _heard(words: str) -> str:
    """Return the words without what looks like a denial and is none."""
    return _PSEUDO.sub("□", _DOUBLE.sub("□", _HARDLY.sub("没有", words)))


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


# What another one does for the patient says nothing of how that one is: 同学把我拖到树荫下, 邻居给了几片药.
_DOES_TO_ME = re.compile(
    r"[^，,。；;!！?？\n我俺]{0,6}?(?:[把给带让叫劝送拉扶推喊陪帮拖抱背]|说|笑|看|摸|骂|催)[了着过]?(?:我|俺)(?![们家爸妈爷奶爹娘哥姐弟妹儿女孙公婆])"
    r"|(?:给|送|拿|介绍|推荐|教)[了过的](?![^，,。；;]{0,4}(?:他|她))"
)


def _last_who(words: str, before: str | None) -> tuple[str | None, bool]:
    """Return whom the next finding is told of, and whether that is the teller, in their own words right before it."""
    who = before
    if not words:
        return who, False
    clause = _last_end(_STOP, words)
    for match in _WHO.finditer(words):
        if match.lastgroup == "others" and _DOES_TO_ME.match(words, match.end()):
            continue
        kind = "self" if match.lastgroup == "mine" else match.lastgroup
        if kind == "others" or match.lastgroup == "mine" or (kind == "self" and match.start() >= clause):
            who = kind
            near = 2 * _NEAR if match.group().isascii() else _NEAR
            if who == "self" and len(words) - match.end() <= near:
                return who, True
    return who, False


def _aligned(text: str) -> str:
    """Return the plain form, character for character: one that unfolds (℃ → °C) stays as it is."""
    plain, offsets = plain_form(text)
    if len(plain) == len(text):
        return plain
    unfolded = {a for a, b in itertools.pairwise(offsets) if a == b}
    twins = {i: char for char, i in zip(plain, offsets, strict=True) if i not in unfolded}
    return "".join(twins.get(i, char) for i, char in enumerate(text))


def _last_end(pattern: re.Pattern[str], text: str) -> int:
    """Return where the last match ends, or 0."""
    end = 0
    for match in pattern.finditer(text):
        end = match.end()
    return end


def _last_kind(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the name of the group that matched last."""
    return next((match.lastgroup for match in reversed(list(pattern.finditer(text)))), None)


_CLAUSE = re.compile(r"[^，,。；;！!？?\n]*[，,。；;！!？?\n]*")


def affirmed_text(text: str, found: Sequence[Finding]) -> str:
    """Return `text` without the clauses that only deny something, tell what is past, or are about others.

    Searching with `没有胸痛,就是反酸` finds chest pain, since words and vectors do not know what 没有 does.

    Args:
        text: A patient's words.
        found: What `findings` returns for them.

    Returns:
        What is left, or `text` itself if nothing of it affirms anything.
    """
    kept, i = [], 0
    affirms = False
    for clause in _CLAUSE.finditer(text):
        inside = []
        while i < len(found) and found[i].start < clause.end():
            inside.append(found[i])
            i += 1
        if inside and all(finding.status in ("absent", "past", "family") for finding in inside):
            continue
        affirms = affirms or bool(inside)
        kept.append(_without_denials(clause.group(), clause.start(), inside))
    left = "".join(kept).strip()
    return left if affirms and left else text


def has_findings(found: Sequence[Finding]) -> bool:
    """Return whether the patient affirms anything, of what `findings` returns for their words."""
    return any(finding.status in AFFIRMED for finding in found)


def affirms_nothing(text: str, found: Sequence[Finding]) -> bool:
    """Return whether every clause of `text` only denies, tells what is past, or is about others: `我不头痛`.

    Args:
        text: A patient's words.
        found: What `findings` returns for them.
    """
    if not found or has_findings(found):
        return False
    starts = [finding.start for finding in found]
    for clause in _CLAUSE.finditer(text):
        told = sum(char.isalnum() for char in clause.group())
        says = bisect.bisect_left(starts, clause.end()) - bisect.bisect_left(starts, clause.start())
        if told > 1 and not says:
            return False
    return True


def _without_denials(clause: str, offset: int, inside: Sequence[Finding]) -> str:
    """Return a clause that affirms something without what it denies: `没有发烧有咳嗽` → `有咳嗽`."""
    pieces, end = [], 0
    for finding in inside:
        if finding.status != "absent":
            continue
        start = finding.start - offset
        denials = list(_DENYING.finditer(clause, end, start))
        pieces.append(clause[end : denials[-1].start() if denials else start])
        end = finding.end - offset
    return "".join([*pieces, clause[end:]])
