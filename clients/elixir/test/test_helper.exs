# Tests that need a broker and a pool are run by tests/clients/test_elixir.py of the repository, which starts them and
# says where they are.
reasons = [
  broker: {"DSPYMQ_TEST_BROKER", "the address of a broker with a pool"},
  control: {"DSPYMQ_TEST_CONTROL", "the port at which that broker can be killed and started again"}
]

exclude =
  for {tag, {variable, what}} <- reasons, System.get_env(variable) == nil do
    IO.puts("Without #{variable} (#{what}) tests tagged #{inspect(tag)} are left out.")
    tag
  end

# What is tested here breaks connections all the time.
Logger.configure(level: :error)
ExUnit.start(exclude: exclude, assert_receive_timeout: 5_000)
