"""How long an answer should be, and whether a summary is wanted: from the wording of the question (in English)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Style = Literal["minimal", "concise", "detailed"]
_SUMMARY = re.compile(
    r"\b(summar(y|ies|i[sz]e[ds]?|i[sz]ing)|overview|key points|main points|gist|sum up|recap)\b|tl;?dr"
)
_WHAT_IS_KNOWN = re.compile(r"\b(what|all|everything)( that)?( is| was| has been|'s)? (known|said|written|told)\b")
_SHORT = re.compile(r"\b(brief(ly)?|in short|short answer|(one|a|a single) (word|sentence|line)|just the|yes or no)\b")
_LONG = re.compile(
    r"\b(explain|elaborate|describe|compare|discuss|detail(s|ed)?|in depth|thorough(ly)?|step[ -]by[ -]step|why"
    r"|pros and cons|difference between)\b|^how (do|does|did|can|could|should|to)\b"
)
_ONE_FACT = re.compile(
    r"^(who|when|where|which|how (many|much|old|long|far|tall|often)|what (year|date|time|day|number|is the name)"
    r"|is|are|was|were|does|do|did|has|have|can|will)\b"
)


def style_of(question: str) -> Style:
    """What the question says of its answer goes over what kind of question it is."""
    asked = " ".join(question.casefold().split())
    if _SHORT.search(asked):
        return "minimal"
    if _LONG.search(asked) or _SUMMARY.search(asked):
        return "detailed"
    return "minimal" if _ONE_FACT.search(asked) else "concise"


def asks_for_summary(question: str) -> bool:
    return _SUMMARY.search(question.casefold()) is not None


def without_request(question: str) -> str:
    """The question less the words that ask for a summary, in lower case: what it should be of."""
    asked = question.casefold()
    return _WHAT_IS_KNOWN.sub(" ", _SUMMARY.sub(" ", asked)) if _SUMMARY.search(asked) else asked


def summary_top_k(top_k: int, *, most: int) -> int:
    """A summary looks at more passages: three times as many, at least 15, at most `most`."""
    return min(max(3 * top_k, 15), most)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordLimits:
    minimal: int = 25
    concise: int = 60
    detailed: int = 180

    def of(self, style: Style) -> int:
        return {"minimal": self.minimal, "concise": self.concise, "detailed": self.detailed}[style]
