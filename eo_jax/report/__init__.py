"""The report page of a run, and what other pages share with it."""
