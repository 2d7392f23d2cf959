"""The edge: the middle layers, the recorder, and a broker of its own where a site has none."""
