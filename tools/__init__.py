"""Commands for developers: benchmark, quality, faults."""
