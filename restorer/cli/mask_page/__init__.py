"""The page on which a mask is drawn: its server on the loopback address, its state, and the filling."""
