"""The answers of a running server match ``docs/openapi.json``, call by call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.process import ServerProcess, eventually
from support.stock import Worker, fresh_model, stock_client

pytestmark = pytest.mark.ours

API = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())


def resolved(schema: Any) -> Any:
    """The schema as a document whose references resolve."""
    return {"components": API["components"], **schema}


def check(server: ServerProcess, method: str, path: str, template: str = "", body: Any = None) -> Any:
    """Make the call, check its answer against the description, and return it."""
    data = None if body is None else json.dumps(body).encode()
    answer = server.http(path, method, data)
    described = API["paths"][template or path.split("?")[0]][method.lower()]["responses"]
    assert str(answer.status) in described, f"{method} {path}: {answer.status} is not described: {answer.body}"
    content = described[str(answer.status)]["content"]
    kind = answer.content_type.split(";")[0]
    assert kind in content, f"{method} {path}: {kind} is not described, only {list(content)}"
    if kind != "application/json":
        return answer.body
    found = json.loads(answer.body)
    jsonschema.validate(found, resolved(content[kind]["schema"]), cls=jsonschema.Draft202012Validator)
    return found


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with L2 and every optional part, and one stored prompt."""
    files = tmp_path_factory.mktemp("l2")
    adapter = {"type": "fs", "base_path": str(files), "max_capacity_gb": 1, "eviction": {"eviction_policy": "IsolatedLRU"}}
    flags = (
        "--l2-adapter", json.dumps(adapter), "--eviction-policy", "adaptive",
        "--state-dir", str(tmp_path_factory.mktemp("state")), "--enable-debug-endpoints",
    )  # fmt: skip
    with ServerProcess(flags=flags) as server:
        client = stock_client(server.url)
        worker = Worker(client, fresh_model()).register()
        tokens = list(range(64))
        worker.store(tokens)
        eventually(lambda: server.metric("lmcache_mp_l2_store_pending_objects") == 0, "write-back to end")
        yield server, worker, tokens
        worker.close()
        client.close()
        server.assert_healthy()


def test_openapi_document_is_valid() -> None:
    for name, schema in API["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(resolved(schema))
        assert name in json.dumps(API["paths"]) + json.dumps(API["components"]), name
    for path, item in API["paths"].items():
        for method, operation in item.items():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, f"{method} {path}"
            assert operation["responses"], f"{method} {path}"


PLAIN = [path for path, item in API["paths"].items() if "get" in item and "{" not in path]


@pytest.mark.parametrize("path", PLAIN)
def test_calls_without_a_body(busy: Any, path: str) -> None:
    server, _, _ = busy
    check(server, "GET", path)


def test_objects_are_listed_and_deleted(busy: Any) -> None:
    server, _, _ = busy
    page = check(server, "GET", "/cache/objects?tier=all&page_size=2")
    assert len(page["entries"]) == 2 and page["next_page_token"], page
    for query in ["tier=l3", "page_size=0", "tier=l2&adapter=nope", "page_token=x"]:
        check(server, "GET", f"/cache/objects?{query}")
    key = page["entries"][0]["key"]
    assert check(server, "DELETE", "/cache/objects", body={"keys": [key], "tier": "all"})["deleted"] == 1
    for body in [{}, {"keys": [{**key, "chunk_hash_hex": "zz"}]}, {"keys": [key], "adapter": "nope"}]:
        check(server, "DELETE", "/cache/objects", body=body)


def test_prefetch_request(busy: Any) -> None:
    server, worker, tokens = busy
    check(server, "POST", "/cache/clear", body={"tier": "l1"})
    ask = {"model_name": worker.model, "world_size": 1, "token_ids": tokens}
    begun = check(server, "POST", "/cache/prefetches", body=ask)
    path, template = f"/cache/prefetches/{begun['request_id']}", "/cache/prefetches/{request_id}"
    eventually(lambda: check(server, "GET", path, template)["status"] == "completed", "the warm-up to end")
    check(server, "GET", "/cache/prefetches/nope", template)
    for change in [{"model_name": "nope"}, {"token_ids": [-1]}, {"world_size": "two"}, {"target_tier": "l2"}]:
        check(server, "POST", "/cache/prefetches", body={**ask, **change})


def test_quotas(busy: Any) -> None:
    server, _, _ = busy
    template = "/quota/{salt}"
    answer = check(server, "PUT", "/quota/alice", template, {"limit_gb": 1.5})
    assert answer["persisted"] is True and answer["enforced_in"] == ["l2"], answer
    check(server, "PUT", "/quota/alice", template, {"limit_gb": -1})
    check(server, "PUT", "/quota/a%2Fb", template, {"limit_gb": 1})
    check(server, "GET", "/quota/alice", template)
    assert "alice" in check(server, "GET", "/quota")["users"]
    check(server, "DELETE", "/quota/alice", template)


def test_the_other_calls(busy: Any) -> None:
    server, _, _ = busy
    check(server, "GET", "/healthcheck?deep=1")
    check(server, "GET", "/periodic-threads?level=nope")
    check(server, "GET", "/periodic-threads/timekeeper", "/periodic-threads/{name}")
    check(server, "GET", "/periodic-threads/nope", "/periodic-threads/{name}")
    check(server, "GET", "/reconfigure/fs/l2/status", "/reconfigure/{backend}/l2/status")
    check(server, "POST", "/reconfigure/fs/l2/grow", "/reconfigure/{backend}/l2/{operation}", {})
    check(server, "POST", "/metrics/reset")
    check(server, "POST", "/cache/checksums", body={"block_ids": [1], "chunk_size": 1, "instance_id": 1})
    check(server, "POST", "/cache/checksums", body={})
    check(server, "GET", "/loglevel?logger_name=lmcache&level=nope")
    check(server, "PUT", "/loglevel", body={"level": "debug"})
    check(server, "PUT", "/loglevel", body={"level": "nope"})
    for alias in ["/clear-cache", "/api/clear-cache"]:
        check(server, "POST", alias)
