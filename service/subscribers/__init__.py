"""The built-in subscribers: the monitor and the reference picker."""
