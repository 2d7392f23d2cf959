"""Segments run in order, and the policy asked at each exit: no transport."""
