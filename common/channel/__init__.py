"""How messages are protected between the device and the tiers that compute: plain, or sealed end to end."""
