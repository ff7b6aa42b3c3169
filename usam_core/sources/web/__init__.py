"""Training pictures from search engines, sites and lists of URLs."""
