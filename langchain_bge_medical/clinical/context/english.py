"""What a whole English sentence says of its findings: asked and answered, gone since, long ago, somebody else's."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from langchain_bge_medical.clinical.context.finding import Finding, Status
from langchain_bge_medical.clinical.context.words import HAN

_SENTENCE = re.compile(r"(?:[^.;!?。；！？\n]|\.(?=\d))+")
_CLAUSE_STOP = re.compile(r"[,:—]| [-–] ")
# Characters and findings of a sentence that is read as a whole; more are a list, of which the words beside them tell.
_LONGEST, _LISTED = 300, 8
_LONGEST_QUESTION = 48  # characters from a finding to its question mark
_ANSWER = 60  # characters of the next sentence in which a question is answered
_SORTS = (
    r"(?:thank (?:god|goodness|heavens)|(?:oh|god|heavens|lord|jaysus|jesus|thankfully|luckily|well|er|um|ah)[, ]+)?"
)
_NO = re.compile(
    rf"\W*{_SORTS}(?:no+|nope|nup|nah|nay|none|never|nil|zero|negative|hasn['’]t|haven['’]t|didn['’]t|doesn['’]t"
    r"|isn['’]t|not (?:once|even|really|at all|yet|any ?more|in the (?:slightest|least)|that i|a (?:bit|trace|drop"
    r"|single)|so far|me|him|her)|pull the other|(?:my |the )?(?:wife|husband|partner|missus) says (?:no|never))\b"
)
_YES = re.compile(
    rf"\W*{_SORTS}(?:yes|yeah|yep|yup|aye|you bet|a (?:tad|bit|little|lot)|sometimes|often|always|every|definitely"
    r"|sure|absolutely|mornings|mostly|constantly|all the time|big time|terribly|only (?:at|in|when|after))\b"
)
# "Could" and "can" as often ask what it is that is there.
_WOULD_IT = re.compile(
    r"^\W*(?:and |so |but |also |then |tell me,? )?(?:(?:should|would|will|might) (?!you)|is it (?:normal|common"
    r"|usual|possible) (?:to|for)\b"
    r"|is there (?:a |any )?(?:chance|risk)|can \w+ (?:cause|bring|give))"
)
_WILL_IT = re.compile(r"^\W*if\b[^,]*,\s*(?:will|would|should|could|can|might)\b")
_FEARED = re.compile(
    r"\b(?:suppos(?:e|ing)|what if|(?:terrified|afraid|scared|fear(?:ing)?|dreading) (?:of|that|i|he|she|it|we|they"
    r"|same)|in case|lest)\b[^,]{0,30}$"
    r"|\b(?:may|might) (?:be|be having|have|get|become|start|also)?\s*(?:an? |some |the )?$"
    r"|\b(?:dunno|not sure|unsure|can['’]t (?:say|tell)|don['’]t know|no idea|hard to (?:say|tell)) (?:if"
    r"|whether)\b[^,]{0,50}$"
    r"|\bi suspect\b.{0,50}$|\bexpecting\b[^,]{0,12}$"
)
_MAY = re.compile(r"\b(?:may|might)\b(?! \d)")
_DENIAL = re.compile(r"\b(?:not|never|no|hardly|nor|cannot)\b|n['’]t\b")
# Between a finding and its end: another subject, or what brings relief for a while.
_SOMETHING_ELSE = re.compile(
    rf"{_DENIAL.pattern}|\b(?:i|my|his|her|and|since|once|when|whenever|if|after|before|than|so|then|makes?|like)\b"
)
# What looks like a denial and affirms.
_AFFIRMS = re.compile(
    r"(?:\bnothing (?:(?:i|we|he|she|they|the \w+)\b|(?:\w+ )?(?:helps?|works?|touches|stops|shifts|eases"
    r"|gets? rid)\b)[^,]{0,40}"
    r"|\bno (?:luck|end|stopping|let-?up|escaping|shifting|getting (?:rid|away))\b[^,]{0,25}"
    r"|\b(?:can['’]t|cannot|can not|couldn['’]t|won['’]t) (?:quit|stop|shake|shift|help|settle|feed|get rid of"
    r"|get over)\b[^,]{0,40}"
    r"|(?:n['’]t|\bnot) (?:quit|stop(?:ped)?|ceased?|let up|gone away|cleared)\b[^,]{0,20}"
    r"|\bnot (?:a|one)(?: single)? (?:day|night|hour|minute|morning)\b[^,]{0,30}(?:without\b[^,]{0,20}"
    r"|passes?\b[^,]{0,20}|goes by\b.{0,20})"
    r"|\bnot (?:so much(?! as)|just|only|merely)\b[^,]{0,40}\b(?:as|but)\b[^,]{0,20}"
    r"|\bwithout (?:(?:my|the|an?|his|her) )?\w+ (?:i|he|she|we)\b.{0,40}"
    r"|\bdo(?:es)?n['’]t (?:usually|normally|often|generally)\b[^,]{0,25})$"
)
_TILL_NOW = re.compile(r"\bnever\b[^,]{0,40}$")
_SINCE_THEN = re.compile(r"^[^,]{0,12}\b(?:till|until|before (?:this|now|last|i turned))\b")
_COMES_TO_AN_END = (
    r"(?:(?:quit|stopped)(?! (?:\w+ing|my|his|her|the)\b)|ceased|vanished|disappeared|subsided|reduced fully"
    r"|cleared(?: right)?(?: up)?|calmed(?: right)? down|tapered off"
    r"|dried up|faded(?: away)?|(?:quite )?let go of|finished|went away|gone(?: away)?(?=\s*$|,| (?:away|now|after"
    r"|since|by|today|completely|with|again|from)\b)|(?:buggered|pissed|cleared) off"
    r"|over with|went with it|come good|passed off|settled(?: down)?|back to normal|normal(?= again| now)"
    r"|(?:fully |quite |both )*(?:alright|all right|fine)(?= now|\s*$)|better now|(?:stop|settle|go down|okay"
    r"|ok) (?:already|liao)|only lasted|(?:calmed|broke|went)(?=\s*$| (?:but|this)\b)|resolved|healed(?: up)?"
    r"|left (?:me|him|her)(?! (?:with|so|too|very|\w+ed\b|weak|tired)))"
)
# What one of the next patterns needs, so that most sentences are not asked.
_MAY_END = re.compile(
    r"quit|stop|ceased|vanish|disappear|subsid|reduced|clear|calm|taper|dried|faded|let go|finish|went|gone"
    r"|off\b|over\b|good|settle|normal|right|fine|better|down|ok|lasted|broke|resolved|healed|left|n['’]?t\b|not\b|non|never|nil|neither"
    r"|no (?:to|more|longer)|done|since|nothing|absent"
)
_GONE = re.compile(
    rf"^(?P<between>(?:[ -]?[\w'’]+){{0,7}}?)(?:['’]s|['’]re|['’]ve)? ?\b(?:{_COMES_TO_AN_END}"
    r"|(?:(?:did|has|have|had|is|are|was|were|do|does)(?:n['’]t| not) (?:\w+ )?(?:last|come back|came back"
    r"|returned?|restarted"
    r"|repeated|reappeared|recurred|bother(?:ed)?|been back|there|happening|playing up|an issue|a problem)"
    r"|none came|don['’]?t have|none(?: at all| po)?(?=\s*$)|never (?:came|happened|again|since)|nil(?! in)"
    r"|not (?:there|at all|among (?:my|the)|anymore|any more)))\b"
)
_GONE_LATER = re.compile(
    rf"^[^.;!?]{{0,50}}?,\s*(?:but |and |though )?(?:it|they|that|which|those)(?:['’]s|['’]ve| has| have| had| is"
    rf"| are)? ?(?:all |both |since |now |just )*{_COMES_TO_AN_END}\b"
    r"|^[^,.;!?]{0,30},\s*(?:but |and )?(?:(?:ok(?:ay)?|fine|normal|all good|right as rain) (?:now|again)"
    r"|not any ?more|never since|nothing since|no more now|since then nothing"
    r"|(?:has|have)(?:n['’]t| not) (?:come back|returned|had (?:it|one|any)))\b"
)
_BACK = re.compile(
    r"\b(?:but|then|now|and)\b.{0,25}\b(?:back|again|returned|returns|worse)\b|\bcomes and goes\b|\b(?:till|until"
    r"|unless)\b"
)
_RETURNED = re.compile(
    r"\b(?:but|then|now|and|only to)\b.{0,25}(?<!n['’]t )(?<!not )(?<!never )\b(?:came back"
    r"|come back|(?:is|are|['’]s) back|back again|returned|(?:started|flared) (?:up )?again)\b"
)
_ENDED_BEFORE = re.compile(r"\b(?:quit|stopped|ceased|no longer|finished|done with)\s(?:\w+\s)?$")
_LONG_SINCE = re.compile(
    r"\b(?:ages|(?:\w+ )?(?:days|weeks|months|years)) since (?:i|he|she|we) (?:last )?(?:had|felt|got"
    r"|saw)\b[^,]{0,15}$"
)
_NONE_OF_THESE = re.compile(
    r"[,:\-–—]\s*(?:but )?(?:i|he|she|we|the answer is|there['’]s)?\s*(?:have|has|had|see|get|got"
    r"|feel)?\s*(?:none of (?:these|those|that|them|it|this)\b|none(?: at all)?\s*$|neither\b|no to (?:all|both|that)"
    r"|all (?:nil|no|absent|gone)|not at all\b|all that i do(?:n['’]t| not)|nothing of (?:the|that))|\b(?:all"
    r"|both) (?:are |is )?(?:nil|absent|gone|not there)\b"
)
_FRONTED = re.compile(
    r"^(?: (?!but\b|and\b)[\w'’]+){0,3},? (?:that |all that )?(?:i|he|she|we) (?:(?:am|is|are|['’]m)(?: not|n['’]t)"
    r"|(?:do|does|did|have|has|had)(?: not|n['’]t))"
    r" (?:really |actually |even |usually )?(?:having|seeing|getting|feeling|have|get|see|feel|had|got|noticed|any)\b"
)
_LONG_AGO = re.compile(
    r"\b(?:back in (?:['’]?\d\d|my|the|19|20)|in (?:19|20)\d\d|(?:\w+ ){1,2}(?:years|summers|winters"
    r"|decades?) (?:ago|back)"
    r"|at (?:uni|university|college|boarding school)\b|in (?:my |his |her )?(?:childhood|teens|youth"
    r"|(?:first|last|previous|earlier|second) (?:pregnancy|year|trimester))|as an? (?:girl|boy|kid|child|lad"
    r"|teen\w*|student|young \w+)"
    r"|when (?:i|he|she|we) (?:was|were) (?:an? |at |in |still )?\w+|(?:last|second|first|third) (?:semester|year"
    r"|winter|summer|spring|term)|growing up|years ago|college time"
    r"|used to(?! (?:it|this|that|them)\b|\s*$)|(?:first|last) pregnancy)\b"
)
_TO_THIS_DAY = re.compile(
    r"\b(?:since|ever|still|again|now|these days|lately|today|this (?:morning|week|time)|always been|and it['’]s)\b"
)
_LONGEST_TIME = 6  # words
_KIN = (
    r"(?:(?:late|elder|younger|older|big|little|twin|best|old|dear) )?(?:mother|father|mum|mom|mam|mama|mammy"
    r"|dad|da|daddy|papa|sister|brother|bro|sis|husband"
    r"|hubby|wife|missus|partner|boyfriend|girlfriend|fianc[ée]+|son|daughter|gran(?:ny|dad|ddad|dma|dpa)?"
    r"|grand(?:mother|father)|nan|nana|aunt(?:ie|y)?|uncle|cousin|nephew|niece"
    r"|neighbou?r(?: \w+)?|friend|mate|flatmate|housemate|roomm?(?:ate|ie)|colleague|co-?worker|co-?driver|workmate"
    r"|boss|old man|in-law|mother-in-law|father-in-law)"
)
_KIN_TELLS = re.compile(
    rf"^\W*(?:back then |and |but |so |also )?(?:(?:my|me|our|his|her|the)\s{_KIN}|granny|grandma|grandpa|granddad"
    rf"|nana?|mum|dad|mother|father|papa|mama"
    rf"|(?:the|a) (?:fella|bloke|guy|man|woman|lady|girl|lad|kid|person)s? (?:at|in|from|next|on)\b|everyone"
    rf"|everybody|half (?:the|my) \w+)\b(?P<rest>[^,]{{0,60}})$"
)
_TELLS_OF_ME = re.compile(
    r"\b(?:says?|said|tells?|told|thinks?|noticed|reckons?|saw|heard|hears|caught|found|(?:gave|made|asked|took"
    r"|drove) me|me|my|i)\b"
)
_I_TOO = re.compile(
    r"[,;.]\s*(?:but |so |and |whereas |while |though |as for me,? )?(?:so far )?(?:i['’]m(?! the one)|i['’]ve"
    r"|i (?:just|only|am|have|had|don['’]t|do not|didn['’]t|ain['’]t|never|myself|feel|got|get|fear)"
    r"|not (?:i|me)\b|mine|me,|thank god (?:my|i)|(?:so )?will i\b|the (?:girl|boy) (?:herself|himself)"
    r"|not one\b.{0,30}from me)"
)
_UNLESS_CARER = re.compile(r"\bi['’]?(?:m| am)? (?:worried|scared|not sure|wondering|afraid for|giving|taking)\b")


class _Told(NamedTuple):
    """A finding in its sentence."""

    head: str
    """The sentence up to the finding."""
    clause: str
    """What of that stands behind the last comma."""
    tail: str
    """The rest of the sentence."""
    mark: str
    """What the sentence ends with."""
    then: str
    """What follows it."""


def told_in_english(plain: str, found: Sequence[Finding]) -> list[Finding]:
    """Return the findings, those in English sentences with what the whole sentence says of them.

    Args:
        plain: The text in plain form.
        found: Its findings, with what the words beside them say. Not modified.

    Returns:
        As many, in order. Linear in the length of the text.
    """
    told = list(found)
    for i, sentence in _in_english(plain, told):
        a, b = sentence.span()
        finding = told[i]
        head = plain[a : finding.start]
        stops = [stop.end() for stop in _CLAUSE_STOP.finditer(head)]
        said = _Told(
            head,
            head[stops[-1] :] if stops else head,
            plain[finding.end : b],
            plain[b : b + 1],
            plain[b + 1 : b + 1 + _ANSWER],
        )
        status = _status(said, plain[finding.start : finding.end], finding.status)
        told[i] = finding._replace(status=status)
    return told


def _in_english(plain: str, found: Sequence[Finding]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield which findings stand in a sentence that is English, with the sentence."""
    starts = [finding.start for finding in found]
    for sentence in _SENTENCE.finditer(plain):
        a, b = sentence.span()
        first, last = bisect.bisect_left(starts, a), bisect.bisect_left(starts, b)
        read = b - a < _LONGEST and last - first <= _LISTED and not HAN.search(sentence.group())
        yield from ((i, sentence) for i in range(first, last) if read and found[i].end <= b)


def _status(said: _Told, words: str, status: Status) -> Status:
    """Return what the sentence says, or `status` where it says nothing more."""
    if said.mark == "?" and len(said.tail) <= _LONGEST_QUESTION and "," not in said.tail:
        if _NO.match(said.then):
            return "absent"
        if _YES.match(said.then):
            return "present"
    whole = said.head + words + said.tail
    if said.mark == "?" and status in ("present", "absent") and (_WOULD_IT.match(whole) or _WILL_IT.match(whole)):
        return "possible"
    if status in ("present", "possible", "past") and _others(said, words):
        return "family"
    if status == "absent":
        affirmed = _AFFIRMS.search(said.head) or (_TILL_NOW.search(said.clause) and _SINCE_THEN.match(said.tail))
        return "present" if affirmed or _RETURNED.search(said.tail) else status
    if status in ("present", "possible") and _MAY_END.search(whole) and _gone(said):
        return "absent"
    if status == "present":
        if _past(said, words):
            return "past"
        if _FEARED.search(said.head) or _MAY.search(words):
            return "possible"
    return status


def _gone(said: _Told) -> bool:
    """Return whether the finding is said to be no more."""
    if (
        _NONE_OF_THESE.search(said.tail.partition(" but ")[0])
        or _FRONTED.match(said.tail)
        or _LONG_SINCE.search(said.clause)
    ):
        return True
    if _ENDED_BEFORE.search(said.clause) and not _DENIAL.search(said.clause):
        return True
    if _BACK.search(said.tail):
        return False
    gone = _GONE.match(said.tail)
    if gone is not None:
        return not _SOMETHING_ELSE.search(gone["between"])
    return bool(_GONE_LATER.match(said.tail))


def _past(said: _Told, words: str) -> bool:
    """Return whether the clause tells of a time long ago."""
    clause = said.clause + words + said.tail.partition(",")[0]
    if _TO_THIS_DAY.search(clause):
        return False
    before = said.head[: len(said.head) - len(said.clause)]
    when = before if len(before.split()) <= _LONGEST_TIME else ""  # at ten, back in '98
    return bool(_LONG_AGO.search(clause) or _LONG_AGO.search(when))


def _others(said: _Told, words: str) -> bool:
    """Return whether somebody else has it, and the teller is told apart: my da has migraines, I just get headaches."""
    kin = _KIN_TELLS.match(said.clause) or _KIN_TELLS.match(said.head)
    if kin is None or _TELLS_OF_ME.search(kin["rest"]):
        return False
    rest = said.tail + said.mark + " " + said.then
    return bool(_I_TOO.search(rest)) and not _UNLESS_CARER.search(rest)
