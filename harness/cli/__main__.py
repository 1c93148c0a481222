"""`python -m harness.cli`: the same as `quoin`."""

import sys

from harness.cli import main

sys.exit(main())
