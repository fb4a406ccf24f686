"""What run folders tell. Reads them, and never writes into them."""
