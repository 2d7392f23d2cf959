"""The site's own certificate authority and signatures; besides the channel the only place that knows cryptography."""
