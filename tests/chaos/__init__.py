"""The chaos suite: seeded faults over a fleet of workers whose truth is known, and an oracle that checks the promises.

``docs/chaos.md`` says how to run it and what it can't see. ``plan`` and the oracle (``outages``, ``lives``, ``alerts``,
``reading``) are pure; ``record`` is what a run leaves for the oracle; the rest starts processes and breaks them.
"""
