"""Six things that a client does, against a broker with the programs beside this file.

dspymq up examples.programs
python examples/six_things.py tcp://127.0.0.1:5570
"""

import sys

from dspymq import Cancelled, Client, DspymqError, InvalidArgument

address = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5570"

# -- call
client = Client(address, name="six-things", timeout_s=30)

prediction = client.call("question -> answer", question="What is a queue?")
print("call:", prediction.answer)
# -- end

# -- extraction
person = client.call("text -> name, age: int, cities: list[str]", text="Ada, 36, lives in London and Paris.")
print("extraction:", person.name, person.age + 1, len(person.cities))
# -- end

# -- stream
for chunk in client.stream("topic -> story", topic="A queue that never grew"):
    if chunk.reset:
        print()  # what came before is void
    print(chunk.text, end="", flush=True)
# -- end
print()

# -- cancel
job = client.submit("topic -> story", {"topic": "Something long"})
job.cancel()
try:
    print("cancel: it was faster:", job.result().story)
except Cancelled:
    print("cancel: stopped")
# -- end


# -- tool
def weather(city: str) -> dict[str, object]:
    """The weather in a city, now."""
    return {"city": city, "sky": "clear", "celsius": 21}


agent = client.with_options(kind="react", tools=[weather], max_iters=5)
print("tool:", agent.call("question -> answer", question="Do I need an umbrella in Oslo?").answer)
# -- end

# -- errors
try:
    client.call("sentiment", reviw="It broke after a day.")
except InvalidArgument as error:
    print("errors:", error.fields)
except DspymqError as error:
    print("again later" if error.retryable else "no", error.code, error.reason)
# -- end

client.close()
