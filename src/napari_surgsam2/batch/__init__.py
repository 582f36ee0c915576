"""Many videos at once, on dask.distributed: one machine, or a cluster.

Importing this starts neither torch nor dask.
"""

from .dispatch import JobEvent
from .jobs import Job, JobError
from .report import BatchReport, JobResult, ReportNotWrittenError
from .running import run_batch
from .tables import load_jobs

__all__ = [
    "BatchReport",
    "Job",
    "JobError",
    "JobEvent",
    "JobResult",
    "ReportNotWrittenError",
    "load_jobs",
    "run_batch",
]
