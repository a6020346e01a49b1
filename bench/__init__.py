"""Measurements of this checkout; ``README.md`` lists the commands. Not part of the installed package.

``harness`` starts servers as processes, pins them and reads their CPU time; ``results`` alternates variants and
prints tables; ``tokens`` mints; ``references`` are what the daemon is compared with.
"""
