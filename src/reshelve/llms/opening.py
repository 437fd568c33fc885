"""Which language model the settings and the environment name, if any."""

from __future__ import annotations

import os
from dataclasses import dataclass

from reshelve.endpoints import OPENAI_URL
from reshelve.errors import SettingsError
from reshelve.llms.chat import ChatModel
from reshelve.settings import AnsweringSettings

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai"
_DEFAULT_MODELS = {OPENAI_URL: "gpt-4o-mini", GEMINI_URL: "gemini-2.5-flash"}
_NO_KEY = "none"
"""A local endpoint needs no key, but the client wants one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoint:
    base_url: str
    key: str
    declared: bool
    """By the settings, not by a variable alone that may be there for the embeddings."""


def open_llm(settings: AnsweringSettings) -> ChatModel | None:
    """None where nothing names one. Raises SettingsError for half a declaration."""
    endpoint = _endpoint(settings) if settings.provider != "none" else None
    if endpoint is None:
        return None
    model = settings.model or _DEFAULT_MODELS.get(endpoint.base_url)
    if model is None:
        if not endpoint.declared:
            return None
        raise SettingsError(
            f"rag.answering does not say which model of {endpoint.base_url} is asked", advice="Set rag.answering.model."
        )
    return ChatModel(
        model=model,
        base_url=endpoint.base_url,
        key=endpoint.key,
        timeout_seconds=_timeout_seconds(settings, endpoint.base_url),
        max_retries=settings.max_retries,
        temperature=settings.temperature,
    )


def _endpoint(settings: AnsweringSettings) -> _Endpoint | None:
    own = settings.api_key.get_secret_value() if settings.api_key is not None else None
    gemini, openai = os.environ.get("GEMINI_API_KEY"), os.environ.get("OPENAI_API_KEY")
    openai_url = (os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
    if settings.base_url is not None:
        base_url = settings.base_url.rstrip("/")
        key = own or (gemini if base_url == GEMINI_URL else openai)
        if key is None and base_url in _DEFAULT_MODELS:
            raise _no_key(base_url)
        return _Endpoint(base_url=base_url, key=key or _NO_KEY, declared=True)
    if own is not None:
        return _Endpoint(base_url=openai_url, key=own, declared=True)
    if gemini:
        return _Endpoint(base_url=GEMINI_URL, key=gemini, declared=False)
    if openai:
        return _Endpoint(base_url=openai_url, key=openai, declared=False)
    if settings.model is not None:
        raise _no_key(openai_url)
    return None


def _no_key(base_url: str) -> SettingsError:
    variable = "GEMINI_API_KEY" if base_url == GEMINI_URL else "OPENAI_API_KEY"
    return SettingsError(
        f"rag.answering has no key for {base_url}",
        advice=f"Set {variable}, or rag.answering.api_key; or rag.answering.base_url for another endpoint.",
    )


def _timeout_seconds(settings: AnsweringSettings, base_url: str) -> float:
    given = os.environ.get("GEMINI_TIMEOUT", "").strip()
    if base_url != GEMINI_URL or not given:
        return settings.timeout_seconds
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"GEMINI_TIMEOUT is {given!r}", advice="Give a number of seconds.")
    return seconds
