"""Alarms, status, disks, Prometheus metrics, systemd."""
