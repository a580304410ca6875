"""Constrained search: proposes the next configuration from the results of earlier ones.

`ConstrainedSearch` uses Optuna's ask-and-tell interface. What the sampler learns from a trial is a value, which it
maximises, and a constraint, which must be at most 0:

- Of a sweep over edges it learns the gain at the edge. Every trial that was measured is feasible there.
- Of a sweep over whole displacements it learns their gain and their constraint.
- Of a trial that failed (out of memory, divergence, a crash) it learns a large constraint.

The trial's state decides how Optuna is told:

- A trial that ran to its end is COMPLETE.
- A trial that was stopped early is PRUNED, with what was measured at that point.
- A trial that failed is PRUNED. Optuna's state FAIL would hide it from the sampler, which would go on proposing the
  region where trials fail.

The Gaussian-process sampler uses COMPLETE trials only, so with it every trial is COMPLETE. A violated constraint keeps
such a trial from being the best. One that was stopped early is told with the gain that it had. That is less than it
would have reached, but trials are only stopped where most others had more at the same point. Optuna gets the `asinh` of
a constraint, which has the same sign and order, and is not dominated by very large ones.

To the Gaussian process a list of numbers is their ranks, since neighbours in it tend to do alike. The first trials,
before a model has anything to learn from, are a Latin hypercube: they are spread over all values of each
hyper-parameter.

A proposal depends only on the seed, the trial's number and the results so far. So a resumed sweep proposes the same
configurations as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from scipy.stats import qmc

from adiabatic_ray import config
from adiabatic_ray.search import space
from adiabatic_ray.search.journal import CONSTRAINT
from adiabatic_ray.trials.record import FAILED_CONSTRAINT, TrialRecord

FEASIBLE = -1.0  # the constraint of a trial that is judged by its edge, where it harms no language
# Nothing is proposed twice: the sampler is asked this often for a new configuration, and then random sampling.
SAMPLER_ATTEMPTS, RANDOM_ATTEMPTS = 3, 20
# A model learns from so many trials at first. Edges need no picture of where the constraint holds, and so fewer.
STARTUP, EDGE_STARTUP = 10, 3


class Search(Protocol):
    """Proposes the configurations of a sweep's trials."""

    def propose(self, number: int) -> space.Config | None:
        """The configuration of trial `number` (1, 2, ...), or `None` if there is none left to try."""

    def resume(self, record: TrialRecord) -> None:
        """Learn of a trial from an earlier run of the sweep, whether it has ended or not."""

    def tell(self, record: TrialRecord) -> None:
        """Learn how a proposed trial ended."""


def create(settings: config.Search, seed: int, trials: int | None) -> Search:
    """Create the search that the settings name. `trials` is the budget, which a grid does not need."""
    if settings.method == "grid":
        return ListSearch(space.grid(settings))
    assert trials is not None
    settings = dataclasses.replace(settings, sampler=space.sampler_name(settings, trials))
    return ConstrainedSearch(settings, seed, _startup(settings, trials))


def _startup(settings: config.Search, trials: int) -> int:
    """How many trials are spread over the space before the sampler learns from them."""
    enough = EDGE_STARTUP if settings.candidates == "edge" and settings.sampler == "gp" else STARTUP
    return max(1, min(enough, trials // 3))


class ListSearch:
    """Proposes the configurations of a list in order, without those that an earlier run tried."""

    def __init__(self, configs: Iterable[space.Config]) -> None:
        self.left = list(configs)

    def propose(self, number: int) -> space.Config | None:  # noqa: ARG002
        return self.left.pop(0) if self.left else None

    def resume(self, record: TrialRecord) -> None:
        if record.config in self.left:
            self.left.remove(dict(record.config))

    def tell(self, record: TrialRecord) -> None:
        pass


class ConstrainedSearch:
    """Maximises the gain at the edge, or the gain among whole displacements that harm no language.

    The first `startup` configurations are spread over the space, unless the sampler is random. The settings must name a
    sampler, which `create` chooses for `auto`.
    """

    def __init__(self, settings: config.Search, seed: int, startup: int) -> None:
        assert settings.sampler != "auto"
        self.settings, self.seed, self.startup = settings, seed, startup
        self.ranked = space.ranked(settings) if settings.sampler == "gp" else {}
        ranks = {key: optuna.distributions.IntDistribution(0, len(one) - 1) for key, one in self.ranked.items()}
        self.distributions = space.to_distributions(settings) | ranks
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed))
        self._finite = space.size(settings) is not None
        self._known: set[str] = set()
        self._open: dict[int, optuna.Trial] = {}

    def propose(self, number: int) -> space.Config | None:
        """A configuration that was not proposed before."""
        if number <= self.startup and self.settings.sampler != "random":
            self.study.enqueue_trial(self._spread(number))
        for attempt in range(SAMPLER_ATTEMPTS + RANDOM_ATTEMPTS):
            self.study.sampler = self._sampler(number, attempt)
            trial = self.study.ask(self.distributions)
            if _key(self._config(trial.params)) not in self._known:
                return self._opened(number, trial)
            self.study.tell(trial, state=TrialState.FAIL)  # no sampler uses failed trials
        untried = self._untried(number)
        if untried is None:
            return None
        self.study.enqueue_trial(untried)
        return self._opened(number, self.study.ask(self.distributions))

    def resume(self, record: TrialRecord) -> None:
        if record.state == "running":
            self.study.enqueue_trial(self._params(record.config))
            self._opened(record.number, self.study.ask(self.distributions))
            return
        outcome = self._outcome(record)
        complete = outcome.state == TrialState.COMPLETE
        self._known.add(_key(record.config))
        self.study.add_trial(
            optuna.create_trial(
                params=self._params(record.config),
                distributions=self.distributions,
                state=outcome.state,
                value=outcome.value if complete else None,
                intermediate_values={} if complete else {outcome.step: outcome.value},
                constraints={CONSTRAINT: outcome.constraint},
            )
        )

    def tell(self, record: TrialRecord) -> None:
        trial = self._open.pop(record.number)
        outcome = self._outcome(record)
        trial.set_constraint(CONSTRAINT, outcome.constraint)
        if outcome.state == TrialState.COMPLETE:
            self.study.tell(trial, outcome.value)
        else:
            trial.report(outcome.value, outcome.step)
            self.study.tell(trial, state=outcome.state)

    def _opened(self, number: int, trial: optuna.Trial) -> space.Config:
        choice = self._config(trial.params)
        self._open[number] = trial
        self._known.add(_key(choice))
        return choice

    def _config(self, params: Mapping[str, config.Scalar]) -> space.Config:
        """The configuration of a trial of Optuna."""
        return {key: self.ranked[key][int(one)] if key in self.ranked else one for key, one in params.items()}

    def _params(self, choice: Mapping[str, config.Scalar]) -> space.Config:
        """A configuration as Optuna sees it."""
        return {key: self.ranked[key].index(one) if key in self.ranked else one for key, one in choice.items()}

    def _spread(self, number: int) -> space.Config:
        """Of the configurations that are spread over the space, the one of this number (1, 2, ...)."""
        shares = qmc.LatinHypercube(len(self.distributions), rng=self.seed).random(self.startup)[number - 1]
        return {key: space.at(one, share) for (key, one), share in zip(self.distributions.items(), shares, strict=True)}

    def _outcome(self, record: TrialRecord) -> _Outcome:
        complete = record.state == "complete" or self.settings.sampler == "gp"
        state = TrialState.COMPLETE if complete else TrialState.PRUNED
        edges = self.settings.candidates == "edge"
        value, constraint = (record.gain_at_edge, FEASIBLE) if edges else (record.gain, record.constraint)
        if record.failed or value is None or constraint is None:
            return _Outcome(state, 0.0, math.asinh(FAILED_CONSTRAINT))
        # TPE ranks pruned trials by how far they came, and only then by their values.
        return _Outcome(state, value, math.asinh(constraint), step=len(record.points) if edges else 0)

    def _sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self.seed, number, attempt]).generate_state(1)[0])
        if self.settings.sampler == "random" or attempt >= SAMPLER_ATTEMPTS:
            return optuna.samplers.RandomSampler(seed=seed)
        if self.settings.sampler == "tpe":
            return _Tpe(self.distributions, seed, self.startup)
        # A process that takes differences for noise wants to measure the best trial again, at a corner of the space for
        # instance. One that knows no noise has nothing to gain where a trial was, and proposes the next best place.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=self.startup, deterministic_objective=attempt > 0
            )

    def _untried(self, number: int) -> space.Config | None:
        """A random configuration that was not proposed before. `None` if the space is infinite or exhausted."""
        if not self._finite:
            return None
        choices = [space.values(distribution) for distribution in self.distributions.values()]
        left = [
            c
            for combination in itertools.product(*choices)
            if _key(self._config(c := dict(zip(self.distributions, combination, strict=True)))) not in self._known
        ]
        return random.Random(f"{self.seed} {number}").choice(left) if left else None  # noqa: S311 - not cryptography


@dataclass(frozen=True)
class _Outcome:
    """What Optuna is told of an ended trial; of a pruned one also the number of evaluations after which it ended."""

    state: TrialState
    value: float
    constraint: float
    step: int = 0


class _Tpe(optuna.samplers.TPESampler):
    """TPE with a given search space. Optuna's own infers the space from all trials before each proposal."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], seed: int, startup: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup)
        self._known = {name: distribution for name, distribution in distributions.items() if not distribution.single()}

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: optuna.trial.FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        return self._known


def _key(params: Mapping[str, config.Scalar]) -> str:
    """The same for configurations whose numbers agree in six digits, as those of a bound and of its neighbour do."""
    same = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in params.items()}
    return json.dumps(same, sort_keys=True)
