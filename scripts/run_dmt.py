#!/usr/bin/env python
"""`hf-dmt train` without its launcher: the target of `accelerate launch scripts/run_dmt.py [CONFIG.yaml] [--flags]`."""

import sys
from functools import partial

from hf_dmt.__main__ import called
from hf_dmt.commands.train import run

main = partial(called, run)

if __name__ == "__main__":
    sys.exit(main())
