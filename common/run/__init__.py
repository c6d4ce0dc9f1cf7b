"""A run's folder: its files, the record of how it was made, and what may be compared with it."""
