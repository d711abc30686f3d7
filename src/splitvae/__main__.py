"""``splitvae`` and ``python -m splitvae``."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    # Quiet the libraries below before any of them is imported; they print at import time.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from splitvae.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
