"""Cost as work grows: the train step and the host, with fitted exponents."""
