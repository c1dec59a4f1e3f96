"""How long a test waits for an event before it calls the event missing.

It guards against tests that hang, and measures nothing: nothing passes or fails by how fast the
machine is. The environment variable MAGLEV0_TEST_PATIENCE_S sets it for machines on which a minute
is too short.
"""

from __future__ import annotations

import os

PATIENCE_S = float(os.environ.get("MAGLEV0_TEST_PATIENCE_S", "60"))
