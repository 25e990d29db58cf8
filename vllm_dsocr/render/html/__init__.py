"""Documents as HTML: one to read, one to check; nothing the model wrote is active in them."""
