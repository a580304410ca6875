"""What a trial's process uses of its machine, by names that MLflow shows among a run's system metrics."""

from __future__ import annotations

import time

import psutil
import torch

MB = 1e6


class Usage:
    """Measures this process from now on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def metrics(self) -> dict[str, float]:
        """The CPU time in percent of the time that passed (100 is one core), the memory, and the most of the GPU's."""
        share = (time.process_time() - self._cpu) / (time.perf_counter() - self._wall)
        used = {
            "system/process_cpu_utilization_percentage": 100 * share,
            "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / MB,
        }
        if self.device.type == "cuda":
            used["system/gpu_memory_usage_megabytes"] = torch.cuda.max_memory_allocated(self.device) / MB
        return used
