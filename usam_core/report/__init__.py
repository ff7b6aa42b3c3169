"""The report of a run, and what differs between two: one HTML file without a script."""
