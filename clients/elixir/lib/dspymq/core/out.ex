defmodule Dspymq.Core.Out do
  @moduledoc false

  # What the parts of the core share: instructions, timers, chance. `c` is a Dspymq.Core.

  alias Dspymq.Core.Timers

  def emit(c, instruction), do: %{c | out: [instruction | c.out]}

  @doc "Send a message. Anything that is sent proves life (R-3.11)."
  def send(c, type, fields, body \\ "") do
    emit(put_in(c.session.sent_at, c.now), {:send, type, fields, body})
  end

  def set_timer(c, key, at_ms), do: %{c | timers: Timers.put(c.timers, key, at_ms)}
  def cancel_timer(c, key), do: %{c | timers: Timers.cancel(c.timers, key)}

  @doc "A number in [0, 1)."
  def random(c) do
    {number, state} = :rand.uniform_s(c.random)
    {number, %{c | random: state}}
  end

  @doc "Between half of it and all of it."
  def jitter(c, longest_ms) do
    {number, c} = random(c)
    {trunc(longest_ms * (0.5 + 0.5 * number)), c}
  end

  @doc "`least`, doubled `times` times, but at most `most`."
  def grown(least, most, times), do: min(most, Bitwise.bsl(least, min(times, 16)))

  def live?(c), do: c.session.state == :live

  def unreachable(c) do
    why = if c.session.last_failure == "", do: "", else: " (#{c.session.last_failure})"
    where = Enum.join(c.session.addresses, ", ")
    %Dspymq.ConnectionError{reason: :unreachable, message: "no broker answered at #{where}#{why}"}
  end
end
