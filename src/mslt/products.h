/* Products on a CPU that multiplies tiles of bf16 or of bytes (AMX), and what becomes of their numbers on
 * the way. Without tiles, slowly, the same by vectors.
 *
 * Products have sides that EDGE divides. Two bytes lie in the place of a `number`, and are moved as one.
 */
#include "numbers.h"
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
