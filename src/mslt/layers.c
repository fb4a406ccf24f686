/* Layers that only run forward, whole: what `kernels.c` does between products, and the products, on a
 * CPU that multiplies tiles of bf16 (AMX). One call passes all sequences through all of the layers.
 * Each thread takes sequences of its own and never waits, and what it makes of a few of them at a
 * time stays in its core's cache.
 *
 * D width, H heads, L rows of a sequence at most, I width of the feed-forward part. A row's numbers do
 * not depend on the rows beside it. Weights may be in 8 bits, and what they are multiplied with is then
 * brought there row by row.
 */
#include "products.h"
#include <omp.h>

/* Whether tiles are multiplied here by instructions of their own, which Linux is to be asked for. */
int has_tiles(void)
{
#ifdef TILES
    return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
#else
    return 0;
#endif
}

/* A linear layer's weight [out, in] as `product` wants it. */
void pack_weight(const number *weight, number *packed, long out, long in)
{
#pragma omp parallel for schedule(static)
    for (long n = 0; n < out; n += TILE)
        pack_transposed((matrix){(number *)weight + n * in, in}, packed + n * in, TILE, in);
}

/* A fixed layer. */
struct layer {
    struct linear qkv, out, up, down;
    const float *weights[2], *shifts[2]; /* of LayerNorms */
    float eps;
    dropping of_weights, of_sums[2];
};

struct sizes { long D, H, L, I; int by_tanh; };

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
            ints whole = nearest(load(from + i, LANES) * times);
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
        floats total = {0};
        for (long i = 0; i < width; i += LANES)
            total += load(s + i, LANES);
        normalised(s, s, sum(total) / width, weight, shift, width, eps);
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
                floats most = -INFINITY + (floats){0};
                for (long i = 0; i < n; i += LANES) {
                    floats x = first(load32(s + i, LANES) * scale, n - i, -INFINITY);
                    store32(s + i, x, LANES);
                    most = where(x > most, x, most);
                }
                float one = powers(s, most, n);
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
