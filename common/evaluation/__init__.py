"""What routing saves and costs: traces of all exits, policies scored on them, budgets, plans and figures.

Pure and offline: no transport, no clock; what is scored here are the very policies that the tiers run.
"""
