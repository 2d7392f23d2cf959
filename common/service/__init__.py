"""What edge and cloud share: the tier worker and its runner."""
