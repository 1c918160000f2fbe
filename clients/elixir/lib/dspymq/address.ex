defmodule Dspymq.Address do
  @moduledoc false

  # Where the brokers are: `tcp://host:port`, `tcp://[::1]:port`, `ipc://path`, `ipc://@abstract`.

  @default "tcp://127.0.0.1:5570"
  @environment "DSPYMQ_BROKER"

  @doc """
  The addresses to try, in their order: those given, else those of the environment, else the default. A text may name
  several, separated by commas; one without a scheme is TCP. Raises ArgumentError.
  """
  @spec resolve(nil | String.t() | [String.t()]) :: [String.t(), ...]
  def resolve(nil), do: resolve(System.get_env(@environment) || @default)
  def resolve(text) when is_binary(text), do: resolve(String.split(text, ","))

  def resolve(list) when is_list(list) do
    found =
      for text <- list,
          is_binary(text) or raise(ArgumentError, "no address: #{inspect(text)}"),
          text = String.trim(text),
          text != "" do
        text = if String.contains?(text, "://"), do: text, else: "tcp://" <> text
        {:ok, _} = parse!(text)
        text
      end

    if found == [], do: raise(ArgumentError, "no broker's address given; one looks like #{@default}")
    Enum.uniq(found)
  end

  def resolve(other), do: raise(ArgumentError, "no broker's address: #{inspect(other)}")

  @doc "What to connect to: `{:tcp, host, port, family}` or `{:local, path}`."
  @spec parse(String.t()) :: {:ok, tuple} | :error
  def parse("tcp://[" <> rest) do
    with [host, ":" <> port] <- String.split(rest, "]", parts: 2),
         {:ok, ip} <- :inet.parse_ipv6_address(to_charlist(host)),
         {:ok, port} <- port(port) do
      {:ok, {:tcp, ip, port, :inet6}}
    else
      _ -> :error
    end
  end

  def parse("tcp://" <> rest) do
    with [host, port] when host != "" <- String.split(rest, ":"),
         {:ok, port} <- port(port) do
      {:ok, {:tcp, to_charlist(host), port, :inet}}
    else
      _ -> :error
    end
  end

  def parse("ipc://@" <> name) when name != "", do: {:ok, {:local, <<0, name::binary>>}}
  def parse("ipc://" <> path) when path != "", do: {:ok, {:local, path}}
  def parse(_), do: :error

  defp parse!(text) do
    with :error <- parse(text) do
      raise ArgumentError, "#{inspect(text)} is no broker's address; one looks like #{@default}"
    end
  end

  defp port(text) do
    case Integer.parse(text) do
      {port, ""} when port in 1..65_535 -> {:ok, port}
      _ -> :error
    end
  end
end
