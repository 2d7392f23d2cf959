"""What the tiers say to each other, and how it becomes bytes; no I/O, no clock."""
