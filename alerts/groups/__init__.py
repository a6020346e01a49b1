"""State of alert groups and the rules for their notifications. Pure."""
