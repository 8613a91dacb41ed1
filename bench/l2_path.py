#!/usr/bin/env python3
"""Store to L2 and load back, each measured in turn with plain file I/O.

How fast files are written on a virtual machine depends on whether its host still has to give it the
memory for them, so a bound taken at another moment means little. This takes turns, and touches a
gigabyte before each of them:

* ``store``: prompts are stored through the server until all of their files are there; before or
  after it the same bytes are written to files of the same size by a plain loop.
* ``one``: a prompt of one chunk that only L2 holds is looked up until it is ready; before or after
  it a file of the same size is read by a plain call. With the files in the page cache and without.

    .cache/venv/bin/python bench/l2_path.py --server target/release/larder --reps 9

Every count and every byte that comes back is checked. Figures are medians over the repetitions;
a ratio is taken within each repetition, and the median of those is shown.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import tempfile
import time

import mpb_cases as cases
import mpb_wire as w
from mpb_bounds import drop_page_cache, file_rates
from mpb_proc import PortAllocator, Server

SETS = {"large": 64, "small": 256}  # geometry -> chunks in all
CHUNKS_PER_PROMPT = {"large": 16, "small": 64}
BACKED_BYTES = 1 << 30
ARGS = "server --host 127.0.0.1 --port {port} --http-port {http_port} --l1-size-gb {l1_gb} --shm-name {shm}"
L2 = "--l2-adapter '{\"type\":\"fs\",\"base_path\":\"{l2_dir}\"}' --l2-prefetch-policy default"


def median(values) -> float:
    return statistics.median(values)


class Bench:
    def __init__(self, run: cases.Run, work: str, l2_dir: str) -> None:
        self.run, self.work, self.l2_dir = run, work, l2_dir
        self.next_salt = 0
        self.rows: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        self.rows.setdefault(name, []).append(value)

    def salt(self) -> int:
        self.next_salt += 1
        return self.next_salt

    def wait_for_files(self, count: int) -> list[str]:
        end = time.perf_counter() + 120
        while len(files := cases._data_files(self.l2_dir)) < count:
            w.check(time.perf_counter() < end, f"{len(files)} of {count} files after 120 s")
            time.sleep(0.001)
        return list(files)

    @staticmethod
    def back_memory() -> None:
        """Touch the machine's free memory, so that its host has backed it before the measurement."""
        with mmap.mmap(-1, BACKED_BYTES) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            for at in range(0, BACKED_BYTES, 4096):
                memory[at] = 1

    def forget(self, files: list[str]) -> None:
        self.run.clear()
        for path in files:
            os.unlink(path)

    # -- store through ---------------------------------------------------
    def store(self, geo_name: str) -> float:
        geo, salt = self.run.geo[geo_name], self.salt()
        per_prompt, count = CHUNKS_PER_PROMPT[geo_name], SETS[geo_name]
        source = self.run.prompts(salt, per_prompt * geo.chunk_size)
        prompts = [(source.get(i), self.run.pid(salt, i)) for i in range(count // per_prompt)]
        worker = self.run.worker(geo_name)
        self.back_memory()
        began = time.perf_counter()
        for i, (prompt, pid) in enumerate(prompts):
            rid = f"store-{salt}-{i}"
            accepted, *_ = worker.store(prompt, pid, rid)
            w.check(len(accepted) == per_prompt, f"{len(accepted)} of {per_prompt} chunks accepted")
            worker.end(rid)
        files = self.wait_for_files(count)
        took = time.perf_counter() - began
        self.forget(files)
        return count * geo.object_bytes / took / 1e9

    def plain_write(self, geo_name: str) -> float:
        block = self.run.geo[geo_name].object_bytes
        self.back_memory()
        return file_rates(os.path.join(self.work, "bound"), block, SETS[geo_name], self.run.data)["write"]

    # -- one chunk of a cold prompt ---------------------------------------
    def one(self, geo_name: str, cold: bool, count: int = 16) -> tuple[float, float]:
        """Median milliseconds of a lookup until it is ready, and of a plain read."""
        geo, salt = self.run.geo[geo_name], self.salt()
        source = self.run.prompts(salt, geo.chunk_size)
        prompts = [(source.get(i), self.run.pid(salt, i)) for i in range(2 * count)]
        worker = self.run.worker(geo_name)
        for i, (prompt, pid) in enumerate(prompts):
            worker.store(prompt, pid, f"one-{salt}-{i}")
            worker.end(f"one-{salt}-{i}")
        files = self.wait_for_files(len(prompts))
        self.run.clear()
        by_name = {os.path.basename(path): path for path in files}
        if cold:
            drop_page_cache(files)
        looked, plain = [], []
        buffer = bytearray(geo.object_bytes)
        for i in range(0, len(prompts), 2):
            prompt, pid = prompts[i]
            rid = f"one-{salt}-{i}-back"
            hits, _, ready = worker.lookup(prompt, rid)
            w.check(hits == 1, f"{hits} of 1 chunk found")
            worker.retrieve(prompt, pid, rid, 1, self.run.scratch)
            worker.end(rid)
            looked.append(ready)
            other = w.chunk_hashes(prompts[i + 1][0].tokens, self.run.chunk_size)[0]
            path = by_name[w.l2_file_name(geo.model, other)]
            began = time.perf_counter()
            with open(path, "rb", buffering=0) as file:
                w.check(file.readinto(buffer) == geo.object_bytes, "short read")
            plain.append(time.perf_counter() - began)
        self.forget(files)
        return median(looked) * 1e3, median(plain) * 1e3

    def turn(self, rep: int) -> None:
        for geo_name in SETS:
            if rep % 2:
                bound = self.plain_write(geo_name)
                through = self.store(geo_name)
            else:
                through = self.store(geo_name)
                bound = self.plain_write(geo_name)
            self.note(f"store.{geo_name}.through_GBps", through)
            self.note(f"store.{geo_name}.plain_write_GBps", bound)
            self.note(f"store.{geo_name}.ratio", through / bound)
            for cold in (False, True):
                looked, plain = self.one(geo_name, cold)
                name = f"one.{geo_name}.{'cold' if cold else 'cached'}"
                self.note(f"{name}.lookup_to_ready_ms", looked)
                self.note(f"{name}.plain_read_ms", plain)
                self.note(f"{name}.above_the_read_ms", looked - plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", required=True, help="path of the server's program")
    parser.add_argument("--args", default=ARGS, help="its arguments, without L2")
    parser.add_argument("--l2-args", default=L2, help="its arguments for L2")
    parser.add_argument("--reps", type=int, default=9)
    parser.add_argument("--l1-gb", default="2")
    parser.add_argument("--dir", help="where the files go (default: a temporary directory)")
    options = parser.parse_args()

    work = tempfile.mkdtemp(prefix="larder-l2-path-", dir=options.dir)
    l2_dir = os.path.join(work, "l2")
    os.makedirs(l2_dir)
    server = Server(
        "server",
        f"{options.server} {options.args}",
        PortAllocator(38000, 1000),
        work,
        l1_gb=options.l1_gb,
        l2_dir=l2_dir,
        extra=options.l2_args,
        extra_values={},
        startup_timeout_s=60,
    )
    try:
        run = cases.Run(
            server=server,
            profile=cases.Profile(use_client_lib=False),
            data=w.DataPool(),
            chunk_size=256,
            seed=4242,
            l1_bytes=int(float(options.l1_gb) * (1 << 30)),
        )
        bench = Bench(run, work, l2_dir)
        for rep in range(options.reps):
            bench.turn(rep)
        run.close()
    finally:
        server.stop()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{'':44}  median   min .. max   ({options.reps} turns)")
    for name, values in bench.rows.items():
        print(f"{name:44} {median(values):7.3f}   {min(values):.3f} .. {max(values):.3f}")


if __name__ == "__main__":
    main()
