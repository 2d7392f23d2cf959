"""Bytes from strangers."""
