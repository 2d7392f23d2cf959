"""Contestants side by side on the same texts, over links that are shaped (benchmarks/METHODOLOGY.md)."""
