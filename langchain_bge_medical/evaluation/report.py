"""An evaluation's figures → one HTML page with plots, which needs no network, no script and no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from langchain_bge_medical.evaluation.compare import Comparison
from langchain_bge_medical.evaluation.metrics import Bin, first_hit

Lang = Literal["zh", "en"]

_PLOTTED = ("hit@1", "hit@5", "mrr@10", "ndcg@10")
_CURVE_TO = 20
_COLOURS = ("#7a8794", "#b07d2b", "#2f6f9f", "#b5443c", "#3d8b5f", "#7b4fa3", "#c2693d", "#1f8a8a")
_TEXTS: Mapping[Lang, Mapping[str, str]] = {
    "zh": {
        "title": "检索与重排评测",
        "n": "有标注疾病的提问 {n} 条。短线为 95% 自助法区间。",
        "guard": "重排是否值得",
        "table": "各阶段指标",
        "curve": "前 k 名命中率",
        "reliability": "置信度校准(越接近对角线越可信)",
        "ece": "期望校准误差 ECE:{ece:.3f},{n} 条预测。",
        "departments": "按科室",
        "tags": "按提问类型",
        "worse": "重排后变差的提问",
        "worse_note": "{before} → {after} 名次下降的提问,最严重的在前,共 {n} 条。本页含患者原话,请妥善保管。",
        "columns": "行号|原话|应为|原名次|现名次|现排第一",
        "other": "其他",
        "better": "{stage} 优于 {first}",
        "worse_than": "{stage} 不如 {first}",
        "no difference shown": "未显示 {stage} 与 {first} 有差别",
        "too few queries": "提问涉及的疾病太少,无法判断 {stage} 与 {first} 的优劣",
        "unranked": "未召回",
        "part": "类别",
    },
    "en": {
        "title": "Evaluation of retrieval and reranking",
        "n": "{n} queries with labelled diseases. Whiskers are 95 % bootstrap intervals.",
        "guard": "Is reranking worth it",
        "table": "Figures by stage",
        "curve": "Share of queries with a right disease among the first k",
        "reliability": "Calibration of the confidence (the diagonal is perfect)",
        "ece": "Expected calibration error: {ece:.3f}, {n} predictions.",
        "departments": "By department",
        "tags": "By kind of query",
        "worse": "Queries that got worse",
        "worse_note": "{before} → {after}: queries whose right disease fell, the worst first; {n} of them. "
        "This page holds patients' words; keep it where those may be.",
        "columns": "Line|Words|Right|Rank before|Rank after|Now first",
        "other": "Other",
        "better": "{stage} is better than {first}",
        "worse_than": "{stage} is worse than {first}",
        "no difference shown": "no difference shown between {stage} and {first}",
        "too few queries": "the queries are about too few diseases to tell {stage} from {first}",
        "unranked": "not found",
        "part": "Part",
    },
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--quiet:#667;--line:#d5dae0;--page:#fff;--stripe:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--quiet:#9aa4b2;--line:#39424e;--page:#14181d;--stripe:#1b2027}}
body{font:15px/1.6 system-ui,"PingFang SC","Microsoft YaHei",sans-serif;color:var(--ink);background:var(--page);
max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem}p.quiet{color:var(--quiet)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:nth-child(even){background:var(--stripe)}td.words{max-width:26rem}
svg{width:100%;height:auto;overflow:visible}svg text{fill:var(--ink);font-size:12px}svg .quiet{fill:var(--quiet)}
svg .grid{stroke:var(--line)}ul.guard{padding-left:1.2rem}
"""


def html_report(
    report: Mapping[str, Any],
    comparison: Comparison,
    *,
    words: Mapping[int, str],
    calibration: Sequence[Bin] = (),
    lang: Lang = "zh",
) -> str:
    """Return the page.

    Args:
        report: What `evaluate --json` prints.
        comparison: What it was made from, for the curve.
        words: Line of the query file → the query's words, for the queries that got worse.
        calibration: Reliability of the confidence, if there is one.
        lang: Of the page.

    Returns:
        HTML. It holds patients' words: those of the queries that got worse.
    """
    texts = _TEXTS[lang]
    colours = {stage: _COLOURS[i % len(_COLOURS)] for i, stage in enumerate(report["stages"])}
    body = [
        f"<h1>{texts['title']}</h1>",
        f'<p class="quiet">{texts["n"].format(n=report["n"])}</p>',
    ]
    if report["n"]:
        body += [
            _section(texts["guard"], _guard(report["guard"], lang)),
            _section(texts["table"], _intervals_plot(report, colours) + _stage_table(report)),
            _section(texts["curve"], _curve_plot(comparison, colours)),
        ]
    if calibration:
        said = texts["ece"].format(ece=report["calibration"]["ece"], n=report["calibration"]["n"])
        body.append(_section(texts["reliability"], f'<p class="quiet">{said}</p>{_reliability_plot(calibration)}'))
    for part in ("departments", "tags"):
        if report.get(part):
            body.append(_section(texts[part], _parts_table(report[part], texts)))
    if worse := report.get("worse"):
        body.append(_section(texts["worse"], _worse_table(worse, words, texts)))
    style = f"<style>{_STYLE}</style>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{texts["title"]}</title>'
    page_lang = {"zh": "zh-CN", "en": "en"}[lang]
    return f'<!doctype html>\n<html lang="{page_lang}"><head>{head}{style}</head><body>{"".join(body)}</body></html>\n'


def guard_lines(guard: Mapping[str, Any], lang: Lang) -> list[str]:
    """Return the no-rerank guard's verdicts as sentences, one for each stage."""
    texts, first = _TEXTS[lang], guard["first_stage"]
    lines = []
    for stage, gain in guard["stages"].items():
        if gain is not None:
            said = texts["worse_than" if gain["verdict"] == "worse" else gain["verdict"]].format(
                stage=stage, first=first
            )
            figures = f"{guard['metric']} {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            lines.append(f"{said} ({figures})")
    return lines


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}"


def _guard(guard: Mapping[str, Any], lang: Lang) -> str:
    return f'<ul class="guard">{"".join(f"<li>{html.escape(line)}</li>" for line in guard_lines(guard, lang))}</ul>'


def _table(head: Iterable[str], rows: Iterable[Sequence[object]], *, words: int | None = None) -> str:
    cells = [f"<th>{html.escape(cell)}</th>" for cell in head]
    columns = [' class="words"' if i == words else "" for i in range(len(cells))]
    body = ""
    for row in rows:
        shown = (f"<td{kind}>{html.escape(str(cell))}</td>" for kind, cell in zip(columns, row, strict=True))
        body += f"<tr>{''.join(shown)}</tr>"
    return f"<table><thead><tr>{''.join(cells)}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _stage_table(report: Mapping[str, Any]) -> str:
    metrics = list(next(iter(report["stages"].values())))
    rows = [
        [stage, *(_number(values[metric]) for metric in metrics), _number(report["pairwise"][stage])]
        for stage, values in report["stages"].items()
    ]
    return _table(["", *metrics, f"pairwise (n={report['pairwise']['n']})"], rows)


def _parts_table(parts: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    stages = list(next(iter(parts.values()))["stages"])
    rows = [
        [
            label,
            part["n"],
            *(
                f"{_number(part['stages'][stage]['hit@1'])} / {_number(part['stages'][stage]['hit@5'])}"
                for stage in stages
            ),
        ]
        for label, part in parts.items()
    ]
    return _table([texts["part"], "n", *(f"{stage} hit@1 / 5" for stage in stages)], rows)


def _worse_table(worse: Mapping[str, Any], words: Mapping[int, str], texts: Mapping[str, str]) -> str:
    note = texts["worse_note"].format(before=worse["from"], after=worse["stage"], n=len(worse["queries"]))
    rows = [
        [
            row["line"],
            words.get(row["line"], ""),
            "、".join(row["relevant"]),
            row["before"],
            row["after"] or texts["unranked"],
            row["first"] or "–",
        ]
        for row in worse["queries"]
    ]
    return f'<p class="quiet">{note}</p>{_table(texts["columns"].split("|"), rows, words=1)}'


def _svg(width: int, height: int, parts: Iterable[str], label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", quiet: bool = False) -> str:
    shown = ' class="quiet"' if quiet else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shown}>{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _axis_start(values: Iterable[float]) -> float:
    """Return the tenth below all values; an axis ends at 1 and has some length where all of them are 1."""
    return min(0.9, int(min(values) * 10) / 10)


def _intervals_plot(report: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """A dot and whiskers for each stage, one panel for each metric, on one scale."""
    left, row, panel_gap, width = 150, 18, 26, 900
    lows = [ends[0] for by in report["intervals"].values() for metric in _PLOTTED if (ends := by[metric])]
    lowest = _axis_start(lows)

    def x(value: float) -> float:
        return left + (value - lowest) / (1 - lowest) * (width - left - 20)

    parts, y = [], 14
    for metric in _PLOTTED:
        parts.append(_text(0, y, metric, quiet=True))
        top = y
        for stage, colour in colours.items():
            value, ends = report["stages"][stage][metric], report["intervals"][stage][metric]
            parts.append(_text(left - 8, y + 4, stage, anchor="end"))
            parts.append(_line(x(ends[0]), y, x(ends[1]), y, f'stroke="{colour}" stroke-width="2"'))
            parts.append(
                f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill="{colour}"><title>{value:.3f}</title></circle>'
            )
            y += row
        for tick in range(round(lowest * 10), 11):
            parts.insert(0, _line(x(tick / 10), top - 10, x(tick / 10), y - 8, 'class="grid"'))
            parts.append(_text(x(tick / 10), y + 4, f"{tick / 10:.1f}", anchor="middle", quiet=True))
        y += panel_gap
    return _svg(width, y, parts, "metrics with intervals")


def _curve_plot(comparison: Comparison, colours: Mapping[str, str]) -> str:
    """hit@k over k, a line for each stage."""
    left, top, width, height = 40, 10, 900, 260
    hits = {
        stage: [first_hit(ranking, query.relevant) for ranking, query in zip(found, comparison.queries, strict=True)]
        for stage, found in comparison.rankings.items()
    }
    shares = {
        stage: [sum(rank is not None and rank <= k for rank in ranks) / len(ranks) for k in range(1, _CURVE_TO + 1)]
        for stage, ranks in hits.items()
    }
    lowest = _axis_start(share for curve in shares.values() for share in curve)

    def x(k: int) -> float:
        return left + (k - 1) / (_CURVE_TO - 1) * (width - left - 160)

    def y(share: float) -> float:
        return top + (1 - share) / (1 - lowest) * (height - top - 30)

    parts = []
    for tick in range(round(lowest * 10), 11):
        parts.append(_line(left, y(tick / 10), x(_CURVE_TO), y(tick / 10), 'class="grid"'))
        parts.append(_text(left - 6, y(tick / 10) + 4, f"{tick / 10:.1f}", anchor="end", quiet=True))
    parts += [_text(x(k), height - 8, str(k), anchor="middle", quiet=True) for k in (1, 3, 5, 10, 15, 20)]
    for i, (stage, curve) in enumerate(shares.items()):
        points = " ".join(f"{x(k):.1f},{y(share):.1f}" for k, share in enumerate(curve, start=1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[stage]}" stroke-width="2"/>')
        parts.append(
            _line(
                x(_CURVE_TO) + 14,
                top + 12 + 18 * i,
                x(_CURVE_TO) + 34,
                top + 12 + 18 * i,
                f'stroke="{colours[stage]}" stroke-width="3"',
            )
        )
        parts.append(_text(x(_CURVE_TO) + 40, top + 16 + 18 * i, stage))
    return _svg(width, height, parts, "hit at k")


def _reliability_plot(bins: Sequence[Bin]) -> str:
    """The share that was right over the confidence, a dot for each bin."""
    left, size = 40, 300

    def place(value: float) -> float:
        return value * (size - left - 10)

    parts = [_line(left, size - 30, left + place(1), size - 30 - place(1), 'class="grid"')]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(left + place(tick), size - 12, f"{tick:g}", anchor="middle", quiet=True))
        parts.append(_text(left - 6, size - 26 - place(tick), f"{tick:g}", anchor="end", quiet=True))
    points = [(left + place(bin_.confidence), size - 30 - place(bin_.correct), bin_) for bin_ in bins]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    parts.append(f'<polyline points="{joined}" fill="none" stroke="{_COLOURS[2]}" stroke-width="2"/>')
    for x, y, bin_ in points:
        said = f"{bin_.confidence:.2f} → {bin_.correct:.2f} (n={bin_.n})"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS[2]}"><title>{said}</title></circle>')
    return _svg(900, size, parts, "reliability")
