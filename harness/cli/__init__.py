"""One module per command group; `app` joins them."""
