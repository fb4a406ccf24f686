"""`python -m mslt` is `mslt`."""

import sys

from mslt.cli import main

sys.exit(main())
