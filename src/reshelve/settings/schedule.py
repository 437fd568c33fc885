"""The words of a rollout schedule: "10%:72h, 25%:72h, 100%:48h"."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"(?P<percent>\d+(?:\.\d{1,4})?)\s*%\s*:\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST_SECONDS = 3650 * _SECONDS["d"]


@dataclass(frozen=True, slots=True)
class Step:
    """`percent` of the units go to the candidate, for at least `hold_seconds`."""

    percent: float
    hold_seconds: float


def parse_schedule(text: str) -> tuple[Step, ...]:
    """Growing shares with up to four decimals, the last of them 100 %. An empty text is no schedule.

    Raises ValueError with what is wrong.
    """
    if not text.strip():
        return ()
    steps: list[Step] = []
    for part in text.split(","):
        match = _STEP.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a step: write a share and how long it is held, like 10%:72h")
        percent = float(match["percent"])
        if not (steps[-1].percent if steps else 0.0) < percent <= 100:
            raise ValueError(f"{percent:g}% does not follow: shares grow, up to 100%")
        hold_seconds = float(match["number"]) * _SECONDS[match["unit"]]
        if hold_seconds > _LONGEST_SECONDS:
            raise ValueError(f"{percent:g}% cannot be held for longer than ten years")
        steps.append(Step(percent, hold_seconds))
    if steps[-1].percent != 100:
        raise ValueError("the last step must be 100%")
    return tuple(steps)
