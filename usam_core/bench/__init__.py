"""`usam bench`: a public data set in its official layout, measured beside published numbers."""
