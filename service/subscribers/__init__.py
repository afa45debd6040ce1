"""Our own subscribers: the monitor and the reference picker."""
