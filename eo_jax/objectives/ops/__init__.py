"""Parts that objectives share: base classes, losses, queue, teacher, collapse metrics, checks."""
