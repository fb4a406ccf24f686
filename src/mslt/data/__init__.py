"""From raw text to training instances."""
