"""Where training pictures come from: drawn, generated, a folder, the web."""
