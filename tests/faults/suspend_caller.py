"""A client in a process of its own, that can be stopped with all the others: `BROKER COUNT LABEL`.

Says `open` when its calls are on their way, and in the end a JSON object for each: question, answer or error, attempt.
"""

from __future__ import annotations

import json
import sys

from dspymq import Client
from dspymq.exceptions import DspymqError


def main() -> None:
    address, count, label = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    questions = [f"#job={label}{n} #hang" for n in range(count)]
    with Client(address, timeout_s=120) as client:
        jobs = [client.submit("qa", {"question": question}) for question in questions]
        print("open", flush=True)
        for question, job in zip(questions, jobs, strict=True):
            said: dict[str, object] = {"question": question}
            try:
                prediction = job.result()
                said |= {"answer": prediction.answer, "attempt": prediction.attempt}
            except DspymqError as error:
                said["error"] = str(error)
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
