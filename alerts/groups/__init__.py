"""What an alert group knows and what follows from it: the rules of notification. Pure."""
