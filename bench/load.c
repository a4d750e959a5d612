/* The load generator: one cheap client for every contender.
 *
 * It makes no bytes while it measures: all content is cut from one pseudo-random buffer in
 * memory, at a shift that depends on the chunk's index, so that a misplaced chunk is noticed.
 * A thread per connection, blocking sockets, keep-alive, one writev per request: most of the
 * machine is left to the server under test. (sendfile from a memfd was tried: over the loopback
 * it costs the client the same and the receiver more.)
 *
 * `load` without arguments prints the usage. The first line of its output is JSON with what
 * was measured; what follows is the last answer's body or the places of tus uploads.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: load MODE [options]\n"
    "  post    POST each chunk as multipart/form-data to PATH<index>\n"
    "  put     PUT each chunk raw to PATH<index>\n"
    "  tus     one tus upload per connection, PATCHed chunk by chunk; PATH creates\n"
    "  direct  POST each chunk as a file of its own, with its fields, to PATH\n"
    "  tasks   a file per chunk: create at --create, one chunk to PATH/0, complete at --final\n"
    "  get     GET PATH --requests times and discard (with --verify: compare) the body\n"
    "  verify  compare the local file PATH with chunks --first and following\n"
    "  content write the whole content to the local file PATH\n"
    "  warm    touch --total bytes of memory and give them back\n"
    "  digest  print the SHA-256 of the whole content\n"
    "options: --port N --path TEXT --connections N --chunk BYTES --total BYTES\n"
    "  --header LINE (repeatable) --create PATH --create-body JSON --final 'METHOD PATH'\n"
    "  --requests N --first N --verify; {task_id} in paths is what --create answered\n";

enum { WINDOW = 4 << 20, HEAD = 8192, SCRATCH = 256 << 10 };
static const char BOUNDARY[] = "upwell-bench-7e3f9b1c5a";
static const char TAIL[] = "\r\n--upwell-bench-7e3f9b1c5a--\r\n";

static struct {
    const char *mode, *path, *create, *create_body, *final;
    int port, connections, verify;
    size_t chunk, total, first, requests;
    char headers[HEAD / 2];
} option = {.path = "/", .connections = 1, .chunk = 5 << 20, .requests = 1};

static char *content; /* WINDOW + chunk pseudo-random bytes */
static size_t units;
static atomic_size_t next_unit, received;
static char task_path[HEAD / 8];
static char (*hashes)[65]; /* of small files, made before the clock starts */
static char (*places)[HEAD]; /* of tus uploads */

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* ---- content ------------------------------------------------------------------------- */

static void make_content(void) {
    size_t size = WINDOW + option.chunk;
    content = malloc(size);
    if (!content) fail("no memory");
    uint64_t x = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < size; i++) { /* xorshift64 */
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        content[i] = (char)(x >> 32);
    }
}

/* 65536 different shifts, a cache line apart. */
static size_t shift_of(size_t index) { return index * 40503 % (WINDOW / 64) * 64; }

static size_t length_of(size_t index) {
    size_t at = index * option.chunk;
    return option.total - at < option.chunk ? option.total - at : option.chunk;
}

static void digest_of(size_t first, size_t count, char *hex) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned length;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    for (size_t i = first; i < first + count; i++)
        EVP_DigestUpdate(context, content + shift_of(i), length_of(i));
    EVP_DigestFinal_ex(context, raw, &length);
    EVP_MD_CTX_free(context);
    for (unsigned i = 0; i < length; i++) sprintf(hex + 2 * i, "%02x", raw[i]);
}

/* Compare `size` bytes at position `at` of the whole content. */
static bool same(const char *bytes, size_t size, size_t at) {
    while (size > 0) {
        size_t index = at / option.chunk, inside = at % option.chunk;
        size_t piece = option.chunk - inside < size ? option.chunk - inside : size;
        if (memcmp(bytes, content + shift_of(index) + inside, piece) != 0) return false;
        bytes += piece, at += piece, size -= piece;
    }
    return true;
}

/* ---- one HTTP connection --------------------------------------------------------------- */

struct connection {
    int socket;
    size_t have; /* bytes of the buffer that were received and not yet consumed */
    char *buffer, *body;
    size_t body_length; /* of the last answer, as far as it fits SCRATCH */
    int status;
    char location[1024];
};

static void dial(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)option.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 300};
    int on = 1;
    c->have = 0;
    c->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->socket, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect to port %d: %s", option.port, strerror(errno));
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(c->socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

static void open_connection(struct connection *c) {
    c->buffer = malloc(SCRATCH);
    c->body = malloc(SCRATCH + 1);
    dial(c);
}

/* Head, content and tail in one call. When the peer closes early it may have answered already:
 * the answer is read, and tells what was wrong. */
static void send_parts(struct connection *c, struct iovec *part, int count) {
    while (count > 0) {
        ssize_t sent = writev(c->socket, part, count);
        if (sent <= 0) return;
        for (; count > 0 && (size_t)sent >= part->iov_len; part++, count--)
            sent -= (ssize_t)part->iov_len;
        if (count > 0) {
            part->iov_base = (char *)part->iov_base + sent;
            part->iov_len -= (size_t)sent;
        }
    }
}

static bool receive(struct connection *c) {
    ssize_t got = recv(c->socket, c->buffer + c->have, SCRATCH - c->have, 0);
    if (got > 0) c->have += (size_t)got;
    return got > 0;
}

static void consume(struct connection *c, size_t count) {
    c->have -= count;
    memmove(c->buffer, c->buffer + count, c->have);
}

static void keep(struct connection *c, const char *bytes, size_t size) {
    size_t room = SCRATCH - c->body_length;
    if (size > room) size = room;
    memcpy(c->body + c->body_length, bytes, size);
    c->body_length += size;
    c->body[c->body_length] = 0;
}

/* Read one line (without its end) into `line`; false when the peer is gone. */
static bool read_line(struct connection *c, char *line, size_t size) {
    for (;;) {
        char *end = c->have ? memchr(c->buffer, '\n', c->have) : NULL;
        if (end) {
            size_t length = (size_t)(end - c->buffer);
            size_t text = length && end[-1] == '\r' ? length - 1 : length;
            if (text >= size) text = size - 1;
            memcpy(line, c->buffer, text);
            line[text] = 0;
            consume(c, length + 1);
            return true;
        }
        if (c->have == SCRATCH || !receive(c)) return false;
    }
}

static void read_sized(struct connection *c, size_t left) {
    while (left > 0) {
        if (c->have == 0 && !receive(c)) fail("the answer's body ended early");
        size_t piece = c->have < left ? c->have : left;
        keep(c, c->buffer, piece);
        consume(c, piece);
        left -= piece;
    }
}

static void read_chunked(struct connection *c) {
    char line[256];
    for (;;) {
        if (!read_line(c, line, sizeof line)) fail("the answer's body ended early");
        size_t size = strtoul(line, NULL, 16);
        if (size == 0) break;
        read_sized(c, size);
        if (!read_line(c, line, sizeof line)) fail("the answer's body ended early");
    }
    while (read_line(c, line, sizeof line) && line[0]) continue;
}

/* A download: thrown away in the kernel, or compared with the content. */
static void read_download(struct connection *c, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t piece = size - at < SCRATCH ? size - at : SCRATCH;
        if (c->have > 0 || option.verify) {
            if (c->have == 0 && !receive(c)) fail("the download ended early at %zu", at);
            if (piece > c->have) piece = c->have;
            if (option.verify && !same(c->buffer, piece, at))
                fail("the downloaded bytes differ from what was uploaded, near byte %zu", at);
            consume(c, piece);
        } else {
            ssize_t got = recv(c->socket, NULL, size - at, MSG_TRUNC);
            if (got <= 0) fail("the download ended early at %zu", at);
            piece = (size_t)got;
        }
        at += piece;
    }
    atomic_fetch_add(&received, size);
}

/* Read one answer; anything but 2xx ends the program with what the server said. */
static void read_answer(struct connection *c, const char *what, bool download) {
    char line[HEAD];
    bool chunked = false, closing = false;
    size_t length = 0;
    c->body_length = 0;
    c->body[0] = 0;
    if (!read_line(c, line, sizeof line)) fail("no answer to %s", what);
    c->status = atoi(line + strcspn(line, " "));
    while (read_line(c, line, sizeof line) && line[0]) {
        char *value = line + strcspn(line, ":");
        if (*value) *value++ = 0;
        value += strspn(value, " ");
        if (strcasecmp(line, "content-length") == 0) length = strtoul(value, NULL, 10);
        if (strcasecmp(line, "transfer-encoding") == 0) chunked = strcasestr(value, "chunked");
        if (strcasecmp(line, "connection") == 0) closing = strcasestr(value, "close");
        if (strcasecmp(line, "location") == 0)
            snprintf(c->location, sizeof c->location, "%s", value);
    }
    if (c->status == 100) return read_answer(c, what, download);
    if (c->status < 200 || c->status > 299) download = false;
    if (download && !chunked) read_download(c, length);
    else if (c->status == 204) length = 0;
    else if (chunked) read_chunked(c);
    else read_sized(c, length);
    if (c->status < 200 || c->status > 299)
        fail("%s was answered %d: %.2000s", what, c->status, c->body);
    if (closing) {
        close(c->socket);
        dial(c);
    }
}

static void call(struct connection *c, const char *method, const char *path, const char *extra,
                 const char *body) {
    char head[HEAD], what[256];
    size_t length = strlen(body);
    int size = snprintf(head, sizeof head,
                        "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%sContent-Length: %zu\r\n\r\n%s",
                        method, path, option.headers, extra, length, body);
    snprintf(what, sizeof what, "%s %.200s", method, path);
    send_parts(c, (struct iovec[]){{head, (size_t)size}}, 1);
    read_answer(c, what, strcmp(option.mode, "get") == 0);
}

/* Send one body from the content, between an optional form part's head and tail. */
static void send_body(struct connection *c, const char *method, const char *path,
                      const char *extra, const char *part, size_t index, size_t size) {
    char head[HEAD], what[256];
    size_t tail = *part ? sizeof TAIL - 1 : 0;
    int length = snprintf(head, sizeof head,
                          "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%sContent-Length: %zu\r\n\r\n%s",
                          method, path, option.headers, extra, strlen(part) + size + tail, part);
    if (length >= HEAD) fail("the head is too long");
    snprintf(what, sizeof what, "%s %.200s", method, path);
    struct iovec parts[] = {
        {head, (size_t)length}, {content + shift_of(index), size}, {(char *)TAIL, tail}};
    send_parts(c, parts, 3);
    read_answer(c, what, false);
}

static const char *form_type(void) {
    static char text[128];
    if (!text[0])
        snprintf(text, sizeof text, "Content-Type: multipart/form-data; boundary=%s\r\n", BOUNDARY);
    return text;
}

static int file_part(char *part, size_t size, const char *name) {
    return snprintf(part, size,
                    "--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"blob\"\r\n"
                    "Content-Type: application/octet-stream\r\n\r\n",
                    BOUNDARY, name);
}

/* Copy `text` with every {task_id} replaced by the id in the JSON answer of a create. */
static void with_task(char *out, size_t size, const char *text, const char *json) {
    char id[256] = "";
    const char *mark = strstr(text, "{task_id}"), *key = strstr(json, "\"task_id\"");
    if (key) sscanf(key + 9, " : \"%255[^\"]", id);
    if (mark && !id[0]) fail("no task_id in the answer to create: %.500s", json);
    if (mark) snprintf(out, size, "%.*s%s%s", (int)(mark - text), text, id, mark + 9);
    else snprintf(out, size, "%s", text);
}

/* ---- what a thread does per unit ------------------------------------------------------- */

static void unit_put(struct connection *c, size_t index) {
    char path[HEAD / 4];
    snprintf(path, sizeof path, "%s%zu", task_path, index);
    send_body(c, "PUT", path, "", "", index, length_of(index));
}

static void unit_post(struct connection *c, size_t index) {
    char path[HEAD / 4], part[512];
    snprintf(path, sizeof path, "%s%zu", task_path, index);
    file_part(part, sizeof part, "chunk");
    send_body(c, "POST", path, form_type(), part, index, length_of(index));
}

static int text_field(char *out, size_t size, const char *name, const char *value) {
    return snprintf(out, size, "--%s\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n",
                    BOUNDARY, name, value);
}

static void unit_direct(struct connection *c, size_t index) {
    char part[2048], name[64], length[32];
    int at = 0, size = sizeof part;
    snprintf(name, sizeof name, "file-%zu.bin", index);
    snprintf(length, sizeof length, "%zu", length_of(index));
    at += text_field(part + at, (size_t)(size - at), "hash", hashes[index]);
    at += text_field(part + at, (size_t)(size - at), "file_name", name);
    at += text_field(part + at, (size_t)(size - at), "file_size", length);
    at += text_field(part + at, (size_t)(size - at), "content_type", "application/x-bench");
    file_part(part + at, (size_t)(size - at), "file");
    send_body(c, "POST", option.path, form_type(), part, index, length_of(index));
}

static void unit_task(struct connection *c, size_t index) {
    char json[1024], path[HEAD / 4], part[512];
    snprintf(json, sizeof json,
             "{\"hash\":\"%s\",\"file_name\":\"task-%zu.bin\",\"file_size\":%zu,"
             "\"content_type\":\"application/x-bench\"}",
             hashes[index], index, length_of(index));
    call(c, "POST", option.create, "Content-Type: application/json\r\n", json);
    char *answer = strdup(c->body);
    with_task(path, sizeof path, option.path, answer);
    strcat(path, "0");
    file_part(part, sizeof part, "chunk");
    send_body(c, "POST", path, form_type(), part, index, length_of(index));
    with_task(path, sizeof path, strchr(option.final, ' ') + 1, answer);
    call(c, "POST", path, "", "");
    free(answer);
}

static void unit_get(struct connection *c, size_t index) {
    (void)index;
    call(c, "GET", option.path, "", "");
}

/* A whole tus upload; the uploads share the content's chunks out between them, in order. */
static void unit_tus(struct connection *c, size_t upload) {
    char extra[256];
    size_t all = (option.total + option.chunk - 1) / option.chunk;
    size_t first = upload * all / (size_t)option.connections;
    size_t end = (upload + 1) * all / (size_t)option.connections;
    size_t length = (end == all ? option.total : end * option.chunk) - first * option.chunk;
    snprintf(extra, sizeof extra, "Tus-Resumable: 1.0.0\r\nUpload-Length: %zu\r\n", length);
    call(c, "POST", option.path, extra, "");
    char *path = c->location;
    if (strncmp(path, "http", 4) == 0) path = strchr(strstr(path, "//") + 2, '/');
    snprintf(places[upload], HEAD, "%zu %zu %s", first, length, path);
    char *target = strdup(path);
    for (size_t i = first, at = 0; i < end; at += length_of(i++)) {
        snprintf(extra, sizeof extra,
                 "Tus-Resumable: 1.0.0\r\nUpload-Offset: %zu\r\n"
                 "Content-Type: application/offset+octet-stream\r\n", at);
        send_body(c, "PATCH", target, extra, "", i, length_of(i));
    }
    free(target);
}

static const struct {
    const char *name;
    void (*run)(struct connection *, size_t);
} MODES[] = {{"post", unit_post}, {"put", unit_put},     {"tus", unit_tus},
             {"get", unit_get},   {"tasks", unit_task},  {"direct", unit_direct}};

static void (*run_unit)(struct connection *, size_t);

static void *work(void *connection) {
    for (size_t unit; (unit = atomic_fetch_add(&next_unit, 1)) < units;)
        run_unit(connection, option.first + unit);
    return NULL;
}

/* ---- the program ----------------------------------------------------------------------- */

static int verify_file(void) {
    char *bytes = malloc(1 << 20);
    int file = open(option.path, O_RDONLY);
    if (file < 0) fail("%s: %s", option.path, strerror(errno));
    size_t base = option.first * option.chunk, at = 0;
    for (ssize_t got; (got = read(file, bytes, 1 << 20)) > 0; at += (size_t)got)
        if (at + (size_t)got > option.total || !same(bytes, (size_t)got, base + at))
            fail("%s differs from what was sent, near byte %zu", option.path, at);
    if (at != option.total) fail("%s has %zu bytes, not %zu", option.path, at, option.total);
    return 0;
}

static int warm_memory(void) {
    void *memory = mmap(NULL, option.total, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return memory == MAP_FAILED;
}

static int write_content(void) {
    FILE *file = fopen(option.path, "wb");
    if (!file) fail("%s: %s", option.path, strerror(errno));
    for (size_t i = 0; i < units; i++)
        if (fwrite(content + shift_of(i), 1, length_of(i), file) != length_of(i))
            fail("%s: %s", option.path, strerror(errno));
    return fclose(file);
}

static void measure(void) {
    struct connection *all = calloc((size_t)option.connections, sizeof *all);
    pthread_t *threads = calloc((size_t)option.connections, sizeof *threads);
    for (int i = 0; i < option.connections; i++) open_connection(&all[i]);
    double start = now(), cpu = cpu_seconds();
    bool tasks = run_unit == unit_task;
    char final[HEAD] = "";
    snprintf(task_path, sizeof task_path, "%s", option.path);
    if (option.create && !tasks) {
        call(all, "POST", option.create, "Content-Type: application/json\r\n", option.create_body);
        char *answer = strdup(all->body);
        with_task(task_path, sizeof task_path, option.path, answer);
        if (option.final) with_task(final, sizeof final, option.final, answer);
    } else if (option.final) {
        snprintf(final, sizeof final, "%s", option.final);
    }
    for (int i = 0; i < option.connections; i++)
        if (pthread_create(&threads[i], NULL, work, &all[i]) != 0) fail("no thread");
    for (int i = 0; i < option.connections; i++) pthread_join(threads[i], NULL);
    double bodies = now();
    if (option.final && !tasks) {
        char *path = strchr(final, ' ');
        *path++ = 0;
        call(all, final, path, "", "");
    }
    double end = now();
    printf("{\"seconds\": %.6f, \"final_seconds\": %.6f, \"cpu_seconds\": %.6f, "
           "\"units\": %zu, \"received\": %zu}\n",
           end - start, end - bodies, cpu_seconds() - cpu, units, (size_t)received);
    if (option.final && !tasks) printf("%s\n", all->body);
    for (size_t i = 0; run_unit == unit_tus && i < units; i++) printf("%s\n", places[i]);
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"port", 1, 0, 'p'},     {"path", 1, 0, 'u'},   {"connections", 1, 0, 'n'},
        {"chunk", 1, 0, 'c'},    {"total", 1, 0, 't'},
        {"header", 1, 0, 'h'},   {"create", 1, 0, 'C'}, {"create-body", 1, 0, 'B'},
        {"final", 1, 0, 'F'},    {"first", 1, 0, 'f'},  {"requests", 1, 0, 'r'},
        {"verify", 0, 0, 'v'},   {0, 0, 0, 0}};
    if (argc < 2) fputs(USAGE, stderr), exit(2);
    option.mode = argv[1];
    for (int key; (key = getopt_long(argc - 1, argv + 1, "", names, NULL)) != -1;) {
        size_t used = strlen(option.headers);
        switch (key) {
        case 'p': option.port = atoi(optarg); break;
        case 'u': option.path = optarg; break;
        case 'n': option.connections = atoi(optarg); break;
        case 'c': option.chunk = strtoul(optarg, NULL, 10); break;
        case 't': option.total = strtoul(optarg, NULL, 10); break;
        case 'C': option.create = optarg; break;
        case 'B': option.create_body = optarg; break;
        case 'F': option.final = optarg; break;
        case 'f': option.first = strtoul(optarg, NULL, 10); break;
        case 'r': option.requests = strtoul(optarg, NULL, 10); break;
        case 'v': option.verify = 1; break;
        case 'h':
            snprintf(option.headers + used, sizeof option.headers - used, "%s\r\n", optarg);
            break;
        default: fputs(USAGE, stderr), exit(2);
        }
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(option.mode, "warm") == 0) return warm_memory();
    make_content();
    units = (option.total + option.chunk - 1) / option.chunk;
    if (strcmp(option.mode, "verify") == 0) return verify_file();
    if (strcmp(option.mode, "content") == 0) return write_content();
    if (strcmp(option.mode, "digest") == 0) {
        char hex[65];
        digest_of(0, units, hex);
        return puts(hex) < 0;
    }
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (strcmp(option.mode, MODES[i].name) == 0) run_unit = MODES[i].run;
    if (!run_unit) fputs(USAGE, stderr), exit(2);
    if (run_unit == unit_get) units = option.requests;
    if (run_unit == unit_tus) {
        units = (size_t)option.connections;
        places = calloc(units, sizeof *places);
    }
    if (run_unit == unit_task || run_unit == unit_direct) {
        hashes = calloc(units, sizeof *hashes);
        for (size_t i = 0; i < units; i++) digest_of(i, 1, hashes[i]);
    }
    measure();
    return 0;
}
