"""Makes `small_runs` importable for the tests beside it, as it is for the script that they launch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
