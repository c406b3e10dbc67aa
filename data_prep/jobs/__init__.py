"""Running tasks in processes or on a cluster, with progress."""
