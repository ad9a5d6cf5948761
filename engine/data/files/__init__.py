"""The files of a dataset: shards and their index."""
