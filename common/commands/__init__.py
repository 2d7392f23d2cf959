"""Commands that belong to no tier: demo, log, model, evaluate, broker."""
