"""Work in this process, or on Dask workers."""
