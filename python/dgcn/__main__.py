"""`python -m dgcn` is `dgcn`."""

import sys

from .cli import main

sys.exit(main())
