"""An OpenAI-compatible /v1/chat/completions that streams what a test tells it to, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from tests.support.embedding_endpoint import Answer, EmbeddingEndpoint, Hang, Hangup, Status


class ChatEndpoint(EmbeddingEndpoint):
    """`says` is streamed piece by piece: a text, a Hang (nothing more comes) or a Hangup (the connection is closed)."""

    path = "/v1/chat/completions"

    def __init__(self, *says: str | Hang | Hangup, key: str | None = None) -> None:
        super().__init__(key=key)
        self.says: list[str | Hang | Hangup] = list(says)
        self.finish_reason: str | None = "stop"
        self.done = True
        """Without it and a finish_reason the stream ends in good order, and the answer does not."""
        self.given_up = 0
        """Answers whose client hung up before their end."""

    @property
    def last(self) -> dict[str, Any]:
        return self.requests[-1].body

    def _refused_input(self, request: dict[str, Any]) -> Status | None:
        return None if request.get("stream") else Status(400, "this endpoint only streams")

    def _good(self, request: dict[str, Any], wrong: str) -> Answer:
        return 200, {}, self._pieces(wrong)

    async def _pieces(self, wrong: str) -> AsyncGenerator[bytes]:
        if wrong == "garbage":
            yield b"<html>Bad gateway</html>"
            return
        if wrong == "broken":
            yield b"data: {broken\n\n"
            return
        yield _chunk({"role": "assistant", "content": ""})
        try:
            for piece in self.says:
                match piece:
                    case Hang():
                        await asyncio.sleep(3600)
                    case Hangup():
                        yield b""
                    case str():
                        yield _chunk({"content": piece})
                        await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        yield _chunk({}, finish_reason=self.finish_reason)
        if self.done:
            yield b"data: [DONE]\n\n"


def _chunk(delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    document = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(document)}\n\n".encode()
