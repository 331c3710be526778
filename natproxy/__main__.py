"""``python -m natproxy`` is ``natproxy``."""

import sys

from natproxy.cli import main

sys.exit(main())
