"""The model card of an exported encoder."""

from __future__ import annotations

from adiabatic_ray.report.ledger import Ledger, Record


def render(ledger: Ledger, record: Record) -> str:
    """The card of a trial's candidate, as Markdown."""
    return f"{ledger.settings['name']}, trial {record.number}"
