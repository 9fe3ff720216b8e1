#!/usr/bin/env python
"""`hf-dmt train` without its launcher: the target of `accelerate launch scripts/run_dmt.py [CONFIG.yaml] [--flags]`."""

import sys

from hf_dmt.commands.train import run as main

if __name__ == "__main__":
    sys.exit(main())
