"""Running tasks in processes or on a cluster, and showing progress."""
