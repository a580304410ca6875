"""A cache of many passages, filled by Ray Data: seconds, and the memory of its own that it takes beside the texts.

Prints both sides, a tenth of the passages and all of them: of bounded memory only the texts grow. Memory is anonymous
memory; the table itself is a file, and its pages are the system's to keep or drop.

    python -m tests.benchmarks.filling [PASSAGES]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray

from adiabatic_ray import config, sweep  # noqa: F401 - `sweep` sets what Ray reads when it is imported
from adiabatic_ray.data import cache
from adiabatic_ray.model import encoder
from adiabatic_ray.pocket import folder
from adiabatic_ray.sweep.cluster import resources
from adiabatic_ray.sweep.workers import encoder_actors
from tests.benchmarks import pocket_source

PASSAGES, PROCESSES = 1_000_000, 2
SENTENCE = "the old river crosses a quiet town where farmers sell bread and bright cloth "


def passages(count: int) -> list[str]:
    """Different texts of about MS MARCO's length, 340 characters; only the first word differs."""
    return [f"{number:09d} {5 * SENTENCE:.330}" for number in range(count)]


def own_memory(process: psutil.Process) -> float:
    """Anonymous memory of a process in MiB: what it allocated, without files and shared memory."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


class Watch(threading.Thread):
    """The most memory of this process, of any that embeds, and of the object store, until `ended`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.driver = self.embedder = self.store = 0.0
        self.start()

    def run(self) -> None:
        this = psutil.Process()
        before = psutil.virtual_memory().shared
        while not self.ended.wait(0.2):
            self.driver = max(self.driver, own_memory(this))
            embedders = [own_memory(p) for p in this.children(recursive=True) if "ray::" in " ".join(cmdline(p))]
            self.embedder = max([self.embedder, *embedders])
            self.store = max(self.store, (psutil.virtual_memory().shared - before) / 2**20)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def fill(count: int, model: config.Model, plan: resources.Plan, root: Path) -> None:
    texts = passages(count)
    side = encoder.load(model)
    watch, held = Watch(), own_memory(psutil.Process())
    began = time.perf_counter()
    blocks = (block for _, block in encoder_actors.on_cluster(model, plan)([("passage", texts)]))
    for _ in cache.fill(root, side.fingerprint("passage"), texts, blocks, side.dimension):
        pass
    seconds = time.perf_counter() - began
    watch.ended.set()
    watch.join()
    print(
        f"{count:>9,} passages in {seconds:.0f} s: the driver's own memory {held:.0f} MiB with the texts, at most "
        f"{watch.driver - held:.0f} MiB more while filling; a process that embeds {watch.embedder:.0f} MiB; "
        f"the object store {watch.store:.0f} MiB; the table {count * side.dimension * 4 / 2**20:.0f} MiB",
        flush=True,
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PASSAGES
    pocket_source("questions/train", 1)
    model = config.Model(name=str(folder.location() / "encoder"))
    plan = resources.Plan(cpus=1, gpus=0, concurrent=PROCESSES, workers=1, fitting=PROCESSES, filling_cpus=1)
    ray.init(address="local", num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as root:
        for part in (count // 10, count):
            fill(part, model, plan, Path(root))
    ray.shutdown()


if __name__ == "__main__":
    main()
