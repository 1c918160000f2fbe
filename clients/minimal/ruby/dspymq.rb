#!/usr/bin/env ruby
# A small DJP/1 client over ffi-rzmq and msgpack: calls, streams, cancel, failover. R-... are rules of SPEC.md.
%w[ffi-rzmq json msgpack securerandom].each { |library| require library }

class Client
  Job = Struct.new(:header, :body, :deadline, :epochs, :again_at, :cancelled, :attempt, :pause, :listener)

  def initialize(addresses)
    @addresses, @context, @jobs, @acks = addresses, ZMQ::Context.new, {}, []
    @pause, @refused, @next, @turn = 0.05, 0, 0, now
    open_socket
  end

  # Returns the job's id. The block gets :accepted with the state; :chunk with its fields, whether they replace all text
  # so far, and the header; once :end, with the header of `result` or `error`, and the outputs.
  def submit(program, inputs, timeout_ms = 30_000, fields = {}, &listener)
    header = { "t" => "submit", "job" => SecureRandom.uuid, "program" => program }.merge(fields)
    body = { "inputs" => inputs }.to_msgpack # kept, to be sent again as it is (R-2.23)
    @jobs[header["job"]] = Job.new(header, body, now + timeout_ms / 1000.0, [], now, false, 0, 50, listener)
    header["job"]
  end

  def cancel(id) # what was not sent yet is sent with its cancel
    (job = @jobs[id]) ? job.cancelled = true : return
    send_message({ "t" => "cancel", "job" => id }) if @welcomed && !job.again_at
  end

  def step(wait_s) # takes in what has come, and does what time asks for
    @poller.poll((wait_s * 1000).to_i)
    while @socket.recv_strings(frames = [], ZMQ::DONTWAIT) != -1
      @heard = now
      take(frames)
    end
    send_message({ "t" => "ack", "jobs" => @acks.shift(1000) }) if @welcomed && @acks.any?
    keep_session
    @jobs.values.each do |job|
      send_job(job) if @welcomed && job.again_at && now >= job.again_at
      finish(job, @refusal) if @refusal # no broker takes this client
      fail(job, "DEADLINE_EXCEEDED", "deadline") if now >= job.deadline + (@welcomed ? 10 : 0) # R-7.11
    end
  end

  def close # what still runs is cancelled with that (R-3.21)
    step(0)
    send_message({ "t" => "bye" }) if @welcomed
    @socket.setsockopt(ZMQ::LINGER, 1000) && @socket.close
    @context.terminate
  end

  private

  def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  def open_socket # at the next address, after a growing pause (R-3.30, R-3.31)
    @socket&.close && sleep(@pause * rand(0.5..1.0))
    @pause = [@pause * 2, 1.0].min
    @socket = @context.socket(ZMQ::DEALER)
    options = { ZMQ::LINGER => 0, ZMQ::IMMEDIATE => 1, ZMQ::RECONNECT_IVL_MAX => 1000 }
    options.each { |option, value| @socket.setsockopt(option, value) }
    abort "this is no ZeroMQ address: #{@addresses[@next]}" if @socket.connect(@addresses[@next]) == -1
    @next = (@next + 1) % @addresses.size
    (@poller = ZMQ::Poller.new).register_readable(@socket)
    @since, @greeted, @welcomed, @refusal = now, false, false, nil
  end

  def keep_session
    @heard = @since = now if now - @turn > 1 # this process was stopped itself: silence proves nothing (R-3.15)
    @turn = now
    @socket.getsockopt(ZMQ::EVENTS, events = [])
    connected = events[0] & ZMQ::POLLOUT != 0 # with IMMEDIATE a socket is writable while it is connected
    if @greeted && !connected then @greeted, @welcomed, @since = false, false, now
    elsif connected && !@greeted
      send_message({ "t" => "hello", "name" => "minimal-ruby", "lang" => "ruby", "features" => ["ack"] })
      @greeted, @since = true, now
    elsif @welcomed ? now - @heard >= @dead_s : now - @since >= (@greeted ? 5 : 1) then open_socket
    elsif @welcomed && now - @sent >= @ping_s then send_message({ "t" => "ping" })
    end
  end

  def send_message(header, *body) # while it is not connected nothing is sent; keep_session sees that
    @sent = now if @socket.send_strings(["DJP1", header.to_msgpack, *body], ZMQ::DONTWAIT) != -1
  end

  def send_job(job)
    others = job.epochs - [@epoch]
    header = job.header.merge("timeout_ms" => ((job.deadline - now) * 1000).to_i)
    header["known_epoch"] = others.last || @epoch if job.epochs.any? # R-8.3
    return fail(job, "DEADLINE_EXCEEDED", "deadline") if header["timeout_ms"] < 1 # R-5.10
    parts = { header: header.to_msgpack, body: job.body }
    large = parts.find { |name, octets| octets.bytesize > @limits["max_#{name}_bytes"] }
    return fail(job, "RESOURCE_EXHAUSTED", "#{large[0]}_too_large") if large # R-2.16
    send_message(header, job.body)
    job.epochs, job.again_at = others + [@epoch], nil
    send_message({ "t" => "cancel", "job" => header["job"] }) if job.cancelled
  end

  def take(frames) # what is not named here is ignored (R-4.2)
    return unless frames.size.between?(2, 3) && frames[0] == "DJP1"
    header, body = frames[1..].map { |frame| frame.empty? ? {} : MessagePack.unpack(frame) }
    job = @jobs[header["job"]]
    case header["t"]
    when "ping" then send_message({ "t" => "pong", "n" => header["n"] || 0 })
    when "bye" then open_socket
    when "welcome" then welcome(header) unless @welcomed
    when "error" then refused(header, job)
    when "accepted" then job&.listener&.call(:accepted, header["state"])
    when "chunk" then chunk(job, header, body["fields"]) if job && header["attempt"] >= job.attempt
    when "result"
      @acks << header["job"]
      finish(job, header, map(map(body)["outputs"])) if job
    end
  rescue MessagePack::UnpackError, EOFError, NoMethodError, TypeError, ArgumentError
    nil # whatever arrives, it goes on (R-2.10)
  end

  def map(value) = value.is_a?(Hash) ? value : {} # an empty array is an empty map, too (R-2.21)

  def welcome(header)
    @acks.clear if @epoch != header["epoch"] # R-8.2
    @ping_s, @dead_s = header["ping_ms"] / 1000.0, header["dead_ms"] / 1000.0
    @limits, @epoch, @welcomed, @refused, @next = header["limits"], header["epoch"], true, 0, 0
    @jobs.values.each { |job| send_job(job) } # R-5.10
  end

  def refused(header, job)
    if header["reason"] == "no_session" then @greeted, @welcomed = @greeted && !@welcomed, false # R-3.9
    elsif job && header["retryable"] && header["reason"] != "no_worker" # section 12.5
      job.epochs -= [@epoch] # R-8.3: what is refused does not count as sent
      job.again_at = now + (header["retry_after_ms"] || job.pause *= 2) / 1000.0 + rand(0.0..0.2)
    elsif job then finish(job, header)
    elsif !@welcomed && (header["retryable"] || (@refused += 1) < @addresses.size) then open_socket # it answers hello
    elsif !@welcomed then @refusal = header
    end
  end

  def chunk(job, header, fields)
    anew = header["reset"] || (job.attempt.positive? && header["attempt"] > job.attempt) # R-9.7
    job.attempt = header["attempt"]
    job.listener.call(:chunk, fields, anew, header)
  end

  def finish(job, header, outputs = nil) = @jobs.delete(job.header["job"])&.listener&.call(:end, header, outputs)

  def fail(job, code, reason) = finish(job, { "code" => code, "reason" => reason, "message" => "the client gave up" })
end

def call(addresses, program, *arguments)
  want = arguments.delete("--stream") ? { "want" => %w[accepted chunks] } : {}
  timeout_ms = (at = arguments.index("--timeout-ms")) ? arguments.slice!(at, 2).last.to_i : 30_000
  inputs, interrupts, code = arguments.to_h { |argument| argument.split("=", 2) }, 0, nil
  trap("INT") { interrupts += 1 }
  client = Client.new(addresses.split(","))
  id = client.submit(program, inputs, timeout_ms, want) do |event, what, more|
    warn "accepted #{what}" if event == :accepted
    warn "#{"reset\n" if more}chunk #{JSON.generate(what)}" if event == :chunk
    next unless event == :end
    code = what["code"] == "OK" ? 0 : 1
    code.zero? ? puts(JSON.generate(more)) : warn(what.values_at("code", "reason", "message").join(" "))
  end
  until code || interrupts > 2
    client.step(0.05)
    client.cancel(id) if interrupts == 1 && (interrupts += 1)
  end
  client.close
  code || 1
end

if __FILE__ == $PROGRAM_NAME
  case ARGV
  in ["drive"] then require_relative "drive" # for the conformance kit
  in [addresses, "call", program, *arguments] then exit call(addresses, program, *arguments)
  else abort "usage: dspymq.rb ADDR[,ADDR...] call PROGRAM [key=value ...] [--stream] [--timeout-ms N]"
  end
end
