"""Commands that start others: the demo, and (later) clusters. Environment only, no hyper-parameters."""
