defmodule Dspymq.WireTest do
  use ExUnit.Case, async: true
  alias Dspymq.{Id, Msgpack, Wire}
  alias Dspymq.Test.Vectors
  alias Dspymq.Wire.Schema

  # Lets a message be compared with JSON: text for atoms.
  defp plain(%{} = map), do: Map.new(map, fn {key, value} -> {to_string(key), plain(value)} end)
  defp plain(list) when is_list(list), do: Enum.map(list, &plain/1)
  defp plain(atom) when is_atom(atom) and atom not in [nil, true, false], do: to_string(atom)
  defp plain(value), do: value

  # Whether all that is wanted is there; structures hold their defaults as well.
  defp within?(%{} = wanted, %{} = found) do
    Enum.all?(wanted, fn {key, value} -> is_map_key(found, key) and within?(value, found[key]) end)
  end

  defp within?(wanted, found) when is_number(wanted) and is_number(found), do: wanted == found
  defp within?(wanted, found), do: wanted === found

  test "every legal encoding of every message of the clients' endpoint is read" do
    cases = for one <- Vectors.read!("encodings.json")["messages"], one["endpoint"] == "clients", do: one
    assert length(cases) > 20

    for one <- cases, encoding <- one["encodings"] do
      body = if encoding["body"], do: [Vectors.octets(encoding["body"])], else: []
      label = "#{one["name"]}: #{encoding["note"]}"
      assert {:ok, message, body} = Wire.decode(["DJP1", Vectors.octets(encoding["header"]) | body]), label
      found = plain(message)
      assert within?(one["fields"], found), "#{label}: #{inspect(found)}"
      for {name, default} <- one["defaults"], do: assert(found[name] == default, "#{label}: #{name}")
      if one["body"], do: assert({:ok, _} = Wire.body(body), label)
    end
  end

  test "what is written reads back as the same" do
    for one <- Vectors.read!("encodings.json")["messages"], one["endpoint"] == "clients" do
      {:ok, message, _} = Wire.decode(["DJP1", Vectors.octets(hd(one["encodings"])["header"])])
      {type, fields} = Map.pop!(message, :t)
      # What only a broker sends holds structures, which are not written here.
      unless type in [:welcome, :result] do
        assert {:ok, ^message, ""} = Wire.decode(Wire.encode(type, fields))
      end
    end
  end

  test "what has its default is left out" do
    [_, header] =
      Wire.encode(:submit, %{job: "j", program: "qa", timeout_ms: 1, priority: 4, lane: "default", want: []})

    assert Msgpack.decode(header) ==
             {:ok, %{"t" => "submit", "job" => "j", "program" => "qa", "timeout_ms" => 1}}
  end

  # Reasons that are not about the form of a message are the broker's business.
  @form ~w(bad_frames unsupported_version bad_header unknown_type)

  test "what a broker must refuse for its form is refused here, too" do
    cases =
      for one <- Vectors.read!("invalid.json")["cases"],
          "clients" in one["endpoints"],
          one["answer"]["reason"] in @form,
          do: one

    assert length(cases) > 50

    for one <- cases do
      frames = Enum.map(one["frames"], &Vectors.octets/1)
      assert {:error, problem} = Wire.decode(frames), one["name"]
      if one["answer"]["job"], do: assert(problem.job == one["answer"]["job"], one["name"])
      if one["answer"]["rid"], do: assert(problem.rid == one["answer"]["rid"], one["name"])
    end
  end

  test "ids" do
    vectors = Vectors.read!("ids.json")
    for id <- vectors["valid"], do: assert(Schema.id?(id), inspect(id))
    for %{"id" => id} <- vectors["invalid"], do: refute(Schema.id?(id), inspect(id))

    for %{"unix_ms" => ms, "uuid" => uuid} <- vectors["uuid7"] do
      assert String.slice(Id.uuid7(ms, <<0::80>>), 0, 15) == String.slice(uuid, 0, 15)
    end

    ids = for _ <- 1..1_000, do: Id.new()
    assert Enum.uniq(ids) == ids

    assert Enum.all?(
             ids,
             &(&1 =~ ~r/\A[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z/)
           )
  end

  test "the session of SPEC.md, section 4.4" do
    header = "83a174a6726573756c74a36a6f62a16aa7617474656d707401" |> String.replace_prefix("83", "84")
    octets = Base.decode16!(header, case: :lower) <> <<0xA4, "code", 0xA2, "OK">>

    assert {:ok, %{t: :result, job: "j", attempt: 1, code: "OK", chunks: 0}, ""} =
             Wire.decode(["DJP1", octets])
  end

  test "bodies meet writers of other languages halfway" do
    assert Wire.body("") == {:ok, %{}}
    assert Wire.body(<<0x90>>) == {:ok, %{}}
    assert {:error, _} = Wire.body(<<0xC1>>)
    assert {:error, _} = Wire.body(<<1>>)
    assert Wire.part({:ok, %{"outputs" => []}}, "outputs") == {:ok, %{}}
    assert Wire.part({:ok, %{}}, "outputs") == {:ok, %{}}
    assert {:error, _} = Wire.part({:ok, %{"outputs" => 1}}, "outputs")
  end
end
