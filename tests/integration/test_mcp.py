"""The MCP tools, asked by the SDK's own client over both transports."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

import reshelve
from reshelve.settings import Settings
from tests.support.chat_endpoint import ChatEndpoint
from tests.support.embedding_endpoint import Hang
from tests.support.served import served
from tests.support.waiting import until

HASHING = '[rag.embedding]\nmodel = "hashing-256"\n'
DOOR = {"id": "door", "title": "The door", "text": "The key hangs behind the blue pot. " + "It is green. " * 100}
THEIRS = {"id": "theirs", "title": "The key", "text": "The key of the cellar is with the porter."}
TOOLS = {"search", "ask", "get_document", "list_collections", "migration_status"}


@pytest.fixture(autouse=True)
def _nobodys_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GEMINI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    return " ".join(getattr(part, "text", "") for part in result.content)


async def test_the_tools_over_http(settings_of: Callable[[str], Settings]) -> None:
    async with served(settings_of(HASHING), worker=True) as http:
        for tenant, document in (("", DOOR), ("acme", THEIRS)):
            await http.post("/api/v1/documents", params={"tenant": tenant, "wait": True}, json=document)
        url = f"{http.base_url}/mcp"
        async with Client(url) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == TOOLS
            assert all("tenant" not in tool.input_schema["properties"] for tool in tools.values())
            found = await called(client, "search", query="where is the key?", top_k=3)
            assert [each["document_id"] for each in found["results"]][:1] == ["door"]
            assert "theirs" not in json.dumps(found)
            said = await called(client, "ask", question="Where is the key?", style="minimal")
            assert said["answer"].startswith("The key hangs behind the blue pot. [1]")
            assert (said["answered_by"], said["citations"][0]["document_id"]) == ("extractive", "door")
            assert "blue pot" in said["citations"][0]["content"]
            part = await called(client, "get_document", document_id="door", start=4, max_characters=3)
            assert (part["text"], part["next_start"]) == ("key", 7)
            whole = await called(client, "get_document", document_id="door")
            assert (whole["text"], whole["next_start"]) == (DOOR["text"], None)
            assert await called(client, "list_collections") == {"collections": ["default"], "default": "default"}
            status = await called(client, "migration_status")
            assert (status["model"], status["state"]) == ("hashing-256", None)
            assert "not_found" in await refused(client, "get_document", document_id="theirs")
            assert "no collection 'other'" in await refused(client, "search", query="key", collection="other")
            assert await refused(client, "search", query="key", top_k=0)
        async with Client(f"{url}?tenant=acme&user=ada") as client:
            found = await called(client, "search", query="where is the key?")
            assert [each["document_id"] for each in found["results"]] == ["theirs"]
            assert "door" not in json.dumps(await called(client, "ask", question="Where is the key?"))
        async with Client(f"{url}?tenant=acme", mode="legacy") as client:  # the handshake of older clients
            assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
            assert (await called(client, "search", query="key"))["results"][0]["document_id"] == "theirs"
        async with Client(f"{url}?tenent=acme") as client:
            assert "unknown parameter 'tenent'" in await refused(client, "search", query="key")
        # A web page on another site must not reach a service on this machine.
        for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            answer = await http.post("/mcp", headers=header, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert answer.status_code in (403, 421)


async def test_who_cancels_a_call_ends_the_request_to_the_model(settings_of: Callable[[str], Settings]) -> None:
    with ChatEndpoint("It hangs ", Hang()) as endpoint:
        llm = f'[rag.answering]\nbase_url = "{endpoint.base_url}"\nmodel = "m1"\n'
        async with served(settings_of(HASHING + llm), worker=True) as http:
            await http.post("/api/v1/documents", params={"wait": True}, json=DOOR)
            async with Client(f"{http.base_url}/mcp") as client:
                call = asyncio.create_task(client.call_tool("ask", {"question": "Where is the key?"}))
                await until(lambda: len(endpoint.requests) == 1)
                call.cancel()
                await until(lambda: endpoint.given_up == 1)


async def test_the_tools_over_standard_input_and_output(
    settings_of: Callable[[str], Settings], tmp_path: Path, database_urls: tuple[str, str]
) -> None:
    owner, service = database_urls
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(DOOR)
        await library.ingest(THEIRS, tenant="acme")
    (tmp_path / "rag.toml").write_text(
        f"{HASHING}[rag.database]\nurl = {json.dumps(owner)}\nservice_url = {json.dumps(service)}\n"
    )
    program = ["-m", "reshelve.cli", "--config", str(tmp_path / "rag.toml"), "mcp", "--tenant", "acme"]
    async with Client(StdioServerParameters(command=sys.executable, args=program, cwd=tmp_path)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        found = await called(client, "search", query="where is the key?")
        assert [each["document_id"] for each in found["results"]] == ["theirs"]
        said = await called(client, "ask", question="Where is the key of the cellar?")
        assert said["citations"][0]["document_id"] == "theirs"
        assert "not_found" in await refused(client, "get_document", document_id="door")
