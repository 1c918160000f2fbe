defmodule Dspymq.DocTest do
  use ExUnit.Case, async: true

  doctest Dspymq.Chunk
  doctest Dspymq.Error
  doctest Dspymq.Msgpack
  doctest Dspymq.Prediction
  doctest Dspymq.Tool
  doctest Dspymq.Wire
  doctest Dspymq.Zmtp
end
