// The driver of Dspymq.java for `dspymq conformance client`: see docs/conformance-drivers.md.
package dspymq;

import static dspymq.Values.*;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.LinkedBlockingQueue;
import org.msgpack.value.Value;
import org.msgpack.value.ValueFactory;

final class Drive {
    private static final Set<String> CODES = Set.of("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION", "ABORTED",
            "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED");

    /** Puts the text of one call together, and says what its caller would see. */
    private static final class Report implements Dspymq.Listener {
        private final String call;
        private Map<String, Value> text = new LinkedHashMap<>();
        private long attempt, chunks;

        Report(String call) { this.call = call; }

        @Override public void told(String event, Map<String, Value> h, Value what, boolean anew) {
            if (event.equals("chunk")) {
                long seq = number(h, "seq");
                if (anew || number(h, "attempt") > attempt) {
                    text = new LinkedHashMap<>();
                    chunks = seq;
                }
                attempt = number(h, "attempt");
                chunks = chunks == seq ? seq + 1 : -1; // -1: some are missing
                entries(what).forEach((name, piece) -> text.merge(name, piece, (a, b) -> value(a + "" + b)));
                say("text", map("call", call, "fields", value(text)));
            } else if (event.equals("end")) {
                String code = CODES.contains(text(h, "code")) ? text(h, "code") : "UNKNOWN";
                boolean whole = number(h, "attempt") == attempt && number(h, "chunks") == chunks;
                if (code.equals("OK") && !text.isEmpty() && !whole) {
                    Map<String, Value> outputs = entries(what);
                    outputs.keySet().retainAll(text.keySet());
                    say("text", map("call", call, "fields", value(outputs)));
                }
                Map<String, Value> outcome = map("call", call, "code", code);
                Map<String, Value> said = new LinkedHashMap<>(h);
                said.keySet().retainAll(List.of("reason", "message", "attempt"));
                outcome.putAll(said);
                if (code.equals("OK")) outcome.put("outputs", what);
                say("outcome", outcome);
            }
        }
    }

    private static void say(String key, Map<String, Value> what) {
        System.out.println(value(map(key, value(what))).toJson());
    }

    private static void obey(Dspymq client, Map<String, Dspymq.Job> calls, Map<String, Value> told) {
        String call = text(told, "call");
        switch (text(told, "tell")) {
            case "submit":
                Map<String, Value> fields = entries(told.get("options"));
                if (flag(told, "stream")) fields.put("want", list("chunks"));
                if (told.containsKey("window")) fields.put("window", told.get("window"));
                long timeoutMs = told.containsKey("timeout_ms") ? number(told, "timeout_ms") : 60_000;
                Map<String, Value> inputs = entries(told.get("inputs"));
                calls.put(call, client.submit(text(told, "program"), inputs, timeoutMs, fields, new Report(call)));
                break;
            case "cancel":
                client.cancel(calls.get(call));
                break;
            case "close":
                client.close();
                break;
            default:
                System.out.println(value(map("problem", "this is not supported")).toJson());
        }
    }

    static void drive() throws Exception {
        Dspymq client = new Dspymq(System.getenv("DSPYMQ_BROKERS"));
        Map<String, Dspymq.Job> calls = new HashMap<>();
        LinkedBlockingQueue<String> lines = new LinkedBlockingQueue<>();
        Thread reader = new Thread(() -> {
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines().forEach(lines::add);
            Runtime.getRuntime().halt(0);
        });
        reader.start();
        Value supports = list("call", "options", "stream", "cancel", "failover", "resume", "close");
        System.out.println(value(map("ready", ValueFactory.newBoolean(true), "supports", supports)).toJson());
        for (boolean closed = false; ; ) {
            String line = closed ? lines.take() : lines.poll();
            if (line == null) client.step(20);
            else obey(client, calls, entries(new Json(line).read()));
            closed |= line != null && line.contains("\"close\"");
        }
    }

    /** A reader for one line of JSON. */
    private static final class Json {
        private final String line;
        private int at;

        Json(String line) { this.line = line; }

        private char next() {
            while (Character.isWhitespace(line.charAt(at)) || line.charAt(at) == ',' || line.charAt(at) == ':') at++;
            return line.charAt(at++);
        }

        Value read() {
            char first = next();
            if (first == '"') return value(string());
            if (first == '{' || first == '[') {
                List<Value> values = new ArrayList<>();
                while (next() != (first == '{' ? '}' : ']')) {
                    at--;
                    values.add(read());
                }
                Value[] array = values.toArray(new Value[0]);
                return first == '{' ? ValueFactory.newMap(array) : ValueFactory.newArray(array);
            }
            int end = at--;
            while (end < line.length() && ",]} ".indexOf(line.charAt(end)) < 0) end++;
            String word = line.substring(at, end);
            at = end;
            return switch (word) {
                case "true", "false" -> ValueFactory.newBoolean(word.equals("true"));
                case "null" -> ValueFactory.newNil();
                default -> word.matches("-?\\d+") ? ValueFactory.newInteger(Long.parseLong(word))
                        : ValueFactory.newFloat(Double.parseDouble(word));
            };
        }

        private String string() {
            StringBuilder text = new StringBuilder();
            for (char c; (c = line.charAt(at++)) != '"'; ) {
                if (c != '\\') {
                    text.append(c);
                    continue;
                }
                c = line.charAt(at++);
                int escape = "nrtbf".indexOf(c);
                if (c == 'u') text.append((char) Integer.parseInt(line.substring(at, at += 4), 16));
                else text.append(escape < 0 ? c : "\n\r\t\b\f".charAt(escape));
            }
            return text.toString();
        }
    }
}
