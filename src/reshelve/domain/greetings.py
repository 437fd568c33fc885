"""What needs no document to be answered: greetings, thanks, and who is speaking."""

from __future__ import annotations

import re

_HELLO = "Hello. Ask me something about the documents of this collection."
_WHO = (
    "I answer questions from the documents of this collection, and name the passages that an answer rests on. "
    "Where they do not hold it, I say so."
)
_THANKS = "You are welcome."
_BYE = "Goodbye."
_ADDRESSED = r"( (there|all|everyone|friend|bot|assistant|reshelve))?"
_KNOWN = (
    (re.compile(rf"(hi|hello|hey|hiya|howdy|greetings|good (morning|afternoon|evening|day)){_ADDRESSED}"), _HELLO),
    (re.compile(r"(how are you|how do you do|how are you doing)( today)?"), _HELLO),
    (
        re.compile(r"(who|what) are you|what is your name|whats your name|introduce yourself|tell me about yourself"),
        _WHO,
    ),
    (re.compile(r"what (can|do) you do|how can you help( me)?|what are you (good )?for"), _WHO),
    (re.compile(rf"(many )?(thanks|thank you|thx|cheers)( (a lot|so much|very much))?{_ADDRESSED}"), _THANKS),
    (re.compile(rf"(bye|goodbye|bye bye|see you|good night)( later)?{_ADDRESSED}"), _BYE),
)


def local_answer(question: str) -> str | None:
    """The reply to small talk; None for a question. Only the whole of it counts: "hello world in C" is a question."""
    said = " ".join(re.sub(r"[^\w\s]", "", question.casefold()).split())
    parts = [said, re.sub(rf"^(hi|hello|hey){_ADDRESSED} ", "", said)]
    return next((reply for part in parts for pattern, reply in _KNOWN if pattern.fullmatch(part)), None)
