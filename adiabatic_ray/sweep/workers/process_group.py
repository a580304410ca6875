"""Runs a trial on several processes of one node. Each runs the same trial, on its share of every batch.

The processes and the encoders that they have loaded are reused for later trials. If one process fails, the others would
wait for it forever, so all are ended, and the next trial starts new ones.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NoReturn

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.model import encoder
from adiabatic_ray.search.space import Config
from adiabatic_ray.sweep.workers.trial_runner import TrialRunner
from adiabatic_ray.trials.record import TrialReport

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # the network interface
PATIENCE = datetime.timedelta(minutes=10)  # how long a process waits for the others before it fails
ALONE = ("crashed", "out_of_memory")  # a process may end with these states while the others go on

Message = tuple[int, Config] | None  # a trial to start, or `None` for the next step


@dataclass(frozen=True)
class _Member:
    """The settings of one process of a group."""

    rank: int
    workers: int
    port: int
    threads: int
    on_gpu: bool


class ProcessGroupRunner:
    """Runs trials as a `TrialRunner` does, on `resources.workers_per_trial` processes that it starts."""

    def __init__(self, threads: int, on_gpu: bool, sweep: config.Sweep, embedded: EmbeddedData, folder: str) -> None:
        self.workers, self.threads, self.on_gpu = sweep.resources.workers_per_trial, threads, on_gpu
        self._arguments = (sweep, embedded, folder)
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._reports: dict[int, TrialReport] = {}  # of the present step, by rank

    def start(self, number: int, choice: Config) -> None:
        """Start a trial, and the processes if they do not run."""
        if not self._processes:
            self._start_processes()
        self._reports = {}
        self._tell((number, choice), range(self.workers))

    def step(self) -> TrialReport:
        """Train up to the next evaluation point.

        Raises:
            SweepError: a process died. The next `start` starts new ones.
        """
        # Those that have reported wait for the first, which could not store its evaluation.
        self._tell(None, [rank for rank in range(self.workers) if rank not in self._reports])
        reports = self._reports
        while len(reports) < self.workers:
            waiting = {self._pipes[rank]: rank for rank in range(self.workers) if rank not in reports}
            for pipe in wait(list(waiting)):
                assert isinstance(pipe, Connection)
                rank = waiting[pipe]
                try:
                    reports[rank] = pipe.recv()
                except (EOFError, ConnectionError):
                    self._lost(rank)
                if reports[rank].status in ALONE:
                    self.close()
                    return reports[rank]
        if reports[0].waits:
            return reports.pop(0)
        self._reports = {}
        return reports[0]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []

    def _start_processes(self) -> None:
        port = self._open_store()
        context = multiprocessing.get_context("spawn")
        for rank in range(self.workers):
            ours, theirs = context.Pipe()
            member = _Member(rank, self.workers, port, self.threads, self.on_gpu)
            process = context.Process(target=_work, args=(theirs, member, *self._arguments), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _open_store(self) -> int:
        """Open the store through which the processes find each other. Return its port.

        The operating system chooses a free port, so that trials side by side do not collide. The store needs no GPU, so
        this process uses none. By default it would listen on every address of the machine.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        self._store = TCPStore(
            "127.0.0.1",
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=PATIENCE,
            master_listen_fd=listening.detach(),
        )
        return port

    def _tell(self, message: Message, ranks: Iterable[int]) -> None:
        for rank in ranks:
            try:
                self._pipes[rank].send(message)
            except ConnectionError:
                self._lost(rank)

    def _lost(self, rank: int) -> NoReturn:
        self.close()
        raise errors.SweepError(
            f"process {rank} of {self.workers} died (killed, or out of memory on its node)"
        ) from None


def _work(pipe: Connection, member: _Member, sweep: config.Sweep, embedded: EmbeddedData, folder: str) -> None:
    """Run one process of a group: start the trials and take the steps that the pipe asks for."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _join(member)
    loaded = encoder.load(sweep.model, f"cuda:{member.rank}" if member.on_gpu else "cpu", compare=False)
    runner = TrialRunner(loaded, sweep, embedded, folder, writes=member.rank == 0)
    while True:
        message: Message = pipe.recv()
        if message is None:
            pipe.send(runner.step())
        else:
            runner.start(*message)


def _join(member: _Member) -> None:
    """Join the torch process group."""
    rank, workers = str(member.rank), str(member.workers)
    # Accelerate reads these to find that it is one of several processes.
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers}
    os.environ |= {"LOCAL_WORLD_SIZE": workers, "OMP_NUM_THREADS": str(member.threads)}
    # All processes are on one node. By default, Gloo and NCCL would listen on its address in the network.
    os.environ |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    torch.set_num_threads(member.threads)
    if member.on_gpu:
        torch.cuda.set_device(member.rank)
    store = TCPStore("127.0.0.1", member.port, is_master=False, timeout=PATIENCE)
    backend = "nccl" if member.on_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=member.rank, world_size=member.workers, timeout=PATIENCE)


def _end_with_parent() -> None:
    """End this process when the actor ends, also when it is killed, and even while this process waits for another."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
