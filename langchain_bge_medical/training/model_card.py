"""The report of a tuning run → its verdict in sentences, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

Lang = Literal["zh", "en"]

_SAID: Mapping[Lang, Mapping[str, str]] = {
    "en": {
        "better": "better than {other}",
        "worse": "WORSE than {other}",
        "no difference shown": "not shown to be better than {other}",
        "too few queries": "not measured on enough queries to be compared with {other}",
        "base": "its base",
        "recall": "recall without reranking",
        "own": "your own queries about",
        "unseen": "synthetic queries about",
        "line": "The tuned model is {said}: MRR@10 {before:.3f} → {after:.3f}, difference {mean:+.3f} "
        "[{low:+.3f}, {high:+.3f}], {n} {queries} {units} diseases not trained on.",
    },
    "zh": {
        "better": "优于{other}",
        "worse": "不如{other}",
        "no difference shown": "未显示优于{other}",
        "too few queries": "提问太少,无法与{other}比较",
        "base": "原模型",
        "recall": "不重排的召回",
        "own": "自有提问",
        "unseen": "合成提问",
        "line": "微调后的模型{said}:MRR@10 {before:.3f} → {after:.3f},差值 {mean:+.3f} [{low:+.3f}, {high:+.3f}],"
        "{queries} {n} 条,涉及 {units} 种未参与训练的疾病。",
    },
}


def verdict_lines(report: Mapping[str, Any], lang: Lang = "en") -> list[str]:
    """Return the verdict as sentences, with the figures that it rests on."""
    texts, judged_on = _SAID[lang], report["verdict"]["judged_on"]
    part = report["parts"][judged_on]
    lines = []
    for before in ("base", "recall"):
        gain = part["differences"][f"tuned - {before}"]["mrr@10"]
        lines.append(
            texts["line"].format(
                said=texts[gain["verdict"]].format(other=texts[before]),
                before=part["stages"][before]["mrr@10"],
                after=part["stages"]["tuned"]["mrr@10"],
                n=part["n"],
                queries=texts[judged_on],
                **{name: gain[name] for name in ("mean", "low", "high", "units")},
            )
        )
    return lines


_CARD = """---
pipeline_tag: text-ranking
library_name: sentence-transformers
base_model: {base_model}
tags: [cross-encoder, reranker, medical]
---

# A reranker tuned to one disease knowledge base

{verdict}

```python
BGERerankerCompressor(model_name="THIS FOLDER")
```

## Figures

Reranking the best 50 of hybrid recall. Synthetic queries use wordings that were held out of training and of recall's
index. Intervals and differences are in `report.json`.

| queries | n | stage | hit@1 | hit@5 | mrr@10 | ndcg@10 |
|---|---|---|---|---|---|---|
{figures}

## How it was made

- Base: `{base}` ({revision}), {parameters:,} parameters.
- {all} diseases: {train} trained on, {dev} watched to choose the step, {test} measured on. About the last two nothing
  was trained, not even as negatives. {own} labelled queries were given; the others were put together from the records
  and a symptom lexicon.
- {examples:,} examples, {rows:,} rows: negatives from recall that fit clearly less, differentials, random ones, and
  minimal pairs (polarity, body site, age, keyword). Complications of the right disease, and what it complicates, are
  never negatives.
- Loss {loss}{taught}; {how}; learning rate {rate:g}; batch {batch}; step {best} of {steps} kept ({planned} planned);
  seed {seed}.
- Made by `langchain-bge-medical finetune` in {minutes} minutes.

## Limits

- Made for this knowledge base; on another one measure first (`langchain-bge-medical evaluate`).
- Synthetic queries flatter every stage: they are put together from the records' own findings. Patients' words are
  harder, so measure on some.
- Its scores are not calibrated: run `langchain-bge-medical calibrate` with queries that were not trained on.
- It sorts descriptions. It is not a medical device and gives no diagnosis.
"""
_PARTS = {
    "unseen": "synthetic, diseases not trained on",
    "seen": "synthetic, diseases trained on",
    "own": "own, diseases not trained on",
}


def model_card(report: Mapping[str, Any]) -> str:
    """Return the README.md of a tuned model."""
    settings, training = report["settings"], report["training"]
    figures = [
        f"| {_PARTS[name]} | {part['n']} | {stage} | "
        + " | ".join(f"{part['stages'][stage][metric]:.3f}" for metric in ("hit@1", "hit@5", "mrr@10", "ndcg@10"))
        + " |"
        for name, part in report["parts"].items()
        for stage in ("recall", "base", "tuned")
    ]
    return _CARD.format(
        base_model=json.dumps(report["base"]),
        base=report["base"],
        revision=report["base_revision"],
        verdict="\n".join(f"- {line}" for line in verdict_lines(report)),
        figures="\n".join(figures),
        parameters=training["parameters"],
        **report["diseases"],
        **report["queries"],
        rows=training["rows"],
        loss=settings["loss"],
        taught=f" from {settings['teacher']}" if settings["teacher"] else "",
        how="low-rank adapters (r = 16), merged" if training["lora"] else "all weights",
        rate=training["learning_rate"],
        batch=settings["batch_size"],
        best=training["best_step"],
        steps=training["steps"],
        planned=training["planned_steps"],
        seed=settings["seed"],
        minutes=report["minutes"],
    )
