"""The parts of `python -m data_prep simulate`: spectra, landscapes, acquisitions."""
