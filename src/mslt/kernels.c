/* What a layer does between its products, on a CPU: each function reads and writes once what a row
 * of torch's operations would once each. `kernels.py` compiles it, for bf16, and for fp32 with
 * -DFP32.
 *
 * All is computed in fp32. Sums over rows are of BLOCK rows each, added up in their order: they are
 * the same bit for bit whatever the number of threads. So is dropout, a function of the place.
 */
#include "numbers.h"

enum { BLOCK = 64 };

static inline void gelu_rows(const number *x, const number *bias, number *y, number *slopes, long rows,
                             long width, int by_tanh)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < width; i += LANES) {
            long at = row * width + i, n = at_most(width - i, LANES);
            floats in = load(x + at, n) + load(bias + i, n), slope;
            store(y + at, by_tanh ? gelu_tanh(in, &slope) : gelu(in, &slope), n);
            if (slopes)
                store(slopes + at, slope, n);
        }
}

/* y = GELU(x + bias), [rows, width]; and its slopes, where they are wanted. */
void gelu_forward(const number *x, const number *bias, number *y, number *slopes, long rows,
                  long width, int by_tanh)
{
    if (slopes)
        gelu_rows(x, bias, y, slopes, rows, width, by_tanh);
    else
        gelu_rows(x, bias, y, NULL, rows, width, by_tanh);
}

static long blocks(long rows) { return (rows + BLOCK - 1) / BLOCK; }

/* Add up what the blocks have, [blocks, width], each block's at its start. */
static void add_up(float *into, const float *of_blocks, long count, long apart, long width)
{
    for (long i = 0; i < width; i += LANES) {
        long n = at_most(width - i, LANES);
        floats total = {0};
        for (long block = 0; block < count; block++)
            total += load32(of_blocks + block * apart + i, n);
        store32(into + i, total, n);
    }
}

/* dx = dy slope, and dbias, its sum over the rows. Not 0: no memory. */
int gelu_backward(const number *dy, const number *slopes, number *dx, float *dbias, long rows,
                  long width)
{
    float *sums = calloc(blocks(rows) * width, sizeof *sums);
    if (!sums)
        return 1;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < blocks(rows); block++)
        for (long row = block * BLOCK; row < at_most((block + 1) * BLOCK, rows); row++)
            for (long i = 0; i < width; i += LANES) {
                long at = row * width + i, n = at_most(width - i, LANES);
                floats d = load(dy + at, n) * load(slopes + at, n);
                float *total = sums + block * width + i;
                store(dx + at, d, n);
                store32(total, load32(total, n) + d, n);
            }
    add_up(dbias, sums, blocks(rows), width, width);
    free(sums);
    return 0;
}

/* sum = residual + dropout(x + bias), y = LayerNorm(sum), [rows, width]; mean and 1 / deviation of
 * each row. */
void norm_forward(const number *residual, const number *x, const number *bias, const float *weight,
                  const float *shift, number *sums, number *y, float *mean, float *inverse, long rows,
                  long width, float eps, const dropping *d)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        floats total = {0};
        words drawn = {0};
        number *s = sums + row * width;
        for (long i = 0; i < width; i += LANES) {
            long at = row * width + i, n = at_most(width - i, LANES);
            floats in = drop(load(x + at, n) + load(bias + i, n), begin(row, width), i, d, &drawn);
            store(s + i, load(residual + at, n) + in, n);
            total += load(s + i, n); /* as it will be read again */
        }
        mean[row] = sum(total) / width;
        inverse[row] = normalised(s, y + row * width, mean[row], weight, shift, width, eps);
    }
}

/* Slopes along the sum, along x, and along weight, shift and bias [3, width]. Not 0: no memory. */
int norm_backward(const number *dy, const number *sums, const float *weight, const float *mean,
                  const float *inverse, number *dsum, number *dx, float *fixed, long rows, long width,
                  const dropping *d)
{
    float *added = calloc(blocks(rows) * 3 * width, sizeof *added);
    if (!added)
        return 1;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < blocks(rows); block++) {
        float *dweight = added + block * 3 * width, *dshift = dweight + width,
              *dbias = dshift + width;
        for (long row = block * BLOCK; row < at_most((block + 1) * BLOCK, rows); row++) {
            floats along = {0}, total = {0};
            for (long i = 0; i < width; i += LANES) {
                long at = row * width + i, n = at_most(width - i, LANES);
                floats slope = load(dy + at, n);
                floats unit = (load(sums + at, n) - mean[row]) * inverse[row];
                store32(dweight + i, load32(dweight + i, n) + slope * unit, n);
                store32(dshift + i, load32(dshift + i, n) + slope, n);
                slope *= load32(weight + i, n);
                total += slope;
                along += slope * unit; /* beyond the width, the slope is 0 */
            }
            float middle = sum(total) / width, tilt = sum(along) / width;
            words drawn = {0};
            for (long i = 0; i < width; i += LANES) {
                long at = row * width + i, n = at_most(width - i, LANES);
                floats unit = (load(sums + at, n) - mean[row]) * inverse[row];
                floats slope = load(dy + at, n) * load32(weight + i, n);
                slope = (slope - middle - unit * tilt) * inverse[row];
                store(dsum + at, slope, n);
                slope = drop(slope, begin(row, width), i, d, &drawn);
                store(dx + at, slope, n);
                store32(dbias + i, load32(dbias + i, n) + slope, n);
            }
        }
    }
    add_up(fixed, added, blocks(rows), 3 * width, 3 * width);
    free(added);
    return 0;
}

/* The heads of rows, one after the other: [G, B, H, R, K]. A row has G times H K of them, `between`
 * numbers from each other; rows are `apart`. Those of a sequence are from starts[b] to starts[b + 1],
 * and behind them is 0. */
void split_heads(const number *rows, long apart, const int64_t *starts, long between, number *heads,
                 long G, long B, long H, long R, long K)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (long b = 0; b < B; b++)
        for (long r = 0; r < R; r++)
            for (long g = 0; g < G; g++)
                for (long h = 0; h < H; h++) {
                    number *to = heads + (((g * B + b) * H + h) * R + r) * K;
                    const number *from = rows + (starts[b] + r) * apart + g * between + h * K;
                    if (starts[b] + r < starts[b + 1])
                        memcpy(to, from, K * sizeof *to);
                    else
                        memset(to, 0, K * sizeof *to);
                }
}

/* And back. */
void join_heads(const number *heads, number *rows, long apart, const int64_t *starts, long between,
                long G, long B, long H, long R, long K)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (long b = 0; b < B; b++)
        for (long r = 0; r < R; r++)
            for (long g = 0; g < G && starts[b] + r < starts[b + 1]; g++)
                for (long h = 0; h < H; h++)
                    memcpy(rows + (starts[b] + r) * apart + g * between + h * K,
                           heads + (((g * B + b) * H + h) * R + r) * K, K * sizeof *rows);
}

/* Scores [B, H, R, L] become weights, softmax(scale score + bias of the sequence [B, L], if any),
 * and those are dropped out. `first_row` rows come before these, of which the mask is too. */
void softmax_forward(number *scores, const float *bias, number *dropped, long B, long H, long R, long L,
                     float scale, uint64_t first_row, const dropping *d)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < B * H * R; row++) {
        number *s = scores + row * L, *out = dropped + row * L;
        const float *added = bias ? bias + row / (H * R) * L : NULL;
        floats most = -INFINITY + (floats){0};
        float kept[L + LANES];
        for (long i = 0; i < L; i += LANES) {
            long n = at_most(L - i, LANES);
            floats x = load(s + i, n) * scale;
            if (added)
                x += load32(added + i, n);
            x = first(x, n, -INFINITY);
            memcpy(kept + i, &x, sizeof x);
            most = where(x > most, x, most);
        }
        float share = powers(kept, most, L);
        words drawn = {0};
        for (long i = 0; i < L; i += LANES) {
            long n = at_most(L - i, LANES);
            floats x;
            memcpy(&x, kept + i, sizeof x);
            store(s + i, x * share, n);
            if (dropped != scores)
                store(out + i, drop(load(s + i, n), begin(first_row + row, L), i, d, &drawn), n);
        }
    }
}

/* Slopes along dropped weights become slopes along scores; and the dropped weights again. */
void softmax_backward(number *slopes, const number *weights, number *dropped, long rows, long L,
                      float scale, uint64_t first_row, const dropping *d)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        floats total = {0};
        words drawn = {0};
        float kept[L + LANES];
        uint64_t place = begin(first_row + row, L);
        for (long i = 0; i < L; i += LANES) {
            long at = row * L + i, n = at_most(L - i, LANES);
            floats w = load(weights + at, n), slope = drop(load(slopes + at, n), place, i, d, &drawn);
            store(dropped + at, drop(w, place, i, d, &drawn), n);
            memcpy(kept + i, &slope, sizeof slope);
            total += slope * w;
        }
        float middle = sum(total);
        for (long i = 0; i < L; i += LANES) {
            long at = row * L + i, n = at_most(L - i, LANES);
            floats slope;
            memcpy(&slope, kept + i, sizeof slope);
            store(slopes + at, load(weights + at, n) * (slope - middle) * scale, n);
        }
    }
}

enum { TOGETHER = 16 }; /* rows of logits whose slopes are added up in one place */

/* Logits [rows, width] become the slopes of their loss, weight (softmax - one-hot of the row's id), and
 * `losses` are those in nats, of weight 1. To `total`, if any, the slopes' sum over the rows is added.
 * Rows are `apart` numbers from each other. Not 0: no memory. */
int loss_and_slopes(number *logits, long apart, const int64_t *ids, const float *weights, float *losses,
                    float *total, long rows, long width)
{
    long count = (rows + TOGETHER - 1) / TOGETHER;
    float *sums = total ? calloc(count * width, sizeof *sums) : NULL;
    if (total && !sums)
        return 1;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < count; block++)
        for (long row = block * TOGETHER; row < at_most((block + 1) * TOGETHER, rows); row++) {
            number *x = logits + row * apart;
            float *added = total ? sums + block * width : NULL;
            floats most = -INFINITY + (floats){0}, shares = {0};
            for (long i = 0; i < width; i += LANES) {
                long n = at_most(width - i, LANES);
                floats v = first(load(x + i, n), n, -INFINITY);
                most = where(v > most, v, most);
            }
            float top = largest(most), right = load(x + ids[row], 1)[0];
            for (long i = 0; i < width; i += LANES) {
                long n = at_most(width - i, LANES);
                shares += exponential(first(load(x + i, n), n, -INFINITY) - top);
            }
            float all = top + logf(sum(shares));
            losses[row] = all - right;
            for (long i = 0; i < width; i += LANES) {
                long n = at_most(width - i, LANES);
                floats slope = exponential(load(x + i, n) - all) * weights[row];
                store(x + i, slope, n);
                if (added)
                    store32(added + i, load32(added + i, n) + slope, n);
            }
            store(x + ids[row], (exponential(right - all + (floats){0}) - 1) * weights[row], 1);
            if (added)
                added[ids[row]] -= weights[row];
        }
    for (long i = 0; total && i < width; i += LANES) {
        long n = at_most(width - i, LANES);
        floats slope = load32(total + i, n);
        for (long block = 0; block < count; block++)
            slope += load32(sums + block * width + i, n);
        store32(total + i, slope, n);
    }
    free(sums);
    return 0;
}

/* Numbers as unsigned bytes: what a step of one is worth is returned, and `most` + 1 stands for zero.
 * NaN is returned where a number is not finite. */
float quantize(const number *x, uint8_t *y, long size, int most)
{
    float low = 0, high = 0, odd = 0;
#pragma omp parallel for schedule(static) reduction(min : low) reduction(max : high) \
    reduction(+ : odd)
    for (long block = 0; block < blocks(size / LANES + 1); block++) {
        floats least = {0}, top = {0}, zero = {0};
        long end = at_most((block + 1) * BLOCK * LANES, size);
        for (long i = block * BLOCK * LANES; i < end; i += LANES) {
            floats v = load(x + i, at_most(end - i, LANES));
            least = where(v < least, v, least);
            top = where(v > top, v, top);
            zero += v * 0.0f;
        }
        odd += sum(zero);
        low = fminf(low, -largest(-least));
        high = fmaxf(high, largest(top));
    }
    float worth = fmaxf(fmaxf(-low, high), 1e-12f) / most, times = 1 / worth;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < size; i += LANES) {
        long n = at_most(size - i, LANES);
        ints whole = nearest(load(x + i, n) * times) + most + 1;
        bytes b = __builtin_convertvector(whole, bytes);
        copy(y + i, &b, n, sizeof *y);
    }
    return worth + odd;
}
