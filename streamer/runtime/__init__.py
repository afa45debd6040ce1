"""The machine under the data path: clock, device, memory, stopwatch, fault points."""
