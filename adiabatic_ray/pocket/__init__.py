"""The pocket world: small multilingual data sets and an encoder, made on first use.

With it a sweep needs no hub, no GPU and no download. Sweep files name its folder as `${ADIABATIC_POCKET}`.
"""
