"""The configuration: its model, its sources, and its errors."""
