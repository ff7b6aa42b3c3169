"""Prefect flows, and the `usam` command: in which order the tasks run."""
