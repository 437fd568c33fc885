"""What every part of the Library works with."""

from __future__ import annotations

from reshelve.backends import Backends
from reshelve.settings import Settings


class Part:
    """One group of the Library's verbs."""

    backends: Backends
    settings: Settings
