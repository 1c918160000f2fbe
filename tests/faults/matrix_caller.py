"""A client in a process of its own, for the matrix of faults: `python -m tests.faults.matrix_caller ADDRESS`.

It reads jobs from stdin and writes what becomes of them on stdout, a JSON object a line each.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from dspymq import Client
from dspymq.exceptions import DspymqError
from dspymq.job import Job

_WRITING = threading.Lock()


def say(**fields: Any) -> None:
    """One line."""
    with _WRITING:
        print(json.dumps(fields), flush=True)


def follow(job: Job, stream: bool) -> None:
    """Tell of its first text, and of its end."""
    text, told = "", False
    end: dict[str, Any] = {"reason": ""}
    try:
        for chunk in job if stream else ():
            text = chunk.text if chunk.reset else text + chunk.text
            if text and not told:
                told = True
                say(job=job.id, said="text")
        prediction = job.result()
        end |= {"code": "OK", "attempt": prediction.attempt, "answer": prediction.answer, "streamed": text}
        end["size"] = len(prediction.outputs.get("filler", ""))
    except DspymqError as error:
        end |= {"code": error.code, "reason": error.reason, "attempt": job.attempt, "message": error.message}
    say(job=job.id, said="end", **end)


def main() -> None:
    """Follow each job that comes, until stdin ends."""
    with Client(sys.argv[1], name="caller") as client:
        client.ping()
        say(said="here")
        for line in sys.stdin:
            asked = json.loads(line)
            options = asked["options"]
            job = client.submit(asked["program"], asked["inputs"], job_id=asked["job"], **options)
            threading.Thread(target=follow, args=(job, options["stream"]), daemon=True).start()


if __name__ == "__main__":
    main()
