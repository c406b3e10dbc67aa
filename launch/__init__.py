"""Commands and examples that start others: the demo, and clusters. Environment only, no
hyper-parameters.
"""
