"""`python -m stts_jax SUBCOMMAND ...` does what `stts SUBCOMMAND ...` does."""

from __future__ import annotations

import sys

from stts_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
