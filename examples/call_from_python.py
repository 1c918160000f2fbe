"""Calling programs from Python. Start `dspymq up examples.programs` in another terminal, then run this.

It needs the client only (`pip install dspymq`): no DSPy here.
"""

from dspymq import Client, InvalidArgument


def main() -> None:
    """One call of each kind. DSPYMQ_BROKER names another broker than this machine's."""
    with Client(timeout_s=60, connect_timeout_s=2) as client:
        print("programs:", ", ".join(row["name"] for row in client.programs() if row["name"] != "_inline"))

        # A program by its name; outputs are items and attributes, with their types.
        person = client.call("person", text="Maria Silva, 34, moved from Lisbon to Porto. She is very happy there.")
        print(f"{person.name} is {person.age}, {person.mood}, and knows {', '.join(person.cities)}")

        # A signature as text, with other options for this call.
        capital = client.with_options(timeout_s=20).call("country -> capital", country="France")
        print("capital:", capital.capital)

        # Text as it is written.
        for chunk in client.stream("question -> answer", question="Why is the sky blue?"):
            print(chunk.text, end="", flush=True)
        print()

        # Many inputs, a bound on those in flight, results in order.
        reviews = ["I love it.", "It broke at once.", "Great value.", "Never again."]
        for review, one in zip(
            reviews, client.map("sentiment", ({"review": review} for review in reviews), concurrency=4), strict=True
        ):
            print(f"{one.sentiment:>9}: {review}")

        # Errors are one class a code; here the fields that do not fit are named, and no model was asked.
        try:
            client.call("sentiment", reviw="I love it.")
        except InvalidArgument as error:
            print("refused:", error.fields)


if __name__ == "__main__":
    main()
