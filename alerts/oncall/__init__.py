"""What operators do to notifications: dead letters, silences that end, samples, removed receivers."""
