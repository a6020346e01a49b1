"""Wrong changes to the product, each with the tests that must fail with it: ``python -m tests.mutants --help``."""
