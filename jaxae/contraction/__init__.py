"""The contractive penalties, and how the cheapest exact way to compute them is found."""
