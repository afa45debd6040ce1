"""What a candidate must show before it is used, and the guard that watches it afterwards."""
