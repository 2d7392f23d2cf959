"""What protection costs and what it stops: ``dimee bench security``."""
