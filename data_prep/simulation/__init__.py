"""What `python -m data_prep simulate` is made of: spectra, landscapes, acquisitions."""
