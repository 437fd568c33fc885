"""Readers and writers of the HTTP service, as a process of its own: `python -m tests.support.load URL`.

They go on until standard input is closed; then one JSON line says what they met. A reader is one of many users, and
searches for a document that has been there all along. A writer puts a document in with `wait=true`, asks for its very
text at once, and for all of them again at the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import httpx

READERS = 4
USERS = 200
PAUSE_SECONDS = 0.01


class Load:
    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=30)
        self._counts: Counter[str] = Counter()
        self._failures: list[str] = []
        self._written: dict[str, str] = {}
        self._over = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        tasks = [asyncio.create_task(self._read(number)) for number in range(READERS)]
        tasks.append(asyncio.create_task(self._write()))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        self._over.set()
        await asyncio.gather(*tasks)
        lost = [name for name, text in self._written.items() if not await self._found(name, text, user="at the end")]
        await self._client.aclose()
        return {**self._counts, "failures": self._failures[:5], "writes": len(self._written), "lost": lost}

    async def _read(self, number: int) -> None:
        turn = number
        while not self._over.is_set():
            turn += READERS
            answer = await self._search(f"shelf{turn % 1000} vector", user=f"user-{turn % USERS}")
            if answer is not None:
                self._counts["searches"] += 1
                self._counts[answer["arm"]] += 1
                self._counts["fell_back"] += answer["fell_back"] is not None
                self._counts["empty"] += not answer["results"]
            await asyncio.sleep(PAUSE_SECONDS)

    async def _write(self) -> None:
        while not self._over.is_set():
            name = f"written-{len(self._written)}"
            text = f"{name} is new, and must be found from now on by everybody"
            body = {"id": name, "text": text}
            answer = await self._asked("POST", "/api/v1/documents", body, params={"wait": "true"})
            if answer is not None:
                self._written[name] = text
                self._counts["lost_at_once"] += not await self._found(name, text, user=name)
            await asyncio.sleep(10 * PAUSE_SECONDS)

    async def _found(self, name: str, text: str, *, user: str) -> bool:
        answer = await self._search(text, user=user)
        return answer is not None and name in {result["document_id"] for result in answer["results"]}

    async def _search(self, query: str, *, user: str) -> dict[str, Any] | None:
        answer = await self._asked("POST", "/api/v1/search", {"query": query, "user": user, "top_k": 10})
        if answer is not None:
            models = {result["model"] for result in answer["results"]} | {answer["model"], answer["query_model"]}
            self._counts["mixed"] += len(models) > 1
        return answer

    async def _asked(self, method: str, path: str, body: dict[str, Any], **more: Any) -> dict[str, Any] | None:
        try:
            answer = await self._client.request(method, path, json=body, **more)
        except httpx.HTTPError as error:
            self._fail(f"{method} {path}: {error!r}")
            return None
        if not answer.is_success:
            self._fail(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return None
        return answer.json()

    def _fail(self, said: str) -> None:
        self._counts["failed"] += 1
        self._failures.append(said)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Load(sys.argv[1]).run())), flush=True)
