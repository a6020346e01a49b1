"""Operations on notifications: dead letters, ended silences, test notifications, removed receivers."""
