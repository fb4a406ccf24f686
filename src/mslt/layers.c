/* Layers that only run forward, whole: what `kernels.c` does between products, and the products, on a
 * CPU that multiplies tiles of bf16 (AMX). One call passes all sequences through all of the layers.
 * Each thread takes sequences of its own and never waits, and what it makes of a few of them at a
 * time stays in its core's cache.
 *
 * D width, H heads, L rows of a sequence at most, I width of the feed-forward part. Products have
 * sides that EDGE divides. A row's numbers do not depend on the rows beside it.
 *
 * Fixed weights may be in 8 bits too, and what they are multiplied with is brought there row by row.
 * Two of them lie in the place of a `number`, and are moved as one.
 */
#include "numbers.h"
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined __AMX_TILE__ && defined __AMX_BF16__ && defined __AMX_INT8__ && defined SYS_arch_prctl
#include <immintrin.h>
#define TILES
#endif

enum {
    TILE = 16,                /* rows of a tile; it has as many pairs of numbers in bf16, or fp32 */
    PANEL = 2 * TILE,         /* numbers in bf16 in a tile's row */
    EDGE = 2 * TILE,          /* of the square that is multiplied at once */
    WHOLE_TILE = TILE * PANEL /* numbers in it */
};

static long up_to_edge(long n) { return (n + EDGE - 1) / EDGE * EDGE; }

/* Whether tiles are multiplied here by instructions of their own, which Linux is to be asked for. */
int has_tiles(void)
{
#ifdef TILES
    return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
#else
    return 0;
#endif
}

/* Rows, `apart` from each other. */
typedef struct { number *at; long apart; } matrix;

static inline matrix part(matrix x, long row, long column)
{
    return (matrix){x.at + row * x.apart + column, x.apart};
}

/* How far apart rows are that are so wide. By a power of two, those of a tile would share a few places
 * in the cache. */
static inline long spread(long width) { return width + PANEL; }

/* Rows of pairs become columns: runs of so many change places, in ever more rows. */
static inline void transpose(words rows[TILE])
{
#pragma GCC unroll 4
    for (uint32_t run = TILE / 2; run; run /= 2) {
        words from = PLACES + ((words)((PLACES & run) != 0) & (TILE - run));
#pragma GCC unroll 16
        for (uint32_t i = 0; i < TILE; i++)
            if (!(i & run)) {
                words a = rows[i], b = rows[i + run];
                rows[i] = shuffled(a, b, from);
                rows[i + run] = shuffled(a, b, from + run);
            }
    }
}

/* x' [depth, count] as the right side of a product, of x [count, depth]: TILE columns after the
 * other, each in tiles of PANEL rows, of which two are one row of pairs. */
static inline void pack_transposed(matrix x, number *packed, long count, long depth)
{
    for (long n = 0; n < count; n += TILE)
        for (long k = 0; k < depth; k += PANEL) {
            words rows[TILE];
            for (int i = 0; i < TILE; i++)
                memcpy(rows + i, part(x, n + i, k).at, sizeof *rows);
            transpose(rows);
            memcpy(packed, rows, sizeof rows);
            packed += WHOLE_TILE;
        }
}

static inline words pairs(const number *first, const number *second)
{
    halves a, b;
    memcpy(&a, first, sizeof a);
    memcpy(&b, second, sizeof b);
    return __builtin_convertvector(a, words) | __builtin_convertvector(b, words) << 16;
}

/* The same of x [depth, count] itself, of which the first `there` rows are read; the others are 0. */
static inline void pack(matrix x, number *packed, long count, long depth, long there)
{
    static const number none[TILE];
    for (long n = 0; n < count; n += TILE)
        for (long k = 0; k < depth; k += PANEL)
            for (long row = k; row < k + PANEL; row += 2) {
                const number *first = part(x, row, n).at, *second = first + x.apart;
                words both = pairs(row < there ? first : none, row + 1 < there ? second : none);
                memcpy(packed, &both, sizeof both);
                packed += PANEL;
            }
}

/* A linear layer's weight [out, in] as `product` wants it. */
void pack_weight(const number *weight, number *packed, long out, long in)
{
#pragma omp parallel for schedule(static)
    for (long n = 0; n < out; n += TILE)
        pack_transposed((matrix){(number *)weight + n * in, in}, packed + n * in, TILE, in);
}

/* What tiles look like while this thread multiplies, and what they looked like before. */
typedef struct { uint8_t bytes[64]; } shapes;

#ifdef TILES
static inline shapes begin_tiles(void)
{
    shapes before, now = {{1}};
    for (int tile = 0; tile < 8; tile++) {
        now.bytes[16 + 2 * tile] = 4 * TILE; /* bytes in a row */
        now.bytes[48 + tile] = TILE;         /* rows */
    }
    __asm__ volatile("sttilecfg %0" : "=m"(before)); /* GCC's own functions tell it of 8 bytes alone */
    __asm__ volatile("ldtilecfg %0" : : "m"(now));
    return before;
}

static inline void end_tiles(shapes before) { __asm__ volatile("ldtilecfg %0" : : "m"(before)); }
#else
static inline shapes begin_tiles(void) { return (shapes){{0}}; }
static inline void end_tiles(shapes before) { (void)before; }
#endif

/* A fixed linear layer: its packed weight, and in fp32 its bias and, if that is in 8 bits, what one of
 * them is worth in each of its rows. */
struct linear { const number *weight; const float *bias, *scales; };

struct layer {
    struct linear qkv, out, up, down;
    const float *weights[2], *shifts[2]; /* of LayerNorms */
    float eps;
    dropping of_weights, of_sums[2];
};

struct sizes { long D, H, L, I; int by_tanh; };

/* What becomes of a product's numbers: they and the bias are written; through GELU; or, dropped out,
 * added to what is there, of which `places` are the rows' among all. */
enum after { NOTHING, GELU, GELU_BY_TANH, ADDED };

struct result {
    matrix y;
    const struct linear *linear;
    const float *scales; /* of rows of what is multiplied in 8 bits */
    long rows, width;
    const int64_t *places;
    const dropping *dropping;
};

/* A square of a product, from a row and a column on, of whose rows some are dealt with. */
struct square { float at[EDGE][EDGE]; long row, column, rows, done; };

/* Deal with so many more of them. */
static inline void finish(struct square *made, long rows, const struct result *result, enum after after,
                          int int8)
{
    long until = at_most(made->done + rows, made->rows);
    for (; made->done < until; made->done++) {
        long row = made->row + made->done;
        number *y = part(result->y, row, made->column).at;
        uint64_t place = after == ADDED ? begin(result->places[row], result->width) : 0;
        words drawn = {0};
        for (long i = 0; i < EDGE; i += LANES) {
            long column = made->column + i;
            floats in = load32(made->at[made->done] + i, LANES), slope;
            if (int8)
                in = __builtin_convertvector((ints)in, floats) * result->scales[row] *
                     load32(result->linear->scales + column, LANES);
            in += load32(result->linear->bias + column, LANES);
            if (after == GELU)
                in = gelu(in, &slope);
            if (after == GELU_BY_TANH)
                in = gelu_tanh(in, &slope);
            if (after == ADDED)
                in = load(y + i, LANES) + drop(in, place, column, result->dropping, &drawn);
            store(y + i, in, LANES);
        }
    }
}

/* EDGE rows of x by as many packed columns, in 8 bits the integers that they come to. Tiles are
 * multiplied beside all else that a core does: meanwhile the square before, if any, is dealt with. */
static inline void multiply(matrix x, const number *left, long depth, float made[EDGE][EDGE],
                            struct square *before, const struct result *result, enum after after,
                            int int8)
{
    const number *right = left + TILE * depth;
    long rows = before ? before->rows * PANEL / depth + 1 : 0;
#ifdef TILES
    __asm__ volatile("" : : : "memory"); /* tile loads do not say what they read */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < depth; k += PANEL) {
        _tile_loadd(4, x.at + k, 2 * x.apart);
        _tile_loadd(5, x.at + TILE * x.apart + k, 2 * x.apart);
        _tile_loadd(6, left + k * TILE, 4 * TILE);
        _tile_loadd(7, right + k * TILE, 4 * TILE);
        if (int8) {
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (before)
            finish(before, rows, result, after, int8);
    }
    _tile_stored(0, made[0], 4 * EDGE);
    _tile_stored(1, made[0] + TILE, 4 * EDGE);
    _tile_stored(2, made[TILE], 4 * EDGE);
    _tile_stored(3, made[TILE] + TILE, 4 * EDGE);
#else
    for (int i = 0; i < EDGE; i++)
        for (int half = 0; half < 2; half++) {
            floats sums = {0};
            ints whole = {0};
            for (long k = 0; k < depth; k += 2) {
                const number *mine = x.at + i * x.apart + k;
                words theirs;
                memcpy(&theirs, (half ? right : left) + k * TILE, sizeof theirs);
                if (int8)
                    for (int at = 0; at < 4; at++)
                        whole += ((const int8_t *)mine)[at] * ((ints)(theirs << (24 - 8 * at)) >> 24);
                else
                    sums += load(mine, 1)[0] * (floats)(theirs << 16) +
                            load(mine + 1, 1)[0] * (floats)(theirs & 0xffff0000);
            }
            if (int8)
                memcpy(made[i] + half * TILE, &whole, sizeof whole);
            else
                memcpy(made[i] + half * TILE, &sums, sizeof sums);
        }
    for (long k = 0; before && k < depth; k += PANEL)
        finish(before, rows, result, after, int8);
#endif
}

/* x W' and what becomes of it; x has room for up_to_edge(rows). */
static inline void product_of(matrix x, long depth, const struct result *result, enum after after,
                              int int8)
{
    struct square made[2];
    long count = 0;
    for (long n = 0; n < result->width; n += EDGE)
        for (long m = 0; m < result->rows; m += EDGE, count++) {
            struct square *next = made + count % 2, *before = count ? made + (count + 1) % 2 : NULL;
            const number *left = result->linear->weight + n * depth;
            multiply(part(x, m, 0), left, depth, next->at, before, result, after, int8);
            next->row = m, next->column = n, next->done = 0;
            next->rows = at_most(result->rows - m, EDGE);
        }
    if (count)
        finish(made + (count + 1) % 2, EDGE, result, after, int8);
}

/* Rows in 8 bits, and what one of them is worth in each; no number where one of the row is none. */
static void to_int8(matrix x, matrix y, float *scales, long rows, long width)
{
    for (long row = 0; row < rows; row++) {
        const number *from = part(x, row, 0).at;
        int8_t *to = (int8_t *)part(y, row, 0).at;
        floats most = {0}, odd = {0};
        for (long i = 0; i < width; i += LANES) {
            floats in = load(from + i, LANES), size = (floats)((ints)in & 0x7fffffff);
            most = where(size > most, size, most);
            odd += in * 0.0f;
        }
        float top = fmaxf(largest(most), 1e-12f), times = 127 / top;
        for (long i = 0; i < width; i += LANES) {
            ints whole = (ints)(load(from + i, LANES) * times + 12582912.0f) - 0x4b400000;
            bytes b = __builtin_convertvector(whole, bytes);
            memcpy(to + i, &b, sizeof b);
        }
        scales[row] = top / 127 + sum(odd);
    }
}

/* Rooms of a thread, for the rows of a few sequences and for a head. */
struct rooms {
    matrix qkv, mixed, inner, shares, in_bytes;
    number *keys, *values;
    float *scores, *scales;
    int64_t *places;
};

/* The same of numbers or, if the weight is in 8 bits, by way of room for x there. */
static inline void product(matrix x, long depth, struct result result, enum after after,
                           const struct rooms *room)
{
    if (result.linear->scales) {
        to_int8(x, room->in_bytes, room->scales, result.rows, depth);
        result.scales = room->scales;
        product_of(room->in_bytes, depth / 2, &result, after, 1);
    } else {
        product_of(x, depth, &result, after, 0);
    }
}

/* Rows become LayerNorm of them. */
static void normalise(matrix x, long rows, long width, const float *weight, const float *shift, float eps)
{
    for (long row = 0; row < rows; row++) {
        number *s = part(x, row, 0).at;
        floats total = {0}, square = {0};
        for (long i = 0; i < width; i += LANES)
            total += load(s + i, LANES);
        float middle = sum(total) / width;
        for (long i = 0; i < width; i += LANES) {
            floats off = load(s + i, LANES) - middle;
            square += off * off;
        }
        float root = 1 / sqrtf(sum(square) / width + eps);
        for (long i = 0; i < width; i += LANES) {
            floats unit = (load(s + i, LANES) - middle) * root;
            store(s + i, unit * load32(weight + i, LANES) + load32(shift + i, LANES), LANES);
        }
    }
}

/* One sequence's rows of queries, keys and values [n, 3 D] into what heads make of them [n, D]. */
static void attend(matrix qkv, matrix mixed, long n, long sequence, const struct layer *layer,
                   const struct sizes *size, const struct rooms *room)
{
    long D = size->D, K = D / size->H, wide = up_to_edge(n);
    float scale = 1 / sqrtf(K);
    float made[EDGE][EDGE];
    for (long h = 0; h < size->H; h++) {
        pack_transposed(part(qkv, 0, D + h * K), room->keys, wide, K);
        pack(part(qkv, 0, 2 * D + h * K), room->values, K, wide, n);
        for (long m = 0; m < n; m += EDGE) {
            long rows = at_most(n - m, EDGE);
            for (long j = 0; j < wide; j += EDGE) {
                multiply(part(qkv, m, h * K), room->keys + j * K, K, made, NULL, NULL, NOTHING, 0);
                for (long row = 0; row < rows; row++)
                    memcpy(room->scores + row * wide + j, made[row], sizeof *made);
            }
            for (long row = 0; row < rows; row++) {
                float *s = room->scores + row * wide;
                number *share = part(room->shares, row, 0).at;
                uint64_t place = begin((sequence * size->H + h) * size->L + m + row, size->L);
                floats most = -INFINITY + (floats){0}, total = {0};
                for (long i = 0; i < n; i += LANES) {
                    floats x = first(load32(s + i, LANES) * scale, n - i, -INFINITY);
                    store32(s + i, x, LANES);
                    most = where(x > most, x, most);
                }
                float top = largest(most);
                for (long i = 0; i < n; i += LANES) {
                    floats x = exponential(load32(s + i, LANES) - top);
                    store32(s + i, x, LANES);
                    total += x;
                }
                float one = 1 / sum(total);
                words drawn = {0};
                for (long i = 0; i < wide; i += LANES) {
                    floats x = i < n ? load32(s + i, LANES) * one : (floats){0};
                    store(share + i, drop(x, place, i, &layer->of_weights, &drawn), LANES);
                }
            }
            for (long k = 0; k < K; k += EDGE) {
                multiply(room->shares, room->values + k * wide, wide, made, NULL, NULL, NOTHING, 0);
                for (long row = 0; row < rows; row++)
                    for (long i = 0; i < EDGE; i += LANES)
                        store(part(mixed, m + row, h * K + k + i).at, load32(made[row] + i, LANES), LANES);
            }
        }
    }
}

/* Sequences from the first up to the last one, of which those together have `rows`, through a layer. */
static void pass(const struct layer *layer, matrix x, long first, long last, const int64_t *lengths,
                 const struct sizes *size, const struct rooms *room)
{
    long D = size->D, rows = 0;
    for (long b = first; b < last; b++)
        for (long r = 0; r < lengths[b]; r++)
            room->places[rows++] = b * size->L + r;
    struct result result = {room->qkv, &layer->qkv, NULL, rows, 3 * D, room->places, NULL};
    product(x, D, result, NOTHING, room);
    for (long b = first, row = 0; b < last; row += lengths[b++])
        attend(part(room->qkv, row, 0), part(room->mixed, row, 0), lengths[b], b, layer, size, room);
    result = (struct result){x, &layer->out, NULL, rows, D, room->places, &layer->of_sums[0]};
    product(room->mixed, D, result, ADDED, room);
    normalise(x, rows, D, layer->weights[0], layer->shifts[0], layer->eps);
    result = (struct result){room->inner, &layer->up, NULL, rows, size->I, room->places, NULL};
    if (size->by_tanh)
        product(x, D, result, GELU_BY_TANH, room);
    else
        product(x, D, result, GELU, room);
    result = (struct result){x, &layer->down, NULL, rows, D, room->places, &layer->of_sums[1]};
    product(room->inner, size->I, result, ADDED, room);
    normalise(x, rows, D, layer->weights[1], layer->shifts[1], layer->eps);
}

/* Room for so many bytes from an address on, where a line of the cache begins; the address moves behind
 * it. From 0 on, that is what is needed of all. */
static void *take(uintptr_t *at, size_t bytes)
{
    enum { LINE = 64 };
    uintptr_t room = (*at + LINE - 1) / LINE * LINE;
    *at = room + bytes;
    return (void *)room;
}

static matrix take_matrix(uintptr_t *at, long rows, long width)
{
    return (matrix){take(at, rows * spread(width) * sizeof(number)), spread(width)};
}

/* Rooms of a thread, and x for all of its rows. */
static matrix take_rooms(uintptr_t *at, struct rooms *room, long rows, long together, const struct sizes *size)
{
    long D = size->D, I = size->I, wide = up_to_edge(size->L);
    /* A sequence may be longer than what passes together; tiles are read up to EDGE rows behind. */
    long most = up_to_edge(together > size->L ? together : size->L) + EDGE;
    room->qkv = take_matrix(at, most, 3 * D);
    room->mixed = take_matrix(at, most, D);
    room->inner = take_matrix(at, most, I);
    room->in_bytes = take_matrix(at, most, (D > I ? D : I) / 2);
    room->shares = take_matrix(at, EDGE, wide);
    room->keys = take(at, wide * (D / size->H) * sizeof(number));
    room->values = take(at, wide * (D / size->H) * sizeof(number));
    room->scores = take(at, EDGE * wide * sizeof(float));
    room->scales = take(at, most * sizeof(float));
    room->places = take(at, most * sizeof(int64_t));
    return take_matrix(at, rows + 2 * EDGE, D);
}

/* The sequences of a thread, by whose share of all tokens the middle of a sequence is in. */
static void share(const int64_t *lengths, long B, long thread, long threads, long *start, long *end)
{
    long total = 0, before = 0;
    for (long b = 0; b < B; b++)
        total += lengths[b];
    *start = *end = 0;
    for (long b = 0; b < B; before += lengths[b++]) {
        long middle = (before + lengths[b] / 2) * threads;
        *start += middle < thread * total;
        *end += middle < (thread + 1) * total;
    }
}

/* Sequences x [B, L, D], of which so many rows are tokens, through layers one after the other: y, with
 * zeros where there are none. `together` are the rows that pass a layer at once. Not 0: no memory. */
int pass_layers(const struct layer *layers, long count, const number *x, number *y,
                const int64_t *lengths, long B, long together, const struct sizes *size)
{
    long D = size->D, L = size->L;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        long start, end, rows = 0;
        share(lengths, B, omp_get_thread_num(), omp_get_num_threads(), &start, &end);
        for (long b = start; b < end; b++)
            rows += lengths[b];
        struct rooms room;
        uintptr_t need = 0, at;
        take_rooms(&need, &room, rows, together, size);
        void *all = malloc(need + 64);
        at = (uintptr_t)all;
        failed = !all;
        if (!failed) {
            matrix mine = take_rooms(&at, &room, rows, together, size);
            shapes before = begin_tiles();
            for (long b = start, row = 0; b < end; row += lengths[b++])
                for (long r = 0; r < lengths[b]; r++)
                    memcpy(part(mine, row + r, 0).at, x + (b * L + r) * D, D * sizeof *x);
            for (const struct layer *layer = layers; layer < layers + count; layer++)
                for (long b = start, row = 0, next; b < end; b = next) {
                    long some = lengths[b];
                    for (next = b + 1; next < end && some + lengths[next] <= together; next++)
                        some += lengths[next];
                    pass(layer, part(mine, row, 0), b, next, lengths, size, &room);
                    row += some;
                }
            for (long b = start, row = 0; b < end; row += lengths[b++]) {
                for (long r = 0; r < lengths[b]; r++)
                    memcpy(y + (b * L + r) * D, part(mine, row + r, 0).at, D * sizeof *y);
                memset(y + (b * L + lengths[b]) * D, 0, (L - lengths[b]) * D * sizeof *y);
            }
            end_tiles(before);
        }
        free(all);
    }
    return failed;
}
