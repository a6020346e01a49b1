"""From an event to the alert groups of its receivers."""
