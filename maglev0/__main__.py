"""``python -m maglev0``."""

from __future__ import annotations

import sys

from maglev0.main import main

sys.exit(main())
