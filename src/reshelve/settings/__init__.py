"""Settings: one file, `rag.toml`, read once, strict and frozen. An unknown key is refused with the nearest name."""

from __future__ import annotations

from reshelve.settings.loading import FLAGS, load_settings, parse_settings
from reshelve.settings.schedule import Step, parse_schedule
from reshelve.settings.sections import (
    AlertSettings,
    AnsweringSettings,
    CacheSettings,
    ChunkingSettings,
    CircuitBreakerSettings,
    DatabaseSettings,
    EmbeddingSettings,
    MonitoringSettings,
    ReadingSettings,
    RolloutSettings,
    SearchSettings,
    ServerSettings,
    Settings,
    ThrottleSettings,
)

__all__ = [
    "FLAGS",
    "AlertSettings",
    "AnsweringSettings",
    "CacheSettings",
    "ChunkingSettings",
    "CircuitBreakerSettings",
    "DatabaseSettings",
    "EmbeddingSettings",
    "MonitoringSettings",
    "ReadingSettings",
    "RolloutSettings",
    "SearchSettings",
    "ServerSettings",
    "Settings",
    "Step",
    "ThrottleSettings",
    "load_settings",
    "parse_schedule",
    "parse_settings",
]
