/* A small DJP/1 client over libzmq and msgpack-c: calls, streams, cancel, failover. R-... are rules of SPEC.md.
   start, new_job, step until `told` hears the end of each job, stop. One thread only. */
#pragma once
#include "values.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <zmq.h>

static struct { /* the session; times are milliseconds of `clock`, which never goes back */
    void *context, *socket, *clock;
    char *addresses[16], epoch[65], refusal[256];
    int count, next, refused;
    bool greeted, welcomed;
    int64_t since, turn, heard, sent, pause, ping_ms, dead_ms, max_header, max_body;
} s = {.pause = 50};
typedef struct job {
    char id[37], last_epoch[65], other_epoch[65];
    const char *program;
    void *user;
    msgpack_sbuffer body, more; /* body: kept, to be sent again as it is; more: further fields of `submit` */
    int64_t deadline, again_at, attempt, pause, more_count;
    bool cancelled;
    struct job *next;
} job;
static job *jobs;
static void (*told)(job *j, const char *event, object header, object body); /* accepted, chunk, reset, and once end */

static int64_t now_ms(void) { return zmq_stopwatch_intermediate(s.clock) / 1000; }
static void send_header(const msgpack_sbuffer *body) {
    if (zmq_send(s.socket, "DJP1", 4, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) return; /* not connected: see keep_session */
    zmq_send(s.socket, header.data, header.size, body ? ZMQ_SNDMORE : 0);
    if (body) zmq_send(s.socket, body->data, body->size, 0);
    s.sent = now_ms();
}
static void open_socket(void) { /* at the next address, after a growing pause */
    const int options[3][2] = {{ZMQ_LINGER, 0}, {ZMQ_IMMEDIATE, 1}, {ZMQ_RECONNECT_IVL_MAX, 1000}};
    if (s.socket) zmq_close(s.socket), zmq_poll(NULL, 0, s.pause / 2 + rand() % s.pause / 2);
    s.pause = s.pause < 500 ? s.pause * 2 : 1000, s.socket = zmq_socket(s.context, ZMQ_DEALER);
    for (int i = 0; i < 3; i++) zmq_setsockopt(s.socket, options[i][0], &options[i][1], sizeof(int));
    if (zmq_connect(s.socket, s.addresses[s.next])) perror(s.addresses[s.next]), exit(1);
    s.next = (s.next + 1) % s.count, s.since = now_ms(), s.greeted = s.welcomed = false, *s.refusal = 0;
}
static void start(char *list) {
    for (char *a = strtok(list, ","); a && s.count < 16; a = strtok(NULL, ",")) s.addresses[s.count++] = a;
    s.clock = zmq_stopwatch_start(), s.context = zmq_ctx_new(), open_socket();
}
static void stop(void) { /* what still runs is cancelled with that */
    if (s.welcomed) begin("bye"), send_header(NULL);
    zmq_setsockopt(s.socket, ZMQ_LINGER, &(int){1000}, sizeof(int)), zmq_close(s.socket), zmq_ctx_term(s.context);
}

static job *new_job(const char *program, int64_t timeout_ms) { /* to be filled: its `body`; `step` sends it */
    unsigned char random[16];
    job *j = calloc(1, sizeof *j), **last = &jobs;
    if (!j || getrandom(random, 16, 0) != 16) perror("new job"), exit(1);
    for (int i = 0; i < 16; i++) sprintf(j->id + 2 * i, "%02x", random[i]);
    while (*last) last = &(*last)->next;
    j->program = program, j->deadline = now_ms() + timeout_ms, j->again_at = 1, j->pause = 50;
    return *last = j;
}
static void end(job *j, object m, object body) {
    job **at = &jobs;
    while (*at != j) at = &(*at)->next;
    *at = j->next, told(j, "end", m, body);
    msgpack_sbuffer_destroy(&j->body), msgpack_sbuffer_destroy(&j->more), free(j);
}
static void fail(job *j, const char *code, const char *reason) {
    msgpack_unpacked m = {0};
    begin("result"), put("code", code), put("reason", reason), put("message", "the client gave up");
    msgpack_unpack_next(&m, header.data, header.size, NULL), end(j, &m.data, &m.data), msgpack_unpacked_destroy(&m);
}
static void cancel(job *j) { /* what was not sent yet is sent with its cancel */
    j->cancelled = true;
    if (s.welcomed && !j->again_at) begin("cancel"), put("job", j->id), send_header(NULL);
}
static void send_job(job *j) {
    const char *known = strcmp(j->last_epoch, s.epoch) ? j->last_epoch : j->other_epoch; /* */
    begin("submit"), put("job", j->id), put("program", j->program), put_int("timeout_ms", j->deadline - now_ms());
    if (*j->last_epoch) put("known_epoch", *known ? known : s.epoch);
    header.data[0] += j->more_count, msgpack_sbuffer_write(&header, j->more.data ? j->more.data : "", j->more.size);
    if (j->deadline <= now_ms()) return fail(j, "DEADLINE_EXCEEDED", "deadline"); /* */
    if ((int64_t)header.size > s.max_header) return fail(j, "RESOURCE_EXHAUSTED", "header_too_large"); /* */
    if ((int64_t)j->body.size > s.max_body) return fail(j, "RESOURCE_EXHAUSTED", "body_too_large");
    send_header(&j->body), j->again_at = 0;
    if (strcmp(j->last_epoch, s.epoch)) strcpy(j->other_epoch, j->last_epoch), strcpy(j->last_epoch, s.epoch);
    if (j->cancelled) cancel(j);
}

static void take(object m, object body) { /* what is not named here is ignored */
    bool error = is(m, "t", "error"), retryable = is_true(m, "retryable");
    int64_t attempt = integer(m, "attempt");
    job *j = jobs;
    while (j && !is(m, "job", j->id)) j = j->next;
    if (is(m, "t", "ping")) begin("pong"), put_int("n", integer(m, "n")), send_header(NULL);
    else if (is(m, "t", "bye")) open_socket();
    else if (is(m, "t", "welcome") && !s.welcomed) {
        snprintf(s.epoch, sizeof s.epoch, "%.*s", TEXT(m, "epoch")), s.welcomed = true, s.refused = s.next = 0;
        s.ping_ms = integer(m, "ping_ms"), s.dead_ms = integer(m, "dead_ms");
        s.max_header = integer(get(m, "limits", MSGPACK_OBJECT_MAP), "max_header_bytes");
        s.max_body = integer(get(m, "limits", MSGPACK_OBJECT_MAP), "max_body_bytes");
        for (j = jobs; j; j = j->next) j->again_at = 1; /* all are sent, for the first time or again */
    } else if (error && is(m, "reason", "no_session")) s.greeted &= !s.welcomed, s.welcomed = false; /* */
    else if (error && j && retryable && !is(m, "reason", "no_worker")) /* section 12.5 */
        strcpy(j->last_epoch, j->other_epoch), /* what is refused does not count as sent */
            j->again_at = now_ms() + integer(m, "retry_after_ms") + (j->pause *= 2) + rand() % 200;
    else if (error && !j && !s.welcomed && (retryable || ++s.refused < s.count)) open_socket(); /* answers hello */
    else if (error && !j && !s.welcomed) snprintf(s.refusal, sizeof s.refusal, "%.*s", TEXT(m, "code"));
    else if (is(m, "t", "result")) {
        begin("ack"), key("jobs"), msgpack_pack_array(&head, 1);
        msgpack_pack_object(&head, *get(m, "job", MSGPACK_OBJECT_STR)), send_header(NULL);
        if (j) end(j, m, body);
    } else if (error && j) end(j, m, body);
    else if (j && is(m, "t", "accepted")) told(j, "accepted", m, body);
    else if (j && is(m, "t", "chunk") && attempt >= j->attempt) { /* */
        if (is_true(m, "reset") || (j->attempt && attempt > j->attempt)) told(j, "reset", m, body);
        j->attempt = attempt, told(j, "chunk", m, body);
    }
}
static bool receive(void) { /* takes one message, if there is one */
    zmq_msg_t frames[3]; /* a fourth frame would go over the third */
    msgpack_unpacked m = {0}, body = {0};
    int count = 0;
    do {
        if (count < 3) zmq_msg_init(&frames[count]);
        if (zmq_msg_recv(&frames[count < 3 ? count : 2], s.socket, ZMQ_DONTWAIT) < 0) return false;
    } while (zmq_msg_more(&frames[count++ < 3 ? count - 1 : 2]));
    s.heard = now_ms();
    if (count == 3) msgpack_unpack_next(&body, zmq_msg_data(&frames[2]), zmq_msg_size(&frames[2]), NULL);
    if ((count == 2 || count == 3) && zmq_msg_size(&frames[0]) == 4 && !memcmp(zmq_msg_data(&frames[0]), "DJP1", 4) &&
        msgpack_unpack_next(&m, zmq_msg_data(&frames[1]), zmq_msg_size(&frames[1]), NULL) == MSGPACK_UNPACK_SUCCESS)
        take(&m.data, &body.data);
    msgpack_unpacked_destroy(&m), msgpack_unpacked_destroy(&body);
    while (count > 0) if (--count < 3) zmq_msg_close(&frames[count]);
    return true;
}
static void step(long wait_ms) { /* takes in what has come, and does what time asks for */
    int connected = 0; /* with IMMEDIATE a socket is writable while it is connected */
    if (zmq_poll(&(zmq_pollitem_t){s.socket, 0, ZMQ_POLLIN, 0}, 1, wait_ms) > 0) while (receive()) continue;
    int64_t now = now_ms();
    zmq_getsockopt(s.socket, ZMQ_EVENTS, &connected, &(size_t){sizeof connected}), connected &= ZMQ_POLLOUT;
    if (now - s.turn > 1000) s.heard = s.since = now; /* was stopped itself: silence proves nothing */
    s.turn = now;
    if (s.greeted && !connected) s.greeted = s.welcomed = false, s.since = now;
    else if (!s.greeted && connected) {
        begin("hello"), put("name", "minimal-c"), put("lang", "c"), put_list("features", "ack"), send_header(NULL);
        s.greeted = true, s.since = now;
    } else if (s.welcomed ? now - s.heard >= s.dead_ms : now - s.since >= (s.greeted ? 5000 : 1000)) open_socket();
    else if (s.welcomed && now - s.sent >= s.ping_ms) begin("ping"), send_header(NULL);
    for (job *j = jobs, *next; j; j = next) {
        next = j->next;
        if (*s.refusal) fail(j, s.refusal, "refused"); /* no broker takes this client */
        else if (now >= j->deadline + 10000 * s.welcomed) fail(j, "DEADLINE_EXCEEDED", "deadline"); /* */
        else if (s.welcomed && j->again_at && now >= j->again_at) send_job(j);
    }
}
