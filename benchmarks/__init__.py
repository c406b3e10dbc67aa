"""Every performance claim, as a command: ratios against a named peer and the physical limit,
measured in one run.
"""
