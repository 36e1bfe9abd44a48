"""Speed tables: this library against plain implementations, in one process."""
