"""Constrained sweeps over adiabatic tuning of multilingual query encoders."""

__version__ = "0.1.0"
