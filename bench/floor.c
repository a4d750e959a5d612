/* The floor: the least work that an upload server of Upwell's promises can do, in C.
 *
 * A thread per connection reads the request's head and the form part's head, receives the
 * chunk into 1 MiB of memory, writes it at its place in one preallocated file, syncs, and
 * answers 200. One more thread follows the contiguous prefix of the file with SHA-256.
 * No routing, no accounts, no catalog, no checks: nothing that a product needs.
 *
 *   POST /chunk/<index>   multipart/form-data with one file field, or raw bytes otherwise
 *   GET  /digest          answers the SHA-256 of the whole file, once all of it came
 *
 * usage: floor PORT FILE SIZE CHUNK_SIZE sync|nosync hash|nohash
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, FOLLOW = 256 << 10 }; /* FOLLOW fits the second-level cache */

static int target;
static size_t file_size, chunk_size, chunks;
static bool sync_chunks, hash_file;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool *written; /* by chunk index */
static char digest[2 * EVP_MAX_MD_SIZE + 1];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static size_t length_of(size_t index) {
    size_t at = index * chunk_size;
    return file_size - at < chunk_size ? file_size - at : chunk_size;
}

static void *follow(void *unused) {
    (void)unused;
    char *buffer = malloc(FOLLOW);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    for (size_t index = 0; index < chunks; index++) {
        pthread_mutex_lock(&lock);
        while (!written[index]) pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
        size_t at = index * chunk_size, end = at + length_of(index);
        while (at < end) {
            size_t want = end - at < FOLLOW ? end - at : FOLLOW;
            ssize_t got = pread(target, buffer, want, (off_t)at);
            if (got <= 0) die("pread");
            EVP_DigestUpdate(context, buffer, (size_t)got);
            at += (size_t)got;
        }
    }
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned length;
    EVP_DigestFinal_ex(context, raw, &length);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < length; i++) sprintf(digest + 2 * i, "%02x", raw[i]);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* The kernel lets one thread write to a file at a time, and spins for the next: waiting asleep
 * costs less processor time, and is faster here. */
static pthread_mutex_t one_writer = PTHREAD_MUTEX_INITIALIZER;

struct connection {
    int socket;
    size_t have; /* bytes in the buffer */
    char *buffer;
};

/* Receive until the buffer holds at least `want` bytes; false when the peer is gone. */
static bool fill(struct connection *c, size_t want) {
    while (c->have < want) {
        ssize_t got = recv(c->socket, c->buffer + c->have, want - c->have, 0);
        if (got <= 0) return false;
        c->have += (size_t)got;
    }
    return true;
}

static void drop(struct connection *c, size_t count) {
    memmove(c->buffer, c->buffer + count, c->have - count);
    c->have -= count;
}

/* Read a head that ends with an empty line, and leave what follows it in the buffer. */
static bool read_head(struct connection *c, char *head, size_t size) {
    for (;;) {
        char *end = c->have ? memmem(c->buffer, c->have, "\r\n\r\n", 4) : NULL;
        if (end) {
            size_t length = (size_t)(end - c->buffer) + 4;
            if (length >= size) return false;
            memcpy(head, c->buffer, length);
            head[length] = 0;
            drop(c, length);
            return true;
        }
        if (c->have >= size) return false;
        ssize_t got = recv(c->socket, c->buffer + c->have, size - c->have, 0);
        if (got <= 0) return false;
        c->have += (size_t)got;
    }
}

static void answer(struct connection *c, const char *status, const char *body) {
    char text[512];
    int length = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s",
                          status, strlen(body), body);
    if (send(c->socket, text, (size_t)length, MSG_NOSIGNAL) != length) c->have = 0;
}

static bool receive_chunk(struct connection *c, const char *head) {
    char part[4096];
    size_t index = strtoul(head + strlen("POST /chunk/"), NULL, 10);
    const char *field = strcasestr(head, "\r\nContent-Length:");
    if (index >= chunks || !field) return false;
    size_t left = strtoul(field + 17, NULL, 10), data = length_of(index);
    if (strcasestr(head, "multipart/form-data")) {
        if (!read_head(c, part, sizeof part)) return false;
        left -= strlen(part);
    }
    if (left < data) return false;
    size_t tail = left - data; /* the closing delimiter */
    for (size_t at = index * chunk_size; data > 0;) {
        size_t piece = data < BUFFER ? data : BUFFER;
        if (!fill(c, piece)) return false;
        for (size_t done = 0; done < piece;) {
            pthread_mutex_lock(&one_writer);
            ssize_t put = pwrite(target, c->buffer + done, piece - done, (off_t)(at + done));
            pthread_mutex_unlock(&one_writer);
            if (put <= 0) die("pwrite");
            done += (size_t)put;
        }
        drop(c, piece);
        at += piece;
        data -= piece;
    }
    if (!fill(c, tail)) return false;
    drop(c, tail);
    if (sync_chunks && fdatasync(target) != 0) die("fdatasync");
    pthread_mutex_lock(&lock);
    written[index] = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return true;
}

static void wait_for_digest(void) {
    pthread_mutex_lock(&lock);
    while (hash_file && !digest[0]) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void *serve(void *argument) {
    struct connection c = {.socket = (int)(long)argument, .buffer = malloc(BUFFER)};
    char head[8192];
    while (read_head(&c, head, sizeof head)) {
        if (strncmp(head, "GET /digest", 11) == 0) {
            wait_for_digest();
            answer(&c, "200 OK", digest);
        } else if (strncmp(head, "POST /chunk/", 12) == 0 && receive_chunk(&c, head)) {
            answer(&c, "200 OK", "");
        } else {
            answer(&c, "400 Bad Request", "not understood");
            break;
        }
    }
    close(c.socket);
    free(c.buffer);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: floor PORT FILE SIZE CHUNK_SIZE sync|nosync hash|nohash\n");
        return 2;
    }
    file_size = strtoul(argv[3], NULL, 10);
    chunk_size = strtoul(argv[4], NULL, 10);
    chunks = (file_size + chunk_size - 1) / chunk_size;
    sync_chunks = strcmp(argv[5], "sync") == 0;
    hash_file = strcmp(argv[6], "hash") == 0;
    written = calloc(chunks, sizeof *written);
    signal(SIGPIPE, SIG_IGN);
    target = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (target < 0) die(argv[2]);
    if (fallocate(target, 0, 0, (off_t)file_size) != 0) die("fallocate");

    pthread_t thread;
    if (hash_file) pthread_create(&thread, NULL, follow, NULL);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0) die("bind");
    if (listen(listener, 512) != 0) die("listen");
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) continue;
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (pthread_create(&thread, NULL, serve, (void *)(long)peer) != 0) die("thread");
        pthread_detach(thread);
    }
}
