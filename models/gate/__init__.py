"""What a candidate must show before it serves, and the guard that watches it afterwards."""
