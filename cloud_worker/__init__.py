"""The cloud: the last layers; and, apart from it, training."""
