"""The site's own certificate authority and signatures; with ``common.channel`` the only place that knows cryptography."""
