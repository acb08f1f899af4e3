"""`python -m robust_clip` and `accelerate launch -m robust_clip`."""

import sys

from robust_clip.cli import main

if __name__ == "__main__":
    sys.exit(main())
