// Maps of msgpack values for Dspymq.java: writing, and reading by name.
package dspymq;

import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;
import org.msgpack.core.MessageBufferPacker;
import org.msgpack.core.MessagePack;
import org.msgpack.core.MessageUnpacker;
import org.msgpack.value.Value;
import org.msgpack.value.ValueFactory;

final class Values {
    private Values() { }

    /** A map of key, value, key, value ...; values are msgpack values, longs, or anything else as its text. */
    static Map<String, Value> map(Object... pairs) {
        Map<String, Value> map = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) map.put((String) pairs[i], value(pairs[i + 1]));
        return map;
    }

    static Value value(Object it) {
        if (it instanceof Value value) return value;
        if (it instanceof Long number) return ValueFactory.newInteger(number);
        if (!(it instanceof Map<?, ?> map)) return ValueFactory.newString(it.toString());
        ValueFactory.MapBuilder builder = ValueFactory.newMapBuilder();
        map.forEach((key, value) -> builder.put(value(key), value(value)));
        return builder.build();
    }

    static Value list(String... texts) {
        Value[] values = new Value[texts.length];
        for (int i = 0; i < texts.length; i++) values[i] = value(texts[i]);
        return ValueFactory.newArray(values);
    }

    /** The entries of a map, without those that are nil; of anything else none: [] is an empty map, too. */
    static Map<String, Value> entries(Value value) {
        Map<String, Value> map = new LinkedHashMap<>();
        if (value == null || !value.isMapValue()) return map;
        value.asMapValue().map().forEach((key, one) -> map.put(key.toString(), one));
        map.values().removeIf(Value::isNilValue);
        return map;
    }

    static String text(Map<String, Value> map, String key) {
        return map.containsKey(key) ? map.get(key).asStringValue().asString() : "";
    }

    static long number(Map<String, Value> map, String key) {
        return map.containsKey(key) ? map.get(key).asIntegerValue().asLong() : 0;
    }

    static boolean flag(Map<String, Value> map, String key) {
        return map.containsKey(key) && map.get(key).asBooleanValue().getBoolean();
    }

    static byte[] pack(Map<String, Value> map) {
        try (MessageBufferPacker packer = MessagePack.newDefaultBufferPacker()) {
            packer.packValue(value(map));
            return packer.toByteArray();
        } catch (IOException impossible) {
            throw new AssertionError(impossible); // it is written to memory
        }
    }

    static Map<String, Value> unpack(byte[] octets) throws IOException {
        if (octets.length == 0) return new LinkedHashMap<>();
        try (MessageUnpacker unpacker = MessagePack.newDefaultUnpacker(octets)) {
            return entries(unpacker.unpackValue());
        }
    }
}
