"""What the tiers do as a site grows: devices, rate, workers and length (benchmarks/METHODOLOGY.md, "Growth")."""
