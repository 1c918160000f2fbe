// The command line of Dspymq.java: ADDR[,ADDR...] call PROGRAM [key=value ...] [--stream] [--timeout-ms N]
package dspymq;

import static dspymq.Values.*;

import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.msgpack.value.Value;

public final class Main {
    static int call(String addresses, String program, List<String> rest) {
        Map<String, Value> inputs = new LinkedHashMap<>(), fields = new LinkedHashMap<>();
        long timeoutMs = 30_000;
        for (Iterator<String> i = rest.iterator(); i.hasNext(); ) {
            String argument = i.next();
            if (argument.equals("--stream")) fields.put("want", list("accepted", "chunks"));
            else if (argument.equals("--timeout-ms")) timeoutMs = Long.parseLong(i.next());
            else inputs.put(argument.split("=", 2)[0], value(argument.split("=", 2)[1]));
        }
        int[] code = {-1};
        AtomicInteger interrupts = new AtomicInteger();
        sun.misc.Signal.handle(new sun.misc.Signal("INT"), signal -> interrupts.incrementAndGet());
        Dspymq client = new Dspymq(addresses);
        Dspymq.Job job = client.submit(program, inputs, timeoutMs, fields, (event, h, what, anew) -> {
            if (event.equals("accepted")) System.err.println("accepted " + text(h, "state"));
            if (event.equals("chunk")) System.err.println((anew ? "reset\n" : "") + "chunk " + what.toJson());
            if (event.equals("end")) code[0] = text(h, "code").equals("OK") ? 0 : 1;
            if (code[0] == 0) System.out.println(what.toJson());
            if (code[0] == 1) System.err.println(text(h, "code") + " " + text(h, "reason") + " " + text(h, "message"));
        });
        while (code[0] < 0 && interrupts.get() < 3) {
            client.step(50);
            if (interrupts.compareAndSet(1, 2)) client.cancel(job);
        }
        client.close();
        return Math.abs(code[0]);
    }

    public static void main(String[] arguments) throws Exception {
        List<String> list = List.of(arguments);
        if (list.equals(List.of("drive"))) Drive.drive();
        boolean calls = list.size() > 2 && list.get(1).equals("call");
        if (calls) System.exit(call(list.get(0), list.get(2), list.subList(3, list.size())));
        System.err.println("usage: ADDR[,ADDR...] call PROGRAM [key=value ...] [--stream] [--timeout-ms N]");
        System.exit(2);
    }
}
