"""Makes `python -m adiabatic_ray` the same as the command `adiabatic-ray`."""

import sys

from adiabatic_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
