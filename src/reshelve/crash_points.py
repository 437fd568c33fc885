"""Named places where a test can kill or stop the process, so that no fault test depends on luck.

`RESHELVE_CRASH_AT=name` kills the process with SIGKILL when it reaches `name`; `name:3` waits for the third time.
`RESHELVE_STOP_AT` stops it with SIGSTOP instead, once, until somebody sends SIGCONT.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_SIGNALS = {"RESHELVE_CRASH_AT": signal.SIGKILL, "RESHELVE_STOP_AT": signal.SIGSTOP}
_reached: Counter[tuple[str, str]] = Counter()


def crash_point(name: str) -> None:
    for variable, what in _SIGNALS.items():
        place, _, count = os.environ.get(variable, "").partition(":")
        if place != name:
            continue
        _reached[variable, name] += 1
        if _reached[variable, name] == int(count or 1):
            os.kill(os.getpid(), what)
