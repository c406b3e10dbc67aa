"""Tables, figures and the HTML page of `inspect`."""
