"""The machine under the data path: device, memory, stopwatch, fault points."""
