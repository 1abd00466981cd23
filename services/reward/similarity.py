"""The `text_similarity` grader. All measures take time linear in the texts, or run in C++ with 64
cells of the comparison at a time.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.bleu import BLEU

from services.common.grader_spec import TextSimilarityGrader
from services.common.templates import MissingFieldError, fill_in
from services.reward.scores import GradedResponse, GraderFailure, Score

# Effective order: a sentence of three words has no n-gram of four, which must not make its BLEU 0.
_BLEU: Final = BLEU(effective_order=True)


def score_text_similarity(spec: TextSimilarityGrader, graded: GradedResponse) -> Score:
    """Return the similarity of two filled-in templates, from 0 to 1."""
    values = {"sample": graded.to_sample(), "item": graded.to_item()}
    try:
        text, reference = fill_in(spec.input, values), fill_in(spec.reference, values)
    except MissingFieldError as error:
        return GraderFailure("missing_field", f"the row has no {error}")
    metric = spec.evaluation_metric
    if metric == "fuzzy_match":
        return fuzz.ratio(text, reference) / 100
    if metric == "bleu":
        return float(_BLEU.sentence_score(text, [reference]).score) / 100
    words, wanted = (_split_words(each.lower()) for each in (text, reference))
    if metric == "rouge_l":
        return _f1(LCSseq.similarity(words, wanted), len(words), len(wanted))
    size = int(metric.removeprefix("rouge_"))
    found, needed = (_count_ngrams(each, size) for each in (words, wanted))
    return _f1((found & needed).total(), found.total(), needed.total())


def _split_words(text: str) -> list[str]:
    """Return the runs of letters and digits."""
    return "".join(char if char.isalnum() else " " for char in text).split()


def _count_ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _f1(shared: int, found: int, needed: int) -> float:
    """F1 of precision shared / found and recall shared / needed (ROUGE, Lin 2004)."""
    return 2 * shared / (found + needed) if found + needed else 0.0
