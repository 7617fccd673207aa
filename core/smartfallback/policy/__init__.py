"""What to decide: plain synchronous objects; time and randomness are handed in."""
