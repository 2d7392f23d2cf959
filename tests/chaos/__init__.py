"""A nemesis for dimee: real processes, real faults, and the promise checked from answers and log alone."""
