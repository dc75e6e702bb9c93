"""What a model says of itself: the verdict of a tuning run in sentences, its card, and the cards of the bundled models.

`python -m langchain_bge_medical.training.model_card --model FOLDER --figures FILE` writes a bundled model's README.md
again, with figures that `langchain-bge-medical evaluate --json` printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_bge_medical.model_files import read_config, resolved_revision

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


_TUNED = """---
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

- Base: `{report[base]}` ({report[base_revision]}), {training[parameters]:,} parameters.
- {diseases[all]} diseases: {diseases[train]} trained on, {diseases[dev]} watched to choose the step, {diseases[test]}
  measured on. About the last two nothing was trained, not even as negatives. {queries[own]} labelled queries were
  given; the others were put together from the records and a symptom lexicon.
- {queries[examples]:,} examples, {training[rows]:,} rows: negatives from recall that fit clearly less, differentials,
  random ones, and minimal pairs (polarity, body site, age, keyword). Complications of the right disease, and what it
  complicates, are never negatives.
- Loss {settings[loss]}{taught}; {how}; learning rate {training[learning_rate]:g}; batch {settings[batch_size]}; step
  {training[best_step]} of {training[steps]} kept ({training[planned_steps]} planned); seed {settings[seed]}.
- Made by `langchain-bge-medical finetune` in {report[minutes]} minutes.

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
    """Return the README.md of a tuned model, from its report."""
    settings, training = report["settings"], report["training"]
    rows = (
        (_PARTS[name], part["n"], stage, *_rounded(part["stages"][stage], ("hit@1", "hit@5", "mrr@10", "ndcg@10")))
        for name, part in report["parts"].items()
        for stage in ("recall", "base", "tuned")
    )
    return _TUNED.format(
        report=report,
        base_model=json.dumps(report["base"]),
        verdict="\n".join(f"- {line}" for line in verdict_lines(report)),
        figures=_table(rows),
        diseases=report["diseases"],
        queries=report["queries"],
        settings=settings,
        training=training,
        taught=f" from {settings['teacher']}" if settings["teacher"] else "",
        how="low-rank adapters (r = 16), merged" if training["lora"] else "all weights",
    )


_BUNDLED = """---
pipeline_tag: {task}
library_name: sentence-transformers
license: mit
language: [zh, en]
tags: [medical, chinese]
---

# Bundled {kind}

**For demonstration on the bundled knowledge base.** {what} of {parameters:.1f} million parameters (XLM-RoBERTa shape,
{config[num_hidden_layers]} layers × {config[hidden_size]}, a vocabulary of {config[vocab_size]:,}), trained from
scratch by langchain-bge-medical on text that was written for it: no other data and no other model. It lets everything
run without a model hub, under the name `"bundled"`. In earnest take
{instead}.

- It reads up to {tokens} tokens: one for each Chinese character, word pieces for Latin script. Traditional and
  full-width characters are the tokens of their simplified and plain twins.
- {aside}
- Weights: {revision}.

## Data

All of it is in the repository, made into one file by `python -m langchain_bge_medical.training.materials`, seed
{data[seed]}. What is close to an evaluation query (`--keep-out`) was left out.

| | |
|---|---|
| diseases in the knowledge base | {data[diseases]:,} |
| of these, nothing was trained about | {data[unseen]:,} |
| complaints, written one by one (`training/corpus`) | {data[queries][written]:,} |
| the same, typed badly | {data[queries][rough]:,} |
| off-topic texts (`training/corpus`) | {data[queries][off_topic]:,} |
| queries put together from symptoms and the lexicon, Chinese | {data[queries][synthetic]:,} |
| the same, English | {data[queries][english]:,} |
| everyday ways to say a clinical term (symptom lexicon) | {data[terms]:,} |
{groups}
## Recipe

{loss}
Seeds: {seeds}.
`python -m langchain_bge_medical.training.bundled --materials FILE --recipe '{{…}}'` with:

| | |
|---|---|
{recipe}

## Held-out figures

{figures}
## Known failures

{failures}
- It was made for one knowledge base; see above. {elsewhere}
- Records, training text and these queries were all written for this project, in one style of language: expect less of
  real patients' words.
- It sorts descriptions. It is not a medical device and gives no diagnosis.
"""
_KINDS: Mapping[str, Mapping[str, str]] = {
    "reranker": {
        "task": "text-ranking",
        "what": "A cross-encoder",
        "instead": "`BAAI/bge-reranker-v2-m3`, or a model tuned to your own knowledge base "
        "(`langchain-bge-medical finetune`)",
        "aside": "Its logit is of one text fitting the other. Over the bundled knowledge base a calibration makes it a "
        "confidence.",
        "loss": "First groups of 8 short invented records of which one has all the findings asked for, then groups of "
        "real records,\nlikelier wrong ones the better the first stage ranks them; softmax over the group plus sigmoid "
        "per pair.",
        "elsewhere": "Over any text but its records (`known_documents.txt`) its order is fused\n  with recall's.",
    },
    "embeddings": {
        "task": "sentence-similarity",
        "what": "A bi-encoder",
        "instead": "e.g. `BAAI/bge-large-zh-v1.5`",
        "aside": "Mean pooling, unit vectors.",
        "loss": "Each query with its record against all others (softmax), and each everyday phrase with its clinical "
        "term.",
        "elsewhere": "Over another, combine it with BM25\n  (`build_hybrid_retriever`) or take another.",
    },
}
_NOT_MEASURED = """Not measured. `python -m langchain_bge_medical.training.model_card --model FOLDER --figures FILE`
puts here what `langchain-bge-medical evaluate --json` printed into FILE.
"""
_METRICS = ("hit@1", "hit@3", "hit@5", "mrr@10", "recall@50")
_FEWEST = 15  # queries that a weak spot is named for
_WEAKEST = 3


class CardError(ValueError):
    """A folder or figures that no card can be written from."""


def bundled_card(
    folder: Path, figures: Sequence[Mapping[str, Any]] = (), *, unseen: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the README.md of a bundled model.

    Args:
        folder: With weights and the `recipe.json` that `training.bundled` wrote.
        figures: Reports of `evaluate --json` with this model, over the bundled knowledge base.
        unseen: Such reports of a pair that was made by the same recipe and trained on nothing about the diseases that
            the queries are about.

    Returns:
        Markdown; what fails most is read from the figures.

    Raises:
        CardError: If the folder is none of a bundled model, or figures are of another model.
    """
    config = read_config(folder)
    kind = "reranker" if any("Classification" in name for name in config["architectures"]) else "embeddings"
    try:
        recipe = json.loads((folder / "recipe.json").read_text("utf-8"))
        data = recipe.pop("data")
    except (OSError, KeyError):
        raise CardError(f"{folder}: there is no recipe.json with the data in it; training.bundled writes it") from None
    revision = resolved_revision(folder)
    for report in figures:
        measured = report.get("revisions", {}).get(kind)
        if measured != revision:
            raise CardError(f"figures of {report.get('queries')} are of the {kind} {measured}; {folder} is {revision}")
    further = recipe.pop("further", None)
    seed, of_pair = recipe.pop("seed"), ("embedding_", "term_")
    own = {name: value for name, value in recipe.items() if name.startswith(of_pair) == (kind == "embeddings")}
    groups = f"| groups of short invented records | {data['groups']:,} |\n" if kind == "reranker" else ""
    return _BUNDLED.format(
        kind=kind,
        config=config,
        parameters=_parameters(folder) / 1e6,
        tokens=config["max_position_embeddings"] - 2,
        revision=revision,
        data=data,
        groups=groups,
        seeds=f"{seed if kind == 'embeddings' else seed + 1} for the model, {data['seed']} for the data",
        recipe=_table((f"`{name}`", f"{value:g}") for name, value in own.items()) + _further(further),
        figures=_figures(figures, unseen) if figures or unseen else _NOT_MEASURED,
        failures="\n".join(f"- {line}" for line in _failures(kind, figures, unseen)),
        **_KINDS[kind],
    )


def _further(further: Mapping[str, Any] | None) -> str:
    """Return what the card says of training that went on from a finished reranker, if it did."""
    if further is None:
        return ""
    said = (
        f"\n\nThen on, by `--further-from`, with {further['queries']:,} queries: all written ones about "
        f"{further['other_diseases']:,} other diseases\n(`training/corpus/other_diseases`), each among records of "
        "these alone, with some about the knowledge base, and off-topic\ntexts:\n\n| | |\n|---|---|\n"
    )
    rows = ((f"`{name}`", f"{value:g}") for name, value in further.items() if name not in ("queries", "other_diseases"))
    return said + _table(rows)


def _figures(figures: Sequence[Mapping[str, Any]], unseen: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for each way of measuring."""
    head = "| queries | n | stage | " + " | ".join(_METRICS) + " |\n|" + "---|" * (3 + len(_METRICS))
    parts = []
    if figures:
        said = "Printed by `langchain-bge-medical evaluate --queries FILE --json`, with both bundled models over the "
        parts.append(f"{said}bundled\nknowledge base; `rerank` orders the 50 best of `hybrid`.\n\n{head}")
        parts.append(_table(_stage_rows(figures)))
    if unseen:
        said = "**Diseases never seen in training**: a pair made by the same recipe, without the diseases asked about."
        parts.append(f"\n{said}\n\n{head}" if figures else f"{said}\n\n{head}")
        parts.append(_table(_stage_rows(unseen)))
    return "\n".join(parts) + "\n"


def _stage_rows(reports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for report in reports:
        for stage, row in report["stages"].items():
            yield f"`{report['queries']}`", report["n"], stage, *_rounded(row, _METRICS)


def _failures(kind: str, figures: Sequence[Mapping[str, Any]], unseen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the figures say against the model."""
    stage = "rerank" if kind == "reranker" else "dense"
    for report in figures if kind == "reranker" else ():
        gain, first = report["guard"]["stages"][stage], report["guard"]["first_stage"]
        if gain["verdict"] != "better":
            said = f"`{report['queries']}`: it alone is {_SAID['en'][gain['verdict']].format(other=first)} recall"
            yield f"{said} (MRR@10 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}])."
    for report in figures:
        for group, named in (("tags", "kinds of query"), ("departments", "departments")):
            weakest = sorted(
                (part["stages"][stage]["hit@1"], name, part["n"])
                for name, part in report[group].items()
                if part["n"] >= _FEWEST
            )[:_WEAKEST]
            if weakest:
                said = ", ".join(f"{name} {hit:.2f} (n = {n})" for hit, name, n in weakest)
                yield f"`{report['queries']}`, weakest {named} by hit@1 of `{stage}`: {said}."
        pairs = report["pairwise"]
        if pairs["n"] and pairs[stage] < 1:
            said = f"`{report['queries']}`: a disease that a matching word would put first outranks the right one"
            yield f"{said} in {1 - pairs[stage]:.1%} of {pairs['n']}."
    if not unseen:
        yield "How it does on diseases never seen in training is not in this card."


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def _rounded(row: Mapping[str, float], metrics: Iterable[str]) -> Iterator[str]:
    return (f"{row[metric]:.3f}" for metric in metrics)


def _table(rows: Iterable[Iterable[Any]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the README.md of a bundled model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--figures", type=Path, nargs="+", default=[], help="what `evaluate --json` printed")
    parser.add_argument("--unseen", type=Path, nargs="+", default=[], help="the same, of diseases never trained on")
    parser.add_argument("--materials", type=Path, help="for a recipe.json that lacks its data: what was trained on")
    options = parser.parse_args(arguments)
    figures, unseen = (
        [json.loads(file.read_text("utf-8")) for file in files] for files in (options.figures, options.unseen)
    )
    if options.materials:
        from langchain_bge_medical.training.materials import Materials

        file = options.model / "recipe.json"
        recipe = {**json.loads(file.read_text("utf-8")), "data": Materials.load(options.materials).counts()}
        file.write_text(json.dumps(recipe, indent=1) + "\n", "utf-8")
    try:
        card = bundled_card(options.model, figures, unseen=unseen)
    except CardError as error:
        sys.exit(f"error: {error}")
    (options.model / "README.md").write_text(card, "utf-8")


if __name__ == "__main__":
    main()
