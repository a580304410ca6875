"""One run of a sweep: its state, and the steps that `driver` and `confirmation` are made of."""

from __future__ import annotations

import contextlib
import copy
from types import TracebackType
from typing import TYPE_CHECKING

from adiabatic_ray import config, errors, storage
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.report import page
from adiabatic_ray.search import journal
from adiabatic_ray.search.scheduler import TrialScheduler
from adiabatic_ray.search.searcher import Search
from adiabatic_ray.sweep import closing, handover, session, waiting
from adiabatic_ray.sweep.cluster import connection, nodes, resources, shared_model
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.trials.layout import StorageFolder, SweepFolder
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore, exists

if TYPE_CHECKING:
    from adiabatic_ray.tracking.mirror import Mirror


class SweepRun:
    """Holds the sweep, its store, the data and their tables, the encoder's tasks, the console and the interrupt.

    Entering it locks the sweep's folder, handles signals and opens the store. The steps follow in this order:
    `connect`, `embed`, `mirror_to_mlflow`, `scheduler`, `hand_over`, `finish`.

    Raises (on entering):
        SweepError: another process runs the sweep, or the folder holds one with other settings.
    """

    def __init__(self, sweep: config.Sweep, folder: SweepFolder, console: Console) -> None:
        self.sweep, self.console, self._folder = sweep, console, folder
        self.mirror: Mirror | None = None

    def __enter__(self) -> SweepRun:
        with contextlib.ExitStack() as stack:
            stack.enter_context(session.sole_owner(self._folder))
            self.interrupted = stack.enter_context(session.interruptible())
            self.resumed = exists(self._folder.path)
            self.store = _open_store(self._folder, self.sweep)
            self.sweep = self.store.sweep
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def connect(self, trials: int, description: str) -> None:
        """Read the data, connect to Ray, and wait until the cluster has room for a trial.

        Raises:
            DataError: a data set cannot be read.
            ResourceError: no cluster answers, or no node can hold a trial.
            ModelError: the encoder cannot be loaded.
            KeyboardInterrupt: the user stopped the wait.
        """
        self.data = embedded_data.read(self.sweep)
        self.console.dropped(self.data.all())
        self.sweep = shared_model.for_all_nodes(self.sweep)
        own = self._held.enter_context(connection.connected())
        self.plan = resources.plan(self.sweep.resources, nodes.now(), trials)
        self.trials = trials
        self.console.say(f"{self.sweep.name}: {description}, {self.plan}; results in {self.store.folder.path}")
        waiting.for_place(self.plan, self.console, self.interrupted)
        self.tasks = encoder_tasks.EncoderTasks(self.sweep.model, self.plan, here=own and not self.plan.gpus)

    def embed(self) -> None:
        """Embed the frozen documents, and record the untouched encoder as trial 0.

        Raises:
            MaskError: a freezing mask of the sweep does not fit the encoder.
            KeyboardInterrupt: the user stopped it. Complete tables are kept.
        """
        self.console.progress("preparing to embed the frozen documents")
        cache = StorageFolder.at(self.sweep.storage).cache
        embedding = self.tasks.embed(self.sweep, self.data, cache)
        self.embedded = self.console.drain(embedding, self.interrupted)
        untouched = encoder_tasks.untouched(self.sweep, self.embedded, self.store.folder.trial(UNTOUCHED))
        if UNTOUCHED not in self.store.records:
            self.store.put(untouched)
        self.console.clear()
        self.console.untouched(self.store.records[UNTOUCHED], self.sweep.evaluate.selection)

    def with_sets(self, sweep: config.Sweep, data: embedded_data.Data, folder: SweepFolder) -> SweepRun:
        """A copy of this run, on the same cluster, with other settings and data, and with its trials in `folder`."""
        other = copy.copy(self)
        other.sweep, other.data = shared_model.for_all_nodes(sweep), data
        other.store = TrialStore(folder.path) if exists(folder.path) else TrialStore.create(folder.path, sweep)
        return other

    def mirror_to_mlflow(self) -> None:
        """Start to mirror the sweep to MLflow.

        Raises:
            ConfigError: MLflow refuses the store, or the experiment was deleted.
        """
        from adiabatic_ray.tracking import address  # MLflow takes seconds to import, and the embedding goes first
        from adiabatic_ray.tracking.mirror import Mirror

        uri = address.of(self.sweep.mlflow, self.store.folder.storage)
        trouble = address.require_usable(uri, self.sweep.mlflow.experiment)
        if trouble:
            self.console.say(
                f"MLflow at {address.without_password(uri)} does not answer ({trouble}). The sweep goes on without it, "
                "and MLflow is brought up to date when it answers"
            )
        self.mirror = Mirror.of(self.store, self.data)

    def scheduler(self, search: Search) -> TrialScheduler:
        """Create the scheduler of this run's trials. Each change of a trial goes to MLflow and to the console."""

        def changed(record: TrialRecord) -> None:
            if self.mirror is not None:
                self.mirror.notify()
            self.console.changed(record, self.store.records, self.trials)

        return TrialScheduler(self.store, self.sweep, search, changed, self.interrupted)

    def hand_over(self) -> None:
        """Export the best trial's encoder, unless that was done before."""
        winner = best(self.store.records.values())
        if winner is None:
            storage.remove(self.store.folder.best.path)  # an earlier run exported it, before it was refuted
        elif not handover.holds(self.store, winner):
            self.console.progress("exporting the best encoder")
            handover.replace(self.store, winner, self.tasks)
        self.console.clear()

    def finish(self, status: str) -> None:
        """Write the report, bring MLflow up to date, and say where everything is.

        `status` is that of the sweep's run in MLflow: FINISHED, FAILED, or KILLED if the user stopped the sweep.
        """
        try:
            self._finish(status)
        except errors.StorageError as error:
            if not self.interrupted.is_set():
                raise
            self.console.clear()
            self.console.say(f"without a report: {error}")

    def _finish(self, status: str) -> None:
        assert self.mirror is not None
        self.console.clear()
        winner = best(self.store.records.values())
        self.console.progress("writing the report")
        report = page.write(self.store)
        journal.write(self.store.folder.journal, self.sweep, self.store.records.values())
        self.console.clear()
        self.console.leaderboard(self.store.records.values(), self.sweep.search.gain.key)
        self.console.progress("bringing MLflow up to date")
        exported = self.store.folder.best if winner is not None and handover.holds(self.store, winner) else None
        description = closing.description(self.store, winner, status)
        trouble = self.mirror.finish(report, winner, exported, status, description)
        self.console.clear()
        for line in closing.lines(self.store, winner, exported, status, self.mirror.uri, trouble):
            self.console.say(line)


def _open_store(folder: SweepFolder, sweep: config.Sweep) -> TrialStore:
    """Create the sweep's store, or open that of an earlier run of the same sweep.

    Raises:
        SweepError: the folder holds a sweep with other settings.
    """
    if not exists(folder.path):
        return TrialStore.create(folder.path, sweep)
    store = TrialStore(folder.path)
    sweep = store.continued(sweep)
    if store.records:  # without any, the earlier run failed before its first trial, and new settings may fix that
        changed = config.differences(config.resolved(store.sweep), config.resolved(sweep))
        if changed:
            raise errors.SweepError(
                f"{folder.path} holds a sweep with other settings:\n  "
                + "\n  ".join(changed)
                + f"\nGive this sweep another `name`, or restore the earlier settings, or delete {folder.path}."
            )
    store.update_settings(sweep)
    return store
