"""Export formats, and the ledger that tells our files from a person's edits."""
