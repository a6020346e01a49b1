"""What settings are written with: tables, durations, sizes, globs, URLs and secrets. It knows no setting of its own."""
