"""The fitted numbers of the clinical layer, in one place; `training.clinical_weights` refits them."""

from __future__ import annotations

from typing import NamedTuple


class BlendWeights(NamedTuple):
    """Points beside the cross-encoder's logit, on its scale; all 0 switches the blend off."""

    affirmed: float
    """For each of a document's symptoms that the patient affirms: a fixed amount for an independent finding is what
    naive Bayes would add to log-odds."""
    denied: float
    """Taken off for each that the patient denies; less for one far down the list, whose absence says less."""
    named: float
    """If the patient says to have the disease, by its name or an alias (崴脚了), divided by one more than the symptoms
    told beside it: what somebody with five symptoms calls them is a guess."""
    recall: float
    """Times the logarithm of the place in recall, taken off: the first stage is an opinion of its own."""
    impossible: float
    """Taken off where sex or age rule a disease out."""
    unlikely: float
    """Taken off where the age is just outside a disease's range."""
    no_child: float = 0.0
    """Taken off what only children get where nobody speaks of one. Not fitted: it is how much less often complaints of
    such diseases than others, in the corpus, hold no word for a child (37 % and 82 %, the difference of logarithms)."""


class AbstentionWeights(NamedTuple):
    """A logistic regression on what tells complaints from other talk; positive speaks for a complaint."""

    bias: float
    findings: float
    """Times the square root of the number of findings that are terms of the lexicon, at most 4."""
    loose: float
    """If there is a complaint that no term says, and no other."""
    said: float
    """Times the share of the text that findings take up."""
    best: float
    """Times the best relevance score, on [-1, 1]."""
    covered: float
    """If the best document lists a symptom that is affirmed."""
    body: float
    """If it speaks of a part of the body or of an examination."""
    course: float
    """If it tells how long something has been."""
    flagged: float
    """If a red flag is met."""
    other_subject: float
    """If it is told of an animal, a plant, a machine or money."""
    other_wish: float
    """If it asks for something that is no complaint: a booking, a price, a recipe, a definition."""


BLEND = BlendWeights(affirmed=1.5, denied=2.0, named=12.0, recall=2.5, impossible=20.0, unlikely=2.0, no_child=0.8)
# Without dev_short_complaints.jsonl: with them, a complaint amid much other text is refused.
ABSTENTION = AbstentionWeights(
    bias=-4.31, findings=2.07, loose=2.13, said=4.92, best=2.0, covered=0.75, body=2.23, course=2.35, flagged=2.07,
    other_subject=-9.0, other_wish=-1.89,
)  # fmt: skip
ABSTENTION_THRESHOLD = 0.592
