"""How a running program tells its client how far it is. Needs no dspy; outside a job it does nothing."""


def report_progress(done: int | None = None, total: int | None = None, note: str | None = None) -> None:
    """Report progress of the job that runs here, from any thread that has DSPy's settings.

    Lossy: the newest report wins. `note` is cut to 1,000 characters.
    """
    from dspy.dsp.utils.settings import settings

    from dspymq.worker.executor.context import SETTING, JobContext

    job = settings.get(SETTING)
    if isinstance(job, JobContext) and job.on_progress is not None:
        job.on_progress(done, total, note[:1000] if note is not None else None)
