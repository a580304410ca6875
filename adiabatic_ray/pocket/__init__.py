"""A small multilingual world that ships with the project: data sets and an encoder, made on first use.

It lets a sweep run with no hub, no GPU and no download. Sweep files name its folder as `${ADIABATIC_POCKET}`.
"""
