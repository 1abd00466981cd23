"""What two services share, and only that; imports no service."""
