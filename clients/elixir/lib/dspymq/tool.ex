defmodule Dspymq.Tool do
  @moduledoc """
  A function of this application that a program may call while its job runs.

      weather =
        Dspymq.Tool.new("weather", fn %{"city" => city} -> MyApp.Weather.now(city) end,
          description: "The weather of a city, now.",
          parameters: [city: :string]
        )

      Dspymq.call(client, "question -> answer", %{question: "Do I need a coat in Oslo?"},
        kind: "react",
        tools: [weather]
      )

  The function is called in a process of its own with one argument: a map with text as keys. It is run once for each
  call of the program, however often connections break meanwhile. What it returns is sent as `Dspymq.Msgpack` can write
  it; `{:ok, value}` counts as the value, and `{:error, reason}`, an exception, an exit or a throw is told to the
  program, and so to its model, without a stack trace. The process is stopped when the call's time is over or the job
  ends. Its `:"$callers"` lead to the process that made the call.
  """

  alias Dspymq.{Bin, Msgpack}

  @enforce_keys [:name, :run]
  defstruct [:name, :run, :timeout, description: "", parameters: %{"type" => "object", "properties" => %{}}]

  @type t :: %__MODULE__{
          name: String.t(),
          run: (map -> term),
          description: String.t(),
          parameters: map,
          timeout: pos_integer | nil
        }

  @typedoc "A type of JSON Schema, alone, with a description, or one that may be left out."
  @type parameter ::
          :string
          | :integer
          | :number
          | :boolean
          | :object
          | :array
          | {:array, parameter}
          | {parameter, String.t()}
          | {:optional, parameter}
          | map

  @types ~w(string integer number boolean object array)a
  @max_message 500

  @doc """
  A tool.

  Options:

    * `:description` - what the model is told
    * `:parameters` - the arguments: a keyword list of types, or the JSON Schema of an object as a map
    * `:timeout` - how long the program waits for one call, in milliseconds; as long as the job has if not given

  Raises `ArgumentError`.

      iex> tool = Dspymq.Tool.new("add", fn %{"a" => a, "b" => b} -> a + b end,
      ...>   parameters: [a: :integer, b: {:integer, "the other one"}, note: {:optional, :string}])
      iex> tool.parameters
      %{
        "type" => "object",
        "properties" => %{
          "a" => %{"type" => "integer"},
          "b" => %{"type" => "integer", "description" => "the other one"},
          "note" => %{"type" => "string"}
        },
        "required" => ["a", "b"]
      }
  """
  @spec new(String.t(), (map -> term), keyword) :: t
  def new(name, run, opts \\ []) do
    unless is_binary(name) and name =~ ~r/\A[A-Za-z0-9_-]{1,64}\z/ and name != "finish" do
      raise ArgumentError,
            "a tool's name must be 1 to 64 ASCII letters, digits, _ or -, and not finish: #{inspect(name)}"
    end

    unless is_function(run, 1) do
      raise ArgumentError, "the tool #{name} needs a function of one argument, a map, not #{inspect(run)}"
    end

    {timeout, opts} = Keyword.pop(opts, :timeout)

    unless timeout == nil or (is_integer(timeout) and timeout > 0) do
      raise ArgumentError,
            ":timeout of the tool #{name} must be milliseconds above 0, not #{inspect(timeout)}"
    end

    {parameters, opts} = Keyword.pop(opts, :parameters, [])
    {description, opts} = Keyword.pop(opts, :description, "")
    if opts != [], do: raise(ArgumentError, "a tool has no options #{inspect(Keyword.keys(opts))}")

    %__MODULE__{
      name: name,
      run: run,
      description: description,
      timeout: timeout,
      parameters: schema(parameters)
    }
  end

  @doc false
  @spec spec(t) :: map
  def spec(%__MODULE__{} = tool) do
    spec = %{"name" => tool.name, "description" => tool.description, "parameters" => tool.parameters}
    if tool.timeout, do: Map.put(spec, "timeout_ms", tool.timeout), else: spec
  end

  @doc false
  # Runs the function: the content of a tool_result.
  @spec answer(t, map) :: %{code: String.t(), message: String.t() | nil, body: binary}
  def answer(%__MODULE__{} = tool, args) do
    case tool.run.(args) do
      {:ok, value} -> given(tool, value)
      {:error, reason} -> refusal("UNKNOWN", words(reason))
      value -> given(tool, value)
    end
  rescue
    error -> refusal("UNKNOWN", "#{inspect(error.__struct__)}: #{Exception.message(error)}")
  catch
    :exit, reason -> refusal("UNKNOWN", "exit: #{inspect(reason, limit: 10)}")
    :throw, value -> refusal("UNKNOWN", "throw: #{inspect(value, limit: 10)}")
  end

  @doc false
  def refusal(code, text) do
    text = text |> String.split() |> Enum.join(" ")
    %{code: code, message: String.slice(text, 0, @max_message), body: ""}
  end

  defp given(tool, value) do
    case Msgpack.encode(%{"value" => value}) do
      {:ok, body} ->
        %{code: "OK", message: nil, body: body}

      {:error, error} ->
        refusal("INTERNAL", "what #{tool.name} returned cannot be sent: #{Exception.message(error)}")
    end
  end

  defp words(reason) when is_binary(reason), do: reason
  defp words(%{__exception__: true} = error), do: Exception.message(error)
  defp words(reason), do: inspect(reason, limit: 10)

  defp schema(%_{} = struct),
    do: raise(ArgumentError, ":parameters cannot be a #{inspect(struct.__struct__)}")

  defp schema(%{} = schema), do: schema

  defp schema(list) when is_list(list) do
    required = for {name, type} <- list, not match?({:optional, _}, type), do: to_string(name)

    %{
      "type" => "object",
      "properties" => Map.new(list, fn {name, type} -> {to_string(name), type(type)} end),
      "required" => required
    }
  end

  defp schema(other),
    do: raise(ArgumentError, ":parameters must be a keyword list or a map, not #{inspect(other)}")

  defp type(name) when name in @types, do: %{"type" => Atom.to_string(name)}
  defp type({:optional, type}), do: type(type)
  defp type({:array, type}), do: %{"type" => "array", "items" => type(type)}

  defp type({type, description}) when is_binary(description),
    do: Map.put(type(type), "description", description)

  defp type(%Bin{}), do: raise(ArgumentError, "bytes are no type of a parameter")
  defp type(%{} = schema), do: schema
  defp type(other), do: raise(ArgumentError, "no type of a parameter: #{inspect(other)}")
end
