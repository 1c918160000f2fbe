/* The driver of dspymq.c for `dspymq conformance client`: see docs/conformance-drivers.md. */
#include <poll.h>
#include <unistd.h>

enum { FIELDS = 8 };
typedef struct { /* what is known of a call: its name, and its text so far */
    char call[65], *names[FIELDS], *texts[FIELDS];
    int count;
    int64_t attempt, chunks;
} report;

static void forget_text(report *r) {
    for (; r->count > 0; r->count--) free(r->names[r->count - 1]), free(r->texts[r->count - 1]);
}
static void add_text(report *r, msgpack_object_str name, msgpack_object_str piece, bool replaces) {
    int i = 0;
    while (i < r->count && !equal(name, r->names[i])) i++;
    if (i == FIELDS) return;
    if (i == r->count) r->names[i] = strndup(name.ptr, name.size), r->texts[r->count++] = strdup("");
    size_t old = replaces ? 0 : strlen(r->texts[i]);
    r->texts[i] = realloc(r->texts[i], old + piece.size + 1);
    memcpy(r->texts[i] + old, piece.ptr, piece.size), r->texts[i][old + piece.size] = 0;
}
static void print_text(const char *text) {
    print_json(stdout, &(msgpack_object){.type = MSGPACK_OBJECT_STR, .via.str = {strlen(text), text}});
}
static void say_text(report *r) {
    fputs("{\"text\":{\"call\":", stdout), print_text(r->call), fputs(",\"fields\":{", stdout);
    for (int i = 0; i < r->count; i++) {
        fputs(i ? "," : "", stdout), print_text(r->names[i]), putchar(':'), print_text(r->texts[i]);
    }
    fputs("}}}\n", stdout), fflush(stdout);
}
static void say_outcome(report *r, object m, object body) {
    const char *codes = " OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
                        "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
                        "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED ";
    object outputs = get(body, "outputs", MSGPACK_OBJECT_MAP);
    char code[68];
    snprintf(code, sizeof code, " %.*s ", TEXT(m, "code"));
    bool known = strstr(codes, code), ok = is(m, "code", "OK"); /* */
    if (ok && r->count && (integer(m, "attempt") != r->attempt || integer(m, "chunks") != r->chunks)) { /* */
        for (uint32_t i = 0; outputs->type == MSGPACK_OBJECT_MAP && i < outputs->via.map.size; i++) {
            msgpack_object_kv *pair = &outputs->via.map.ptr[i];
            if (pair->val.type == MSGPACK_OBJECT_STR) add_text(r, pair->key.via.str, pair->val.via.str, true);
        }
        say_text(r);
    }
    fputs("{\"outcome\":{\"call\":", stdout), print_text(r->call);
    fputs(",\"code\":", stdout), known ? print_json(stdout, get(m, "code", MSGPACK_OBJECT_STR)) : print_text("UNKNOWN");
    fputs(",\"reason\":", stdout), print_json(stdout, get(m, "reason", MSGPACK_OBJECT_STR));
    fputs(",\"message\":", stdout), print_json(stdout, get(m, "message", MSGPACK_OBJECT_STR));
    if (ok) fputs(",\"outputs\":", stdout);
    if (ok && outputs->type == MSGPACK_OBJECT_MAP) print_json(stdout, outputs);
    else if (ok) fputs("{}", stdout); /* an empty array is an empty map, too */
    printf(",\"attempt\":%lld}}\n", (long long)integer(m, "attempt")), fflush(stdout);
}
static void report_event(job *j, const char *event, object m, object body) {
    report *r = j->user;
    object fields = get(body, "fields", MSGPACK_OBJECT_MAP);
    int64_t attempt = integer(m, "attempt"), seq = integer(m, "seq");
    if (!strcmp(event, "reset") || (!strcmp(event, "chunk") && attempt > r->attempt)) {
        forget_text(r), r->attempt = attempt, r->chunks = seq;
    }
    if (!strcmp(event, "chunk")) {
        r->chunks = r->chunks == seq ? seq + 1 : -1; /* -1: some are missing */
        for (uint32_t i = 0; fields->type == MSGPACK_OBJECT_MAP && i < fields->via.map.size; i++)
            add_text(r, fields->via.map.ptr[i].key.via.str, fields->via.map.ptr[i].val.via.str, false);
        say_text(r);
    }
    if (!strcmp(event, "end")) say_outcome(r, m, body), forget_text(r), free(r), free((char *)j->program);
}

static void utf8(char **to, unsigned long c) {
    if (c < 0x80) *(*to)++ = c;
    else if (c < 0x800) *(*to)++ = 0xc0 | c >> 6, *(*to)++ = 0x80 | (c & 63);
    else if (c < 0x10000) *(*to)++ = 0xe0 | c >> 12, *(*to)++ = 0x80 | (c >> 6 & 63), *(*to)++ = 0x80 | (c & 63);
    else {
        *(*to)++ = 0xf0 | c >> 18, *(*to)++ = 0x80 | (c >> 12 & 63);
        *(*to)++ = 0x80 | (c >> 6 & 63), *(*to)++ = 0x80 | (c & 63);
    }
}
static unsigned long hex4(const char *c) { return strtoul((char[]){c[0], c[1], c[2], c[3], 0}, NULL, 16); }
/* Writes a JSON value as msgpack; returns where it ends. Maps and arrays get their long heads, filled in at the end. */
static const char *convert(const char *c, msgpack_packer *p, msgpack_sbuffer *buffer) {
    while (strchr(" \t,:", *c)) c++;
    if (*c == '{' || *c == '[') {
        bool map = *c++ == '{';
        size_t at = buffer->size;
        uint32_t count = 0;
        msgpack_sbuffer_write(buffer, map ? "\xdf\0\0\0" : "\xdd\0\0\0", 5);
        for (; strchr(" \t,:", *c) || !strchr("]}", *c); count++) {
            while (strchr(" \t,:", *c)) c++;
            if (strchr("]}", *c)) break;
            c = convert(c, p, buffer);
        }
        if (map) count /= 2;
        for (int i = 0; i < 4; i++) buffer->data[at + 1 + i] = (char)(count >> (24 - 8 * i));
        return c + 1;
    }
    if (*c == '"') {
        char *text = malloc(strlen(c) + 1), *to = text;
        while (*++c != '"') {
            const char *escape = *c == '\\' ? strchr("n\nr\rt\tb\bf\f", c[1]) : NULL;
            if (*c != '\\') *to++ = *c;
            else if (c[1] == 'u') {
                unsigned long u = hex4(c + 2);
                c += 5;
                if (u >= 0xd800 && u < 0xdc00) u = 0x10000 + ((u - 0xd800) << 10) + hex4(c + 3) - 0xdc00, c += 6;
                utf8(&to, u);
            } else *to++ = escape ? escape[1] : c[1], c++;
        }
        msgpack_pack_str_with_body(p, text, to - text), free(text);
        return c + 1;
    }
    if (*c == 't') return msgpack_pack_true(p), c + 4;
    if (*c == 'f') return msgpack_pack_false(p), c + 5;
    if (*c == 'n') return msgpack_pack_nil(p), c + 4;
    size_t size = strcspn(c, ",]} ");
    if (strcspn(c, ".eE") < size) msgpack_pack_double(p, atof(c));
    else msgpack_pack_int64(p, atoll(c));
    return c + size;
}

static void obey(object told_line) {
    char name[65];
    job *j = jobs;
    snprintf(name, sizeof name, "%.*s", TEXT(told_line, "call"));
    while (j && strcmp(((report *)j->user)->call, name)) j = j->next;
    if (is(told_line, "tell", "submit")) {
        object options = get(told_line, "options", MSGPACK_OBJECT_MAP);
        int64_t timeout_ms = integer(told_line, "timeout_ms"), window = integer(told_line, "window");
        msgpack_object_str program = text(told_line, "program");
        msgpack_packer p;
        j = new_job(strndup(program.ptr, program.size), timeout_ms ? timeout_ms : 60000);
        j->user = calloc(1, sizeof(report)), strcpy(((report *)j->user)->call, name);
        msgpack_packer_init(&p, &j->body, msgpack_sbuffer_write);
        msgpack_pack_map(&p, 1), str(&p, "inputs");
        msgpack_pack_object(&p, *get(told_line, "inputs", MSGPACK_OBJECT_MAP));
        msgpack_packer_init(&p, &j->more, msgpack_sbuffer_write);
        for (uint32_t i = 0; options->type == MSGPACK_OBJECT_MAP && i < options->via.map.size; i++, j->more_count++)
            msgpack_pack_object(&p, options->via.map.ptr[i].key), msgpack_pack_object(&p, options->via.map.ptr[i].val);
        if (window) str(&p, "window"), msgpack_pack_int64(&p, window), j->more_count++;
        if (is_true(told_line, "stream")) {
            str(&p, "want"), msgpack_pack_array(&p, 1), str(&p, "chunks"), j->more_count++;
        }
    } else if (is(told_line, "tell", "cancel")) {
        if (j) cancel(j); /* it may just have ended */
    } else if (is(told_line, "tell", "close")) stop(), s.socket = NULL;
    else puts("{\"problem\":\"this is not supported\"}"), fflush(stdout);
}

static int drive(void) {
    static char lines[1 << 22];
    size_t size = 0;
    char *addresses = getenv("DSPYMQ_BROKERS");
    if (!addresses) return fputs("DSPYMQ_BROKERS is not set\n", stderr), 2;
    told = report_event, start(strdup(addresses));
    fputs("{\"ready\":true,\"supports\":[\"call\",\"options\",\"stream\",\"cancel\",", stdout);
    puts("\"failover\",\"resume\",\"close\"]}"), fflush(stdout);
    for (;;) {
        if (poll(&(struct pollfd){.fd = 0, .events = POLLIN}, 1, s.socket ? 0 : 1000) > 0) {
            ssize_t got = read(0, lines + size, sizeof lines - 1 - size);
            if (got <= 0) return 0;
            lines[size += got] = 0;
            for (char *end_of_line; (end_of_line = strchr(lines, '\n'));) {
                msgpack_sbuffer buffer = {0};
                msgpack_unpacked line = {0};
                msgpack_packer p;
                *end_of_line = 0, msgpack_packer_init(&p, &buffer, msgpack_sbuffer_write), convert(lines, &p, &buffer);
                msgpack_unpack_next(&line, buffer.data, buffer.size, NULL), obey(&line.data);
                msgpack_unpacked_destroy(&line), msgpack_sbuffer_destroy(&buffer);
                size -= end_of_line + 1 - lines, memmove(lines, end_of_line + 1, size + 1);
            }
        }
        if (s.socket) step(20);
    }
}
