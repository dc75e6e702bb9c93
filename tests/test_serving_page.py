"""The page in a real browser, against the real server: what a person sees, also when things go wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from playwright.sync_api import Browser, Page, Route, expect

from tests.conftest import RECORDS
from tests.serving_kit import SharedCharacters, calibration, make_app, make_medical, running

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; Debian: apt-get install chromium")

COMPLAINT = "发热三天,咳嗽,咳痰,没有胸痛"
ANSWER = "可能相关的疾病是社区获得性肺炎 [1]。您说的发热和咳嗽与它相符 [1];其次 [2]。"


def knowledge() -> list[Document]:
    urgency = ["urgent", "self_care", "routine", "routine", "routine", "urgent"]
    records = [dict(record) for record in RECORDS]
    records[2]["description"] = "反复发作的头痛,一般不发热。"
    return [
        Document(
            page_content=f"疾病名称:{r['disease']}\n症状表现:{r['symptoms']}\n简要描述:{r['description']}",
            metadata={
                **r, "symptoms": r["symptoms"].split("、"), "urgency": urgency[i], "department": "呼吸内科",
                "aliases": ["Community-acquired pneumonia"] if i == 0 else [], "sources": ["内科学"],
            },
        )
        for i, r in enumerate(records)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scorer() -> SharedCharacters:
    return SharedCharacters()


@pytest.fixture(scope="module")
def url(scorer: SharedCharacters) -> Iterator[str]:
    llm = GenericFakeChatModel(messages=iter(AIMessage(ANSWER) for _ in range(1_000)))
    with running(make_app(scorer, medical=make_medical(knowledge(), scorer, llm=llm))) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page. Whatever the test, nothing may go wrong in its console, and no other host may be asked."""
    settings = getattr(request, "param", {})
    context = browser.new_context(**{"locale": "zh-CN", "viewport": {"width": 1280, "height": 900}, **settings})
    page = context.new_page()
    page.set_default_timeout(10_000)
    wrong: list[str] = []
    expected = re.compile(r"status of (401|429|503|413|500)|ERR_FAILED")  # the browser notes these by itself
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((url, "data:")) else None)
    page.goto(url)
    yield page
    assert [text for text in wrong if not expected.search(text)] == []
    context.close()


def ask(page: Page, words: str = COMPLAINT) -> None:
    page.get_by_role("textbox").fill(words)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    expect(page.locator("#times dl")).to_contain_text("合计")


def names(page: Page) -> list[str]:
    return page.locator(".card h3").evaluate_all("cards => cards.map(card => card.firstChild.textContent)")


def test_a_complaint_becomes_ranked_cards_with_marks_on_the_right_words(page: Page, url: str) -> None:
    expected = page.request.post(f"{url}/rerank", data={"query": COMPLAINT}).json()
    ask(page)
    answered(page)
    assert names(page) == [disease["disease"] for disease in expected["results"]]
    first = page.locator(".card").first
    expect(first).to_contain_text("呼吸内科")
    expect(first).to_contain_text("通常当天就诊")
    assert first.locator(".evidence .matched").all_text_contents() == ["发热", "咳嗽", "咳痰"]
    assert first.locator("s.denied").all_text_contents() == ["胸痛"]
    words = page.locator("#words")
    assert words.inner_text() == COMPLAINT
    assert words.locator("mark.matched").all_text_contents() == ["发热", "咳嗽", "咳痰"]
    assert words.locator("mark.denied").all_text_contents() == ["胸痛"]
    assert "line-through" in words.locator("mark.denied").evaluate("mark => getComputedStyle(mark).textDecoration")
    meter = first.get_by_role("meter")
    percent = round(expected["results"][0]["relevance_score"] * 100)
    expect(meter).to_have_attribute("aria-valuenow", str(percent))
    first.get_by_text("详细资料").click()
    assert first.locator("details mark.matched").all_text_contents() == ["发热", "咳嗽", "咳痰"]
    expect(page.locator("#notice")).to_contain_text("不是诊断")
    expect(page.locator("#times")).to_contain_text("重排")


def test_danger_signs_come_first_and_loudly(page: Page, scorer: SharedCharacters) -> None:
    scorer.seconds_per_batch = 0.4
    try:
        ask(page, "胸痛,出冷汗")
        banner = page.get_by_role("alert").filter(has_text="请立即急诊")
        expect(banner).to_be_visible()
        assert page.locator(".card").count() == 0  # it does not wait for the diseases
        assert banner.locator("q").all_text_contents() == ["胸痛", "出冷汗"]
        expect(banner.get_by_role("link")).to_have_attribute("href", "tel:120")
        answered(page)
    finally:
        scorer.seconds_per_batch = 0
    top = page.locator("#triage").bounding_box()
    cards = page.locator(".card").first.bounding_box()
    assert top is not None
    assert cards is not None
    assert top["y"] < cards["y"]
    expect(page.locator("#next")).to_be_hidden()  # no time for questions


def test_the_switch_shows_the_order_before_reranking_and_what_changed(page: Page, url: str) -> None:
    answer = page.request.post(f"{url}/rerank", data={"query": COMPLAINT}).json()
    ask(page)
    answered(page)
    ranked = [disease["disease"] for disease in answer["results"]]
    recalled = [disease["disease"] for disease in answer["recalled"]]
    assert ranked != recalled
    expect(page.locator("#difference")).to_contain_text("重排改变了")
    page.get_by_role("radio", name="重排之后").focus()
    page.keyboard.press("ArrowRight")
    assert names(page) == recalled
    out = [name for name in recalled if name not in ranked]
    for card, disease in zip(page.locator(".card").all(), answer["recalled"], strict=True):
        place = "重排后不在前五" if disease["disease"] in out else f"重排后第 {disease['rank']} 位"
        expect(card.locator(".move")).to_have_text(place)
    page.keyboard.press("ArrowLeft")
    assert names(page) == ranked


def test_the_answer_streams_in_and_its_sources_lead_to_their_cards(page: Page) -> None:
    ask(page)
    answered(page)
    answer = page.locator("#answer")
    expect(answer).to_contain_text("可能相关的疾病是社区获得性肺炎")
    page.get_by_role("radio", name="重排之前").check(force=True)
    answer.get_by_role("button", name="[2]").click()
    card = page.locator(".card").nth(1)
    expect(card).to_be_focused()
    expect(card).to_have_class(re.compile("pointed"))
    expect(page.get_by_role("radio", name="重排之后")).to_be_checked()


def test_pieces_of_the_answer_are_shown_as_they_come(page: Page, url: str) -> None:
    page.evaluate(
        """() => { window.lengths = new Set(); new MutationObserver(() =>
        lengths.add(document.querySelector('#answer').textContent.length))
        .observe(document.querySelector('#answer'), {childList: true}); }"""
    )
    ask(page)
    answered(page)
    assert page.evaluate("window.lengths.size") >= 4


def test_what_is_added_refines_the_picture_also_by_the_next_question(page: Page) -> None:
    ask(page, "发热三天")
    answered(page)
    question = page.locator("#next p")
    expect(question).to_contain_text("有没有")
    symptom = re.search("有没有([^(?]+)", question.inner_text())
    expect(page.locator("#next small")).to_contain_text("更像")
    assert symptom is not None
    page.locator("#next").get_by_role("button", name="没有").click()
    expect(page.locator("#words")).to_contain_text(f"没有出现{symptom[1]}")
    answered(page)
    assert page.locator("#said li").all_text_contents() == ["发热三天", f"没有出现{symptom[1]}"]
    page.get_by_role("button", name="重新开始").click()
    expect(page.locator("#results")).to_be_hidden()
    expect(page.get_by_role("textbox")).to_be_focused()
    assert page.locator("#said li").count() == 0


def test_what_is_denied_is_struck_through_even_where_no_disease_has_it(page: Page) -> None:
    ask(page, "踝部肿痛,没有头痛")
    answered(page)
    assert page.locator("#words mark.denied").all_text_contents() == ["头痛"]


def test_an_example_is_one_click(page: Page) -> None:
    page.locator("#examples button").first.click()
    answered(page)
    assert page.locator(".card").count() > 0


def test_when_nothing_fits_it_says_so(page: Page) -> None:
    ask(page, "xyz")
    expect(page.locator("#abstained")).to_contain_text("没有可靠匹配")
    expect(page.locator("#abstained")).to_contain_text("没有从您的话里读到现在的症状")
    expect(page.locator("#next")).to_be_hidden()
    expect(page.locator("#triage")).to_be_hidden()  # there is nothing to go by
    assert page.locator(".card").count() == 0


def test_what_a_disease_comes_without_speaks_against_it(page: Page) -> None:
    ask(page)
    answered(page)
    migraine = page.locator(".card").filter(has_text="偏头痛")
    assert migraine.locator(".evidence .contradicting").all_text_contents() == ["发热"]
    migraine.get_by_text("详细资料").click()
    assert migraine.locator("details mark.contradicting").all_text_contents() == ["发热"]
    assert page.locator(".card").first.locator(".contradicting").count() == 0


def test_a_score_says_that_it_is_no_probability_and_a_calibrated_confidence_is_a_percentage(
    page: Page, browser: Browser, url: str
) -> None:
    ask(page)
    answered(page)
    score = page.request.post(f"{url}/rerank", data={"query": COMPLAINT}).json()["results"][0]["relevance_score"]
    shown = page.locator(".card").first.locator(".confidence")
    expect(shown).to_have_text(re.compile(f"^相关度{score:.2f} 未校准$"))
    scorer, fitted = SharedCharacters(), calibration()
    with running(make_app(scorer, medical=make_medical(knowledge(), scorer, calibration=fitted))) as address:
        context = browser.new_context(locale="zh-CN")
        other = context.new_page()
        other.goto(address)
        ask(other)
        answered(other)
        told = other.request.post(f"{address}/rerank", data={"query": COMPLAINT}).json()["results"][0]["confidence"]
        expect(other.locator(".card").first.locator(".confidence")).to_have_text(f"置信度{round(told * 100)}%")
        context.close()


def test_markup_in_a_complaint_stays_text(page: Page) -> None:
    nasty = "<img src=x onerror=alert(1)>发热</p><script>alert(2)</script>咳嗽😷咳痰"
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    ask(page, nasty)
    answered(page)
    assert page.locator("#words").inner_text() == nasty
    assert page.locator("#words mark").all_text_contents() == ["发热", "咳嗽", "咳痰"]
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 740}, "has_touch": True}], indirect=True)
def test_on_a_phone_everything_fits_its_width_and_is_large_enough_for_a_thumb(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ask(page, COMPLAINT + "," + "a" * 80)
    answered(page)
    for order in ("重排之前", "重排之后"):
        page.get_by_role("radio", name=order).check(force=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.locator("form button:visible, #next button:visible, #examples button:visible").evaluate_all(
        "buttons => buttons.filter(b => b.getBoundingClientRect().height < 44).map(b => b.textContent)"
    )
    assert small == []


def test_another_language_is_one_click_and_stays(page: Page) -> None:
    ask(page)
    answered(page)
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Possibly related conditions")).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"
    page.reload()
    expect(page.get_by_role("heading", name="Symptom check")).to_be_visible()
    ask(page, "fever, cough, no chest pain")
    card = page.locator(".card").filter(has_text="Community-acquired pneumonia")
    expect(card.locator(".evidence .matched")).to_have_text(["fever", "cough"])
    expect(card.locator("s.denied")).to_have_text(["chest pain"])
    expect(card.locator(".missing").first).to_be_visible()
    assert re.fullmatch(r"[ -~]+", card.locator(".missing").first.inner_text())


@pytest.mark.parametrize(
    ("asked", "heading"), [("en", "Symptom check"), ("zh", "症状自查"), ("xx", "症状自查"), ("toString", "症状自查")]
)
def test_an_address_may_name_the_language_and_one_that_there_is_not_is_the_browsers(
    page: Page, url: str, asked: str, heading: str
) -> None:
    page.goto(f"{url}/?lang={asked}")
    expect(page.get_by_role("heading", name=heading)).to_be_visible()
    expect(page.locator("#examples button").first).to_be_visible()


def test_with_the_keyboard_alone_a_complaint_can_be_sent_and_read(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="跳到结果")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox")).to_be_focused()
    page.keyboard.type(COMPLAINT)
    page.keyboard.press("Shift+Enter")  # a new line, not the end
    page.keyboard.press("Enter")
    answered(page)
    expect(page.get_by_role("status")).to_have_text(re.compile("找到 . 种"))


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_axe_finds_nothing_to_object_to_before_and_after_an_answer(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page.emulate_media(reduced_motion="reduce")
    for words in (None, COMPLAINT, "胸痛,出冷汗"):
        if words:
            ask(page, words)
            answered(page)
        result = axe.run(page)
        assert result.violations_count == 0, result.generate_report()


# When things go wrong


def failing(page: Page, times: int, status: int, kind: str, **headers: str) -> list[int]:
    """Let the next answers fail; returns a list that grows with them."""
    failed: list[int] = []

    def handle(route: Route) -> None:
        if len(failed) >= times:
            route.fallback()
            return
        failed.append(status)
        error: dict[str, Any] = {"message": kind, "type": kind, "param": None, "code": status}
        route.fulfill(
            status=status, headers=headers, json={"id": "abc", "message": kind, "detail": kind, "error": error}
        )

    page.route("**/chat", handle)
    return failed


@pytest.mark.parametrize(
    ("status", "kind", "says"), [(429, "overloaded", "人太多"), (503, "service_starting", "正在启动")]
)
def test_when_there_is_no_room_it_says_how_long_to_wait_and_tries_again_by_itself(
    page: Page, status: int, kind: str, says: str
) -> None:
    failed = failing(page, 1, status, kind, **{"Retry-After": "59"})
    page.clock.install()
    ask(page)
    problem = page.locator("#problem")
    expect(problem).to_contain_text(says)
    expect(problem).to_be_in_viewport()
    expect(problem).to_contain_text(re.compile(r"\b5\d 秒后"))
    expect(page.get_by_role("textbox")).to_have_value(COMPLAINT)  # nothing typed is lost
    page.clock.run_for(20_000)
    expect(problem).to_contain_text(re.compile(r"\b[23]\d 秒后"))
    page.clock.run_for(40_000)
    answered(page)
    expect(problem).to_be_hidden()
    assert failed == [status]
    assert page.locator("#said li").all_text_contents() == [COMPLAINT]


@pytest.mark.parametrize("when", ["while it waits", "while it asks"])
def test_what_is_being_written_is_never_sent_by_itself(page: Page, when: str) -> None:
    half = "我其实没有头"  # on the way to 没有头痛
    page.clock.install()
    box, problem = page.get_by_role("textbox"), page.locator("#problem")

    def refuse(route: Route) -> None:
        if when == "while it asks":
            box.press_sequentially(half)
        route.fulfill(status=429, headers={"Retry-After": "3"}, json={"error": {"type": "overloaded"}})

    page.route("**/chat", refuse, times=1)
    ask(page, "发热")
    expect(problem).to_contain_text("人太多")
    if when == "while it waits":
        box.fill("")
        box.press_sequentially(half)
    page.clock.run_for(5_000)
    typed = half if when == "while it waits" else f"发热\n{half}"
    expect(box).to_have_value(typed)
    assert page.locator("#said li").count() == 0
    expect(problem).not_to_contain_text("自动")  # nor is it announced
    box.press("End")
    box.press_sequentially("痛")
    page.get_by_role("button", name="看看可能是什么").click()
    expect(page.locator("#said li")).to_have_text(f"{typed}痛")


def test_an_error_is_said_with_its_record_and_can_be_tried_again(page: Page) -> None:
    failing(page, 1, 500, "internal_error")
    ask(page)
    problem = page.locator("#problem")
    expect(problem).to_contain_text("出错了")
    expect(problem).to_contain_text("abc")
    expect(page.locator("#results")).to_be_hidden()
    problem.get_by_role("button", name="再试一次").click()
    answered(page)


def test_a_service_that_cannot_be_reached_is_said_and_the_words_are_kept(page: Page) -> None:
    page.route("**/chat", lambda route: route.abort())
    ask(page)
    expect(page.locator("#problem")).to_contain_text("连不上服务")
    expect(page.get_by_role("textbox")).to_have_value(COMPLAINT)
    page.unroute("**/chat")
    page.get_by_role("button", name="再试一次").click()
    answered(page)


def test_a_follow_up_that_is_refused_leaves_the_last_answer_and_what_is_in_the_box_is_sent_again(page: Page) -> None:
    first, more = "胸痛,出冷汗", "没有发热"
    ask(page, first)
    answered(page)
    shown = names(page)
    failing(page, 1, 500, "internal_error")
    ask(page, more)
    problem, box = page.locator("#problem"), page.get_by_role("textbox")
    expect(problem).to_contain_text("出错了")
    expect(page.get_by_role("alert").filter(has_text="请立即急诊")).to_be_visible()
    assert names(page) == shown != []
    assert page.locator("#words").inner_text() == first
    assert page.locator("#said li").all_text_contents() == [first]
    expect(page.locator("#difference")).not_to_contain_text("正在查找")
    expect(page.get_by_role("status")).to_be_empty()
    expect(box).to_have_value(more)
    failing(page, 1, 429, "overloaded", **{"Retry-After": "2"})
    problem.get_by_role("button", name="再试一次").click()
    expect(problem).to_contain_text("秒后")
    box.fill(more := more + ",没有咳嗽")
    problem.get_by_role("button", name="再试一次").click()
    expect(page.locator("#said li")).to_have_text([first, more])
    expect(page.locator("#words")).to_have_text(f"{first}。{more}")
    expect(box).to_have_value("")


def test_an_answer_that_fails_midway_was_not_given_and_its_danger_signs_stay(page: Page, url: str) -> None:
    first, more = "发热三天", "胸痛,出冷汗"
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.url.endswith("/chat") else None)
    ask(page, first)
    answered(page)
    shown = names(page)
    events = page.request.post(f"{url}/chat", data={"query": f"{first}。{more}"}).text().split("\n\n")
    documents = next(i for i, event in enumerate(events) if event.startswith("event: documents"))
    bodies = ["\n\n".join([*events[:i], 'event: error\ndata: {"id": "abc"}', ""]) for i in (documents, documents + 1)]

    def fail(route: Route) -> None:
        if bodies:
            route.fulfill(body=bodies.pop(0) + "\n", content_type="text/event-stream")
        else:
            route.fallback()

    page.route("**/chat", fail)
    ask(page, more)
    banner, problem = page.get_by_role("alert").filter(has_text="请立即急诊"), page.locator("#problem")
    expect(problem).to_contain_text("abc")
    expect(banner).to_be_visible()
    assert names(page) == shown != []  # there are no others
    assert page.locator("#words").inner_text() == first
    problem.get_by_role("button", name="再试一次").click()
    expect(page.locator("#words")).to_have_text(f"{first}。{more}")
    expect(problem).to_contain_text("abc")
    assert names(page) != []
    expect(banner).to_be_visible()
    assert page.locator("#said li").all_text_contents() == [first]
    problem.get_by_role("button", name="再试一次").click()
    answered(page)
    expect(page.locator("#said li")).to_have_text([first, more])
    assert [(body["query"], len(body["history"])) for body in sent] == [(first, 0), *[(more, 2)] * 3]


def test_a_long_conversation_goes_on_with_all_that_was_said(page: Page, url: str) -> None:
    said = [f"咳嗽第{n}天" for n in range(1, 24)]
    events = page.request.post(f"{url}/chat", data={"query": said[0]}).text().split("\n\n")
    quick = [event for event in events if not event.startswith("event: triage")]
    triage = json.loads(events[0].partition("data: ")[2])

    def answer(route: Route) -> None:
        n = len(json.loads(route.request.post_data or "")["history"]) // 2 + 1
        first = f"event: triage\ndata: {json.dumps({**triage, 'query': '。'.join(said[:n])})}"
        if n <= 20:
            route.fulfill(body="\n\n".join([first, *quick]), content_type="text/event-stream")
        else:
            route.fallback()

    page.route("**/chat", answer)
    for n, words in enumerate(said, start=1):
        ask(page, words)
        expect(page.locator("#words")).to_have_text("。".join(said[:n]))
        expect(page.get_by_role("button", name="补充")).to_be_visible()


def test_an_answer_that_breaks_off_is_said_to_have(page: Page) -> None:
    triage = '{"level": "routine", "reasons": [], "advice": ""}'  # and then nothing more
    body = f'event: triage\ndata: {{"query": "x", "model": {{}}, "triage": {triage}}}\n\n'
    page.route("**/chat", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    ask(page)
    expect(page.locator("#problem")).to_contain_text("回答中断了")
    assert page.locator(".skeleton").count() == 0


def test_it_can_be_stopped(page: Page, scorer: SharedCharacters) -> None:
    scorer.seconds_per_batch = 1
    try:
        ask(page)
        page.get_by_role("button", name="停止").click()
        expect(page.get_by_role("textbox")).to_have_value(COMPLAINT)
        expect(page.get_by_role("button", name="看看可能是什么")).to_be_enabled()
    finally:
        scorer.seconds_per_batch = 0


@pytest.mark.parametrize(("wrong", "right"), [("wrong", "secret"), ("密钥ａ", "密钥")])
def test_where_a_key_is_needed_it_is_asked_for_and_kept_for_the_session_only(
    browser: Browser, wrong: str, right: str
) -> None:
    scorer = SharedCharacters()
    with running(make_app(scorer, medical=make_medical(knowledge(), scorer), api_keys=[right])) as address:
        context = browser.new_context(locale="zh-CN")
        page = context.new_page()
        page.goto(address)
        ask(page)
        expect(page.locator("#problem")).to_contain_text("需要密钥")
        for key, says in ((wrong, "密钥不对"), (right, None)):
            page.get_by_label("API 密钥").fill(key)
            page.get_by_role("button", name="继续").click()
            if says:
                expect(page.locator("#problem")).to_contain_text(says)
        answered(page)
        assert page.evaluate("Object.values(localStorage).join()").find(right) < 0
        context.close()


def test_where_the_browser_denies_storage_questions_key_and_language_work_all_the_same(browser: Browser) -> None:
    scorer = SharedCharacters()
    with running(make_app(scorer, medical=make_medical(knowledge(), scorer), api_keys=["secret"])) as address:
        context = browser.new_context(locale="zh-CN")
        context.add_init_script(
            """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, {get() { throw new DOMException("denied", "SecurityError"); }});"""
        )
        page = context.new_page()
        page.goto(address)
        page.locator("#examples button").first.click()
        page.get_by_label("API 密钥").fill("secret")
        page.get_by_role("button", name="继续").click()
        answered(page)
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("heading", name="Possibly related conditions")).to_be_visible()
        context.close()
