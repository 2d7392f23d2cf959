"""Pure decisions: pools, entry tiers, exits, cost; no I/O, no clock, no globals.

A policy decides over batches, so that the evaluation (all samples at once) and a running tier (what is queued) call
the very same functions.
"""
