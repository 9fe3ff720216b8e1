"""Read images from the Hub, folders, parquet files and embedded sets; each is decoded once."""
