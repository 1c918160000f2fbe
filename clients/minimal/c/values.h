/* msgpack maps for dspymq.c: writing a header key by key, reading by name, and printing values as JSON. */
#ifndef DSPYMQ_VALUES_H
#define DSPYMQ_VALUES_H
#include <math.h>
#include <msgpack.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef const msgpack_object *object;
static msgpack_sbuffer header; /* the header that is being written: begin, then put ... */
static msgpack_packer head;

static void str(msgpack_packer *p, const char *text) { msgpack_pack_str_with_body(p, text, strlen(text)); }
/* The head of a map of up to 15 keys is one octet, 80 + their number, so one more key is one more there. */
static void key(const char *name) { header.data[0]++, str(&head, name); }
static void put(const char *name, const char *text) { key(name), str(&head, text); }
static void put_int(const char *name, int64_t number) { key(name), msgpack_pack_int64(&head, number); }
static void put_list(const char *name, const char *one) { key(name), msgpack_pack_array(&head, 1), str(&head, one); }
static void begin(const char *type) {
    msgpack_sbuffer_clear(&header), msgpack_packer_init(&head, &header, msgpack_sbuffer_write);
    msgpack_pack_map(&head, 0), put("t", type);
}

static bool equal(msgpack_object_str text, const char *word) {
    return text.size == strlen(word) && !memcmp(text.ptr, word, text.size);
}
/* The value of a key; the last one, if it stands there twice. What is not there, or not of that type, is nil, which
   reads as 0, false and "" as well. */
static object get(object map, const char *name, msgpack_object_type type) {
    static const msgpack_object nil = {.type = MSGPACK_OBJECT_NIL};
    for (uint32_t i = map->type == MSGPACK_OBJECT_MAP ? map->via.map.size : 0; i-- > 0;) {
        object k = &map->via.map.ptr[i].key, value = &map->via.map.ptr[i].val;
        if (k->type == MSGPACK_OBJECT_STR && equal(k->via.str, name)) return value->type == type ? value : &nil;
    }
    return &nil;
}
static int64_t integer(object map, const char *name) {
    return (int64_t)get(map, name, MSGPACK_OBJECT_POSITIVE_INTEGER)->via.u64;
}
static bool is_true(object map, const char *name) { return get(map, name, MSGPACK_OBJECT_BOOLEAN)->via.boolean; }
static msgpack_object_str text(object map, const char *name) { return get(map, name, MSGPACK_OBJECT_STR)->via.str; }
#define TEXT(map, name) (int)text(map, name).size, text(map, name).ptr /* for "%.*s" */
static bool is(object map, const char *name, const char *word) { return equal(text(map, name), word); }

/* What JSON has no form for (bin, ext, NaN) is written as null. */
static void print_json(FILE *file, object o) {
    bool map = o->type == MSGPACK_OBJECT_MAP;
    if (o->type == MSGPACK_OBJECT_STR) {
        fputc('"', file);
        for (uint32_t i = 0; i < o->via.str.size; i++) {
            unsigned char c = (unsigned char)o->via.str.ptr[i];
            fprintf(file, c < 32 ? "\\u%04x" : c == '"' || c == '\\' ? "\\%c" : "%c", c);
        }
        fputc('"', file);
    } else if (map || o->type == MSGPACK_OBJECT_ARRAY) {
        fputc(map ? '{' : '[', file);
        for (uint32_t i = 0; i < o->via.array.size; i++) {
            if (i) fputc(',', file);
            print_json(file, map ? &o->via.map.ptr[i].key : &o->via.array.ptr[i]);
            if (map) fputc(':', file), print_json(file, &o->via.map.ptr[i].val);
        }
        fputc(map ? '}' : ']', file);
    } else if ((o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64) && isfinite(o->via.f64)) {
        fprintf(file, "%.17g", o->via.f64);
    } else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER || o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ||
               o->type == MSGPACK_OBJECT_BOOLEAN) {
        msgpack_object_print(file, *o);
    } else {
        fputs("null", file);
    }
}
#endif
