#!/usr/bin/env python3
"""What one engine of an LMCache version does, with the request client and the types of that version.

    version_talk.py URL store|load MODEL[,MODEL...] TOKENS

Run with the wanted version first on PYTHONPATH. `store` registers a worker of each model and stores a prompt; `load` looks
it up and reads it back. Prints one line of JSON, for each model the chunks stored or found, and for `load` whether every byte
is that of `store`.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from typing import Any

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

URL, WHAT, MODELS, COUNT = sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4])
LAYERS, HIDDEN, ANSWER_S = 2, 12, 20.0


class Client:
    """The same calls for clients before and after 0.5.6, which brought a request client with methods."""

    def __init__(self) -> None:
        try:
            from lmcache.v1.multiprocess.transport.factory import RequestClientFactory
        except ImportError:
            import zmq
            from lmcache.v1.multiprocess.mq import MessageQueueClient

            self.methods, self.queue = None, MessageQueueClient(URL, zmq.Context.instance())
        else:
            self.methods, self.queue = RequestClientFactory.create(URL), None

    def call(self, name: str, *payloads: Any) -> Any:
        if self.methods is not None:
            return getattr(self.methods, name)(*payloads).result(ANSWER_S)
        from lmcache.v1.multiprocess.protocol import RequestType, get_response_class

        older = {"register_kv_cache_engine_driven_context": "register_kv_cache_non_gpu_context"}
        known = RequestType.__members__
        request = known.get(name.upper()) or known[older[name].upper()]
        return self.queue.submit_request(request, list(payloads), get_response_class(request)).result(ANSWER_S)


def key(model: str, tokens: list[int], request: str, worker: int | None) -> Any:
    from lmcache.v1.multiprocess import custom_types

    cls = getattr(custom_types, "IPCCacheServerKey", None) or custom_types.IPCCacheEngineKey
    fields = {
        "model_name": model, "world_size": 1, "worker_id": worker, "start": 0, "end": len(tokens), "request_id": request,
    }  # fmt: skip
    if "token_bytes" in cls.__dataclass_fields__:
        from lmcache.v1.multiprocess.token_codec import pack_token_ids

        fields["token_bytes"] = pack_token_ids(tokens)
    else:
        fields["token_ids"] = tuple(tokens)
    return cls(**fields)


def registration(model: str, instance: int, chunk: int) -> Any:
    from lmcache.v1.multiprocess import custom_types

    older = getattr(custom_types, "RegisterNonGpuContextPayload", None)
    cls = getattr(custom_types, "RegisterEngineDrivenContextPayload", older)
    return cls(instance_id=instance, model_name=model, world_size=1, block_size=chunk, num_layers=LAYERS,
               hidden_dim_size=HIDDEN, dtype_str="float16", use_mla=False)


def field(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, dict) else getattr(value, name)


def talk(client: Client, chunk: int, model: str, instance: int) -> dict[str, Any]:
    tokens = [(i * 7919 + 11) % 30_000 for i in range(COUNT)]
    pool = client.call("register_kv_cache_engine_driven_context", registration(model, instance, chunk))
    memory = os.open("/dev/shm/" + field(pool, "shm_name"), os.O_RDWR)
    mapped = mmap.mmap(memory, 0)
    worker = key(model, tokens, f"{WHAT}-{instance}", 0)
    if WHAT == "store":
        context = field(client.call("prepare_store", worker, instance), "context")
        for i, slot in zip(context["chunk_indices"], context["slots"]):
            offset, length = field(slot, "offset"), field(slot, "length")
            mapped[offset : offset + length] = bytes([i + 1]) * length
        done = client.call("commit_store", worker, instance, b"")
        return {"chunks": len(context["slots"]), "ok": done}
    request = f"{WHAT}-{instance}"
    client.call("lookup", key(model, tokens, request, None), 1)
    end = time.monotonic() + ANSWER_S
    while (hit := client.call("query_prefetch_status", request)) is None and time.monotonic() < end:
        time.sleep(0.01)
    read = client.call("prepare_retrieve", worker, instance)
    slots = field(read, "context")["slots"]
    spans = [(field(slot, "offset"), field(slot, "length")) for slot in slots]
    same = [mapped[offset : offset + length] == bytes([i + 1]) * length for i, (offset, length) in enumerate(spans)]
    done = client.call("commit_retrieve", worker, instance)
    client.call("end_session", request)
    return {"chunks": hit, "ok": bool(field(read, "success")) and len(same) == hit and all(same) and done}


def main() -> list[dict[str, Any]]:
    client = Client()
    chunk = client.call("get_chunk_size")
    return [talk(client, chunk, model, 1000 * os.getpid() + i) for i, model in enumerate(MODELS)]


if __name__ == "__main__":
    print(json.dumps(main()), flush=True)
    os._exit(0)
