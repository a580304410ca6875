"""A trial on several processes of one node: each makes the same attempts, on its share of every batch.

The processes are kept from trial to trial, as the encoder that each has loaded. Where one fails alone the others would
wait for it for ever, so all are ended, and the next trial starts new ones.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import socket
import sys
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from adiabatic_ray import config, errors
from adiabatic_ray.model import encoder
from adiabatic_ray.sweep.attempt import Attempt, Report
from adiabatic_ray.sweep.materials import Materials

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # the network interface
TOGETHER = datetime.timedelta(minutes=10)  # how far apart the processes may be before they give each other up
ALONE = ("crashed", "out_of_memory")  # endings that may be one process's own


class Team:
    """Does what an `Attempt` does, on processes that it starts."""

    def __init__(
        self, workers: int, threads: int, on_gpu: bool, sweep: config.Sweep, shared: Materials, folder: str
    ) -> None:
        self.workers = workers
        self._arguments = (threads, on_gpu, sweep, shared, folder)
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def start(self, chosen: dict[str, Any]) -> None:
        """Take on a configuration with its number."""
        if not self._processes:
            self._employ()
        self._tell(dict(chosen))

    def step(self) -> Report:
        """Train up to the next evaluation point.

        Raises:
            SweepError: a process died, or cannot go on; a later `start` begins with new ones.
        """
        self._tell(None)
        reports: dict[int, Report] = {}
        while len(reports) < self.workers:
            waiting = {self._pipes[rank]: rank for rank in range(self.workers) if rank not in reports}
            for pipe in wait(list(waiting)):
                assert isinstance(pipe, Connection)
                rank = waiting[pipe]
                try:
                    reports[rank] = pipe.recv()
                except (EOFError, ConnectionError):
                    self._lost(rank)
                if reports[rank]["status"] in ALONE:
                    self.close()
                    return reports[rank]
        return reports[0]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []

    def _employ(self) -> None:
        # The store is where the processes meet. It has a port of its own, given by the system, so that trials side by
        # side do not collide; and it is on the CPU, so that this process leaves the GPUs alone.
        # Left to itself it would listen on every address of the machine.
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        self._store = TCPStore(
            "127.0.0.1",
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=TOGETHER,
            master_listen_fd=listening.detach(),
        )
        context = multiprocessing.get_context("spawn")
        for rank in range(self.workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, rank, self.workers, port, *self._arguments), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _tell(self, message: dict[str, Any] | None) -> None:
        for rank, pipe in enumerate(self._pipes):
            try:
                pipe.send(message)
            except ConnectionError:
                self._lost(rank)

    def _lost(self, rank: int) -> NoReturn:
        self.close()
        raise errors.SweepError(
            f"process {rank} of {self.workers} died (killed, or out of memory on its node)"
        ) from None


def _work(
    pipe: Connection,
    rank: int,
    workers: int,
    port: int,
    threads: int,
    on_gpu: bool,
    sweep: config.Sweep,
    shared: Materials,
    folder: str,
) -> None:
    """A process of a team: a configuration starts a trial, and nothing asks for its next step."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Accelerate learns from these that it is one of several.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(workers), "OMP_NUM_THREADS": str(threads)}
    # All are on one node. Left to themselves, Gloo and NCCL would listen on the address that the network knows it by.
    os.environ |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    torch.set_num_threads(threads)
    if on_gpu:
        torch.cuda.set_device(rank)
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=TOGETHER)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=workers, timeout=TOGETHER
    )
    loaded = encoder.load(sweep.model, f"cuda:{rank}" if on_gpu else "cpu")
    attempt = Attempt(loaded, sweep, shared, folder, writes=rank == 0)
    while True:
        message = pipe.recv()
        if message is None:
            pipe.send(attempt.step())
        else:
            attempt.start(message)


def _end_with_parent() -> None:
    """Where the actor is killed its processes go with it, even those that wait for each other."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
