"""64 streams to a client that stands still for 20 s, in real time, beside one that reads."""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest

from dspymq import AsyncClient
from tests.faults.system import resident_mib, running_system
from tests.processes import clean_environ

STANDS_STILL_S = 20
STREAMS = 64
READS = 8
PIECE_MS = 200
MIB_FOR_ALL_STREAMS = 100
"""Far more than the text that piles up, and far less than a broker that keeps each piece several times would need."""

QUESTION = f"#tokens={{tokens}} #chunk=600 #token_ms={PIECE_MS}"
WORDS_A_PIECE = 100

SLOW_READER = """
import asyncio, json, sys
from dspymq import AsyncClient

async def follow(job):
    fields = {}
    async for chunk in job:
        if chunk.reset:
            fields = {}
        if chunk.field:
            fields[chunk.field] = fields.get(chunk.field, "") + chunk.text
    prediction = await job
    return fields == prediction.outputs, prediction.attempt, len(prediction.answer)

async def main():
    async with AsyncClient(sys.argv[1], name="slow", timeout_s=120) as client:
        jobs = [client.submit("qa", {"question": f"{n} {sys.argv[2]}"}, stream=True) for n in range(int(sys.argv[3]))]
        print(json.dumps(await asyncio.gather(*map(follow, jobs))))

asyncio.run(main())
"""


async def gaps_of(client: AsyncClient, number: int, pieces: int, gaps: list[tuple[float, float]]) -> None:
    """Follow one stream, and note when each piece came and how long after the one before."""
    question = f"reader {number} {QUESTION.format(tokens=pieces * WORDS_A_PIECE)}"
    job = client.submit("qa", {"question": question}, stream=True)
    text, last = "", None
    async for chunk in job:
        text += chunk.text
        now = time.monotonic()
        if last is not None:
            gaps.append((now, now - last))
        last = now
    assert (await job).answer == text


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_64_streams_to_a_client_that_does_not_read_for_20_s() -> None:
    """The reader's gaps stay as they were, the broker's memory is bounded, and the sleeper gets all of its text."""
    lasts_s = STANDS_STILL_S + 10
    pieces = lasts_s * 1000 // PIECE_MS
    gaps: list[tuple[float, float]] = []
    with running_system(processes=2, concurrency=(STREAMS + READS) // 2) as system:
        question = QUESTION.format(tokens=pieces * WORDS_A_PIECE)
        command = [sys.executable, "-c", SLOW_READER, system.broker.clients, question, str(STREAMS)]

        async def main() -> tuple[float, float, list[list[object]]]:
            async with AsyncClient(system.broker.clients, name="reader", timeout_s=120) as client:
                reads = [asyncio.create_task(gaps_of(client, n, pieces, gaps)) for n in range(READS)]
                await asyncio.sleep(4)
                os.kill(slow.pid, signal.SIGSTOP)
                stopped = time.monotonic()
                await asyncio.sleep(STANDS_STILL_S)
                grown.append(resident_mib(system.broker.pid) - before)
                os.kill(slow.pid, signal.SIGCONT)
                went_on = time.monotonic()
                await asyncio.gather(*reads)
                return stopped, went_on, json.loads((await asyncio.to_thread(slow.communicate))[0])

        before = resident_mib(system.broker.pid)
        grown: list[float] = []
        with subprocess.Popen(command, env=clean_environ(), stdout=subprocess.PIPE, text=True) as slow:
            try:
                system.lm.wait_for(lambda: system.lm.open == STREAMS)
                stopped, went_on, found = asyncio.run(main())
            finally:
                slow.kill()
        counts = system.client.stats()["counts"]
    usual = [gap for at, gap in gaps if at < stopped]
    meanwhile = [gap for at, gap in gaps if stopped < at < went_on]
    print(
        f"gaps: median {statistics.median(usual) * 1000:.0f} ms before, {statistics.median(meanwhile) * 1000:.0f} ms "
        f"meanwhile, longest {max(usual) * 1000:.0f} and {max(meanwhile) * 1000:.0f} ms; broker +{grown[0]:.1f} MiB"
    )
    assert len(meanwhile) > READS * STANDS_STILL_S * 1000 / PIECE_MS / 2
    assert statistics.median(meanwhile) < 1.5 * statistics.median(usual)
    assert max(meanwhile) < 3 * max(usual) + 1
    assert grown[0] < MIB_FOR_ALL_STREAMS
    assert [one[:2] for one in found] == [[True, 1]] * STREAMS, "text equals results, and nothing ran again"
    assert not counts.get("slow_consumers")
