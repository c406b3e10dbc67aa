"""The steps of a conversion: splits, shards, output lock, finished store."""
