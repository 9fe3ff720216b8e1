"""Images where they are: a Hub data set, a folder, parquet files, a builtin set; decoded once."""
