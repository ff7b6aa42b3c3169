"""Files and folders: atomic writes, digests, locks, safe names, URLs."""
