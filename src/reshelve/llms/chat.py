"""One chat model behind an OpenAI-compatible endpoint: OpenAI, Gemini, Ollama, vLLM."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from reshelve.endpoints import LONGEST_WAIT_SECONDS, LastingFault, PassingFault, fault_of, wait_seconds
from reshelve.errors import AnswerError, AnswerRefused, AnswerUnavailable

if TYPE_CHECKING:
    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk


_DONE = re.compile(rb"(?:^|\n)data: ?\[DONE\]")
_DONE_BYTES = 16


class Message(TypedDict):
    role: str
    content: str


class ChatModel:
    """The answer comes piece by piece, whoever wants it whole puts it together: so a request can be closed at any time.

    What may pass is tried again, until the first piece has come. `timeout_seconds` is for a whole attempt.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str,
        key: str,
        timeout_seconds: float,
        max_retries: int,
        temperature: float | None,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.timeout_seconds = timeout_seconds
        self._key = key
        self._max_retries = max_retries
        self._options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        self._made: Any = None

    async def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str]:
        """Raises AnswerUnavailable once the retries are used up, AnswerRefused, and AnswerError for an empty answer.

        Close it (`contextlib.aclosing`) where it is not read to its end: that closes the request.
        """
        attempt = 0
        while True:
            begun = ended = False
            fault: PassingFault | None = None
            try:
                deadline = asyncio.get_running_loop().time() + self.timeout_seconds
                stream = await self._begin(messages, deadline)
                watch = _Watch(stream)
                async with stream:
                    while (chunk := await self._next(stream, deadline)) is not None:
                        piece, finished = chunk
                        ended = ended or finished
                        if piece:
                            begun = True
                            yield piece
                if not (ended or watch.done):
                    fault = PassingFault("the stream ended before the answer did")
            except _Broken as broken:
                fault = broken.fault
            if fault is None:
                if not begun:
                    raise AnswerError(f"{self.base_url} answered nothing for {self.model}", advice="Ask again.")
                return
            asked = fault.after_seconds
            if begun or attempt >= self._max_retries or (asked is not None and asked > LONGEST_WAIT_SECONDS):
                raise self._unavailable(fault, attempts=attempt + 1, begun=begun)
            await asyncio.sleep(wait_seconds(attempt, asked))
            attempt += 1

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.close()

    @property
    def _client(self) -> Any:
        """Made at the first question: most processes never ask one."""
        if self._made is None:
            from openai import AsyncOpenAI

            self._made = AsyncOpenAI(
                api_key=self._key, base_url=self.base_url, timeout=self.timeout_seconds, max_retries=0
            )
        return self._made

    async def _begin(self, messages: Sequence[Message], deadline: float) -> AsyncStream[ChatCompletionChunk]:
        from openai import APIError

        try:
            async with asyncio.timeout_at(deadline):
                return await self._client.chat.completions.create(
                    model=self.model, messages=list(messages), stream=True, **self._options
                )
        except TimeoutError:
            raise self._too_late() from None
        except APIError as error:
            raise self._translated(error) from error

    async def _next(self, stream: AsyncStream[ChatCompletionChunk], deadline: float) -> tuple[str, bool] | None:
        """The next piece, "" for a chunk without one, and whether the answer ends with it; None at the stream's end."""
        import httpx
        from openai import APIError

        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise self._too_late() from None
        except APIError as error:
            raise self._translated(error) from error
        except (httpx.HTTPError, ValueError) as error:
            raise _Broken(PassingFault(f"{type(error).__name__}: {error}")) from error
        if chunk is None:
            return None
        choice = chunk.choices[0] if chunk.choices else None
        if choice is None:
            return "", False
        if choice.finish_reason == "content_filter":
            raise AnswerRefused(f"{self.base_url} filtered the answer of {self.model}")
        return choice.delta.content or "", bool(choice.finish_reason)

    def _too_late(self) -> _Broken:
        return _Broken(PassingFault(f"no whole answer within {self.timeout_seconds:g} s"))

    def _translated(self, error: Any) -> _Broken | AnswerError:
        fault = fault_of(error)
        return _Broken(fault) if isinstance(fault, PassingFault) else self._refused(fault)

    def _refused(self, fault: LastingFault) -> AnswerError:
        match fault.kind:
            case "quota":
                advice = "Check the plan and billing of the key."
            case "key":
                advice = "Set rag.answering.api_key, or the variable of its provider (GEMINI_API_KEY, OPENAI_API_KEY)."
            case "missing":
                advice = "Check rag.answering.model, and that base_url ends where /chat/completions follows."
            case "refused":
                advice = "If it speaks of length, lower rag.answering.top_k; of temperature, leave that out."
        return AnswerRefused(f"{self.base_url} refused {self.model} ({fault.status}): {fault.said}", advice=advice)

    def _unavailable(self, fault: PassingFault, *, attempts: int, begun: bool) -> AnswerUnavailable:
        wait = f" (it asks to wait {fault.after_seconds:.0f} s)" if fault.after_seconds is not None else ""
        how = "broke off its answer" if begun else f"failed {attempts} times"
        return AnswerUnavailable(
            f"{self.base_url} {how} for {self.model}: {fault.reason}{wait}", advice="Ask again later."
        )


class _Watch:
    """Whether the stream says [DONE], which the SDK keeps to itself: some servers end an answer with that alone."""

    def __init__(self, stream: AsyncStream[ChatCompletionChunk]) -> None:
        self.done = False
        self._read = stream.response.aiter_bytes
        stream.response.aiter_bytes = self._bytes

    async def _bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes]:
        last = b""
        async for part in self._read(chunk_size):
            last += part
            self.done = self.done or _DONE.search(last) is not None
            last = last[-_DONE_BYTES:]
            yield part


class _Broken(Exception):
    """An attempt that may succeed another time."""

    def __init__(self, fault: PassingFault) -> None:
        super().__init__(fault.reason)
        self.fault = fault
