"""``splitvae`` and ``python -m splitvae``."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    # Quiet the libraries below before any of them is imported; they print at import time.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from splitvae.cli import run
    except KeyboardInterrupt:
        print("splitvae: interrupted; what was written before is untouched.", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
