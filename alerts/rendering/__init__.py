"""The texts and bodies of notifications. Pure."""
