defmodule Dspymq.Event do
  @moduledoc """
  Something happened at the broker: see `Dspymq.subscribe/3`.

    * `kind` - such as `"job.done"` or `"worker.lost"` (SPEC.md, section 10.4)
    * `at_ms` - when, in milliseconds of Unix time
    * `details` - what is known of it
    * `gap` - events before this one may have been missed: the session was a new one
  """

  defstruct [:kind, :at_ms, details: %{}, gap: false]

  @type t :: %__MODULE__{kind: String.t(), at_ms: non_neg_integer, details: map, gap: boolean}
end
