"""The steps of a conversion: splits, shards, the lock of the output, the finished store."""
