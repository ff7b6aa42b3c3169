"""Prefect tasks: one call to the core each, with retries and artifacts."""
