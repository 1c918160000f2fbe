/* One call of a DSPy program from the command line, over dspymq.h. */
#include "dspymq.h"
#define USAGE "usage: dspymq ADDR[,ADDR...] call PROGRAM [key=value ...] [--stream] [--timeout-ms N]\n"

static int exit_code = -1;
static volatile sig_atomic_t interrupts;
static void on_interrupt(int number) { (void)number, interrupts++; }

static void print_event(job *j, const char *event, object m, object body) {
    bool ok = is(m, "code", "OK"), ends = !strcmp(event, "end");
    (void)j;
    if (!strcmp(event, "accepted")) fprintf(stderr, "accepted %.*s\n", TEXT(m, "state"));
    if (!strcmp(event, "reset")) fputs("reset\n", stderr);
    if (!strcmp(event, "chunk")) {
        fputs("chunk ", stderr), print_json(stderr, get(body, "fields", MSGPACK_OBJECT_MAP)), fputc('\n', stderr);
    }
    if (ends) exit_code = !ok;
    if (ends && ok) print_json(stdout, get(body, "outputs", MSGPACK_OBJECT_MAP)), putchar('\n');
    if (ends && !ok) fprintf(stderr, "%.*s %.*s %.*s\n", TEXT(m, "code"), TEXT(m, "reason"), TEXT(m, "message"));
}

#include "drive.h"

int main(int argc, char **argv) {
    int inputs = 0, usage = argc < 4 || strcmp(argv[2], "call");
    int64_t timeout_ms = 30000;
    msgpack_packer p;
    bool stream = false;
    if (argc == 2 && !strcmp(argv[1], "drive")) return drive();
    for (int i = 4; i < argc; i++) {
        if (!strcmp(argv[i], "--stream")) stream = true;
        else if (!strcmp(argv[i], "--timeout-ms") && i + 1 < argc) timeout_ms = atoll(argv[++i]);
        else if (strchr(argv[i], '=')) argv[4 + inputs++] = argv[i];
        else usage = 1;
    }
    if (usage) return fputs(USAGE, stderr), 2;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    told = print_event, start(argv[1]);
    job *j = new_job(argv[3], timeout_ms);
    msgpack_packer_init(&p, &j->body, msgpack_sbuffer_write);
    msgpack_pack_map(&p, 1), str(&p, "inputs"), msgpack_pack_map(&p, inputs);
    for (char **input = argv + 4; input < argv + 4 + inputs; input++) {
        char *equals = strchr(*input, '=');
        msgpack_pack_str_with_body(&p, *input, equals - *input), str(&p, equals + 1);
    }
    if (stream) {
        msgpack_packer_init(&p, &j->more, msgpack_sbuffer_write), j->more_count = 1;
        str(&p, "want"), msgpack_pack_array(&p, 2), str(&p, "accepted"), str(&p, "chunks");
    }
    for (bool cancelled = false; exit_code < 0 && interrupts < 2; step(50))
        if (interrupts && !cancelled) cancelled = true, cancel(j);
    stop();
    return exit_code < 0 ? 1 : exit_code;
}
