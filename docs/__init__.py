"""The documents that are partly made from the code, and what makes them."""
