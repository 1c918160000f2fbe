# The driver of dspymq.rb for `dspymq conformance client`: see docs/conformance-drivers.md.
CODES = %w[OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED
           RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS
           UNAUTHENTICATED].freeze

def say(line)
  $stdout.puts(JSON.generate(line))
  $stdout.flush
end

# Puts the text of one call together, and says what its caller would see.
class Report
  def initialize(call) = (@call, @text, @attempt, @chunks = call, {}, 0, 0)

  def chunk(fields, anew, header)
    @text, @chunks = {}, header["seq"] if anew
    @attempt, @chunks = header["attempt"], @chunks == header["seq"] ? header["seq"] + 1 : nil # nil: some are missing
    fields.each { |name, text| @text[name] = @text.fetch(name, "") + text }
    say(text: { call: @call, fields: @text })
  end

  def end(header, outputs)
    code = CODES.include?(header["code"]) ? header["code"] : "UNKNOWN" # R-12.2
    if code == "OK" && @text.any? && [header["attempt"], header["chunks"]] != [@attempt, @chunks] # R-9.8
      say(text: { call: @call, fields: outputs.slice(*@text.keys) })
    end
    outcome = { call: @call, code: code, **%w[reason message attempt].to_h { |key| [key.to_sym, header[key]] } }
    say(outcome: outcome.merge(code == "OK" ? { outputs: outputs || {} } : {}).compact)
  end

  def accepted(_state) = nil
end

def obey(client, ids, told)
  call = told["call"]
  case told["tell"]
  when "submit"
    fields = told.fetch("options", {}).merge(told["stream"] ? { "want" => ["chunks"] } : {}, told.slice("window"))
    report = Report.new(call)
    timeout_ms = told.fetch("timeout_ms", 60_000)
    ids[call] = client.submit(told["program"], told["inputs"], timeout_ms, fields) { |*what| report.public_send(*what) }
  when "cancel" then client.cancel(ids[call])
  when "close" then client.close
  else say(problem: "this is not supported: #{told}")
  end
end

lines, client, ids = Queue.new, Client.new(ENV.fetch("DSPYMQ_BROKERS").split(",")), {}
Thread.new do
  $stdin.each_line { |line| lines << JSON.parse(line) }
  exit!(0)
end
say(ready: true, supports: %w[call options stream cancel failover resume close])
loop do
  told = lines.empty? ? nil : lines.pop
  obey(client, ids, told) if told
  sleep if told && told["tell"] == "close"
  client.step(0.02) unless told
end
