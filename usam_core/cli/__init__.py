"""The commands of `usam` that need no Prefect."""
