// The page: a plain client of the API. Everything from the server and the user goes in as text nodes, never as HTML.

const TEXTS = {
  zh: {
    htmlLang: "zh-CN", other: "English", otherLang: "en",
    page: "症状自查 · langchain-bge-medical",
    skip: "跳到结果", title: "症状自查", tagline: "说说哪里不舒服，看看可能相关的疾病和依据",
    first: "哪里不舒服？多久了？有哪些表现？", more: "还有什么要补充的？",
    hint: "不必用医学术语。没有的症状也可以说，比如“没有发烧”。",
    send: "看看可能是什么", sendMore: "补充", again: "重新开始", stop: "停止", examples: "可以这样说", said: "您已经说过",
    found: "可能相关的疾病", order: "排列方式", ranked: "重排之后", recalled: "重排之前",
    abstained: "没有可靠匹配",
    reasons: {
      no_symptoms: "没有从您的话里读到现在的症状。请说说哪里不舒服、多久了；或直接咨询医生。",
      no_match: "读到了症状，但知识库里没有足够相符的疾病。请再补充一些表现，或直接咨询医生。",
    },
    next: "再问一句", more_likely: (yes, no) => [yes && `有，则更像${yes}`, no && `没有，则更像${no}`].filter(Boolean).join("；"), and: "、", yes: "有", no: "没有",
    yesWords: (s) => `出现${s}`, noWords: (s) => `没有出现${s}`,
    words: "您说的", matched: "相符", denied: "否认", contradicting: "与资料不符", missing: "未提到", says: "依据", saysNot: "否认", against: "不符",
    unlikely: "年龄或性别少见", impossible: "年龄或性别不符",
    answer: "说明", times: "用时",
    notice: "本页由程序根据知识库整理，仅供参考，不是诊断，不能代替医生面诊。症状加重或出现危险信号，请立即就医。",
    searching: "正在查找…", done: (n) => `找到 ${n} 种可能相关的疾病`, place: (n) => `第 ${n} 位`,
    before: (n) => `重排前第 ${n} 位`, after: (n) => `重排后第 ${n} 位`, out: "重排后不在前五", same: "位置不变",
    changed: (n, a, b) => a === b ? `重排改变了前五中的 ${n} 位；第一位不变。` : `重排改变了前五中的 ${n} 位；第一位由“${a}”变为“${b}”。`,
    unchanged: "重排没有改变前五的次序。", onlyRecalled: "这是只按文字和向量召回的次序，交叉编码器还没有读过。",
    confidence: "相关度", uncalibrated: "未校准", uncalibratedHelp: "重排模型的原始分数，只能比较先后，不是患病的可能性", calibrated: "置信度", calibratedHelp: "按有答案的提问校准过：同样数值的结果里，大约有这么多是对的", department: "科室",
    urgency: { emergency: "通常需急诊", urgent: "通常当天就诊", routine: "通常择期就诊", self_care: "多可自行好转" },
    levels: { emergency: "请立即急诊", urgent: "请今天就医", routine: "建议近日就诊", self_care: "可先观察" },
    because: (t) => ["您说的", `：${t}`], usual: "按排在第一位的疾病通常的紧急程度。症状加重或出现危险信号时不要等待。", call: "拨打 120", more_about: "详细资料",
    points: (total, model, added) => `排序得分 ${total} = 重排模型 ${model} ${added < 0 ? "−" : "+"} 症状对照 ${Math.abs(added).toFixed(1)}`, symptoms: "典型表现", flags: "出现这些情况请立即就医",
    sources: "资料来源", differentials: "容易混淆", also: (n) => `还有 ${n} 项`,
    stages: { recall: "召回", queue: "排队", rerank: "重排", evidence: "依据", answer: "说明" }, total: "合计",
    audit: (a) => `记录号 ${a.id} · 模型 ${a.model} ${a.revision} · 知识库 ${a.knowledge_base.records ?? "?"} 种疾病`,
    bundled: "当前使用随包附带的小模型，仅供演示。", fused: "重排模型不认识这个知识库，次序由两个阶段共同决定。",
    problems: {
      overloaded: "现在使用的人太多。", starting: "服务正在启动。", rate_limited: "请求太频繁。",
      soon: (s) => `${s} 秒后自动重试。`, later: "写好后请发送。",
      key: "这个服务需要密钥。", badKey: "密钥不对，请重新输入。", keyLabel: "API 密钥", keySend: "继续",
      too_long: "内容太长了，请精简一些。", deadline_exceeded: "等待时间过长，请稍后再试。", offline: "连不上服务，请检查网络后再试。",
      other: "出错了，请稍后再试。", cut: "回答中断了，请再试一次。", id: (id) => `（记录号 ${id}）`, retry: "再试一次", cancel: "取消",
    },
    how: [["先找全", "按意思和字面从知识库里找出 50 种候选疾病"], ["再细读", "重排模型把您的话和每种疾病放在一起读，分出先后"], ["看得见依据", "标出哪些话相符、哪些您否认了，有危险信号先提醒"]],
    exampleList: ["最近三天一直发烧，咳嗽得很厉害，痰很多，晚上睡不好。", "我有糖尿病，最近总是口渴，还经常头痛。", "孩子发烧三天了，耳朵后面有点红肿，摸起来疼。", "胸痛，出冷汗，左胳膊发麻", "吃坏肚子了，上吐下泻，没有发烧"],
  },
  en: {
    htmlLang: "en", other: "中文", otherLang: "zh-CN",
    page: "Symptom check · langchain-bge-medical",
    skip: "Skip to the results", title: "Symptom check", tagline: "Say what is wrong; see which conditions may be related, and why",
    first: "What is wrong? Since when? What do you notice?", more: "Anything to add?",
    hint: "No medical terms needed. Say what you do not have, too: “no fever”.",
    send: "See what it may be", sendMore: "Add", again: "Start over", stop: "Stop", examples: "For example", said: "You said",
    found: "Possibly related conditions", order: "Order", ranked: "Reranked", recalled: "Before reranking",
    abstained: "No reliable match",
    reasons: {
      no_symptoms: "Your words do not tell of a symptom that you have now. Please say what is wrong and since when, or ask a doctor.",
      no_match: "There are symptoms, but nothing in the knowledge base fits them well enough. Please add what else you notice, or ask a doctor.",
    },
    next: "One more question", more_likely: (yes, no) => [yes && `Yes points to ${yes}`, no && `no points to ${no}`].filter(Boolean).join("; "), and: ", ", yes: "Yes", no: "No",
    yesWords: (s) => `I have ${s}`, noWords: (s) => `I do not have ${s}`,
    words: "Your words", matched: "fits", denied: "denied", contradicting: "speaks against it", missing: "Not said", says: "Fits", saysNot: "Denied", against: "Against",
    unlikely: "unusual at this age or sex", impossible: "does not go with this age or sex",
    answer: "In words", times: "Time taken",
    notice: "Put together by a program from a knowledge base. For information only: it is no diagnosis and does not replace a doctor. If symptoms get worse or danger signs appear, seek care at once.",
    searching: "Searching…", done: (n) => `${n} possibly related conditions found`, place: (n) => `Rank ${n}`,
    before: (n) => `was no. ${n}`, after: (n) => `no. ${n} after reranking`, out: "not in the top five after reranking", same: "same place",
    changed: (n, a, b) => a === b ? `Reranking changed ${n} of the top five places; the first stayed.` : `Reranking changed ${n} of the top five places; first was “${a}”, now “${b}”.`,
    unchanged: "Reranking changed nothing in the top five.", onlyRecalled: "This is the order of word and vector search alone, before the cross-encoder has read anything.",
    confidence: "Relevance", uncalibrated: "uncalibrated", uncalibratedHelp: "The reranker's own score: it compares conditions and is no chance of having one", calibrated: "Confidence", calibratedHelp: "Calibrated on questions with known answers: of results with this figure about so many are right", department: "Department",
    urgency: { emergency: "usually an emergency", urgent: "usually seen today", routine: "usually by appointment", self_care: "usually passes by itself" },
    levels: { emergency: "Emergency: go now", urgent: "See a doctor today", routine: "See a doctor in the coming days", self_care: "You may watch it first" },
    because: (t) => ["You said ", `: ${t}`], usual: "Going by how soon the first condition is usually seen. Do not wait if it gets worse or danger signs appear.", call: "Call 120", more_about: "More",
    points: (total, model, added) => `Ordered by ${total} = the reranker's ${model} ${added < 0 ? "−" : "+"} ${Math.abs(added).toFixed(1)} for symptoms that fit or do not`, symptoms: "Typical", flags: "Go at once in case of",
    sources: "Sources", differentials: "Easily confused with", also: (n) => `${n} more`,
    stages: { recall: "recall", queue: "queue", rerank: "rerank", evidence: "evidence", answer: "words" }, total: "total",
    audit: (a) => `Record ${a.id} · model ${a.model} ${a.revision} · knowledge base of ${a.knowledge_base.records ?? "?"} conditions`,
    bundled: "Running on the small bundled models, for demonstration.", fused: "The reranker does not know this knowledge base: both stages decide the order.",
    problems: {
      overloaded: "Too many people are asking.", starting: "The service is starting.", rate_limited: "Too many requests.",
      soon: (s) => ` Trying again in ${s} s.`, later: " Please send when you have finished writing.",
      key: "This service needs a key.", badKey: "That key is not right.", keyLabel: "API key", keySend: "Go on",
      too_long: "That is too long; please shorten it.", deadline_exceeded: "That took too long; please try again later.", offline: "The service cannot be reached; please check the network.",
      other: "Something went wrong; please try again later.", cut: "The answer broke off; please try again.", id: (id) => `(record ${id})`, retry: "Try again", cancel: "Cancel",
    },
    how: [["Find", "Fifty candidates from the knowledge base, by meaning and by words"], ["Read", "A reranker reads your words and each condition together, and puts them in order"], ["Show why", "Which of your words fit, which you denied; danger signs come first"]],
    exampleList: ["Fever for three days, bad cough with a lot of phlegm, sleeping badly", "Burning when I pee, going all the time, no fever", "Chest pain and a cold sweat", "My child has a fever and the skin behind the ear is red and swollen"],
  },
};
const DEPARTMENTS = {
  消化内科: "Gastroenterology", 皮肤科: "Dermatology", 耳鼻喉科: "ENT", 儿科: "Paediatrics", 神经内科: "Neurology", 呼吸内科: "Respiratory medicine",
  心血管内科: "Cardiology", 内分泌科: "Endocrinology", 骨科: "Orthopaedics", 感染科: "Infectious diseases", 普外科: "General surgery", 眼科: "Ophthalmology",
  妇科: "Gynaecology", 泌尿外科: "Urology", 急诊科: "Emergency department", 精神科: "Psychiatry", 血液科: "Haematology", 风湿免疫科: "Rheumatology",
  口腔科: "Dentistry", 产科: "Obstetrics", 肾内科: "Nephrology",
};
const STAGES = [["recall", "recall"], ["queue", "queue"], ["rerank", "rerank"], ["evidence", "evidence-time"], ["answer", "answer-time"]];
const KEY = "bge-medical-key";

const $ = (selector) => document.querySelector(selector);
const local = storage("localStorage"), session = storage("sessionStorage");
const state = { lang: startLanguage(), said: [], history: [], order: "ranked", report: null, answer: "", running: null, timer: null };
const t = () => TEXTS[state.lang];

// Building blocks

/** An element with attributes and children; a string becomes a text node, null is left out. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Text with marked spans; offsets are code points, which JavaScript's strings do not count in. */
function marked(text, spans) {
  const points = Array.from(text);
  const nodes = [];
  let at = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start || b.end - a.end)) {
    if (span.start < at) continue;
    nodes.push(points.slice(at, span.start).join(""));
    nodes.push(el("mark", { class: span.status }, points.slice(span.start, span.end).join("")));
    at = span.end;
  }
  nodes.push(points.slice(at).join(""));
  return nodes;
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const label = (card, term) => card.labels?.[term] ?? term;
const unique = (items) => [...new Set(items)];

/** The browser's storage, or where there is none one that lasts as long as the page: with cookies blocked its name alone throws. */
function storage(name) {
  try {
    if (window[name]) return window[name];
  } catch { /* denied */ }
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
}

function startLanguage() {
  const chosen = new URLSearchParams(location.search).get("lang") ?? local.getItem("lang");
  if (Object.hasOwn(TEXTS, chosen)) return chosen;
  return (navigator.language || "zh").toLowerCase().startsWith("zh") ? "zh" : "en";
}

function applyLanguage() {
  document.documentElement.lang = t().htmlLang;
  document.title = t().page;
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t()[element.dataset.i18n];
  $("#lang").textContent = t().other;
  $("#lang").lang = t().otherLang;
  $("#examples ul").replaceChildren(...t().exampleList.map((text) => el("li", {}, el("button", { type: "button", onclick: () => ask(text) }, text))));
  $("#how").replaceChildren(...t().how.map(([title, text], i) => el("li", {}, el("b", {}, `${i + 1} ${title}`), el("span", {}, text))));
  showForm();
  if (state.report) showReport();
}

// Asking

function ask(text) {
  const words = text.trim();
  if (!words || state.running) return;
  if ($("#query").value.trim() === words) $("#query").value = "";
  run(words);
}

/** Send what the box holds: words that were not answered were given back there, and may have been changed since. */
function retry() {
  clearProblem();
  ask($("#query").value);
}

async function run(words) {
  clearProblem();
  const controller = new AbortController();
  const last = { report: state.report, answer: state.answer }; // is shown until there is something new
  state.running = controller;
  state.said.push(words);
  showForm();
  $("#status").textContent = t().searching;
  if (!last.report) showSearching();
  let done = false;
  let problem = () => showProblem(t().problems.cut, null, retry);
  try {
    const body = { query: words, history: turns(), lang: state.lang };
    const response = await fetch("/chat", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: controller.signal,
    });
    if (!response.ok) problem = await refusal(response, words);
    else for await (const [event, data] of eventsOf(response.body)) {
      if (event === "error") problem = () => showProblem(t().problems.other, data.id, retry);
      else if (event === "done") { done = true; state.report.timings_ms = data.timings_ms; showTimes(); }
      else receive(event, data);
    }
  } catch (error) {
    if (error.name !== "AbortError") problem = () => showProblem(t().problems.offline, null, retry);
    else { problem = () => {}; done = state.report !== last.report && Boolean(state.report.results); }
  }
  state.running = null;
  $("#answer-box").setAttribute("aria-busy", "false");
  if (done) {
    state.history.push({ words, answer: state.answer, picture: state.report.query });
    $("#status").textContent = state.report.results.length ? t().done(state.report.results.length) : `${t().abstained}。${whyNothing(state.report)}`;
  } else {
    takeBack(words, last);
    problem();
  }
  showForm();
}

/** Give back words that were not answered. What was found for them stays; if nothing was, the last answer comes back. */
function takeBack(words, last) {
  state.said.pop();
  $("#status").textContent = "";
  $("#query").value = [words, $("#query").value].filter(Boolean).join("\n");
  if (state.report !== last.report) {
    const { triage } = state.report;
    if (state.report.results) { state.report.next_question = null; showNext(); } // it goes on from these words
    else if (last.report) {
      Object.assign(state, last);
      if (isLoud(triage)) state.report = { ...last.report, triage }; // no danger sign is taken back
      showReport();
    }
  }
  if (state.report?.results) return;
  $("#results").hidden = true;
  $("#cards").replaceChildren();
}

/** As many turns as the service takes. The first stands for those before it too: the words as the service has read them. */
function turns() {
  return state.history.slice(-20).flatMap(({ words, answer, picture }, i) => [
    { role: "user", content: i ? words : picture }, { role: "assistant", content: answer },
  ]);
}

function receive(event, data) {
  if (event === "triage") { Object.assign(state, { report: data, answer: "" }); showSearching(); showTriage(); }
  if (event === "documents") { Object.assign(state.report, data); showReport(); reveal(); }
  if (event === "token") { state.answer += data.text; showAnswer(); }
}

/** On a small screen the form fills it: bring what was found into view, danger signs first. */
function reveal() {
  const first = $("#triage").hidden ? $("#results") : $("#triage");
  if (first.getBoundingClientRect().top > innerHeight * 0.6) first.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
}

async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const lines = rest.slice(0, end).split("\n");
      const of = (name) => lines.filter((line) => line.startsWith(name + ": ")).map((line) => line.slice(name.length + 2)).join("\n");
      if (of("data")) yield [of("event"), JSON.parse(of("data"))];
    }
  }
}

function headers() {
  const key = session.getItem(KEY);
  // A header holds bytes, whatever was typed: without this `fetch` throws at the first 密钥.
  const bytes = String.fromCharCode(...new TextEncoder().encode(key ?? ""));
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${bytes}` } : {}) };
}

/** How to tell why these words were refused. */
async function refusal(response, words) {
  const problem = await response.json().catch(() => ({}));
  const kind = problem.error?.type ?? "";
  const texts = t().problems;
  const seconds = Math.max(1, Number(response.headers.get("Retry-After")) || 3);
  if (response.status === 401) return () => askForKey(session.getItem(KEY) ? texts.badKey : texts.key);
  if (response.status === 429 || response.status === 503) {
    const text = response.status === 503 ? texts.starting : kind === "rate_limited" ? texts.rate_limited : texts.overloaded;
    return () => countDown(seconds, text, words);
  }
  const text = response.status === 413 ? texts.too_long : texts[kind] ?? texts.other;
  return () => showProblem(text, problem.id, retry);
}

// Showing

function showForm() {
  const talking = state.said.length > 0;
  $("#query-label").textContent = talking ? t().more : t().first;
  $("#send").textContent = talking ? t().sendMore : t().send;
  $("#send").disabled = Boolean(state.running);
  $("#send").hidden = Boolean(state.running);
  $("#stop").hidden = !state.running;
  $("#again").hidden = !(talking || state.report) || Boolean(state.running);
  $("#examples").hidden = $("#how").hidden = $("#hint").hidden = talking;
  $("#query").rows = talking ? 1 : 3;
  $("#form").classList.toggle("talking", talking);
  $("#said").hidden = !talking;
  $("#said ul").replaceChildren(...state.said.map((words) => el("li", {}, words)));
}

function showSearching() {
  $("#triage").hidden = $("#next").hidden = $("#times").hidden = $("#abstained").hidden = true;
  $("#results").hidden = false;
  $("#difference").textContent = t().searching;
  $("#order").hidden = true;
  $("#difference").hidden = false;
  $("#answer-box").setAttribute("aria-busy", "true");
  $("#answer").replaceChildren();
  $("#words").textContent = state.said.join("\n");
  $("#cards").replaceChildren(...Array.from({ length: 3 }, () => el("li", { class: "skeleton", "aria-hidden": "true" })));
}

const isLoud = (triage) => triage.level === "emergency" || (triage.level === "urgent" && triage.reasons.length > 0);

function showTriage() {
  const { triage } = state.report;
  const section = $("#triage");
  const loud = isLoud(triage);
  section.className = loud ? triage.level : triage.level === "urgent" ? "urgent" : "";
  const reasons = triage.reasons.map((reason) => {
    const quotes = reason.quotes.flatMap((quote, i) => [i ? " " : null, el("q", {}, quote)]);
    const [before, after] = t().because(reason.text);
    return el("li", {}, before, ...quotes, after);
  });
  section.replaceChildren(
    el("div", { class: "sign", "aria-hidden": "true" }, loud ? "!" : "i"),
    el("div", {},
      el("h2", { id: "triage-title" }, loud ? t().levels[triage.level] : triage.advice),
      el("p", {}, loud ? triage.advice : t().usual),
      reasons.length ? el("ul", { class: "why" }, ...reasons) : null,
      triage.level === "emergency" ? el("a", { class: "call", href: "tel:120" }, t().call) : null,
    ),
  );
  // Without red flags the level comes from the best disease, which is not known yet.
  section.hidden = !loud && !state.report.results?.length;
  section.setAttribute("role", loud ? "alert" : "region");
}

function showReport() {
  const { report } = state;
  showTriage();
  if (!report.results) return;
  // What fits is so by the diseases that are shown; what is denied is so whatever they are.
  const fits = report.results.flatMap((card) => card.evidence.filter((piece) => piece.field === "query" && piece.status === "matched"));
  const denied = report.findings.filter((finding) => finding.status === "absent").map((finding) => ({ ...finding, status: "denied" }));
  $("#words").replaceChildren(...marked(report.query, [...denied, ...fits]));
  $(".legend").hidden = !$("#words mark");
  $("#difference").hidden = report.abstained;
  $("#abstained").hidden = !report.abstained;
  if (report.abstained) $("#abstained").replaceChildren(el("h3", {}, t().abstained), el("p", {}, whyNothing(report)));
  $("#order").hidden = report.abstained || !report.reranked;
  showCards();
  showNext();
  showAnswer();
  const notes = [report.model.bundled ? t().bundled : null, report.results.some((card) => card.fused) ? t().fused : null];
  $("#model").textContent = notes.filter(Boolean).join(" ");
  showTimes();
}

const whyNothing = (report) => t().reasons[report.abstention?.reason] ?? t().reasons.no_match;

function showCards() {
  const { report } = state;
  const list = $("#cards");
  const before = new Map([...list.children].filter((card) => card.dataset.key).map((card) => [card.dataset.key, card.getBoundingClientRect().top]));
  const cards = report.abstained ? [] : state.order === "ranked" ? report.results : report.recalled;
  list.replaceChildren(...cards.map((card, i) => cardOf(card, i + 1)));
  showDifference();
  if (!before.size || calm()) return;
  for (const card of list.children) {
    const from = before.get(card.dataset.key);
    const frames = from === undefined
      ? [{ opacity: 0, transform: "translateY(12px)" }, { opacity: 1, transform: "none" }]
      : [{ transform: `translateY(${from - card.getBoundingClientRect().top}px)` }, { transform: "none" }];
    card.animate(frames, { duration: 320, easing: "cubic-bezier(.2,.7,.2,1)" });
  }
}

function showDifference() {
  const { report } = state;
  if (report.abstained || !report.reranked) return $("#difference").replaceChildren();
  const ranked = report.results.map((card) => card.name);
  const recalled = report.recalled.map((card) => card.name);
  const changed = ranked.filter((name, i) => name !== recalled[i]).length;
  $("#difference").textContent = state.order === "recalled" ? t().onlyRecalled
    : changed ? t().changed(changed, recalled[0], ranked[0]) : t().unchanged;
}

function cardOf(card, place) {
  const top = state.report.results.length;
  return el("li", { class: ["card", state.order === "ranked" && place === 1 && "first", state.order === "recalled" && card.rank > top && "fallen"].filter(Boolean).join(" "), "data-key": card.disease, id: state.order === "ranked" ? `card-${place}` : null, tabindex: "-1" },
    el("div", { class: "place" }, el("span", { class: "hidden-text" }, t().place(place)), el("span", { "aria-hidden": "true" }, String(place))),
    el("div", {},
      el("h3", {}, card.name, card.name !== card.disease ? el("small", { lang: "zh" }, card.disease) : null, moveOf(card)),
      el("div", { class: "tags" },
        card.department ? el("span", {}, `${t().department} `, el("b", {}, state.lang === "en" ? DEPARTMENTS[card.department] ?? card.department : card.department)) : null,
        card.urgency in t().urgency ? el("span", { class: card.urgency === "emergency" ? "hot" : null }, t().urgency[card.urgency]) : null,
        card.patient_mismatch ? el("span", { class: "against" }, t()[card.patient_mismatch]) : null),
      card.confidence === null ? null : confidenceOf(card),
      evidenceOf(card),
      detailsOf(card)),
  );
}

function moveOf(card) {
  if (card.rank === null) return null;
  if (state.order === "recalled") {
    return el("span", { class: "move" }, card.rank > state.report.results.length ? t().out : t().after(card.rank));
  }
  const up = card.recall_rank - card.rank;
  const arrow = up > 0 ? `↑${up} ` : up < 0 ? `↓${-up} ` : "";
  return el("span", { class: up > 0 ? "move up" : "move" }, el("span", { "aria-hidden": "true" }, arrow), up === 0 ? t().same : t().before(card.recall_rank));
}

function confidenceOf(card) {
  const percent = Math.round(card.confidence * 100);
  const name = card.confidence_calibrated ? t().calibrated : t().confidence;
  const fill = el("i", {});
  fill.style.width = `${percent}%`;
  const bar = el("div", { role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(percent) }, fill);
  const help = card.confidence_calibrated ? t().calibratedHelp : t().uncalibratedHelp;
  return el("div", { class: card.confidence_calibrated ? "confidence" : "confidence raw", title: help }, el("span", {}, name), bar,
    el("span", {}, el("b", {}, card.confidence_calibrated ? `${percent}%` : card.confidence.toFixed(2)), card.confidence_calibrated ? null : ` ${t().uncalibrated}`));
}

function evidenceOf(card) {
  const said = (status) => unique(card.evidence.filter((piece) => piece.field === "query" && piece.status === status).map((piece) => piece.text));
  const missing = unique(card.evidence.filter((piece) => piece.status === "missing").map((piece) => piece.term));
  const row = (name, children) => children.length ? el("div", {}, el("span", { class: "what" }, name), ...children) : null;
  const shown = missing.slice(0, 4).map((term) => el("span", { class: "missing" }, label(card, term)));
  if (missing.length > 4) shown.push(el("span", { class: "what" }, t().also(missing.length - 4)));
  return el("div", { class: "evidence" },
    row(t().says, said("matched").map((text) => el("span", { class: "matched" }, text))),
    row(t().saysNot, said("denied").map((text) => el("s", { class: "denied" }, text))),
    row(t().against, said("contradicting").map((text) => el("span", { class: "contradicting" }, text))),
    row(t().missing, shown));
}

function detailsOf(card) {
  const spans = card.evidence.filter((piece) => piece.field === "document" && piece.status !== "missing");
  const list = (title, items, show = (item) => item) => items?.length ? [el("h4", {}, title), el("ul", {}, ...items.map((item) => el("li", {}, show(item))))] : [];
  return el("details", {}, el("summary", {}, t().more_about),
    el("p", { lang: "zh" }, ...marked(card.text, spans)),
    ...list(t().flags, card.red_flags), ...list(t().differentials, card.differentials), ...list(t().sources, card.sources),
    pointsOf(card));
}

/** Why a card may stand above another of a higher score: what the patient affirms and denies counts beside the model. */
function pointsOf(card) {
  const { relevance_logit: model, rerank_adjustment: added } = card;
  if (typeof model !== "number" || typeof added !== "number") return null;
  return el("p", { class: "points" }, t().points((model + added).toFixed(1), model.toFixed(1), added));
}

function showNext() {
  const { report } = state;
  const question = report.next_question;
  $("#next").hidden = !question || report.triage.level === "emergency"; // no time for questions then
  if (!question) return;
  const names = (diseases) => diseases.slice(0, 2).map((disease) => report.results.find((card) => card.disease === disease)?.name ?? disease).join(t().and);
  const button = (text, words) => el("button", { type: "button", onclick: () => ask(words) }, text);
  const label = question.label ?? question.term;
  $("#next p").textContent = question.text;
  $("#next .choices").replaceChildren(button(t().yes, t().yesWords(label)), button(t().no, t().noWords(label)));
  $("#next small").textContent = t().more_likely(names(question.yes), names(question.no));
}

function showAnswer() {
  const parts = state.answer.trim().split(/(\[\d+\])/);
  $("#answer").replaceChildren(...parts.map((part) => {
    const number = /^\[(\d+)\]$/.exec(part)?.[1];
    const known = number && Number(number) <= (state.report?.results?.length ?? 0);
    return known ? el("button", { type: "button", class: "cite", onclick: () => point(number) }, part) : part;
  }));
}

function point(number) {
  setOrder("ranked");
  const card = $(`#card-${number}`);
  if (!card) return;
  for (const other of document.querySelectorAll(".pointed")) other.classList.remove("pointed");
  card.classList.add("pointed");
  card.scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "center" });
  card.focus({ preventScroll: true });
}

function setOrder(order) {
  if (state.order === order) return;
  state.order = order;
  $(`#order input[value="${order}"]`).checked = true;
  if (state.report?.results) showCards();
}

function showTimes() {
  const times = state.report?.timings_ms;
  $("#times").hidden = !times;
  if (!times) return;
  const known = STAGES.filter(([stage]) => stage in times);
  $(".stages").replaceChildren(...known.map(([stage, name]) => {
    const part = el("i", { class: name });
    part.style.flexGrow = String(times[stage]);
    return part;
  }));
  const row = (name, text, value) => el("div", {}, el("dt", {}, name ? el("i", { class: name }) : null, text), el("dd", {}, value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`));
  $("#times dl").replaceChildren(...known.map(([stage, name]) => row(name, t().stages[stage], times[stage])), "total" in times ? row(null, t().total, times.total) : "");
  $("#audit").textContent = t().audit(state.report.audit);
}

// Problems

function clearProblem() {
  clearInterval(state.timer);
  $("#problem").hidden = true;
}

function showProblem(text, id = null, again = null) {
  clearInterval(state.timer);
  $("#problem").replaceChildren(
    el("p", {}, text, id ? ` ${t().problems.id(id)}` : null),
    again ? el("button", { type: "button", class: "quiet", onclick: again }, t().problems.retry) : "");
  $("#problem").hidden = false;
  $("#problem").scrollIntoView({ block: "nearest" });
}

/** Send the words again by themselves. Once the box holds others its button sends: half a sentence may say the opposite. */
function countDown(seconds, text, words) {
  showProblem(text);
  $("#problem").append(
    el("button", { type: "button", class: "quiet", onclick: retry }, t().problems.retry),
    el("button", { type: "button", class: "quiet", onclick: clearProblem }, t().problems.cancel));
  const tick = () => {
    const changed = $("#query").value !== words;
    if (changed) clearInterval(state.timer);
    else if (seconds <= 0) return retry();
    $("#problem p").textContent = text + (changed ? t().problems.later : t().problems.soon(seconds));
    seconds -= 1;
  };
  state.timer = setInterval(tick, 1000);
  tick();
}

function askForKey(text) {
  showProblem(text);
  const input = el("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const submit = (event) => { event.preventDefault(); session.setItem(KEY, input.value); retry(); };
  $("#problem").append(el("form", { onsubmit: submit }, el("label", { for: "key", class: "hidden-text" }, t().problems.keyLabel), input, el("button", { class: "quiet" }, t().problems.keySend)));
  input.focus();
}

// Start

function startOver() {
  clearProblem();
  Object.assign(state, { said: [], history: [], report: null, answer: "", order: "ranked" });
  $("#order input[value=ranked]").checked = true;
  $("#results").hidden = $("#triage").hidden = true;
  $("#status").textContent = "";
  showForm();
  $("#query").focus();
}

$("#form").addEventListener("submit", (event) => { event.preventDefault(); ask($("#query").value); });
$("#query").addEventListener("keydown", (event) => {
  // Enter sends, as in a chat; while a Chinese input method is composing it is that method's own.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("#form").requestSubmit(); }
});
$("#again").addEventListener("click", startOver);
$("#stop").addEventListener("click", () => state.running?.abort());
$("#order").addEventListener("change", (event) => setOrder(event.target.value));
$("#lang").addEventListener("click", () => {
  state.lang = state.lang === "zh" ? "en" : "zh";
  local.setItem("lang", state.lang);
  applyLanguage();
});
applyLanguage();
