"""Beats on their way into the store: the queue, batches, backlog, refusals and the evidence of rejected beats."""
