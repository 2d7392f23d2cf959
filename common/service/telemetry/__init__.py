"""What a process tells of itself: metrics, health and readiness over HTTP, and its state to systemd."""
