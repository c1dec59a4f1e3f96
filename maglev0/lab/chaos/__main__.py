"""`python -m maglev0.lab.chaos`."""

from __future__ import annotations

import sys

from maglev0.lab.chaos.run import main

sys.exit(main())
