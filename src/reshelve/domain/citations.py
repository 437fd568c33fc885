"""The passages that an answer names, like [2] or [1, 3]: each is checked to have been there."""

from __future__ import annotations

import re

NO_ANSWER = "NO_ANSWER"
"""What a language model is told to say where the passages do not hold an answer."""
# White space is looked at from its beginning alone: from each place in it, a long run would take quadratic time.
_MARK = re.compile(r"((?<!\s)\s*)\[\s*(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\s*\]")
_OPEN = re.compile(r"(?<!\s)\s*(?:\[[\d\s,;]{0,600})?$")
"""What may yet become a mark."""
_AROUND = " \t\r\n\"'`*_"
"""What some models put around NO_ANSWER."""


class CheckedAnswer:
    """An answer as it comes, piece by piece. What `feed` and `end` return is what may be shown.

    Marks of passages that were not in the context (1 to `passages`) are taken out, and counted in `dropped`; the others
    are written one by one, [1][3], and listed in `cited` in the order of their first mention. With `may_abstain` one
    that begins with NO_ANSWER is an abstention; further on it is text, for what came before it has been shown.
    """

    def __init__(self, *, passages: int, may_abstain: bool = True) -> None:
        self.cited: list[int] = []
        self.dropped = 0
        self.abstained = False
        self._passages = passages
        self._may_abstain = may_abstain
        self._begun = False
        self._held = ""
        self._shown: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._shown)

    def feed(self, piece: str) -> str:
        self._held += piece
        if not self._begun and not self._begins():
            return ""
        still_open = _OPEN.search(self._held)
        cut = len(self._held) if still_open is None else still_open.start()
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._show(ready)

    def end(self) -> str:
        if self.abstained:
            return ""
        rest, self._held = self._held if self._begun else self._held.lstrip(), ""
        return self._show(rest.rstrip())

    def _begins(self) -> bool:
        """All of it is shown once it can no longer become an abstention."""
        first = self._held.lstrip(_AROUND)
        self.abstained = self._may_abstain and first.startswith(NO_ANSWER)
        if self.abstained or not self._held.strip() or (self._may_abstain and NO_ANSWER.startswith(first)):
            return False
        self._begun, self._held = True, self._held.lstrip()
        return True

    def _show(self, ready: str) -> str:
        checked = _MARK.sub(self._checked, ready)
        self._shown.append(checked)
        return checked

    def _checked(self, mark: re.Match[str]) -> str:
        named = [int(number) for number in re.findall(r"\d+", mark[2])]
        known = list(dict.fromkeys(number for number in named if 1 <= number <= self._passages))
        self.dropped += sum(not 1 <= number <= self._passages for number in named)
        self.cited += [number for number in known if number not in self.cited]
        return mark[1] + "".join(f"[{number}]" for number in known) if known else ""
