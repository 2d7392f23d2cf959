"""The device: embeds, finds the pool, runs the first layers, and owns the promise of one answer."""
