"""Types for settings: tables, durations, sizes, globs, URLs and secrets. No concrete setting is defined here."""
