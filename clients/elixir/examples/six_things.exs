# Six things that a client does, against a broker with the programs of the repository's examples:
#
#     dspymq up examples.programs
#     mix run examples/six_things.exs tcp://127.0.0.1:5570

address = List.first(System.argv()) || "tcp://127.0.0.1:5570"

# -- call
{:ok, client} = Dspymq.start_link(brokers: address, client_name: "six-things")

{:ok, prediction} =
  Dspymq.call(client, "question -> answer", %{question: "What is a queue?"}, timeout: 30_000)

IO.puts("call: #{prediction["answer"]} #{inspect(prediction.usage.models)}")
# -- end

# -- extraction
signature = "text -> name, age: int, cities: list[str]"
{:ok, person} = Dspymq.call(client, signature, %{text: "Ada, 36, lives in London and Paris."})
%{"name" => name, "age" => age, "cities" => cities} = person.outputs
IO.puts("extraction: #{name} is #{age + 1} next year, and knows #{length(cities)} cities")
# -- end

IO.write("stream: ")

# -- stream
client
|> Dspymq.stream("topic -> story", %{topic: "A queue that never grew"})
|> Enum.each(fn
  {:chunk, %{reset: true, text: text}} -> IO.write(["\n", text])
  {:chunk, chunk} -> IO.write(chunk.text)
  {:ok, prediction} -> IO.puts("\n(#{String.length(prediction["story"])} characters)")
  {:error, error} -> IO.puts(Exception.message(error))
end)

# -- end

# -- cancel
{:ok, job} = Dspymq.submit(client, "topic -> story", %{topic: "Something long"})
:ok = Dspymq.cancel(job)

case Dspymq.await(job) do
  {:error, %Dspymq.Error{code: :cancelled}} -> IO.puts("cancel: stopped")
  {:ok, prediction} -> IO.puts("cancel: it was faster: #{prediction["story"]}")
end

# -- end

# -- tool
weather =
  Dspymq.Tool.new("weather", fn %{"city" => city} -> %{city: city, sky: "clear", celsius: 21} end,
    description: "The weather in a city, now.",
    parameters: [city: :string]
  )

question = "Do I need an umbrella in Oslo?"
opts = [kind: "react", tools: [weather], max_iters: 5]
{:ok, agent} = Dspymq.call(client, "question -> answer", %{question: question}, opts)
IO.puts("tool: #{agent["answer"]}")
# -- end

# -- errors
case Dspymq.call(client, "sentiment", %{reviw: "It broke after a day."}) do
  {:ok, prediction} -> IO.puts(prediction["sentiment"])
  {:error, %Dspymq.Error{reason: "invalid_inputs"} = error} -> IO.puts("errors: #{inspect(error.fields)}")
  {:error, %Dspymq.Error{retryable: true} = error} -> IO.puts("again later: #{error.code}")
  {:error, error} -> IO.puts("no: #{Exception.message(error)}")
end

# -- end

:ok = Dspymq.close(client)
