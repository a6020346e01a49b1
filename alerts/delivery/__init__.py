"""From an alert group to a delivered notification: planning, attempts, retries."""
