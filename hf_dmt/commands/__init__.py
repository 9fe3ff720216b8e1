"""The subcommands of `hf-dmt`, one file each."""
