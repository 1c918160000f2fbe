// A small DJP/1 client over JeroMQ and msgpack-java: calls, streams, cancel, failover. R-... are rules of SPEC.md.
package dspymq;

import static dspymq.Values.*;

import java.util.*;
import java.util.concurrent.locks.LockSupport;
import org.msgpack.core.MessagePackException;
import org.msgpack.value.Value;
import org.msgpack.value.ValueFactory;
import org.zeromq.ZMQ;

final class Dspymq {
    /** Told "accepted"; each "chunk", with its fields and whether they replace all text; once "end", with outputs. */
    interface Listener { void told(String event, Map<String, Value> header, Value what, boolean anew); }

    static final class Job {
        Map<String, Value> header;
        byte[] body; // kept, to be sent again as it is
        long deadline, againAt, attempt, pause = 50; // times are milliseconds of a clock that never goes back
        boolean cancelled; Listener listener;
        String lastEpoch = "", otherEpoch = ""; // under which it was sent
    }

    private static final byte[] TAG = {'D', 'J', 'P', '1'};
    private final Map<String, Job> jobs = new LinkedHashMap<>();
    private final List<Value> acks = new ArrayList<>();
    private final List<String> addresses;
    private final ZMQ.Context context = ZMQ.context(1);
    private ZMQ.Socket socket;
    private boolean greeted, welcomed;
    private String epoch = "";
    private Map<String, Value> refusal;
    private long since, heard, sent, turn = now(), pause = 50, pingMs, deadMs, maxHeader, maxBody, refused, next;

    Dspymq(String list) { addresses = Arrays.asList(list.split(",")); openSocket(); }

    static long now() { return System.nanoTime() / 1_000_000; }

    Job submit(String program, Map<String, Value> inputs, long timeoutMs, Map<String, Value> fields, Listener told) {
        Job job = new Job();
        job.header = map("t", "submit", "job", UUID.randomUUID(), "program", program);
        job.header.putAll(fields);
        job.body = pack(map("inputs", value(inputs)));
        job.deadline = now() + timeoutMs; job.listener = told;
        jobs.put(text(job.header, "job"), job);
        return job;
    }

    void cancel(Job job) { // what was not sent yet is sent with its cancel
        job.cancelled = true;
        if (welcomed && job.againAt < 0 && jobs.containsValue(job)) send(map("t", "cancel", "job", job.header.get("job")));
    }

    void step(long waitMs) { // takes in what has come, and does what time asks for
        ZMQ.Poller poller = new ZMQ.Poller(1);
        poller.register(socket, ZMQ.Poller.POLLIN); poller.poll(waitMs);
        for (byte[] first; (first = socket.recv(ZMQ.DONTWAIT)) != null; ) {
            List<byte[]> frames = new ArrayList<>(List.of(first));
            while (socket.hasReceiveMore()) frames.add(socket.recv());
            heard = now();
            if (frames.size() == 2) frames.add(new byte[0]);
            if (frames.size() != 3 || !Arrays.equals(first, TAG)) continue;
            try { take(unpack(frames.get(1)), unpack(frames.get(2))); }
            catch (java.io.IOException | MessagePackException junk) { continue; } // it goes on
        }
        if (welcomed && !acks.isEmpty()) send(map("t", "ack", "jobs", ValueFactory.newArray(acks)));
        acks.clear(); keepSession(now());
        for (Job job : List.copyOf(jobs.values())) {
            if (welcomed && job.againAt >= 0 && now() >= job.againAt) sendJob(job);
            if (refusal != null) end(job, refusal, null); // no broker takes this client
            if (now() >= job.deadline + (welcomed ? 10_000 : 0)) fail(job, "DEADLINE_EXCEEDED", "deadline");
        }
    }

    void close() { // what still runs is cancelled with that
        step(0);
        if (welcomed) send(map("t", "bye"));
        socket.setLinger(1000); socket.close(); context.term();
    }

    private void openSocket() { // at the next address, after a growing pause
        if (socket != null) socket.close();
        if (socket != null) LockSupport.parkNanos((long) (pause * 1e6 * (0.5 + Math.random() / 2)));
        pause = Math.min(pause * 2, 1000); socket = context.socket(ZMQ.DEALER);
        socket.setLinger(0); socket.setDelayAttachOnConnect(true); // newer libraries call it IMMEDIATE
        socket.connect(addresses.get((int) (next++ % addresses.size())));
        since = now(); greeted = welcomed = false; refusal = null;
    }

    private void keepSession(long now) {
        if (now - turn > 1000) heard = since = now; // this process was stopped itself: silence proves nothing
        turn = now;
        boolean connected = (socket.getEvents() & ZMQ.Poller.POLLOUT) != 0;
        if (greeted != connected) { // the connection is lost, or new
            if (connected) send(map("t", "hello", "name", "minimal-java", "lang", "java", "features", list("ack")));
            greeted = connected; welcomed = false; since = now;
        } else if (welcomed ? now - heard >= deadMs : now - since >= (greeted ? 5000 : 1000)) openSocket();
        else if (welcomed && now - sent >= pingMs) send(map("t", "ping"));
    }

    private void send(Map<String, Value> header, byte[]... body) { // while it is not connected nothing is sent
        if (!socket.send(TAG, ZMQ.DONTWAIT | ZMQ.SNDMORE)) return;
        socket.send(pack(header), body.length == 0 ? 0 : ZMQ.SNDMORE);
        for (byte[] octets : body) socket.send(octets, 0);
        sent = now();
    }

    private void sendJob(Job job) {
        Map<String, Value> header = new LinkedHashMap<>(job.header);
        header.put("timeout_ms", value(job.deadline - now()));
        if (!job.lastEpoch.equals(epoch)) job.otherEpoch = job.lastEpoch; // the last other one under which it was sent
        String known = job.otherEpoch.isEmpty() ? epoch : job.otherEpoch;
        if (!job.lastEpoch.isEmpty()) header.put("known_epoch", value(known));
        job.lastEpoch = epoch;
        job.againAt = -1;
        if (job.deadline <= now()) fail(job, "DEADLINE_EXCEEDED", "deadline");
        else if (pack(header).length > maxHeader) fail(job, "RESOURCE_EXHAUSTED", "header_too_large");
        else if (job.body.length > maxBody) fail(job, "RESOURCE_EXHAUSTED", "body_too_large");
        else send(header, job.body);
        if (job.cancelled) cancel(job);
    }

    private void take(Map<String, Value> h, Map<String, Value> body) { // what is not named here is ignored
        Job job = jobs.get(text(h, "job"));
        switch (text(h, "t")) {
            case "ping": send(map("t", "pong", "n", number(h, "n"))); break;
            case "bye": openSocket(); break;
            case "welcome": if (!welcomed) welcome(h, entries(h.get("limits"))); break;
            case "error": refused(h, job, text(h, "reason")); break;
            case "accepted": if (job != null) job.listener.told("accepted", h, null, false); break;
            case "chunk": if (job != null) chunk(job, h, body.get("fields")); break;
            case "result":
                acks.add(h.get("job"));
                if (job != null) end(job, h, value(entries(body.get("outputs"))));
        }
    }

    private void welcome(Map<String, Value> h, Map<String, Value> limits) {
        if (!text(h, "epoch").equals(epoch)) acks.clear();
        epoch = text(h, "epoch");
        pingMs = number(h, "ping_ms"); deadMs = number(h, "dead_ms");
        maxHeader = number(limits, "max_header_bytes"); maxBody = number(limits, "max_body_bytes");
        welcomed = true; refused = 0; next = 0;
        for (Job job : List.copyOf(jobs.values())) sendJob(job);
    }

    private void refused(Map<String, Value> h, Job job, String reason) {
        boolean retryable = flag(h, "retryable") && !reason.equals("no_worker");
        if (reason.equals("no_session")) { // one hello is enough
            greeted &= !welcomed; welcomed = false;
        } else if (job != null && retryable) { // section 12.5
            job.lastEpoch = job.otherEpoch; // what is refused does not count as sent
            job.againAt = now() + Math.max(number(h, "retry_after_ms"), job.pause *= 2) + (long) (Math.random() * 200);
        } else if (job != null) end(job, h, null);
        else if (!welcomed && (retryable || ++refused < addresses.size())) openSocket(); // the answer to hello
        else if (!welcomed) refusal = h;
    }

    private void chunk(Job job, Map<String, Value> h, Value fields) {
        if (number(h, "attempt") < job.attempt) return;
        boolean anew = flag(h, "reset") || (job.attempt > 0 && number(h, "attempt") > job.attempt);
        job.attempt = number(h, "attempt");
        job.listener.told("chunk", h, fields, anew);
    }

    private void end(Job job, Map<String, Value> h, Value outputs) {
        if (jobs.values().remove(job)) job.listener.told("end", h, outputs, false);
    }

    private void fail(Job job, String code, String reason) { end(job, map("code", code, "reason", reason), null); }
}
