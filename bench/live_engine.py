"""A vLLM (CPU) engine in its own process that generates on request.

``LiveEngine`` starts it and asks; the rest of this file is what runs in the process. One
JSON line in is one round over the prompts, one JSON line out its tokens, the prompt tokens
that vLLM reports as served from the cache, and the seconds it took. The tiny model and the
prompts are those of ``vllm_e2e.py``.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import vllm_e2e

HERE = Path(__file__).resolve().parent


class EngineDied(RuntimeError):
    """The engine process ended unexpectedly."""


@dataclass(frozen=True)
class Round:
    """One pass over the prompts, one after the other."""

    tokens: list[list[int]]
    cached: list[int]
    seconds: float
    finished_at: float  # time.monotonic()


class LiveEngine:
    """One engine process connected to the server at ``port``."""

    def __init__(
        self,
        port: int,
        model_dir: str,
        log_path: str,
        *,
        heartbeat_interval_s: float = 10.0,
        mq_timeout_s: float = 30.0,
        prompts: int = 4,
        tokens: int = 1500,
        prompt_seed: int = 7,
        kv_events: str | None = None,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        extra_config: Mapping[str, object] | None = None,
    ) -> None:
        self._log_path = log_path
        self._log = open(log_path, "ab")
        self.process = subprocess.Popen(
            [python, str(HERE / "live_engine.py"), "--port", str(port), "--model-dir", model_dir,
             "--prompts", str(prompts), "--tokens", str(tokens), "--prompt-seed", str(prompt_seed),
             "--heartbeat-interval", str(heartbeat_interval_s), "--mq-timeout", str(mq_timeout_s),
             "--extra-config", json.dumps(dict(extra_config or {})),
             *(["--kv-events", kv_events] if kv_events else [])],
            env=dict(os.environ, **(environment or {})),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip

    def wait_ready(self, timeout_s: float = 300.0) -> LiveEngine:
        self._read(timeout_s)
        return self

    def generate(self, timeout_s: float = 120.0) -> Round:
        """One round over the prompts."""
        self.begin()
        return self.finish(timeout_s)

    def begin(self) -> None:
        """Start a round without waiting for it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"{}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise EngineDied(self._last_words()) from None

    def finish(self, timeout_s: float = 120.0) -> Round:
        """Wait for the round that was started."""
        answer = self._read(timeout_s)
        return Round(answer["tokens"], answer["cached"], answer["seconds"], time.monotonic())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def __enter__(self) -> LiveEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, timeout_s: float) -> dict:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        if not ready:
            raise EngineDied(f"no answer within {timeout_s:.0f} s\n{self._last_words()}")
        line = self.process.stdout.readline()
        if not line:
            raise EngineDied(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        text = Path(self._log_path).read_text(errors="replace")
        return f"the engine ended with {self.process.poll()}; its log ends:\n{text[-3000:]}"


def serve() -> None:
    """The engine process: a round per line on standard input, until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of vLLM goes to the log
    args = vllm_e2e.parser().parse_args()
    prompts, _ = vllm_e2e.make_prompts(args)
    llm, sampling = vllm_e2e.build_engine(args, args.model_dir, use_cache=True)

    def answer(content: dict) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer({"ready": True})
    for _ in sys.stdin:
        tokens, cached, seconds = vllm_e2e.generate(llm, sampling, prompts)
        answer({"tokens": tokens, "cached": cached, "seconds": seconds})


if __name__ == "__main__":
    serve()
    sys.stdout.flush()
    os._exit(0)  # vLLM's threads would keep the process for seconds
