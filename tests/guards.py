"""The tests of one guard, from the outcomes of both encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.evaluate import guarantee, significance
from adiabatic_ray.evaluate.evidence import Evidence, Guarded


def guarded(base: Tensor, tuned: Tensor, languages: Sequence[str], constraint: config.Constraint) -> Guarded:
    (settings,) = constraint.guarded
    return Guarded(settings, Evidence(base, tuned, languages))


def verdict(base: Tensor, tuned: Tensor, languages: Sequence[str], constraint: config.Constraint) -> guarantee.Verdict:
    return guarantee.test([guarded(base, tuned, languages, constraint)], constraint.alpha)


def violation(
    base: Tensor, tuned: Tensor, languages: Sequence[str], constraint: config.Constraint
) -> significance.Violation:
    return significance.violation([guarded(base, tuned, languages, constraint)], constraint.alpha)
