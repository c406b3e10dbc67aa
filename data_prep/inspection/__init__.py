"""Tables, figures and the page of `inspect`."""
