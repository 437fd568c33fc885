"""Named places where a test can kill the process, so that no fault test depends on luck.

`RESHELVE_CRASH_AT=name` kills the process with SIGKILL when it reaches `name`; `name:3` waits for the third time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_reached: Counter[str] = Counter()


def crash_point(name: str) -> None:
    wanted = os.environ.get("RESHELVE_CRASH_AT")
    if wanted is None:
        return
    place, _, count = wanted.partition(":")
    if place != name:
        return
    _reached[name] += 1
    if _reached[name] >= int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
