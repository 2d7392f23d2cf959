"""Bundles published over the broker: fetched, proven and switched to, on every tier."""
