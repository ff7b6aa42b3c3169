"""The embedding store: immutable Zarr shards."""
