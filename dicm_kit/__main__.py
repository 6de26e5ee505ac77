"""`python -m dicm_kit` is `dicm`."""

import sys

from dicm_kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
